"""fairseq's own command line with our optimizers, and our task beside it, update by update."""

import json
import os
import subprocess
import sys
from argparse import Namespace

import numpy as np
import pytest
import torch

from laprop import AdaBound, LaProp, SignSGD
from runners.config import ROOT
from runners.schedules import polynomial_decay
from tasks.iwslt_transformer.corpus_test import data_bin  # noqa: F401
from tasks.iwslt_transformer.task import IwsltTransformer

pytest.importorskip("fairseq", reason="pip install '.[fairseq]'")

PUBLISHED = [
    "--arch", "transformer_iwslt_de_en", "--share-decoder-input-output-embed", "--clip-norm", "0.0",
    "--lr", "3e-4", "--lr-scheduler", "polynomial_decay", "--weight-decay", "0.0001",
    "--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1",
    "--distributed-world-size", "1",
]  # fmt: skip


def fairseq_train(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "fairseq_cli.train", str(folder), "--user-dir", str(ROOT / "fairseq_laprop"),
         "--cpu", "--log-format", "json", "--log-interval", "1", "--num-workers", "0", *arguments],
        capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def logged(done):
    """The losses that ``fairseq-train`` logged, one an update."""
    lines = [
        line.partition("| INFO | train_inner | ")[2]
        for line in (done.stdout + done.stderr).splitlines()
    ]
    return [float(json.loads(line)["loss"]) for line in lines if line]


def compare(folder, updates, warmup, kind, arguments, options):
    """Their losses and ours over so many updates, with the same optimizer made in both ways."""
    sizes = ["--encoder-embed-dim", "32", "--decoder-embed-dim", "32", "--encoder-layers", "2",
             "--decoder-layers", "2", "--encoder-ffn-embed-dim", "64", "--decoder-ffn-embed-dim",
             "64", "--max-tokens", "512", "--dropout", "0", "--seed", "5", "--lr", "3e-3"]  # fmt: skip
    done = fairseq_train(
        folder, *PUBLISHED, *sizes, "--optimizer", *arguments, "--warmup-updates", str(warmup),
        "--total-num-update", str(updates), "--max-update", str(updates),
        "--no-save", "--disable-validation",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    task = IwsltTransformer([5], corpus=str(folder), max_tokens=512, width=32, feed_forward=64,
                            layers=2, dropout=0.0, window=1)  # fmt: skip
    optimizer = kind(task.parameters(), 3e-3, weight_decay=1e-4, **options)
    schedule = polynomial_decay(optimizer, warmup=warmup, total=updates)
    ours = []
    for _ in range(updates):
        task.loss()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        ours.append((task.sums[0] / task.sums[2]).item() / np.log(2))
    np.testing.assert_allclose(ours, logged(done), atol=1e-3)
    return ours


def test_the_published_command_line_gives_our_tasks_losses(data_bin):  # noqa: F811
    arguments = ["laprop", "--laprop-betas", "(0.9, 0.98)"]
    options = {"betas": (0.9, 0.98), "decay_by_lr": True}
    ours = compare(data_bin / "bin", 20, 4, LaProp, arguments, options)
    assert ours[-1] < ours[0] - 0.2  # it moves, so the comparison means something


OTHERS = {
    "adabound": (AdaBound, {"betas": (0.8, 0.95), "final_lr": 0.3, "amsbound": True},
                 ["--adabound-betas", "(0.8, 0.95)", "--adabound-final-lr", "0.3", "--amsbound"]),
    "signsgd": (SignSGD, {"momentum": 0.5, "momentum_of": "sign"},
                ["--signsgd-momentum", "0.5", "--signsgd-momentum-of", "sign"]),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_the_others_give_our_tasks_losses_too(data_bin, name):  # noqa: F811
    kind, options, arguments = OTHERS[name]
    ours = compare(data_bin / "bin", 3, 0, kind, [name, *arguments], options)
    assert abs(ours[-1] - ours[0]) > 0.05


@pytest.mark.parametrize("name", OTHERS)
def test_options_that_few_updates_do_not_show_arrive(name):
    import fairseq_laprop

    config, kind = {
        "adabound": (fairseq_laprop.AdaBoundConfig(adabound_gamma=2e-3, adabound_eps=1e-6),
                     fairseq_laprop.FairseqAdaBound),
        "signsgd": (fairseq_laprop.SignSGDConfig(signsgd_momentum=0.9),
                    fairseq_laprop.FairseqSignSGD),
    }[name]  # fmt: skip
    wanted = {"adabound": {"gamma": 2e-3, "eps": 1e-6}, "signsgd": {"momentum": 0.9}}[name]
    config.lr, config.weight_decay = [1e-2, 1e-3], 0.1
    (group,) = kind(Namespace(**vars(config)), [torch.nn.Parameter(torch.ones(3))]).param_groups
    assert {key: group[key] for key in wanted} == wanted
    assert group["lr"] == 1e-2 and group["weight_decay"] == 0.1


@pytest.mark.parametrize("text", ["0.9", "(0.9, 'x')", "__import__('os').getcwd()", "(0.9,"])
def test_what_is_no_pair_is_named_and_never_evaluated(text):
    from fairseq_laprop import pair

    assert pair("--laprop-betas", "(0.9, 0.98)") == (0.9, 0.98)
    with pytest.raises(ValueError, match=r"--laprop-betas .*two numbers such as"):
        pair("--laprop-betas", text)
