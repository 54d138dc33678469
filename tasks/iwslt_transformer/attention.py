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
        ctx.width, ctx.scale = q.shape[1], (q.shape[1] // heads) ** -0.5
        query_rows, query_places = _by_heads(queries, heads)
        key_rows, key_places = (
            (query_rows, query_places) if keys is queries else _by_heads(keys, heads)
        )
        length, longest = queries.shape[1], keys.shape[1]
        q = _rows(q, query_rows, heads, length)
        k, v = _rows(k, key_rows, heads, longest), _rows(v, key_rows, heads, longest)
        scores = _product(q, k.transpose(1, 2), ctx.scale).float()
        if causal:  # padding lies behind every token
            scores += scores.new_full((length, longest), -math.inf).triu(1)
        elif keys.mask is not None:
            hidden = scores.new_zeros(keys.mask.shape).masked_fill_(~keys.mask, -math.inf)
            scores.view(-1, heads, length, longest).add_(hidden)
        p = scores.softmax(-1).to(q.dtype)
        ctx.save_for_backward(q, k, v, p, query_places, key_places)
        return _packed(p @ v, query_places, ctx.width)

    @staticmethod
    def backward(ctx, *grads):
        q, k, v, p, query_places, key_places = ctx.saved_tensors
        do = torch.zeros_like(q)  # at padding, too, so that it adds nothing to dk and dv
        rows = do.view(-1, q.shape[2])
        rows.index_copy_(0, query_places, grads[0].reshape(-1, q.shape[2]))
        dp = do @ v.transpose(1, 2)
        ds = torch.ops.aten._softmax_backward_data(dp, p, -1, p.dtype)
        dq = _product(ds, k, ctx.scale)
        dk = _product(ds.transpose(1, 2), q, ctx.scale)
        dv = p.transpose(1, 2) @ do
        sides = (dq, query_places), (dk, key_places), (dv, key_places)
        return *(_packed(d, places, ctx.width) for d, places in sides), None, None, None, None


def _by_heads(side: Packed, heads: int) -> tuple[Tensor, Tensor]:
    """Which row of (N * heads, d) is at each place of (B, heads, L), and the place of each row."""
    sentences, length = side.shape
    places, sources = side.places, side.sources
    if places is None or sources is None:
        places = sources = torch.arange(sentences * length)
    head = torch.arange(heads)
    rows = sources.view(sentences, 1, length) * heads + head[:, None]
    sentence, position = (places // length)[:, None], (places % length)[:, None]
    return rows.flatten(), ((sentence * heads + head) * length + position).flatten()


def _rows(x: Tensor, rows: Tensor, heads: int, length: int) -> Tensor:
    """(N, width) to (B * heads, L, d)."""
    d = x.shape[1] // heads
    return x.reshape(-1, d).index_select(0, rows).view(-1, length, d)


def _packed(x: Tensor, places: Tensor, width: int) -> Tensor:
    """(B * heads, L, d) to (N, width)."""
    return x.view(-1, x.shape[2]).index_select(0, places).view(-1, width)


def _product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Batch by batch; scaled within the product, which costs no pass of its own."""
    return torch.baddbmm(a.new_empty(1), a, b, beta=0, alpha=scale)
