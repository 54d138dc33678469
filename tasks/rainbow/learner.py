"""Online and target network: acting, and the gradient of one update."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor

from tasks.rainbow import targets
from tasks.rainbow.captured import Captured
from tasks.rainbow.network import Network
from tasks.rainbow.replay import Replay

PRIORITY_FLOOR = 1e-7  # added to a loss, so that every sample can come again


class Update(NamedTuple):
    loss: Tensor  # ()
    gradients: list[Tensor]  # of the online parameters, in float32; overwritten by the next
    indices: Tensor  # (B,) of the samples
    priorities: Tensor  # (B,) that they are to get


class Learner:
    """What is done with the networks in training, in the precision of the run.

    In bf16 the update computes so: the online network with parameters and gradients in float32, the
    target network as a copy. Losses, targets and sampling are float32 or better.

    The noise of each step has a number. Where several steps have the same (``held``), the noisy weights
    are formed once for them and their update, and it acts with these, in the precision of the run. Else
    it acts in float32 and forms none, which costs less for a single step.
    """

    def __init__(
        self, online: Network, target: Network, atoms: Tensor, replay: Replay, *, double: bool,
        half: bool, held: bool,
    ) -> None:  # fmt: skip
        self.half, self._held = half, held
        self._online, self._target = online, target
        self.working_target = copy.deepcopy(target).bfloat16() if half else target
        self._atoms, self._replay, self._double = atoms, replay, double
        self._formed = online.at(torch.zeros(online.noise_size, device=atoms.device), half)
        self._parameters = list(online.parameters())
        self._formed_number: int | None = None  # of the noise it is formed under; None: out of date
        device = atoms.device
        self._form = Captured(self._formed.form, device)
        self._act = Captured(self._best_held_action if held else self._best_action, device)
        self._update = Captured(self._gradients, device)
        self._commit = Captured(replay.update, device)

    def refresh_target(self) -> None:
        """After the target network was changed."""
        if self.half:
            self.working_target.load_state_dict(self._target.state_dict())

    @torch.no_grad()
    def act(self, observation: Tensor, noise: Tensor, number: int) -> int:
        """The best action in ``observation`` (1, stack, *shape)."""
        if not self._held:
            return int(self._act(observation, noise).item())
        self._be_under(noise, number)
        return int(self._act(observation).item())

    def update(
        self, fractions: Tensor, size: float, beta: float, noise: Tensor, number: int,
        target_noise: Tensor,
    ) -> Update:  # fmt: skip
        """Draw a batch and return its loss and gradients; nothing is changed by it."""
        self._be_under(noise, number)
        scalars = torch.tensor([size, beta], dtype=torch.float64)
        return self._update(fractions, scalars, target_noise)

    def _be_under(self, noise: Tensor, number: int) -> None:
        """Have the noisy weights, if there are any, formed under the noise of this ``number``."""
        if len(noise) and number != self._formed_number:
            self._form(noise)
            self._formed_number = number

    def commit(self, update: Update) -> None:
        """Give the samples of ``update`` their new priorities; the parameters change after it."""
        self._commit(update.indices, update.priorities)
        self._formed_number = None

    def _best_action(self, observation: Tensor, noise: Tensor) -> Tensor:
        return targets.q_values(self._online(observation, noise), self._atoms).argmax(1)

    def _best_held_action(self, observation: Tensor) -> Tensor:
        return targets.q_values(self._formed(observation), self._atoms).argmax(1)

    def _gradients(self, fractions: Tensor, scalars: Tensor, target_noise: Tensor) -> Update:
        # One noise for two batches and the way back: with noisy weights that are formed once half
        # of the products of matrices are saved.
        formed = self._formed
        with torch.no_grad():
            batch = self._replay.sample(fractions, scalars[0], scalars[1])
            observations = formed.in_type(batch.following)
            following = self.working_target(observations, target_noise)
            chooser = formed(observations) if self._double else following
            wanted = targets.target(following, chooser, batch.returns, batch.discounts, self._atoms)
        logits = targets.choose(formed(batch.observations), batch.actions)
        each = targets.losses(logits, wanted)
        loss = (batch.weights * each).mean()
        gradients = list(torch.autograd.grad(loss, self._parameters))
        priorities = each.detach().clamp(min=0) + PRIORITY_FLOOR
        return Update(loss.detach(), gradients, batch.indices, priorities)
