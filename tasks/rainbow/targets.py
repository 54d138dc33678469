"""What the network is to learn: projected distributions of returns, double-Q targets, losses."""

import torch
from torch import Tensor
from torch.nn import functional as F


def project(values: Tensor, probabilities: Tensor, atoms: Tensor) -> Tensor:
    """The distribution on evenly spaced ``atoms`` nearest to one on other ``values`` (C51).

    Each value, clipped to the range of the atoms, divides its probability between its two
    neighbours in proportion to nearness (Bellemare, Dabney, Munos 2017, algorithm 1). Written as
    m_i = sum_j p_j max(0, 1 - |v_j - z_i| / dz): a value on an atom needs no case of its own, and
    nothing is scattered, so it is the same on every device and every time.

    Args:
        values: (B, N); probabilities: (B, N); atoms: (N,), at least two.

    Returns: (B, N).
    """
    spacing = (atoms[-1] - atoms[0]) / (len(atoms) - 1)
    clipped = values.clamp(atoms[0], atoms[-1])
    places = (clipped - atoms[0]) / spacing  # in units of atoms
    index = torch.arange(len(atoms), device=atoms.device, dtype=places.dtype)
    share = (1 - (places[:, :, None] - index).abs()).clamp_(min=0)  # (B, N from, N to)
    return torch.bmm(probabilities[:, None], share)[:, 0]


def q_values(logits: Tensor, atoms: Tensor) -> Tensor:
    """Expected returns (B, A) from logits (B, A, N); with one atom the logits are returns."""
    logits = logits.float()
    return logits[..., 0] if len(atoms) == 1 else logits.softmax(-1) @ atoms


def choose(rows: Tensor, actions: Tensor) -> Tensor:
    """(B, A, N), (B,) -> (B, N): of each row that of its action."""
    return rows[torch.arange(len(rows), device=rows.device), actions]


def target(
    next_logits: Tensor, chooser: Tensor, returns: Tensor, discounts: Tensor, atoms: Tensor
) -> Tensor:
    """The target distribution (B, N), or the target return (B, 1) with one atom.

    Args:
        next_logits: of the target network, in the state to bootstrap from, (B, A, N).
        chooser: logits by which the best action there is chosen: of the online network with double
            Q-learning (van Hasselt, Guez, Silver 2016), else ``next_logits``.
        returns: discounted rewards up to there, (B,).
        discounts: of the bootstrapped value, (B,); 0 where the episode ended.
    """
    best = q_values(chooser, atoms).argmax(1)
    following = choose(next_logits.float(), best)
    if len(atoms) == 1:
        return returns[:, None] + discounts[:, None] * following
    values = returns[:, None] + discounts[:, None] * atoms
    return project(values, following.softmax(-1), atoms)


def losses(predicted: Tensor, wanted: Tensor) -> Tensor:
    """Of each sample: KL(wanted || predicted) of (B, N) logits; with one atom Huber's loss."""
    predicted = predicted.float()
    if predicted.shape[1] == 1:
        return F.smooth_l1_loss(predicted, wanted, reduction="none")[:, 0]
    return F.kl_div(predicted.log_softmax(-1), wanted, reduction="none").sum(-1)
