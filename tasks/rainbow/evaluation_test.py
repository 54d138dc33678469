import io

import gymnasium
import numpy as np
import pytest
import torch
from PIL import Image

from tasks.rainbow import evaluation
from tasks.rainbow.evaluation import Evaluation
from tasks.rainbow.task import Rainbow


class Constant(torch.nn.Module):
    """A network that always wants the same action."""

    def __init__(self, actions, action):
        super().__init__()
        self.logits = torch.zeros(actions, 1)
        self.logits[action] = 1

    def at(self, noise):
        return self

    def forward(self, observations):
        return self.logits.expand(len(observations), -1, -1)


def play(games=3, game="BreakoutNoFrameskip-v4", when=0, most_steps=5000, video=False):
    made = Evaluation(game, 0, games, None, most_steps, video)
    actions = 2 if game.startswith("Cart") else 4
    return made.play(Constant(actions, 0), torch.zeros(1), torch.zeros(0), when), made


def test_scores_of_a_policy_that_is_known():
    """A pole that is always pushed to the same side falls within a few steps."""
    scores, _ = play(20, "CartPole-v1")
    assert scores.shape == (20,) and (scores >= 8).all() and (scores <= 11).all()
    again, _ = play(20, "CartPole-v1")
    other, _ = play(20, "CartPole-v1", when=1)
    assert torch.equal(scores, again) and not torch.equal(scores, other)
    # a game does not depend on how many are played beside it
    assert torch.equal(play(5, "CartPole-v1")[0], scores[:5])


def test_a_whole_game_counts_all_lives():
    """Breakout: the ball is fired at the start of each of five lives, and the paddle stays."""
    lives = []
    step = evaluation._Game.step

    def seen(self, action):
        before = self._environment._ale.lives()
        step(self, action)
        lives.append((before, self._environment._ale.lives(), self.over))

    evaluation._Game.step = seen
    try:
        scores, _ = play(1)
    finally:
        evaluation._Game.step = step
    lost = [(before, after) for before, after, over in lives if before != after]
    assert lost == [(5, 4), (4, 3), (3, 2), (2, 1), (1, 5)]  # the last one begins a new game
    assert [over for *_, over in lives].count(True) == 1 and scores[0] >= 0


def test_a_policy_that_is_stuck_plays_on_at_random_and_earns_nothing():
    scores, _ = play(4, "CartPole-v1", most_steps=3)
    assert (scores == 3).all()


class Drawn(gymnasium.Env):
    """Twenty steps of a vector environment that draws itself, without a library for it."""

    observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(4)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012

    def __init__(self, render_mode=None):
        self.render_mode, self.steps = render_mode, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(3, np.float32), 1.0, self.steps == 20, False, {}

    def render(self):
        picture = np.zeros((40, 60, 3), np.uint8)
        picture[: 2 * self.steps] = 255
        return picture


@pytest.fixture
def drawn():
    gymnasium.register("Drawn-v0", Drawn)
    yield "Drawn-v0"
    del gymnasium.registry["Drawn-v0"]


@pytest.mark.parametrize(("atari", "size"), [(False, (60, 40)), (True, (160, 210))])
def test_a_recorded_game_can_be_watched(atari, size, monkeypatch, drawn):
    monkeypatch.setattr(evaluation, "MOST_PICTURES", 20)
    _, made = play(2, "BreakoutNoFrameskip-v4" if atari else drawn, video=True)
    ((name, content),) = made.recorded().items()
    image = Image.open(io.BytesIO(content))
    assert name == "game.gif" and image.format == "GIF"
    assert getattr(image, "n_frames", 1) > 3 and image.size == size
    image.seek(5)
    assert np.asarray(image.convert("RGB")).std() > 10
    assert play(1, "CartPole-v1")[1].recorded() == {}


def test_what_cannot_be_drawn_is_said_at_once(drawn, monkeypatch):
    def render(self):
        raise gymnasium.error.DependencyNotInstalled("pygame is not installed")

    monkeypatch.setattr(Drawn, "render", render)
    with pytest.raises(ValueError, match="^video=true: Drawn-v0 cannot be drawn: pygame is not"):
        Rainbow([0], game=drawn, capacity=100, video=True)


def test_the_task_offers_it_as_an_artifact():
    task = Rainbow([0], capacity=100, eval_games=1, video=True)
    assert task.artifacts() == {}
    task.evaluate()
    assert list(task.artifacts()) == ["game.gif"]
