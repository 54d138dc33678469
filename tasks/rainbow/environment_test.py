import itertools

import ale_py
import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import AtariPreprocessing

from tasks.rainbow import environment
from tasks.rainbow.environment import Atari, Vector, make

BREAKOUT = "BreakoutNoFrameskip-v4"


def atari(**changes):
    settings = {"game": "breakout", "seed": 0, "purpose": "play", "sticky": 0.0,
                "life_is_episode": True, "clip_rewards": True, "max_frames": 108_000,
                "first_game": 0} | changes  # fmt: skip
    return Atari(settings.pop("game"), settings.pop("seed"), settings.pop("purpose"), **settings)


def listen(env):
    """Every action that reaches the emulator, in ALE's numbers; -1 for a new game."""
    told, emulator = [], env._ale

    class Ear:
        def __getattr__(self, name):
            return getattr(emulator, name)

        def act(self, action):
            told.append(action.value)
            return emulator.act(action)

        def reset_game(self):
            told.append(-1)
            emulator.reset_game()

    env._ale = Ear()
    return told


def test_frames_are_those_of_gymnasiums_own_preprocessing():
    """In a game without FIRE, from the same place on: skip 4, maximum of 2, grey, 84 x 84."""
    ours = make("MsPacmanNoFrameskip-v4", 3, "play", clip_rewards=False, life_is_episode=False)
    told = listen(ours)
    first = ours.reset()
    gymnasium.register_envs(ale_py)
    raw = gymnasium.make("MsPacmanNoFrameskip-v4")
    theirs = AtariPreprocessing(raw, noop_max=0, frame_skip=4, screen_size=84)
    theirs.reset(seed=0)
    noops = told.count(0)
    assert told == [-1] + [0] * noops and 1 <= noops <= 30
    for _ in range(noops):
        raw.unwrapped.ale.act(0)
    np.testing.assert_array_equal(first.shape, (84, 84))
    random = np.random.default_rng(0)
    for _ in range(900):
        action = int(random.integers(ours.actions))
        got = ours.step(action)
        observation, reward, over, truncated, _ = theirs.step(action)
        assert (got.reward, got.terminal) == (reward, over) and not truncated
        if over:  # what the last frame shows does not count
            break
        np.testing.assert_array_equal(got.observation, observation)
    assert over


def test_what_reaches_the_emulator():
    """No-ops, FIRE at the start of every episode, 4 frames an action, a no-op after a lost life."""
    env = atari()
    told = listen(env)
    env.reset()
    noops = told.index(1) - 1
    assert told[1:] == [0] * noops + [1] * 4 + [3] * 4  # action 2 of Breakout is RIGHT
    lost, games, total = 0, 0, 0.0
    for _ in range(3000):
        del told[:]
        before = env._ale.lives()
        out = env.step(0)
        total += out.reward
        if out.score is not None:
            games += 1
            assert out.terminal and -1 in told and out.first is not None
            assert out.score == total
            total = 0.0
            if games == 2:
                break
        elif out.terminal:
            lost += 1
            assert told[4:] == [0] * 4 + [1] * 4 + [3] * 4 and before == 5 - (lost - 1) % 4
        else:
            assert told == [0] * 4 and out.first is None
    assert games == 2 and lost == 8


@pytest.mark.parametrize("at", range(4))
def test_a_game_that_ends_within_an_action_shows_its_last_frame_alone(at):
    """The other of the two frames would be of the step before."""
    env = atari(life_is_episode=False)
    env.reset()
    emulator, frames = env._ale, itertools.count()

    class Ends:
        """Each frame is all of one grey, brighter before the action than in it; over in frame ``at``."""

        def __getattr__(self, name):
            return getattr(emulator, name)

        def act(self, action):
            self.number = next(frames)
            return 0

        def game_over(self):
            return self.number == 8 + at

        def getScreenGrayscale(self, screen):
            screen[:] = 200 - self.number

    env._ale = Ends()
    for _ in range(2):
        env.step(0)
    outcome = env.step(0)
    assert outcome.terminal and (outcome.observation == 200 - (8 + at)).all()


def test_scores_are_the_unclipped_rewards_of_the_whole_game():
    """The actions that reached the emulator, once more in gymnasium's bare environment."""
    env = atari(game="space_invaders", seed=1)
    told = listen(env)
    env.reset()
    random, learnt, out = np.random.default_rng(1), [], None
    while out is None or out.score is None:
        end = len(told)
        out = env.step(int(random.integers(env.actions)))
        learnt.append(out.reward)
    game = told[: end + 4]
    game = game[: game.index(-1, 1)] if -1 in game[1:] else game
    raw = gymnasium.make("SpaceInvadersNoFrameskip-v4", full_action_space=True)
    raw.reset(seed=0)
    rewards = []
    for action in game[1:]:
        _, reward, over, _, _ = raw.step(action)
        rewards.append(reward)
        if over:
            break
    assert over and out.score == sum(rewards) > 0
    assert set(learnt) == {0.0, 1.0} and max(rewards) > 1  # what is learnt from is the sign


def test_a_lost_life_may_also_go_unseen():
    env = atari(life_is_episode=False)
    env.reset()
    random = np.random.default_rng(0)
    ends = [
        out for out in (env.step(int(a)) for a in random.integers(4, size=1200)) if out.terminal
    ]
    assert ends and all(out.score is not None for out in ends)


def test_time_that_is_out_truncates():
    env = atari(max_frames=400)
    env.reset()
    outs = [env.step(0) for _ in range(300)]
    cut = [out for out in outs if out.truncated]
    assert cut and all(not out.terminal and out.score is not None for out in cut)
    assert all(out.first is not None for out in cut)


@pytest.mark.parametrize(("game", "frames"), [("breakout", 2), ("breakout", 6), ("ms_pacman", 2)])
def test_a_game_that_is_over_before_the_next_episode_begins_is_told_too(game, frames):
    """Its time is out so many frames after a lost life: in the no-op, or in FIRE."""

    def lose_a_life(max_frames):
        env, total = atari(game=game, max_frames=max_frames, clip_rewards=False), 0.0
        env.reset()
        for action in np.random.default_rng(4).integers(env.actions, size=500).tolist():
            frame = env._ale.getEpisodeFrameNumber() + environment.SKIP
            out = env.step(action)
            total += out.reward
            if out.terminal:
                break
        return env, out, total, frame

    env, out, _, lost = lose_a_life(108_000)
    assert out.score is None and env._game == 0
    env, out, total, _ = lose_a_life(lost + frames)
    assert out.terminal and not out.truncated and out.score == total > 0
    assert env._game == 1 and env._score == 0 and env._ale.getEpisodeFrameNumber() < lost
    assert env.step(0).score is None


def test_sticky_actions_repeat_with_their_probability():
    env = atari(sticky=0.25)
    told = listen(env)
    env.reset()
    repeated = frames = 0
    for step in range(1500):
        start, last = len(told), told[-1]
        action = 2 + step % 2
        out = env.step(action)
        mine = told[start : start + 4]
        if out.first is None and last == {2: 3, 3: 4}[action ^ 1]:
            repeated += mine[0] == last
            frames += 1
    assert frames > 700
    assert abs(repeated / frames - 0.25) < 4 * (0.25 * 0.75 / frames) ** 0.5
    assert make("ALE/Breakout-v5", 0, "play")._sticky == 0.25
    assert make(BREAKOUT, 0, "play")._sticky == 0.0


@pytest.mark.parametrize("build", [lambda: atari(sticky=0.25), lambda: atari(max_frames=500),
                                   lambda: make("CartPole-v1", 0, "play")])  # fmt: skip
def test_a_restored_environment_goes_on_as_the_other(build):
    env, random = build(), np.random.default_rng(0)
    env.reset()
    for _ in range(230):
        env.step(int(random.integers(env.actions)))
    state = env.state()
    actions = random.integers(env.actions, size=400).tolist()
    here = [env.step(a) for a in actions]
    other = build()
    other.restore(state)
    for one, two in zip(here, (other.step(a) for a in actions), strict=True):
        np.testing.assert_array_equal(one.observation, two.observation)
        assert one[1:4] == two[1:4] and one.score == two.score
        np.testing.assert_equal(one.first, two.first)
    assert sum(out.first is not None for out in here) > 1


def test_games_differ_by_their_number_and_seed_alone():
    def noops(seed, first_game):
        env = atari(seed=seed, first_game=first_game)
        told = listen(env)
        env.reset()
        return told.index(1) - 1

    assert noops(0, 5) == noops(0, 5)
    assert len({noops(0, n) for n in range(8)}) > 3 and len({noops(n, 0) for n in range(8)}) > 3


@pytest.mark.parametrize(("game", "options", "words"), [
    ("BreakoutNoFrameskip-v5", {}, "game=BreakoutNoFrameskip-v5: .* did you mean Breakout"),
    ("FrozenLake-v1", {}, "game=FrozenLake-v1: observations are Discrete.*; an Atari game or a"),
    ("Pendulum-v1", {}, "game=Pendulum-v1: actions are Box"),
    ("CarRacing-v3", {}, "game=CarRacing-v3: "),
    ("CartPole-v1", {"sticky": 0.25}, "sticky=0.25: CartPole-v1 is no Atari game"),
    (BREAKOUT, {"sticky": 1.0}, "sticky=1.0: 0 <= sticky < 1 expected"),
])  # fmt: skip
def test_bad_input(game, options, words):
    with pytest.raises(ValueError, match=words) as error:
        make(game, 0, "play", **options)
    assert "\n" not in str(error.value)


def test_a_game_without_rom(monkeypatch):
    monkeypatch.setattr(ale_py.roms, "get_all_rom_ids", lambda: ["pong"])
    with pytest.raises(ValueError, match="game=breakout: ale-py .* has no ROM"):
        make(BREAKOUT, 0, "play")


def test_vectors():
    env = make("CartPole-v1", 0, "play")
    assert isinstance(env, Vector) and env.shape == (4,) and env.actions == 2
    assert env.reset().dtype == np.float32 and environment.STACK == 4 and env.stack == 1
