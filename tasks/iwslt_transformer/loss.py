"""Label-smoothed cross-entropy of a linear layer, some tokens at a time.

    loss = (1 - eps - eps_i) nll + eps_i sum_v -log p_v,   eps_i = eps / (V - 1),

summed over the tokens; log p in float32 (fairseq, ``label_smoothed_cross_entropy``). The gradient
with respect to the logits is softmax - eps_i - (1 - eps - eps_i) onehot. For 4,096 tokens and
10,000 symbols a matrix of logits is 160 MB, and there would be four of them; here some tokens at a
time, on a GPU a whole batch, go through product, loss and both gradients in the same memory. Between
the products, on a CPU, it is a few at a time, which its caches hold.
"""

import torch
from torch import Tensor

CHUNK = 2048  # tokens in a product
CACHED = 1 << 20  # scores in work between products
GPU_CHUNK = 8192  # a whole batch: few launches count for more than memory


class _Smoothed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states, weight, target, eps, needed):
        symbols = len(weight)
        each = eps / (symbols - 1)
        kept = 1 - eps - each
        matrix = weight.to(states.dtype)
        exact = torch.promote_types(states.dtype, torch.float32)
        loss = torch.zeros((), dtype=exact, device=states.device)
        nll = torch.zeros((), dtype=exact, device=states.device)
        grad_states = torch.empty_like(states) if needed else None
        grad_weight = torch.zeros_like(weight) if needed else None
        chunk, rows = CHUNK, max(1, CACHED // symbols)
        if states.is_cuda:
            chunk = rows = GPU_CHUNK
        scores = states.new_empty(min(chunk, len(target)), symbols)
        logps = scores.new_empty(min(rows, len(target)), symbols, dtype=exact)
        for start in range(0, len(target), chunk):
            part = slice(start, start + chunk)
            x = states[part]
            logits = torch.mm(x, matrix.T, out=scores[: len(x)])
            for some, wanted in zip(
                logits.split(rows), target[part, None].split(rows), strict=True
            ):
                logp = torch.log_softmax(some, dim=1, dtype=exact, out=logps[: len(some)])
                chosen = logp.gather(1, wanted).sum()
                nll -= chosen
                loss -= kept * chosen + each * logp.sum()
                if needed:  # the logits are not, any more: their gradient takes their place
                    delta = logp.exp_().sub_(each)
                    delta.scatter_add_(1, wanted, delta.new_full(wanted.shape, -kept))
                    some.copy_(delta)
            if grad_states is not None and grad_weight is not None:
                torch.mm(logits, matrix, out=grad_states[part])
                if logits.dtype == weight.dtype:
                    grad_weight.addmm_(logits.T, x)
                else:
                    grad_weight += logits.T @ x
        if needed:
            ctx.save_for_backward(grad_states, grad_weight)
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx, *grads):
        grad_states, grad_weight = ctx.saved_tensors
        scale = grads[0]
        return (grad_states * scale.to(grad_states.dtype),
                grad_weight * scale.to(grad_weight.dtype), None, None, None)  # fmt: skip


def smoothed_loss(
    states: Tensor, weight: Tensor, target: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The loss and its unsmoothed part, each summed over the tokens, in nats.

    Args:
        states: (N, width), float32, float64 or bfloat16; products are in its precision.
        weight: (V, width), the output layer, without bias.
        target: (N,) int64.
        eps: how much of the probability is spread over all other symbols.
    """
    # inside, where autograd is off, nobody could tell whether a gradient is wanted
    needed = torch.is_grad_enabled() and (states.requires_grad or weight.requires_grad)
    return _Smoothed.apply(states, weight, target, eps, needed)  # type: ignore[return-value]
