"""Prioritized replay that keeps every frame once, on the CPU or on a GPU.

A slot is an agent step: the frame that was seen, the action taken on it, the reward that followed,
and whether the episode ended there. What a sample needs (stacked frames, n-step returns, the state
to bootstrap from) is put together when it is drawn, for the whole batch at once.

Play writes into a journal on the host; `flush` carries it over in a handful of operations, which is
what an accelerator needs, and what makes it possible to sample while the step is still being
emulated (see `begin`).
"""

from collections import deque
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.rainbow.captured import Captured
from tasks.rainbow.environment import Outcome
from tasks.rainbow.frame_log import FrameLog
from tasks.rainbow.sum_tree import SumTree
from tasks.task import CorruptState

RUNS, TERMINAL, TRUNCATED = 0, 1, 2  # what an agent step can lead to
JOURNAL = 64  # frames after which a flush is due
# Rows in a flush that is a graph, what an agent step leads to, as a rule: of frames, which are large,
# and of numbers.
MOST_FRAMES, MOST = 2, 8

# One slot, in bytes, beside its frame: action, reward, end, age; weights and their sums.
SLOT_BYTES = 8 + 4 + 1 + 1 + 8 * (1 + 1 / 32)


class Batch(NamedTuple):
    indices: Tensor  # (B,)
    observations: Tensor  # (B, stack, *shape)
    actions: Tensor  # (B,)
    returns: Tensor  # (B,), sum of gamma^k r over the window
    discounts: Tensor  # (B,), gamma^length, 0 where the episode ended in the window
    following: Tensor  # (B, stack, *shape), the state to bootstrap from
    weights: Tensor  # (B,), importance weights


class Replay:
    """A ring of ``capacity`` slots with prioritized sampling (Schaul et al. 2016).

    Slot i can be sampled once its window is known: n steps, or as many as there are until the
    episode ends; so the last steps of an episode come with shorter windows. A window never reaches
    into the next episode. One that ends because time is out bootstraps from the last frame, which
    takes a slot of its own.

    Args:
        shape, dtype: of one frame.
        stack: frames in an observation; before the first of an episode it is repeated.
        alpha: power of the priorities; 0: uniform sampling.
        decay: of the greatest priority seen, which new slots get, at each sample.
        normalise: whether importance weights are divided by the largest of the batch.
    """

    def __init__(
        self, capacity: int, shape: tuple[int, ...], dtype: Any, *, stack: int, n_step: int,
        gamma: float, alpha: float, decay: float, normalise: bool, device: torch.device,
    ) -> None:  # fmt: skip
        self.capacity, self.stack, self.n_step, self.gamma = capacity, stack, n_step, gamma
        self.alpha, self.decay, self.normalise, self.device = alpha, decay, normalise, device
        kind = torch.from_numpy(np.empty(0, dtype)).dtype
        # zeros are mapped lazily: memory is taken as it fills
        self.frames = torch.zeros(capacity, *shape, dtype=kind, device=device)
        self.actions = torch.zeros(capacity, dtype=torch.int64, device=device)
        self.rewards = torch.zeros(capacity, device=device)
        self.ends = torch.zeros(capacity, dtype=torch.uint8, device=device)
        self.ages = torch.zeros(capacity, dtype=torch.uint8, device=device)  # capped at stack - 1
        self.tree = SumTree(capacity, device)
        self.greatest = torch.ones((), dtype=torch.float64, device=device)  # priority seen
        self._back = torch.arange(stack - 1, -1, -1, device=device)
        self._ahead = torch.arange(n_step, device=device)
        self._powers = gamma ** torch.arange(n_step + 1, device=device)
        self._as_graph = device.type == "cuda"
        self._write_in_graph = Captured(self._write, device)

        self.count = 0  # frames ever pushed; the last of them is the present one
        self.log: FrameLog | None = None  # where frames are also written, for checkpoints
        self._first = 0  # number of the present episode's first frame
        self._recent: deque[NDArray[Any]] = deque(maxlen=stack)
        self._live = np.zeros(capacity, dtype=bool)  # which slots can be sampled
        self.size = 0  # how many
        self._new_frames: dict[int, tuple[NDArray[Any], int]] = {}  # slot -> frame, age
        self._new_steps: dict[int, tuple[int, float, int]] = {}  # slot -> action, reward, end
        self._new_weights: dict[int, bool] = {}  # slot -> whether it can be sampled

    # ------------------------------------------------------------ play

    def start(self, frame: NDArray[Any]) -> None:
        """The first frame of an episode."""
        self._first = self.count
        self._recent.extend([frame] * self.stack)
        self._push(frame)

    def begin(self, action: int) -> None:
        """``action`` is taken on the present frame; what follows is not known yet.

        Afterwards everything stands as it will if the episode goes on, but for the contents of the
        present step: a batch drawn now is right unless `foresaw` says otherwise.
        """
        here = self.count - 1
        self._new_steps[here % self.capacity] = (action, 0.0, RUNS)
        if here - self.n_step + 1 >= self._first:
            self._allow(here - self.n_step + 1)
        self._make_room()

    def finish(self, outcome: Outcome) -> None:
        """What followed the action of `begin`."""
        here = self.count - 1
        slot = here % self.capacity
        end = TERMINAL if outcome.terminal else TRUNCATED if outcome.truncated else RUNS
        self._new_steps[slot] = (self._new_steps[slot][0], outcome.reward, end)
        if end == RUNS:
            self._recent.append(outcome.observation)
            self._push(outcome.observation)
        else:
            for number in range(max(here - self.n_step + 1, self._first), here + 1):
                self._allow(number)
            if end == TRUNCATED:
                self._push(outcome.observation)
            assert outcome.first is not None
            self.start(outcome.first)
        if len(self._new_frames) >= JOURNAL:
            self.flush()

    def foresaw(self, batch: Tensor, outcome: Outcome) -> bool:
        """Whether indices drawn between `begin` and ``outcome`` are those drawn after `finish`,
        and nothing was taken from the step that had not ended. To be asked before `finish`."""
        if outcome.truncated or (outcome.terminal and self.n_step > 1):
            return False
        slot = (self.count - self.n_step) % self.capacity
        return not bool((batch == slot).any())

    def observation(self) -> NDArray[Any]:
        """The present observation, (stack, *shape), on the host."""
        return np.stack(self._recent)

    def flush(self) -> None:
        """Carry over what play has written."""
        frames: list[Any] = [frame for frame, _ in self._new_frames.values()]
        ages = [(slot, age) for slot, (_, age) in self._new_frames.items()]
        steps = [(slot, *step) for slot, step in self._new_steps.items()]
        weights = list(self._new_weights.items())
        given = (frames, ages, steps, weights)
        mosts = (MOST_FRAMES, MOST_FRAMES, MOST, MOST)
        fits = all(0 < len(rows) <= most for rows, most in zip(given, mosts, strict=True))
        if self._as_graph and fits:
            # Of one size whatever there is, so that it can be a graph: the last row again and again.
            padded = (
                rows + rows[-1:] * (most - len(rows))
                for rows, most in zip(given, mosts, strict=True)
            )
            self._write_in_graph(*_as_tensors(*padded))
        else:
            self._write(*map(self._to_device, _as_tensors(*given)))
        # the step that has begun is written again when it has ended
        self._new_frames, self._new_weights = {}, {}
        present = (self.count - 1) % self.capacity
        self._new_steps = {k: v for k, v in self._new_steps.items() if k == present}

    def _write(self, frames: Tensor, ages: Tensor, steps: Tensor, weights: Tensor) -> None:
        """Frames, and rows of numbers that begin with a slot; equal slots have equal rows."""
        if len(frames):
            slots, new = ages.unbind(1)
            where = slots.long()
            self.frames[where] = frames
            self.ages[where] = new.to(self.ages.dtype)
        if len(steps):
            slots, *columns = steps.unbind(1)
            where = slots.long()
            for held, new in zip((self.actions, self.rewards, self.ends), columns, strict=True):
                held[where] = new.to(held.dtype)
        if len(weights):
            slots, allowed = weights.unbind(1)
            self.tree.set(slots.long(), allowed * self.greatest**self.alpha)

    # ------------------------------------------------------------ samples

    def sample(self, fractions: Tensor, size: Tensor, beta: Tensor) -> Batch:
        """Draw by ``fractions`` (B,) in [0, 1): one in each of B equal parts of the total weight.

        ``size`` and ``beta`` are scalars on the device. Importance weights are (size p)^-beta, p
        being the probability of the sample.
        """
        parts = torch.arange(len(fractions), device=self.device, dtype=torch.float64)
        indices = self.tree.find((parts + fractions) / len(fractions))
        probabilities = self.tree.levels[0][indices] / self.tree.total()
        weights = (size * probabilities) ** -beta
        if self.normalise:
            weights = weights / weights.max()
        slots = (indices[:, None] + self._ahead) % self.capacity  # (B, n)
        ends = self.ends[slots]
        # an end stops what comes after it, not itself
        running = (ends == RUNS).to(torch.int64).cumprod(1)
        counted = torch.cat([torch.ones_like(running[:, :1]), running[:, :-1]], 1)
        length = counted.sum(1)
        returns = (self.rewards[slots] * counted * self._powers[:-1]).sum(1)
        terminal = ((ends == TERMINAL) * counted).any(1)
        return Batch(
            indices, self.observations(indices), self.actions[indices], returns,
            torch.where(terminal, 0.0, self._powers[length]),
            self.observations((indices + length) % self.capacity), weights.float(),
        )  # fmt: skip

    def observations(self, slots: Tensor) -> Tensor:
        """Stacked frames of ``slots``, (B, stack, *shape), the oldest first."""
        back = torch.minimum(self._back, self.ages[slots].to(torch.int64)[:, None])
        where = (slots[:, None] - back) % self.capacity
        chosen = self.frames.index_select(0, where.view(-1))  # copies a frame as a whole
        return chosen.view(*where.shape, *self.frames.shape[1:])

    def update(self, indices: Tensor, priorities: Tensor) -> None:
        """New ``priorities`` (B,) of samples; their weights are priorities^alpha."""
        priorities = priorities.double()
        self.tree.set(indices, priorities**self.alpha)
        later = torch.arange(len(priorities) - 1, -1, -1, device=self.device, dtype=torch.float64)
        decayed = self.greatest * self.decay ** len(priorities)
        # greatest = max(decay * greatest, p), one sample after the other
        self.greatest.copy_(torch.maximum(decayed, (priorities * self.decay**later).max()))

    # ------------------------------------------------------------ checkpoints

    def state(self) -> dict[str, Any]:
        """Everything; the frames by reference to the log where there is one."""
        self.flush()
        held = min(self.count, self.capacity)
        numbers = {"count": self.count, "first": self._first, "size": self.size}
        tensors = {
            name: getattr(self, name)[:held].cpu()
            for name in ("actions", "rewards", "ends", "ages")
        }
        weights = {"weights": self.tree.weights[:held].cpu(), "greatest": self.greatest.cpu()}
        frames = (
            {"frames": self.frames[:held].cpu()} if self.log is None else {"log": self.log.sync()}
        )
        return {**numbers, **tensors, **weights, **frames}

    def restore(self, state: dict[str, Any]) -> None:
        """Raises CorruptState, with nothing changed, where the log does not hold its frames."""
        held = min(state["count"], self.capacity)
        if "frames" in state:
            self.frames[:held] = state["frames"].to(self.device)
        else:
            if self.log is None:
                raise CorruptState("this state refers to a log of frames, and there is none")
            for number, content in self.log.resume(state["log"]):
                frames = torch.from_numpy(content).view(self.frames.dtype)
                frames = frames.view(-1, *self.frames.shape[1:])[-self.capacity :]
                where = torch.arange(number + len(content) - len(frames), number + len(content))
                self.frames[(where % self.capacity).to(self.device)] = frames.to(self.device)
        self.count, self._first, self.size = state["count"], state["first"], state["size"]
        for name in ("actions", "rewards", "ends", "ages"):
            getattr(self, name)[:held] = state[name].to(self.device)
        weights = torch.zeros(self.capacity, dtype=torch.float64)
        weights[:held] = state["weights"]
        self._live = (weights > 0).numpy()
        self.tree.rebuild(weights.to(self.device))
        self.greatest.copy_(state["greatest"])
        self._new_frames, self._new_steps, self._new_weights = {}, {}, {}
        here = torch.tensor([(self.count - 1) % self.capacity], device=self.device)
        self._recent.extend(self.observations(here)[0].cpu().numpy())

    # ------------------------------------------------------------ inside

    def _push(self, frame: NDArray[Any]) -> None:
        self._make_room()
        slot = self.count % self.capacity
        age = min(self.count - self._first, self.stack - 1)
        self._new_frames[slot] = (frame, age)
        if self.log is not None:
            self.log.append(frame.tobytes())
        self.count += 1

    def _make_room(self) -> None:
        """Of the slot to be written next, and of those whose stack reaches into it."""
        for number in range(self.count, self.count + self.stack):
            slot = number % self.capacity
            self.size -= int(self._live[slot])
            self._live[slot] = False
            self._new_weights[slot] = False

    def _allow(self, number: int) -> None:
        slot = number % self.capacity
        if not self._live[slot]:  # or it would lose the priority that it has been given
            self._live[slot] = True
            self._new_weights[slot] = True
            self.size += 1

    def _to_device(self, tensor: Tensor) -> Tensor:
        if self.device.type == "cuda":  # pinned: the copy does not wait for what is under way
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor


def _as_tensors(frames: list[Any], *tables: list[tuple[Any, ...]]) -> list[Tensor]:
    """The frames, and each table in float64, which holds its whole numbers as they are."""
    stacked = np.stack(frames) if frames else np.empty(0)
    return [torch.from_numpy(each) for each in (stacked, *(np.array(t, float) for t in tables))]
