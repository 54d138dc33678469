"""Batched beam search with a key-value cache, as fairseq's SequenceGenerator scores it.

Hypotheses are ranked by log probability per piece, EOS included. A sentence is done when it has as
many finished hypotheses as the beam is wide, or at ``longest`` pieces.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tasks.iwslt_transformer.batches import Packed
from tasks.iwslt_transformer.model import Attention, Transformer, padded
from tasks.iwslt_transformer.text import EOS, PAD


@dataclass
class _Layer:
    """Keys and values of a decoder layer: of the encoder (B, heads, S, d), of what has been
    written (B * beam, heads, t, d)."""

    encoder_k: Tensor
    encoder_v: Tensor
    k: Tensor
    v: Tensor


@torch.no_grad()
def search(model: Transformer, source: Packed, beam: int, longest: int) -> list[list[int]]:
    """The best translation of each sentence of ``source``, without EOS; the model in eval mode."""
    sentences, symbols = source.shape[0], model.decoder.embed_tokens.num_embeddings
    device = source.tokens.device
    layers = _encoder_side(model, source, beam)
    mask = source.mask
    alive = torch.arange(sentences)  # which sentence each row group belongs to
    scores = torch.full((sentences, beam), -math.inf, device=device)
    scores[:, 0] = 0  # all beams are still the same
    written = torch.empty(sentences, beam, 0, dtype=torch.int64, device=device)
    last = torch.full((sentences * beam,), EOS, device=device)
    finished: list[list[tuple[float, list[int]]]] = [[] for _ in range(sentences)]
    for place in range(longest + 1):
        logp = _next(model, last, place, layers, mask).view(len(alive), beam, symbols)
        logp[:, :, PAD] = -math.inf
        if place == longest:
            logp[:, :, :EOS] = logp[:, :, EOS + 1 :] = -math.inf
        total, chosen = (
            (scores[:, :, None] + logp).flatten(1).topk(min(2 * beam, beam * symbols - 1))
        )
        parent, symbol = chosen // symbols, chosen % symbols
        ends = (symbol == EOS) & total.isfinite()
        for row, rank in ends[:, :beam].nonzero().tolist():
            hypotheses = finished[int(alive[row])]
            if len(hypotheses) < beam:
                pieces = written[row, parent[row, rank]].tolist()
                hypotheses.append((float(total[row, rank]) / (place + 1), pieces))
        going = torch.tensor([len(finished[int(i)]) < beam for i in alive], device=device)
        if place == longest or not going.any():
            break
        # the best of those that go on, in their order
        rank = (symbol == EOS).to(torch.uint8).argsort(dim=1, stable=True)[:, :beam]
        scores, parent, symbol = (t.gather(1, rank)[going] for t in (total, parent, symbol))
        rows = going.nonzero()[:, 0]
        written = torch.cat([written[rows[:, None], parent], symbol[:, :, None]], dim=2)
        _keep(layers, rows, (rows[:, None] * beam + parent).flatten(), bool(going.all()))
        if mask is not None:
            mask = mask[rows]
        alive, last = alive[going.cpu()], symbol.flatten()
    # none where weights are no longer finite
    nothing: tuple[float, list[int]] = (-math.inf, [])
    return [max(hypotheses, key=lambda h: h[0], default=nothing)[1] for hypotheses in finished]


def _encoder_side(model: Transformer, source: Packed, beam: int) -> list[_Layer]:
    encoded = padded(model.encoder(source), source)
    layers = []
    for layer in model.decoder.layers:
        attention: Attention = layer.encoder_attn  # type: ignore[assignment]
        k, v = (
            attention.split(p(encoded), source.shape) for p in (attention.k_proj, attention.v_proj)
        )
        nothing = k.new_empty(source.shape[0] * beam, k.shape[1], 0, k.shape[3])
        layers.append(_Layer(k, v, nothing, nothing))
    return layers


def _next(
    model: Transformer, last: Tensor, place: int, layers: list[_Layer], mask: Tensor | None
) -> Tensor:
    """Log probabilities (rows, V) of the next piece after ``last`` (rows,) at ``place``."""
    decoder = model.decoder
    x = decoder.embed_tokens(last) * math.sqrt(decoder.embed_tokens.embedding_dim)
    x = x + decoder.positions(torch.tensor(place, device=x.device), place + 1)
    rows = len(last)
    for layer, seen in zip(decoder.layers, layers, strict=True):
        own: Attention = layer.self_attn  # type: ignore[assignment]
        q, k, v = (own.split(p(x), (rows, 1)) for p in (own.q_proj, own.k_proj, own.v_proj))
        seen.k, seen.v = torch.cat([seen.k, k], dim=2), torch.cat([seen.v, v], dim=2)
        attended = functional.scaled_dot_product_attention(q, seen.k, seen.v)
        x = layer.self_attn_layer_norm(x + own.out_proj(attended.flatten(1)))  # type: ignore[operator]
        across: Attention = layer.encoder_attn  # type: ignore[assignment]
        shape = len(seen.encoder_k), rows // len(seen.encoder_k)  # the beam is a query's length
        q = across.split(across.q_proj(x), shape)
        attended = functional.scaled_dot_product_attention(q, seen.encoder_k, seen.encoder_v, mask)
        attended = attended.transpose(1, 2).reshape(rows, -1)
        x = layer.encoder_attn_layer_norm(x + across.out_proj(attended))  # type: ignore[operator]
        branch = layer.fc2(functional.relu(layer.fc1(x)))  # type: ignore[operator]
        x = layer.final_layer_norm(x + branch)  # type: ignore[operator]
    return model.logits(x).float().log_softmax(-1)


def _keep(layers: list[_Layer], sentences: Tensor, rows: Tensor, all_go_on: bool) -> None:
    for layer in layers:
        layer.k, layer.v = layer.k[rows], layer.v[rows]
        if not all_go_on:
            layer.encoder_k, layer.encoder_v = (
                layer.encoder_k[sentences],
                layer.encoder_v[sentences],
            )
