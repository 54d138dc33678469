"""fairseq's ``transformer_iwslt_de_en`` in plain PyTorch, computed without padding.

A post-norm encoder-decoder (Vaswani et al. 2017) with sinusoidal positions, whose decoder has one
matrix for input and output embeddings. Names of parameters, order of construction and initialisation
are fairseq's (0.12, MIT licence): with the same seed the initial weights are the same bits, and
state dicts fit both ways.

All sentences of a batch lie one after the other, (N, width): embeddings, linear layers, norms and
dropout never see padding. Attention alone works on the padded rectangle (B, heads, L, width /
heads). Positions count from 2 in fairseq (padding index 1 plus 1); its table is kept.
"""

# The foreach functions are public in use, not in name.
# pyright: reportPrivateImportUsage=false

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tasks.iwslt_transformer.attention import attended
from tasks.iwslt_transformer.batches import Batch, Packed
from tasks.iwslt_transformer.text import PAD

# In half precision torch prefers cuDNN's attention on newer GPUs, which builds a plan for each new
# shape, of which the batches of an epoch have hundreds: on an H200 an update took a third of a second
# with it, most of it plans.
torch.backends.cuda.enable_cudnn_sdp(False)


@dataclass(frozen=True)
class Shape:
    """Sizes of the model; the defaults are those of ``transformer_iwslt_de_en``."""

    width: int = 512
    feed_forward: int = 1024
    heads: int = 4
    layers: int = 6  # of the encoder, and of the decoder
    dropout: float = 0.3  # on the embeddings and on every residual branch


class Transformer(nn.Module):
    """Maps a `Batch` to decoder states; `logits` maps those to scores over the target dictionary."""

    def __init__(self, source_symbols: int, target_symbols: int, shape: Shape) -> None:
        super().__init__()
        # fairseq builds both embeddings before any layer, so the random numbers go in this order
        source = _embedding(source_symbols, shape.width)
        target = _embedding(target_symbols, shape.width)
        self.dropout = Dropout(shape.dropout)
        self.encoder = Encoder(source, shape, self.dropout)
        self.decoder = Decoder(target, shape, self.dropout)

    def forward(self, batch: Batch) -> Tensor:
        """States of the decoder, one for each token of the target, (N, width)."""
        self.dropout.begin()
        source = batch.source
        if source.mask is not None and source.mask.is_cuda:
            # what attention adds; of a mask of truths each of its kernels makes it anew
            dtype = next(self.decoder.layers.parameters()).dtype
            source = replace(source, mask=source.added_mask(dtype))
        return self.decoder(batch.shifted, source, self.encoder(source))

    def logits(self, states: Tensor) -> Tensor:
        return functional.linear(states, self.decoder.embed_tokens.weight.to(states.dtype))


class Encoder(nn.Module):
    def __init__(self, embedding: nn.Embedding, shape: Shape, dropout: "Dropout") -> None:
        super().__init__()
        self.dropout = dropout
        self.embed_tokens = embedding
        self.positions = Positions(shape.width)
        self.layers = nn.ModuleList(EncoderLayer(shape, dropout) for _ in range(shape.layers))

    def forward(self, source: Packed) -> Tensor:
        x = _embedded(self, source)
        for layer in self.layers:
            x = layer(x, source)
        return x


class Decoder(nn.Module):
    def __init__(self, embedding: nn.Embedding, shape: Shape, dropout: "Dropout") -> None:
        super().__init__()
        self.dropout = dropout
        self.embed_tokens = embedding
        self.positions = Positions(shape.width)
        self.layers = nn.ModuleList(DecoderLayer(shape, dropout) for _ in range(shape.layers))

    def forward(self, shifted: Packed, source: Packed, encoded: Tensor) -> Tensor:
        x = _embedded(self, shifted)
        for layer in self.layers:
            x = layer(x, shifted, source, encoded)
        return x


class EncoderLayer(nn.Module):
    def __init__(self, shape: Shape, dropout: "Dropout") -> None:
        super().__init__()
        self.dropout = dropout
        self.self_attn = Attention(shape.width, shape.heads)
        self.self_attn_layer_norm = nn.LayerNorm(shape.width)
        self.fc1 = nn.Linear(shape.width, shape.feed_forward)
        self.fc2 = nn.Linear(shape.feed_forward, shape.width)
        self.final_layer_norm = nn.LayerNorm(shape.width)

    def forward(self, x: Tensor, source: Packed) -> Tensor:
        branch = self.self_attn(x, source)
        x = self.self_attn_layer_norm(x + self.dropout(branch))
        branch = self.fc2(functional.relu(self.fc1(x), inplace=True))
        return self.final_layer_norm(x + self.dropout(branch))


class DecoderLayer(nn.Module):
    def __init__(self, shape: Shape, dropout: "Dropout") -> None:
        super().__init__()
        self.dropout = dropout
        self.self_attn = Attention(shape.width, shape.heads)
        self.self_attn_layer_norm = nn.LayerNorm(shape.width)
        self.encoder_attn = Attention(shape.width, shape.heads)
        self.encoder_attn_layer_norm = nn.LayerNorm(shape.width)
        self.fc1 = nn.Linear(shape.width, shape.feed_forward)
        self.fc2 = nn.Linear(shape.feed_forward, shape.width)
        self.final_layer_norm = nn.LayerNorm(shape.width)

    def forward(self, x: Tensor, shifted: Packed, source: Packed, encoded: Tensor) -> Tensor:
        branch = self.self_attn(x, shifted, causal=True)
        x = self.self_attn_layer_norm(x + self.dropout(branch))
        branch = self.encoder_attn(x, shifted, encoded, source)
        x = self.encoder_attn_layer_norm(x + self.dropout(branch))
        branch = self.fc2(functional.relu(self.fc1(x), inplace=True))
        return self.final_layer_norm(x + self.dropout(branch))


class Attention(nn.Module):
    """Multi-head attention of packed sentences to themselves or to other packed sentences."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        for projection in (self.k_proj, self.v_proj, self.q_proj):
            nn.init.xavier_uniform_(projection.weight, gain=1 / math.sqrt(2))
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        x: Tensor,
        queries: Packed,
        memory: Tensor | None = None,
        keys: Packed | None = None,
        causal: bool = False,
    ) -> Tensor:
        """(N, width) from ``x`` (N, width), laid out as ``queries``; to itself without ``memory``.

        With ``causal`` no mask is needed: padding lies behind every token.
        """
        if memory is None or keys is None:
            memory, keys = x, queries
        q, k, v = self.q_proj(x), self.k_proj(memory), self.v_proj(memory)
        if q.device.type == "cpu" and q.dtype == torch.bfloat16:
            return self.out_proj(attended(q, k, v, queries, keys, self.heads, causal))
        q, k, v = (self.split(padded(t, side), side.shape)
                   for t, side in ((q, queries), (k, keys), (v, keys)))  # fmt: skip
        mask = None if causal else keys.mask
        o = functional.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)
        return self.out_proj(unpadded(o.transpose(1, 2).flatten(0, 1).flatten(1), queries))

    def split(self, x: Tensor, shape: tuple[int, int]) -> Tensor:
        """(B * L, width) to (B, heads, L, width / heads)."""
        return x.view(*shape, self.heads, -1).transpose(1, 2)


class Dropout(nn.Module):
    """Dropout, one for all layers.

    On a CPU by 16 random bits an element, so the probability is right to 8e-6, of a stream that
    begins anew with each batch, at a number of torch's generator. torch's own dropout takes a tenth
    of an update; bits of its generator take twice as long.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self.stream = np.random.SFC64(0)

    def begin(self) -> None:
        """Before each batch."""
        if self.training:
            self.stream = np.random.SFC64(int(torch.randint(2**63 - 1, ())))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or x.device.type != "cpu":
            return functional.dropout(x, self.probability, self.training)
        bits = torch.from_numpy(self.stream.random_raw(-(-x.numel() // 4)).view(np.int16))
        dropped = min(round(self.probability * 2**16), 2**16 - 1)
        kept = torch.empty_like(x, requires_grad=False)
        torch.ge(bits[: x.numel()].view_as(x), dropped - 2**15, out=kept)
        return x * kept.mul_(2**16 / (2**16 - dropped))


class Positions(nn.Module):
    """Sinusoids, all sines before all cosines, from fairseq's position 2 on; longer on demand."""

    table: Tensor
    FIRST = PAD + 1

    def __init__(self, width: int, longest: int = 1024) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("table", self.made(longest), persistent=False)

    def made(self, longest: int) -> Tensor:
        half = self.width // 2
        frequencies = torch.exp(torch.arange(half) * -(math.log(10000) / (half - 1)))
        angles = (torch.arange(longest) + self.FIRST)[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    def forward(self, positions: Tensor, longest: int) -> Tensor:
        if longest > len(self.table):
            self.table = self.made(longest).to(self.table)
        return self.table[positions]


class _Padded(torch.autograd.Function):
    """Rows to their places, and any row to the padding; whose gradient nobody needs."""

    @staticmethod
    def forward(ctx, x, places, sources):
        ctx.save_for_backward(places)
        return x.index_select(0, sources)

    @staticmethod
    def backward(ctx, *grad):
        (places,) = ctx.saved_tensors
        return grad[0].index_select(0, places), None, None


class _Unpadded(torch.autograd.Function):
    """The rows at different places; autograd's own gradient would add, one row after the other."""

    @staticmethod
    def forward(ctx, x, places):
        ctx.save_for_backward(places)
        ctx.rows = len(x)
        return x.index_select(0, places)

    @staticmethod
    def backward(ctx, *grad):
        (places,) = ctx.saved_tensors
        zeros = grad[0].new_zeros(ctx.rows, grad[0].shape[1])
        return zeros.index_copy_(0, places, grad[0]), None


class _Halves(torch.autograd.Function):
    """Hundreds of small copies: on a GPU they would take longer to launch than the products."""

    @staticmethod
    def forward(ctx, *tensors):
        ctx.dtype = tensors[0].dtype
        return _copies(tensors, torch.bfloat16)

    @staticmethod
    def backward(ctx, *grads):
        return _copies(grads, ctx.dtype)


def _copies(tensors: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    made = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    torch._foreach_copy_(made, list(tensors))
    return tuple(made)


def in_half(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """All of them in bfloat16; gradients go back to them in their own precision."""
    return _Halves.apply(*tensors)  # type: ignore[return-value]


def padded(x: Tensor, side: Packed) -> Tensor:
    """(N, width) to (B * L, width); what the padding holds is finite, and for nobody to look at."""
    if side.places is None:
        return x
    return _Padded.apply(x, side.places, side.sources)  # type: ignore[return-value]


def unpadded(x: Tensor, side: Packed) -> Tensor:
    """(B * L, width) to (N, width)."""
    if side.places is None:
        return x
    return _Unpadded.apply(x, side.places)  # type: ignore[return-value]


def _embedded(side: Encoder | Decoder, packed: Packed) -> Tensor:
    embedding = side.embed_tokens
    x = functional.embedding(packed.tokens, embedding.weight, PAD)
    x = x * math.sqrt(embedding.embedding_dim)
    x = x + side.positions(packed.positions, packed.shape[1]).to(x.dtype)
    x = x.to(side.layers[0].fc1.weight.dtype)  # type: ignore[union-attr]
    return side.dropout(x)


def _embedding(symbols: int, width: int) -> nn.Embedding:
    embedding = nn.Embedding(symbols, width, padding_idx=PAD)
    nn.init.normal_(embedding.weight, std=width**-0.5)
    nn.init.zeros_(embedding.weight[PAD])
    return embedding
