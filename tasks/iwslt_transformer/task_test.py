"""The task itself: losses, gradients, resumption, several processes, bad input."""

import io
import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from runners.config import ROOT
from tasks.iwslt_transformer import batches, bleu, numbers
from tasks.iwslt_transformer.loss import smoothed_loss
from tasks.iwslt_transformer.model import Dropout, in_half
from tasks.iwslt_transformer.task import IwsltTransformer, context_free_loss

SMALL = {"width": 16, "feed_forward": 32, "layers": 1, "max_tokens": 160, "window": 4}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(seed=0, **changes):
    return IwsltTransformer([seed], **{**SMALL, **changes})


def train(task, optimizer, steps):
    losses = []
    for _ in range(steps):
        loss = task.loss()
        task.backward(loss, torch.ones_like(loss))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    return losses


def adam(task):
    return torch.optim.Adam(task.parameters(), lr=1e-3)


def test_smoothed_loss_is_torchs_cross_entropy_and_its_gradient_is_autograds(monkeypatch):
    monkeypatch.setattr("tasks.iwslt_transformer.loss.CACHED", 13 * 100)
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(4200, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(13, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    target = torch.randint(13, (4200,), generator=generator)  # more than two chunks
    loss, nll = smoothed_loss(states, weight, target, 0.1)
    found = torch.autograd.grad(loss, (states, weight))
    # torch spreads eps over all V symbols, fairseq over the V - 1 others
    expected = torch.nn.functional.cross_entropy(
        states @ weight.T, target, label_smoothing=0.1 * 13 / 12, reduction="sum"
    )
    torch.testing.assert_close(loss, expected)
    wanted = torch.autograd.grad(expected, (states, weight))
    torch.testing.assert_close(found, wanted)
    plain = torch.nn.functional.cross_entropy(states @ weight.T, target, reduction="sum")
    torch.testing.assert_close(nll, plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_the_share_it_should_and_the_same_in_the_gradient(dtype):
    torch.manual_seed(0)
    x = torch.ones(999, 513, dtype=dtype, requires_grad=True)
    dropout = Dropout(0.3)
    dropout.begin()
    y = dropout(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    share = (y == 0).double().mean().item()
    assert abs(share - 0.3) < 4 * math.sqrt(0.3 * 0.7 / y.numel())
    assert y.max().item() == pytest.approx(1 / 0.7, rel=1e-2 if dtype == torch.bfloat16 else 1e-5)
    assert not torch.equal(dropout(x), y)  # other elements each time
    torch.manual_seed(0)
    dropout.begin()
    assert torch.equal(dropout(x), y)
    assert torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(dropout.eval()(x), x)


def test_an_update_is_the_mean_over_its_tokens_whatever_the_number_of_batches():
    task = make(update_freq=3, dropout=0.0).double()
    loss = task.loss()
    found = [p.grad for p in task.parameters()]
    for p in task.parameters():
        p.grad = None
    order = batches.epoch_order(len(task.groups), 0, 1)[:3]
    total, tokens = 0, 0
    for i in order:
        made = batches.batch(task.pairs, task.groups[i])
        part, _ = smoothed_loss(
            task.model(made), task.model.decoder.embed_tokens.weight, made.target, 0.1
        )
        total, tokens = total + part, tokens + len(made.target)
    (total / tokens).backward()
    assert loss.item() == pytest.approx((total / tokens).item(), rel=1e-6)
    for grad, p in zip(found, task.parameters(), strict=True):
        torch.testing.assert_close(grad, p.grad, rtol=1e-9, atol=1e-12)


def test_halves_and_their_gradients_are_those_of_casts_one_by_one():
    matrices = [torch.randn(4, 3, requires_grad=True), torch.randn(3, 4).t().requires_grad_()]
    twins = [m.detach().clone().requires_grad_() for m in matrices]
    x = torch.randn(3, 5, dtype=torch.bfloat16)
    for tensors, halves in ((matrices, in_half(matrices)), (twins, [t.bfloat16() for t in twins])):
        assert all(half.dtype == torch.bfloat16 for half in halves)
        (halves[0] @ x + halves[1] @ x + halves[1][:, :1]).float().square().sum().backward()
        assert all(t.grad.dtype == torch.float32 for t in tensors)
    for one, other in zip(matrices, twins, strict=True):
        assert torch.equal(one.grad, other.grad)


def test_bf16_is_near_fp32():
    exact, half = make(dropout=0.0), make(dropout=0.0)
    a = exact.loss()
    with torch.autocast("cpu", torch.bfloat16):
        b = half.loss()
    assert a.item() == pytest.approx(b.item(), rel=0.01) and a.item() != b.item()
    largest = dict(exact.named_parameters())
    for name, p in half.named_parameters():
        assert p.grad.dtype == torch.float32
        if not name.endswith("k_proj.bias"):
            expected = largest[name].grad
            assert (p.grad - expected).norm() < 0.1 * expected.norm(), name


def test_going_on_after_a_kill_in_the_middle_of_an_epoch_gives_the_same_bits():
    whole = make(average=2, update_freq=2)
    expected = train(whole, optimizer := adam(whole), 9)[5:]
    first = make(average=2, update_freq=2)
    train(first, optimizer := adam(first), 5)
    file = io.BytesIO()
    torch.save([first.state_dict(), optimizer.state_dict()], file)
    file.seek(0)
    state, optimizer_state = torch.load(file, weights_only=True)
    torch.manual_seed(99)
    again = make(average=2, update_freq=2)
    again.load_state_dict(state)
    optimizer = adam(again)
    optimizer.load_state_dict(optimizer_state)
    assert train(again, optimizer, 4) == expected
    for a, b in zip(whole.state_dict().items(), again.state_dict().items(), strict=True):
        assert a[0] == b[0] and (not isinstance(a[1], torch.Tensor) or torch.equal(a[1], b[1]))
    assert len(again.snapshots) == 2
    assert torch.equal(whole.snapshots[0], again.snapshots[0])


def test_bleu_is_that_of_the_mean_weights_at_the_ends_of_the_last_windows(monkeypatch):
    used, ends = [], []

    def translate(model, pairs, target, beam, max_tokens):
        used.append(torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone())
        return bleu.Translation([], [], 0.0, "")

    task, plain = make(average=2, bleu_sentences=4), make()
    optimizers = adam(task), adam(plain)
    monkeypatch.setattr(bleu, "translate", translate)
    for window in range(3):
        train(task, optimizers[0], SMALL["window"])
        train(plain, optimizers[1], SMALL["window"])
        ends.append(torch.nn.utils.parameters_to_vector(plain.parameters()).detach().clone())
        task.evaluate()
        assert torch.equal(used[-1], torch.stack(ends[-2:]).mean(0)), window
    train(task, optimizers[0], 1)
    task.evaluate()  # within a window: the windows that have ended
    assert torch.equal(used[-1], torch.stack(ends[-2:]).mean(0))


def test_nothing_is_translated_before_the_first_update(monkeypatch):
    task, translated = make(bleu_sentences=4), []

    def translate(model, pairs, target, beam, max_tokens):
        translated.append(task.step)
        return bleu.Translation(["a"], ["a"], 100.0, "")

    monkeypatch.setattr(bleu, "translate", translate)
    assert math.isnan(task.evaluate()["bleu"]) and task.artifacts() == {} and not translated
    train(task, adam(task), 1)
    assert task.evaluate()["bleu"] == 100 and task.artifacts() and translated == [1]


def test_a_run_that_is_stopped_leaves_at_once_with_the_last_translations(monkeypatch):
    task = make(bleu_sentences=4, beam=1)
    train(task, adam(task), 1)
    task.evaluate()
    there = task.artifacts()
    train(task, adam(task), 1)
    monkeypatch.setattr(bleu, "translate", lambda *_: pytest.fail("a search at a stop"))
    assert task.artifacts() == there and there["hypotheses.en"]
    assert make(bleu_sentences=4).artifacts() == {}


def test_bleu_is_of_the_first_sentences_of_its_split():
    text = numbers.sentences("test")[1][:3]
    task = make(bleu_sentences=3, bleu_split="test", beam=1)
    train(task, adam(task), 1)
    loss = task.evaluate()["valid_loss"]
    references = task.artifacts()["references.en"].decode().splitlines()
    assert [line.lower() for line in references] == [line.lower() for line in text]
    other = make(bleu_sentences=3)
    train(other, adam(other), 1)
    assert other.evaluate()["valid_loss"] == loss
    assert other.artifacts()["references.en"].decode().splitlines() != references


def test_evaluating_changes_nothing_and_sees_every_sentence_once():
    one, two = make(), make()
    optimizers = adam(one), adam(two)
    train(one, optimizers[0], 3)
    train(two, optimizers[1], 2)
    first, second = two.evaluate(), two.evaluate()
    assert {n: v.item() for n, v in first.items()} == {n: v.item() for n, v in second.items()}
    assert train(two, optimizers[1], 1) != [] and one.step == two.step
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
    seen = np.concatenate(batches.grouped(two.valid, 160, None))
    assert sorted(seen) == list(range(len(two.valid)))


@pytest.mark.parametrize("steps", [8, 7, 5])
def test_train_loss_is_of_the_window_so_far_in_bits_per_token(steps):
    task = make()
    assert math.isnan(task.evaluate()["train_loss"])
    losses = train(task, adam(task), steps)
    tokens = [task.pairs.target.lengths[task.indices(i)[0]].sum() for i in range(steps)]
    expected = np.dot(losses[4:], tokens[4:]) / sum(tokens[4:]) / math.log(2)
    assert task.evaluate()["train_loss"].item() == pytest.approx(expected, rel=1e-6)


def test_no_prediction_without_context_has_a_smaller_loss():
    task = make()
    symbols, flat = len(task.target), task.pairs.target.flat
    best = context_free_loss(task.pairs, symbols, 0.1)
    wanted = torch.from_numpy(np.bincount(flat, minlength=symbols).astype(float))
    logits = torch.zeros(symbols, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12)

    def loss():
        optimizer.zero_grad()
        logp, each = logits.log_softmax(0), 0.1 / (symbols - 1)
        wanted_loss = -((0.9 - each) * (wanted * logp).sum() / wanted.sum() + each * logp.sum())
        wanted_loss.backward()
        return wanted_loss

    optimizer.step(loss)
    assert best == pytest.approx(loss().item() / math.log(2), rel=1e-5)


def test_padding_is_below_a_twentieth_of_the_rectangles():
    task = make(max_tokens=512)
    sizes = [0, 0]
    for indices in task.groups:
        made = batches.batch(task.pairs, indices)
        sizes[0] += len(made.source.tokens) + len(made.shifted.tokens)
        sizes[1] += math.prod(made.source.shape) + math.prod(made.shifted.shape)
    assert 1 - sizes[0] / sizes[1] < 0.05


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 0}, "layers=0: a whole number >= 1 expected"),
        ({"width": 18}, "width=18: a multiple of 8, twice heads=4, expected"),
        ({"width": 2, "heads": 1}, "width=2: a whole number >= 4 expected"),
        ({"heads": True}, "heads=True: a whole number >= 1 expected"),
        ({"bleu_sentences": 2.5}, "bleu_sentences=2.5: a whole number >= 0 expected"),
        ({"bleu_split": "train"}, "bleu_split=train: one of valid, test expected"),
        ({"label_smoothing": "x"}, "label_smoothing=x: a number in [0, 1) expected"),
        ({"data_dir": None}, "data_dir=None: a text expected"),
        ({"corpus": 5}, "corpus=5: a text expected"),
        ({"corpus": "conf"}, "corpus=conf: no train.de in it; train, valid and test in .de and"),
        ({"dropout": 1.0}, "dropout=1.0: a number in [0, 1) expected"),
        ({"corpus": "nowhere"}, "corpus=nowhere: 'numbers' or a folder expected; there is none"),
        ({"max_tokens": 9}, "max_tokens=9: numbers/train.de:"),
    ],
)
def test_bad_arguments_are_one_line(changes, message):
    with pytest.raises((ValueError, OSError)) as error:
        make(**changes)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_more_than_one_seed_is_refused():
    with pytest.raises(ValueError, match="one seed a run; sweep seed=0,1"):
        IwsltTransformer([0, 1], **SMALL)


def test_two_processes_follow_the_curve_of_one(tmp_path):
    """torchrun with gloo, through the command line, against one process; both divide 2 batches."""
    common = ["-m", "runners.run", "task=iwslt_transformer", "optimizer=laprop", "steps=6",
              "eval_every=2", "task.update_freq=2", "tracking=disabled",
              *(f"task.{k}={v}" for k, v in SMALL.items() if k != "window")]  # fmt: skip
    rows = []
    for launcher in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]):
        folder = tmp_path / str(len(launcher))
        done = subprocess.run(
            [sys.executable, *launcher, *common, f"results_dir={folder}"], cwd=ROOT, timeout=120,
            capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (record,) = folder.glob("runs/*/record.jsonl")
        lines = [json.loads(line) for line in record.read_text().splitlines()]
        rows.append(
            [
                (r["step"], *r["train_loss"], *r["valid_loss"])
                for r in lines
                if "step" in r and "train_loss" in r
            ]
        )
    assert len(rows[0]) == 4
    np.testing.assert_allclose(np.array(rows[0], float), np.array(rows[1], float), rtol=1e-5)


def test_a_run_killed_between_checkpoints_goes_on_to_the_same_record(tmp_path):
    """SIGKILL, through the command line, in the middle of an epoch; times apart, the same bytes."""
    common = [sys.executable, "-m", "runners.run", "task=iwslt_transformer", "optimizer=laprop",
              "steps=24", "eval_every=4", "checkpoint_every=6", "tracking=disabled",
              "task.bleu_sentences=4", "task.average=2",
              *(f"task.{k}={v}" for k, v in SMALL.items() if k != "window")]  # fmt: skip

    def start(name):
        return subprocess.Popen(
            [*common, f"results_dir={tmp_path / name}"], cwd=ROOT, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def lines(name):
        return [line for record in (tmp_path / name).glob("runs/*/record.jsonl")
                for line in record.read_text().splitlines(keepends=True) if line.endswith("\n")]  # fmt: skip

    whole, killed = start("whole"), start("killed")
    while not any('"step":8,' in line for line in lines("killed")):
        assert killed.poll() is None, "it ended before it was killed"
        time.sleep(0.002)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert start("killed").wait() == 0 and whole.wait() == 0

    def numbers(name):
        rows = [json.loads(line) for line in lines(name)[1:]]  # the first line is provenance
        return [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in rows]

    assert numbers("killed") == numbers("whole")
    assert [row["step"] for row in numbers("whole") if "train_loss" in row][1:] == [
        *range(4, 25, 4)
    ]
    (one,), (two,) = ([*(tmp_path / n).glob("runs/*/hypotheses.en")] for n in ("whole", "killed"))
    assert one.read_bytes() == two.read_bytes()
