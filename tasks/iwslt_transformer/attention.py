"""Attention of packed sentences on a CPU in bfloat16, forward and backward written out.

    p = softmax(q k^T / sqrt(d)),   o = p v;
    dv = p^T do,   dp = do v^T,   ds_ij = p_ij (dp_ij - sum_l p_il dp_il),
    dq = ds k / sqrt(d),   dk = ds^T q / sqrt(d).

For sentences of this length torch's own kernel takes three times as long. Rows go from the packed
sentences to their places head by head, and back, in one copy each. Products are in bfloat16, softmax
in float32.
"""

import math

import torch
from torch import Tensor

from tasks.iwslt_transformer.batches import Packed


def attended(
    q: Tensor, k: Tensor, v: Tensor, queries: Packed, keys: Packed, heads: int, causal: bool
) -> Tensor:
    """(N, width); ``q`` and the result are laid out as ``queries``, ``k`` and ``v`` as ``keys``."""
    return _Attended.apply(q, k, v, queries, keys, heads, causal)  # type: ignore[return-value]


class _Attended(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, queries, keys, heads, causal):
        ctx.heads, ctx.scale = heads, (q.shape[1] // heads) ** -0.5
        query_sources, query_places = _by_heads(queries, heads)
        key_sources, key_places = (
            (query_sources, query_places) if keys is queries else _by_heads(keys, heads)
        )
        length, longest = queries.shape[1], keys.shape[1]
        q = _split(q, query_sources, heads, length)
        k, v = (_split(t, key_sources, heads, longest) for t in (k, v))
        scores = _product(q, k.transpose(1, 2), ctx.scale).float()
        if causal:  # padding lies behind every token
            scores += scores.new_full((length, longest), -math.inf).triu(1)
        elif (added := keys.added_mask(scores.dtype)) is not None:
            scores.view(-1, heads, length, longest).add_(added)
        p = scores.softmax(-1).to(q.dtype)
        ctx.save_for_backward(q, k, v, p, query_places, key_places)
        return _joined(p @ v, query_places, heads)

    @staticmethod
    def backward(ctx, *grads):
        q, k, v, p, query_places, key_places = ctx.saved_tensors
        d = q.shape[2]
        do = torch.zeros_like(q)  # at padding, too, so that it adds nothing to dk and dv
        do.view(-1, d).index_copy_(0, query_places, grads[0].reshape(-1, d))
        dp = do @ v.transpose(1, 2)
        ds = torch.ops.aten._softmax_backward_data(dp, p, -1, p.dtype)
        dq = _joined(_product(ds, k, ctx.scale), query_places, ctx.heads)
        dk = _joined(_product(ds.transpose(1, 2), q, ctx.scale), key_places, ctx.heads)
        dv = _joined(p.transpose(1, 2) @ do, key_places, ctx.heads)
        return dq, dk, dv, None, None, None, None


def _by_heads(side: Packed, heads: int) -> tuple[Tensor, Tensor]:
    """`Packed.sources` and `Packed.places` of (N * heads, d) and (B, heads, L)."""
    sentences, length = side.shape
    places, sources = side.places, side.sources
    if places is None or sources is None:
        places = sources = torch.arange(sentences * length)
    head = torch.arange(heads)
    sources = sources.view(sentences, 1, length) * heads + head[:, None]
    sentence, position = (places // length)[:, None], (places % length)[:, None]
    return sources.flatten(), ((sentence * heads + head) * length + position).flatten()


def _split(x: Tensor, sources: Tensor, heads: int, length: int) -> Tensor:
    """(N, width) to (B * heads, L, d)."""
    d = x.shape[1] // heads
    return x.reshape(-1, d).index_select(0, sources).view(-1, length, d)


def _joined(x: Tensor, places: Tensor, heads: int) -> Tensor:
    """(B * heads, L, d) to (N, width)."""
    d = x.shape[2]
    return x.view(-1, d).index_select(0, places).view(-1, heads * d)


def _product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Batch by batch; scaled within the product, which costs no pass of its own."""
    return torch.baddbmm(a.new_empty(1), a, b, beta=0, alpha=scale)
