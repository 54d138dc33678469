"""fairseq's own command line with our optimizers, and our task beside it, update by update."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from laprop import LaProp
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


def test_the_published_command_line_gives_our_tasks_losses(data_bin, tmp_path):  # noqa: F811
    sizes = ["--encoder-embed-dim", "32", "--decoder-embed-dim", "32", "--encoder-layers", "2",
             "--decoder-layers", "2", "--encoder-ffn-embed-dim", "64", "--decoder-ffn-embed-dim",
             "64", "--max-tokens", "512", "--dropout", "0", "--seed", "5", "--lr", "3e-3"]  # fmt: skip
    done = fairseq_train(
        data_bin / "bin", *PUBLISHED, *sizes, "--optimizer", "laprop", "--laprop-betas", "(0.9, 0.98)",
        "--warmup-updates", "4", "--total-num-update", "20", "--max-update", "20",
        "--no-save", "--disable-validation",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = logged(done)
    task = IwsltTransformer([5], corpus=str(data_bin / "bin"), max_tokens=512, width=32, feed_forward=64,
                            layers=2, dropout=0.0, window=1)  # fmt: skip
    optimizer = LaProp(task.parameters(), 3e-3, (0.9, 0.98), weight_decay=1e-4, decay_by_lr=True)
    schedule = polynomial_decay(optimizer, warmup=4, total=20)
    ours = []
    for _ in range(20):
        task.loss()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        ours.append((task.sums[0] / task.sums[2]).item() / np.log(2))
    assert ours[-1] < ours[0] - 0.2  # it moves, so the comparison means something
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


@pytest.mark.parametrize("name", ["adabound", "signsgd"])
def test_the_others_train_and_bad_options_are_named(data_bin, name, tmp_path):  # noqa: F811
    from argparse import Namespace

    import fairseq_laprop

    config = {
        "adabound": fairseq_laprop.AdaBoundConfig(adabound_betas="(0.8, 0.95)", amsbound=True),
        "signsgd": fairseq_laprop.SignSGDConfig(signsgd_momentum=0.9, signsgd_momentum_of="sign"),
    }[name]
    classes = {"adabound": fairseq_laprop.FairseqAdaBound, "signsgd": fairseq_laprop.FairseqSignSGD}
    parameter = torch.nn.Parameter(torch.ones(3))
    config.lr = [1e-2]
    optimizer = classes[name](Namespace(**vars(config)), [parameter])
    parameter.grad = torch.tensor([1.0, -2.0, 0.5])
    optimizer.step()
    assert (parameter != 1).all()
    wanted = {"adabound": {"betas": (0.8, 0.95), "amsbound": True},
              "signsgd": {"momentum": 0.9, "momentum_of": "sign"}}[name]  # fmt: skip
    assert {key: optimizer.param_groups[0][key] for key in wanted} == wanted
    for text in ("0.9", "(0.9, 'x')", "__import__('os').getcwd()", "(0.9,"):
        with pytest.raises(ValueError, match=r"--laprop-betas .*two numbers such as"):
            fairseq_laprop.pair("--laprop-betas", text)
