import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from tasks.iwslt_transformer.attention import attended
from tasks.iwslt_transformer.batches import pack

HEADS, WIDTH = 2, 12


def packed(lengths):
    return pack([np.arange(n) for n in lengths])


def one_by_one(q, k, v, queries, keys, causal):
    """Each sentence by itself, where there is no padding, by torch's own attention."""
    results, start, key_start = [], 0, 0
    for n, m in zip(queries, keys, strict=True):
        sides = q[start : start + n], k[key_start : key_start + m], v[key_start : key_start + m]
        split = (t.view(len(t), HEADS, -1).transpose(0, 1) for t in sides)
        o = scaled_dot_product_attention(*split, is_causal=causal)
        results.append(o.transpose(0, 1).reshape(n, WIDTH))
        start, key_start = start + n, key_start + m
    return torch.cat(results)


@pytest.mark.parametrize(
    "queries, keys, causal",
    [
        ([5, 3, 1], None, True),
        ([5, 3, 1], None, False),
        ([4, 4], None, True),
        ([4, 4], None, False),
        ([5, 3, 1], [2, 6, 7], False),
        ([5, 3, 1], [3, 3, 3], False),
        ([4, 4], [2, 6], False),
    ],
)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_attention_and_its_gradient_are_those_of_each_sentence_alone(
    queries, keys, causal, dtype, tolerance
):
    generator = torch.Generator().manual_seed(0)
    side = packed(queries)
    other = side if keys is None else packed(keys)
    sizes = [len(t.tokens) for t in (side, other, other)]
    q, k, v = (torch.randn(n, WIDTH, generator=generator).to(dtype).requires_grad_() for n in sizes)
    do = torch.randn(len(q), WIDTH, generator=generator).to(dtype)
    exact = [t.detach().double().requires_grad_() for t in (q, k, v)]
    found = attended(q, k, v, side, other, HEADS, causal)
    expected = one_by_one(*exact, queries, keys or queries, causal)
    pairs = [(found, expected)]
    pairs += zip(torch.autograd.grad(found, (q, k, v), do),
                 torch.autograd.grad(expected, exact, do.double()), strict=True)  # fmt: skip
    for one, wanted in pairs:
        assert one.dtype == dtype and one.shape == wanted.shape
        assert (one.double() - wanted).norm() <= tolerance * wanted.norm()
