"""The replay against a list of whole episodes, from which every sample can be worked out."""

import io
import shutil

import numpy as np
import pytest
import torch

from tasks.rainbow.environment import Outcome
from tasks.rainbow.frame_log import FrameLog
from tasks.rainbow.replay import MOST, MOST_FRAMES, SLOT_BYTES, Replay
from tasks.task import CorruptState

SHAPE, STACK, GAMMA = (2, 3), 4, 0.9


def build(**changes):
    settings = {"capacity": 61, "shape": SHAPE, "dtype": np.uint8, "stack": STACK, "n_step": 3,
                "gamma": GAMMA, "alpha": 0.5, "decay": 0.99, "normalise": False,
                "device": torch.device("cpu")} | changes  # fmt: skip
    return Replay(
        settings.pop("capacity"), settings.pop("shape"), settings.pop("dtype"), **settings
    )


class Story:
    """Random play: what is told to a replay, and all of it kept, frame by frame."""

    def __init__(self, replay, seed, ends=(0.1, 0.05)):
        self.replay, self.random, self.ends = replay, np.random.default_rng(seed), ends
        self.frames = []  # every frame ever, by number
        self.steps = {}  # number of a frame -> (first of its episode, action, reward, end)
        self.first = 0
        replay.start(self.see())

    def see(self):
        self.frames.append(self.random.integers(0, 256, SHAPE, dtype=np.uint8))
        return self.frames[-1]

    def choose(self):
        """An action, and what will come of it."""
        terminal, truncated = (bool(self.random.random() < p) for p in self.ends)
        here, action = len(self.frames) - 1, int(self.random.integers(5))
        reward = float(self.random.integers(-1, 2))
        end = "terminal" if terminal else "truncated" if truncated else ""
        self.steps[here] = (self.first, action, reward, end)
        last = self.see() if end != "terminal" else self.random.integers(0, 256, SHAPE, np.uint8)
        if end:
            self.first = len(self.frames)
        first = self.see() if end else None
        return action, Outcome(last, reward, terminal, end == "truncated", first, None)

    def play(self, steps):
        for _ in range(steps):
            action, outcome = self.choose()
            self.replay.begin(action)
            self.replay.finish(outcome)

    def stacked(self, number, first):
        return np.stack([self.frames[max(number - back, first)] for back in (3, 2, 1, 0)])

    def expected(self, n):
        """What can be sampled, oldest first: (slot, observation, action, return, discount, next)."""
        capacity, count = self.replay.capacity, len(self.frames)
        found = []
        for number in range(max(0, count - capacity), count):
            first, action = self.steps.get(number, (None, None))[:2]
            # all frames of its stack must still be there
            if first is None or max(number - STACK + 1, first) < count - capacity:
                continue
            if number < count - capacity + STACK - 1:  # given up a little early at episode starts
                continue
            total, discount, at, end = 0.0, 1.0, number, ""
            for length in range(n):
                if at not in self.steps:
                    at = count  # the window is not known yet
                    break
                _, _, reward, end = self.steps[at]
                total += GAMMA**length * reward
                discount, at = GAMMA ** (length + 1), at + 1
                if end == "terminal":
                    discount = 0.0
                if end:
                    break
            if at >= count and discount:
                continue
            following = self.stacked(at, first) if discount else None
            found.append((number % capacity, self.stacked(number, first), action, total, discount,
                          following))  # fmt: skip
        return found


def everything(replay):
    """Each slot that can be sampled, once: with equal weights, one in each of `size` parts."""
    replay.flush()
    half = torch.full((replay.size,), 0.5, dtype=torch.float64)
    return replay.sample(half, torch.tensor(float(replay.size)), torch.tensor(1.0))


@pytest.mark.parametrize(("n", "capacity"), [(1, 61), (3, 61), (5, 23), (3, 11), (3, 5000)])
def test_samples_are_those_of_the_episodes(n, capacity):
    """n-step returns, tails of episodes, truncations, stacks across ends and the ring's own end."""
    for seed in range(6):
        replay = build(n_step=n, capacity=capacity, alpha=0.0)
        story = Story(replay, seed, ends=[(0.1, 0.05), (0.4, 0.3), (0.02, 0.0)][seed % 3])
        for steps in (1, 7, 30, 2, 100, 1):
            story.play(steps)
            expected = sorted(story.expected(n), key=lambda e: e[0])
            assert replay.size == len(expected) and replay.size <= capacity
            if not expected:
                continue
            got = everything(replay)
            assert got.indices.tolist() == [e[0] for e in expected]
            assert got.actions.tolist() == [e[2] for e in expected]
            np.testing.assert_array_equal(got.observations, np.stack([e[1] for e in expected]))
            np.testing.assert_allclose(got.returns, [e[3] for e in expected], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(got.discounts, [e[4] for e in expected], rtol=1e-6)
            for following, (*_, wanted) in zip(got.following, expected, strict=True):
                if wanted is not None:
                    np.testing.assert_array_equal(following, wanted)
            np.testing.assert_array_equal(
                replay.observation(), story.stacked(len(story.frames) - 1, story.first)
            )


@pytest.mark.parametrize("steps", [1, 2])
def test_a_flush_of_one_size_writes_the_same(steps):
    """As a GPU has it, with rows that are there several times; what is more goes the other way."""
    plain, filled = build(), build()
    filled._as_graph, sizes = True, set()
    write = filled._write_in_graph

    def seen(*tensors):
        sizes.add(tuple(map(len, tensors)))
        write(*tensors)

    filled._write_in_graph = seen
    stories = [Story(replay, seed=5) for replay in (plain, filled)]
    for i in range(300):
        for story in stories:
            story.play(steps)
            story.replay.flush()
            if i % 7 == 0:  # priorities that new slots start from
                story.replay.update(torch.tensor([i % 50]), torch.tensor([1.0 + i]))
    assert sizes == {(MOST_FRAMES, MOST_FRAMES, MOST, MOST)}
    for name in ("frames", "actions", "rewards", "ends", "ages"):
        assert torch.equal(getattr(plain, name), getattr(filled, name))
    assert torch.equal(plain.tree.levels[0], filled.tree.levels[0])


def test_a_step_that_lies_ahead_is_foreseen():
    """Batches drawn while a step is under way are those drawn afterwards, unless `foresaw` denies
    it; and it does not deny it often."""
    for n in (1, 3):
        replay, other = build(n_step=n, capacity=40), build(n_step=n, capacity=40)
        story, generator, denied = Story(replay, 5), torch.Generator().manual_seed(0), 0
        other.start(story.frames[0])
        for step in range(400):
            action, outcome = story.choose()
            replay.begin(action), other.begin(action)
            if step < 20:
                replay.finish(outcome), other.finish(outcome)
                continue
            u = torch.rand(4, generator=generator, dtype=torch.float64)
            before = _sample(replay, u)
            right = replay.foresaw(before.indices, outcome)
            replay.finish(outcome), other.finish(outcome)
            after = _sample(other, u)
            if right:
                for one, two in zip(before, after, strict=True):
                    assert torch.equal(one, two) or one is before.following
                ahead = before.discounts > 0
                assert torch.equal(before.following[ahead], after.following[ahead])
            else:
                denied += 1
                before = _sample(replay, u)
            new = torch.rand(1, generator=generator).expand(4)
            replay.update(before.indices, new), other.update(after.indices, new)
        assert 0 < denied < 200
        replay.flush(), other.flush()
        assert torch.equal(replay.tree.weights, other.tree.weights)


def _sample(replay, u):
    replay.flush()
    size = torch.tensor(float(replay.size), dtype=torch.float64)
    return replay.sample(u, size, torch.tensor(0.4, dtype=torch.float64))


def test_importance_weights_and_priorities():
    replay = build(alpha=0.7, decay=0.9)
    Story(replay, 0).play(50)
    replay.flush()
    live = replay.tree.weights.nonzero()[:, 0]
    assert (replay.tree.weights[live] == 1).all()  # the greatest priority so far is 1
    p = torch.linspace(0.1, 2, len(live)).double()
    replay.update(live, p)
    assert float(replay.greatest) == pytest.approx(
        max(0.9 ** len(p), *(float(x) * 0.9 ** (len(p) - 1 - k) for k, x in enumerate(p)))
    )
    got = _sample(replay, torch.rand(32, dtype=torch.float64))
    share = (p**0.7 / (p**0.7).sum())[torch.searchsorted(live, got.indices)]
    np.testing.assert_allclose(got.weights, (len(live) * share) ** -0.4, rtol=1e-6)
    replay.normalise = True
    again = _sample(replay, torch.rand(32, dtype=torch.float64))
    assert again.weights.max() == 1 and (again.weights > 0).all()
    # slots that come later get the greatest priority
    before = set(replay.tree.weights.nonzero()[:, 0].tolist())
    replay.start(np.zeros(SHAPE, np.uint8))
    story = Story(replay, 1, ends=(0, 0))
    story.play(5)
    replay.flush()
    new = [i for i in replay.tree.weights.nonzero()[:, 0].tolist() if i not in before]
    assert replay.tree.weights[new].tolist() == pytest.approx(
        [float(replay.greatest) ** 0.7] * len(new)
    )


def test_what_half_a_million_frames_take():
    assert 500_000 * (84 * 84 + SLOT_BYTES) < 3.7e9
    replay = build(capacity=1000, shape=(84, 84))
    held = [replay.frames, replay.actions, replay.rewards, replay.ends, replay.ages]
    taken = sum(t.numel() * t.element_size() for t in [*held, *replay.tree.levels])
    assert replay.frames.dtype == torch.uint8 and taken < 1000 * (84 * 84 + SLOT_BYTES) + 2000


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_restored_replay_goes_on_as_the_other(tmp_path, on_disk, monkeypatch):
    monkeypatch.setattr("tasks.rainbow.frame_log.CHUNK", 16)
    replay = build(capacity=37)
    replay.log = FrameLog(tmp_path / "0", 6, 37) if on_disk else None
    story = Story(replay, 3)
    for round_ in range(5):
        story.play(25)
        drawn = _sample(replay, torch.rand(3, dtype=torch.float64))
        replay.update(drawn.indices, torch.tensor([0.3, 0.2, 2.0]))
        content = io.BytesIO()
        torch.save(replay.state(), content)
        assert not on_disk or len(content.getvalue()) < 8000
        u = torch.rand(8, dtype=torch.float64)
        before = _sample(replay, u), replay.observation(), replay.size, float(replay.greatest)
        replay.start(np.zeros(SHAPE, np.uint8))  # play that comes to nothing: it is cut off
        Story(replay, 4).play(40)
        replay = build(capacity=37)
        if on_disk:  # the folder as a kill leaves it
            shutil.copytree(tmp_path / str(round_), tmp_path / str(round_ + 1))
            replay.log = FrameLog(tmp_path / str(round_ + 1), 6, 37)
        content.seek(0)
        replay.restore(torch.load(content, weights_only=True))
        story.replay = replay
        for one, two in zip(before[0], _sample(replay, u), strict=True):
            assert torch.equal(one, two)
        np.testing.assert_array_equal(before[1], replay.observation())
        assert before[2:] == (replay.size, float(replay.greatest))


def test_a_state_without_its_log_is_refused(tmp_path):
    logged = build()
    logged.log = FrameLog(tmp_path, 6, 61)
    Story(logged, 0).play(10)
    state = logged.state()
    with pytest.raises(CorruptState, match="frames"):
        build().restore(state)
