"""The tasks that have no file of their own for it do on a GPU what they do on the CPU."""

import pytest
import torch

from laprop import LaProp
from runners.loop import Progress, train
from tasks.gradient_sequence import GradientSequence
from tasks.iwslt_transformer.task import IwsltTransformer
from tasks.online_convex import OnlineConvex
from tasks.rosenbrock import Rosenbrock

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
SMALL = {"width": 16, "feed_forward": 32, "layers": 1, "max_tokens": 160, "dropout": 0.0}
TASKS = {  # and how near their numbers are, in float64 and in float32
    "rosenbrock": (lambda: Rosenbrock([0, 3], sigma=[0.0, 0.1], start=(0.9, 0.8), path=True), 1e-9),
    "online_convex": (lambda: OnlineConvex([0, 3], ["reddi", "least_squares", "logistic"]), 1e-9),
    "gradient_sequence": (lambda: GradientSequence([0, 3], ratios=(0.9, 3.0), silence=5), 1e-9),
    "iwslt_transformer": (lambda: IwsltTransformer([0], **SMALL, window=4), 1e-3),
}


@pytest.mark.parametrize("name", TASKS)
def test_a_run_on_cuda_has_the_rows_of_the_cpus(name):
    make, limit = TASKS[name]
    rows = {"cpu": [], "cuda": []}
    for device, written in rows.items():
        task = make().to(device)
        status = train(
            task, LaProp(task.parameters(), lr=1e-3), None, Progress(), steps=20, eval_every=5,
            checkpoint_every=20, precision="fp32", write=written.append, checkpoint=lambda: None,
            stop=lambda: False,
        )  # fmt: skip
        assert status == "completed" and next(task.parameters()).device.type == device
    assert len(rows["cpu"]) == len(rows["cuda"]) == 5
    for here, there in zip(rows["cpu"], rows["cuda"], strict=True):
        for metric in here.keys() - {"train_seconds"}:
            assert there[metric] == pytest.approx(here[metric], rel=limit, abs=limit, nan_ok=True)


def test_attention_in_half_precision_makes_no_plan_for_each_shape():
    """cuDNN's does, and takes twenty times as long as the rest of the update."""
    task = IwsltTransformer([0], **SMALL).to("cuda")
    with (
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiled,
        torch.autocast("cuda", torch.bfloat16),
    ):
        task.loss()
    called = {event.key for event in profiled.key_averages() if "attention" in event.key}
    assert called and not any("cudnn" in name for name in called)
