import io
import math

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.nn import functional as F

from runners.config import CONF
from tasks.rainbow import memory
from tasks.rainbow.task import Rainbow

CARTPOLE = {"game": "CartPole-v1", "capacity": 400, "learning_starts": 40, "target_every": 60,
            "v_min": 0.0, "v_max": 100.0, "eval_games": 3}  # fmt: skip
GREEDY = {"epsilon": 0.0, "epsilon_end": 0.0, "dueling": True}
BREAKOUT = {"capacity": 200, "learning_starts": 60, "target_every": 40, "eval_games": 1}


def build(seed=0, **changes):
    return Rainbow([seed], **(CARTPOLE | changes))


def adam(task, **changes):
    cfg = OmegaConf.merge(OmegaConf.load(CONF / "optimizer" / "adam.yaml"), changes)
    return instantiate(cfg, _convert_="all")([p for p in task.parameters() if p.requires_grad])


def train(task, optimizer, updates):
    losses = []
    for _ in range(updates):
        loss = task.loss()
        task.backward(loss, torch.ones_like(loss))
        optimizer.step()
        losses.append(float(loss))
    return losses


def same(one, two):
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


@pytest.mark.parametrize("settings", [
    CARTPOLE,
    CARTPOLE | {"n_step": 3, "capacity": 60, "batch": 8},
    CARTPOLE | {"n_step": 5, "train_every": 1, "prioritized": False},
    BREAKOUT,
    BREAKOUT | {"n_step": 3, "sticky": 0.25, "batch": 4},
    CARTPOLE | {"noise_every": 6},
], ids=["cartpole", "cartpole 3-step", "cartpole 5-step", "breakout", "breakout 3-step", "noise"])  # fmt: skip
def test_overlap_changes_no_bit(settings):
    """Emulation during the update, against one after the other."""
    updates = 25 if "game" not in settings else 80
    ends = []
    for overlap in (False, True):
        task = Rainbow([1], **settings, overlap=overlap)
        again = 0
        if overlap:  # the update must have been done again at times, and not each time
            draw = task._draw

            def counted(draw=draw):
                nonlocal again
                again += 1
                return draw()

            task._draw = counted
        losses = train(task, adam(task, lr=1e-3), updates)
        task._replay.flush()
        ends.append((losses, task.online.state_dict(), task._replay.tree.weights.clone(),
                     task._replay.frames.clone(), task.agent_steps, task.episodes))  # fmt: skip
        if overlap:
            assert updates < again < 2 * updates
    assert ends[0][0] == ends[1][0] and ends[0][4:] == ends[1][4:]
    same(ends[0][1], ends[1][1])
    assert torch.equal(ends[0][2], ends[1][2]) and torch.equal(ends[0][3], ends[1][3])


@pytest.mark.parametrize("noise_every", [1, 3])
def test_loss_and_gradients_against_a_plain_computation(noise_every):
    """Noisy weights formed, targets projected atom by atom, float64, autograd."""
    task = build(n_step=3, dueling=True, batch=16, noise_every=noise_every)
    train(task, adam(task, lr=1e-3), 40)
    loss = task.loss()
    batch_row, step, update = task.updates - 1, task.agent_steps, task._update
    # the batch once more, before the priorities were changed: only what is drawn matters here
    replay = task._replay
    indices = update.indices
    ahead = (indices[:, None] + torch.arange(3)) % replay.capacity
    online_noise, target_noise = task._noise_rows()
    number = math.ceil(step / noise_every)
    p_online, p_target = online_noise(number).double(), target_noise(batch_row).double()

    def plain(network, x, noise):
        layers = [m for head in network.heads for m in head]
        parts = list(noise.split([m.noise_size for m in layers]))
        x = F.relu(F.linear(x.flatten(1), *(p.double() for p in network.torso[1].parameters())))
        outs = []
        for k in (0, 2):
            y = x
            for layer, part in zip(layers[k : k + 2], parts[k : k + 2], strict=True):
                columns = layer.weight.shape[1]
                p, q = part[:columns], part[columns:]
                weight = layer.weight.double() + layer.weight_sigma.double() * torch.outer(q, p)
                y = F.linear(y, weight, layer.bias.double() + layer.bias_sigma.double() * q)
                y = F.relu(y) if layer is layers[k] else y
            outs.append(y)
        advantage, value = outs[0].view(-1, 2, 51), outs[1].view(-1, 1, 51)
        return (value + advantage - advantage.mean(1, keepdim=True)).log_softmax(-1)

    support = task.support.double()
    total, length = torch.zeros(16, dtype=torch.float64), torch.zeros(16, dtype=torch.long)
    alive = torch.ones(16, dtype=torch.bool)
    terminal = torch.zeros(16, dtype=torch.bool)
    for k in range(3):
        total += alive * 0.99**k * replay.rewards[ahead[:, k]].double()
        length += alive
        terminal |= alive & (replay.ends[ahead[:, k]] == 1)
        alive = alive & (replay.ends[ahead[:, k]] == 0)
    following = replay.frames[(indices + length) % replay.capacity][:, None].double()
    observed = replay.frames[indices][:, None].double()
    best = (plain(task.online, following, p_online).exp() * support).sum(2).argmax(1)
    next_p = plain(task.target, following, p_target).exp()[torch.arange(16), best].detach()
    wanted = torch.zeros(16, 51, dtype=torch.float64)
    for b in range(16):
        for j in range(51):
            value = total[b] + (0 if terminal[b] else 0.99 ** int(length[b]) * support[j])
            place = (min(max(float(value), 0.0), 100.0)) / 2
            low = math.floor(place)
            wanted[b, low] += next_p[b, j] * (1 - (place - low))
            if place > low:
                wanted[b, low + 1] += next_p[b, j] * (place - low)
    log_q = plain(task.online, observed, p_online)[torch.arange(16), replay.actions[indices]]
    each = (wanted * (wanted.clamp(min=1e-300).log() - log_q)).sum(1)
    np.testing.assert_allclose(update.priorities, each.detach() + 1e-7, rtol=1e-3, atol=1e-6)
    # the weights of the mean, from what each sample contributes to the loss
    weights = _importance(task, update)
    expected = (weights * each).mean()
    assert float(loss) == pytest.approx(expected.item(), rel=1e-4)
    gradients = torch.autograd.grad(expected, list(task.online.parameters()))
    for got, wanted_gradient in zip(update.gradients, gradients, strict=True):
        torch.testing.assert_close(got.double(), wanted_gradient.double(), rtol=1e-3, atol=1e-6)


def _importance(task, update):
    """Sampled again from the tree as it was before `commit`."""
    replay, captured = task._replay, task._before
    share = captured[update.indices] / captured.sum()
    beta = 0.4 + 0.6 * task.agent_steps / 100_000
    return (replay.size * share) ** -beta


@pytest.fixture(autouse=True)
def weights_before_the_update(monkeypatch):
    """The weights from which the last batch was drawn."""
    draw = Rainbow._draw

    def remembered(self):
        update = draw(self)
        self._before = self._replay.tree.weights.clone()
        return update

    monkeypatch.setattr(Rainbow, "_draw", remembered)


@pytest.mark.parametrize("changes", [
    {"double": False}, {"dueling": True}, {"noisy": False}, {"prioritized": False},
    {"distributional": False}, {"n_step": 3},
    {"double": False, "noisy": False, "prioritized": False, "distributional": False},
])  # fmt: skip
def test_every_part_can_be_switched(changes):
    task = build(**changes)
    losses = train(task, adam(task, lr=1e-3), 30)
    assert all(math.isfinite(loss) for loss in losses)
    names = dict(task.online.named_parameters())
    assert any("sigma" in name for name in names) == changes.get("noisy", True)
    weights = task._before[task._before > 0]
    assert (len(weights.unique()) == 1) == (not changes.get("prioritized", True))
    assert (task.online.atoms == 1) == (not changes.get("distributional", True))
    assert len(task.online.heads) == 1 + changes.get("dueling", False)


def listen(task, acted):
    """Note the agent steps whose action is the network's."""
    act = task._learner.act
    task._learner.act = lambda *given: acted.append(task.agent_steps) or act(*given)


def test_the_order_of_events():
    """Agent steps, updates, copies to the target network, epsilon: when, and how often."""
    task = build(target_every=50, epsilon=1.0, epsilon_end=0.0, epsilon_decay=1e-9)
    acted, copies = [], []
    load = task.target.load_state_dict
    task.target.load_state_dict = lambda s: copies.append(task.agent_steps) or load(s)
    optimizer = adam(task)
    for update in range(30):
        train(task, optimizer, 1)
        if update == 0:
            assert task.agent_steps == 44  # learning starts after 40, at the next multiple of 4
            listen(task, acted)
    assert task.agent_steps == 44 + 29 * 4
    assert copies == [50, 100, 150]
    assert acted == list(range(45, 161))  # epsilon has decayed: each action is the network's
    # half at random: the other half is the network's
    task = build(epsilon=0.5, epsilon_end=0.5)
    train(task, optimizer := adam(task), 1)
    acted.clear()
    listen(task, acted)
    train(task, optimizer, 100)
    assert 150 < len(acted) < 250


@pytest.mark.parametrize("noise_every", [1, 3, 4])
def test_each_action_is_the_best_under_the_present_weights_and_noise(noise_every):
    """Also where the noise outlasts a change of the weights."""
    check_actions(build(**GREEDY, noise_every=noise_every), noise_every)


def check_actions(task, noise_every):
    """Each action of the network against the same network computed plainly."""
    optimizer = adam(task, lr=1e-2)
    train(task, optimizer, 1)
    act, actions = task._learner.act, []

    @torch.no_grad()
    def checked(observation, noise, number):
        assert number == math.ceil(task.agent_steps / noise_every)
        there = observation.to(task.support.device)
        logits = task.online(there, task._noise_rows()[0](number))
        returns = (logits.softmax(-1) @ task.support)[0]
        actions.append(act(observation, noise, number))
        assert returns[actions[-1]].item() == pytest.approx(returns.max().item(), rel=1e-5)
        return actions[-1]

    task._learner.act = checked
    train(task, optimizer, 25)
    assert len(actions) == 100 and len(set(actions)) > 1


def test_evaluation_changes_nothing_and_is_the_same_for_every_optimizer():
    one, two = build(), build()
    first, second = adam(one, lr=1e-3), adam(two, lr=1e-3)
    before = [one.evaluate(), one.evaluate()]
    for name in ("return", "return_sem"):
        assert torch.equal(before[0][name], before[1][name])
    losses = train(one, first, 20)
    row = one.evaluate()
    assert losses + train(one, first, 20) == train(two, second, 40)
    assert row["agent_steps"] == row["frames"] == 40 + 80
    assert row["loss"] > 0 and row["episodes"] > 0 and row["train_return"] > 0
    # the games of an evaluation depend on seed and agent steps
    other = build()
    train(other, adam(other, lr=0.0), 40)
    games = [task._evaluation.play(task.online.requires_grad_(False), task.support,
                                   task._noise_rows()[0](0), 7) for task in (one, one)]  # fmt: skip
    assert torch.equal(*games)


@pytest.mark.parametrize(("settings", "on_disk"), [
    (CARTPOLE | {"n_step": 3}, True), (CARTPOLE | {"noise_every": 3}, False), (BREAKOUT, True), (BREAKOUT, False),
])  # fmt: skip
def test_a_resumed_task_goes_on_to_the_same_bits(tmp_path, settings, on_disk):
    updates = 5 if "game" not in settings else 50

    def start():
        task = Rainbow([2], **settings)
        task.folder = tmp_path if on_disk else None
        return task, adam(task, lr=1e-3)

    task, optimizer = start()
    train(task, optimizer, updates)
    content = io.BytesIO()
    torch.save([task.state_dict(), optimizer.state_dict()], content)
    assert not on_disk or task._replay.log.count > 0
    losses = train(task, optimizer, updates)
    row = task.evaluate()
    other, second = start()
    content.seek(0)
    saved = torch.load(content, weights_only=True)
    other.load_state_dict(saved[0])
    second.load_state_dict(saved[1])
    assert train(other, second, updates) == losses
    same(task.online.state_dict(), other.online.state_dict())
    again = other.evaluate()
    assert {k: str(v) for k, v in row.items()} == {k: str(v) for k, v in again.items()}


def test_bf16_computes_nearly_what_float32_does():
    losses, gradients = [], []
    for half in (False, True):
        task = build(learning_starts=100, target_every=150)
        optimizer = adam(task, lr=1e-9)  # the same network in both
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            for _ in range(20):
                loss = task.loss()
                found = [g.clone() for g in task._update.gradients]
                task.backward(loss, torch.ones_like(loss))
                optimizer.step()
        learner = task._learner
        assert learner.half == half and loss.dtype == torch.float32
        assert {p.dtype for p in [*task.online.parameters(), *found]} == {torch.float32}
        held = next(learner.working_target.parameters())
        assert held.dtype == (torch.bfloat16 if half else torch.float32)
        assert torch.equal(held, next(task.target.parameters()).to(held.dtype))
        losses.append(loss.item())
        gradients.append(torch.cat([g.flatten() for g in found]))
    assert 0 < abs(losses[0] - losses[1]) < 0.01 * losses[0]
    distance = (gradients[0] - gradients[1]).norm() / gradients[0].norm()
    assert 1e-4 < distance < 0.03


@pytest.mark.parametrize("optimizer", ["adam", "laprop"])
def test_it_learns_to_balance_a_pole(optimizer):
    """A short form of the experiment; every optimizer is in `rainbow_optimizers`."""
    task = build(capacity=10_000, learning_starts=500, target_every=500, epsilon_decay=500.0,
                 n_step=3, atoms=21, eval_games=10)  # fmt: skip
    cfg = OmegaConf.load(CONF / "optimizer" / f"{optimizer}.yaml")
    step = instantiate(cfg, lr=1e-3, _convert_="all")(task.online.parameters())
    before, after = task.evaluate()["return"], []
    for _ in range(3):
        train(task, step, 200)
        after.append(float(task.evaluate()["return"]))
    assert before < 50 and max(after) > 150, after


@pytest.mark.parametrize(("changes", "words"), [
    ({"seeds": [0, 1]}, "seeds=.0, 1.: rainbow runs one seed"),
    ({"batch": 0}, "batch=0: a whole number >= 1 expected"),
    ({"noise_every": 0}, "noise_every=0: a whole number >= 1 expected"),
    ({"atoms": 1}, "atoms=1: a whole number >= 2 expected"),
    ({"capacity": 3}, "capacity=3: a whole number >= "),
    ({"n_step": 2.5}, "n_step=2.5: a whole number"),
    ({"gamma": 1.5}, "gamma=1.5: a number from 0 to 1"),
    ({"v_min": 3.0, "v_max": 3.0}, "v_min=3.0: less than v_max=3.0"),
    ({"epsilon_decay": 0.0}, "epsilon_decay=0.0: a positive number"),
    ({"sigma": -1.0}, "sigma=-1.0: "),
    ({"batch": True}, "batch=True: a whole number >= 1 expected"),
    ({"gamma": "x"}, "gamma=x: a number from 0 to 1 expected"),
    ({"beta": True}, "beta=True: a number from 0 to 1 expected"),
    ({"v_max": math.inf}, "v_max=inf: a finite number expected"),
    ({"sticky": 1}, "sticky=1: a number in .0, 1., or null, expected"),
    ({"sticky": "often"}, "sticky=often: a number in"),
    ({"overlap": 0}, "overlap=0: true, false or null expected"),
    ({"game": 5}, "game=5: a text expected"),
    *(({flag: 5}, f"{flag}=5: true or false expected") for flag in (
        "life_is_episode", "clip_rewards", "double", "dueling", "noisy", "prioritized",
        "normalise_weights", "distributional", "video")),
    ({"game": "Breakout"}, "game=Breakout: gymnasium knows no such environment"),
])  # fmt: skip
def test_bad_input(changes, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        Rainbow(**({"seeds": [0]} | CARTPOLE | changes))


def test_a_replay_that_does_not_fit_is_refused_before_the_run(monkeypatch):
    monkeypatch.setattr("tasks.rainbow.task.available_bytes", lambda device: 2_000_000_000)
    task = Rainbow([0])
    with pytest.raises(ValueError, match="capacity=500000: the replay takes 3.5 GB, 2.0 GB are"):
        task.to("cpu")
    assert Rainbow([0], capacity=100_000).to("cpu")._replay is None


@pytest.mark.parametrize(("limit", "used", "stat", "none"), [
    ("memory.max", "memory.current", "anon 60\ninactive_file {}\nactive_file {}\n", "max"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes",
     "inactive_file 7\nactive_file 7\ntotal_inactive_file {}\ntotal_active_file {}\n",
     "9223372036854771712"),
], ids=["version 2", "version 1"])  # fmt: skip
def test_memory_that_is_left(limit, used, stat, none, tmp_path, monkeypatch):
    """Of a container's limit all but what it uses; files that it has cached are no use of it."""
    cpu = torch.device("cpu")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    free = memory.available_bytes(cpu)
    assert 1e8 < free < 1e14
    (tmp_path / "memory").mkdir()
    (tmp_path / limit).write_text("30000000\n")
    (tmp_path / used).write_text("10000000\n")
    (tmp_path / limit).with_name("memory.stat").write_text(stat.format(2_000_000, 500_000))
    assert memory.available_bytes(cpu) == 22_500_000
    (tmp_path / limit).write_text(f"{none}\n")
    assert memory.available_bytes(cpu) > 30_000_000
