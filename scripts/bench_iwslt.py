"""An update of the translation transformer against fairseq's, on the same batches.

    python -m scripts.bench_iwslt [corpus=numbers] [rounds=5] [max_tokens=4096] [device=cpu]

The full model (`transformer_iwslt_de_en`) and Adam on all sides: fairseq in float32, ours in float32
and in bfloat16. They take turns on one batch after the other; ratios are taken within a round, the
first round is not counted. Peak memory is of a process that does two updates and nothing else. Needs
`pip install '.[fairseq]'`.
"""

import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from scripts.progress import progress
from tasks.iwslt_transformer.task import IwsltTransformer

SIDES = ("fairseq fp32", "ours fp32", "ours bf16")
ADAM = {"lr": 1e-6, "betas": (0.9, 0.98)}  # so small that all sides stay where they are


def ours(values: dict[str, str], half: bool) -> tuple[Callable[[], None], IwsltTransformer]:
    """One update of our task; the task, whose ``step`` says on which batch."""
    task = IwsltTransformer([0], corpus=values["corpus"], max_tokens=int(values["max_tokens"]))
    task = task.to(values["device"])
    optimizer = torch.optim.Adam(task.parameters(), **ADAM)

    def update() -> None:
        with torch.autocast(values["device"], torch.bfloat16, enabled=half):
            task.loss()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return update, task


def fairseq(values: dict[str, str], task: IwsltTransformer) -> Callable[[int], None]:
    """One update of fairseq's model, criterion and Adam on the batch of ``task`` at a step."""
    from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss
    from fairseq.data import Dictionary, LanguagePairDataset
    from fairseq.models.transformer import TransformerModel
    from fairseq.models.transformer.transformer_legacy import transformer_iwslt_de_en
    from fairseq.optim.adam import Adam

    def dictionary(symbols: int) -> Dictionary:
        made = Dictionary()
        for i in range(symbols - len(made)):
            made.add_symbol(f"w{i}")
        return made

    args = Namespace(share_decoder_input_output_embed=True, dropout=0.3)
    transformer_iwslt_de_en(args)
    names = dictionary(len(task.source)), dictionary(len(task.target))
    model = TransformerModel.build_model(
        args, Namespace(source_dictionary=names[0], target_dictionary=names[1])
    ).to(values["device"])
    optimizer = Adam(model.parameters(), eps=1e-8, **ADAM)
    pairs = task.pairs
    source, target = ([torch.from_numpy(side[i].astype(np.int64)) for i in range(len(side))]
                      for side in (pairs.source, pairs.target))  # fmt: skip
    data = LanguagePairDataset(source, pairs.source.lengths, names[0],
                               target, pairs.target.lengths, names[1])  # fmt: skip

    def update(step: int) -> None:
        sample = data.collater([data[i] for i in task._indices(step)[0]])
        inputs = {k: v.to(values["device"]) for k, v in sample["net_input"].items()}
        wanted = sample["target"].to(values["device"])
        logp = model.get_normalized_probs(model(**inputs), log_probs=True)
        loss, _ = label_smoothed_nll_loss(
            logp.view(-1, logp.shape[-1]), wanted.view(-1, 1), 0.1, ignore_index=1
        )
        loss.backward()
        for p in model.parameters():  # as fairseq's trainer: gradients per token
            if p.grad is not None:
                p.grad.div_(sample["ntokens"])
        optimizer.step()
        optimizer.zero_grad()

    return update


def seconds(action: Callable[[], None]) -> float:
    start = time.perf_counter()
    action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(values: dict[str, str]) -> int:
    exact, task = ours(values, half=False)
    half, _ = ours(values, half=True)
    theirs = fairseq(values, task)
    rows, tokens, filled, places = [], 0, 0.0, 0.0
    for step in progress(range(int(values["rounds"]) + 1), "rounds"):
        before = step
        row = [seconds(lambda at=before: theirs(at)), seconds(exact), seconds(half)]
        if step:
            rows.append(row)
            tokens += int(task.pairs.target.lengths[task._indices(step)[0]].sum())
    filled, places = float(task.sums[3]), float(task.sums[4])
    print(f"{len(rows)} batches of at most {values['max_tokens']} tokens, {tokens / len(rows):.0f} "
          f"target tokens each, padding {1 - filled / places:.1%}")  # fmt: skip
    for i, name in enumerate(SIDES):
        total = sum(row[i] for row in rows)
        ratio = statistics.median(row[0] / row[i] for row in rows)
        print(f"{name:13} {tokens / total:8,.0f} target tokens a second, {ratio:5.2f} times fairseq's "
              f"(median of rounds), peak memory {peak(values, name):.2f} GB")  # fmt: skip
    return 0


def peak(values: dict[str, str], side: str) -> float:
    """Gigabytes of a process of its own that does two updates on one side."""
    given = [f"{key}={value}" for key, value in values.items()]
    done = subprocess.run(
        [sys.executable, "-m", "scripts.bench_iwslt", *given, f"side={side}"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return float(done.stdout.split()[-1])


def alone(values: dict[str, str], side: str) -> int:
    update, task = ours(values, half=side.endswith("bf16"))
    if side.startswith("fairseq"):
        theirs = fairseq(values, task)
        for step in range(2):
            theirs(step)
    else:
        for _ in range(2):
            update()
    # not ru_maxrss, which a process takes over from the one that started it
    status = Path("/proc/self/status").read_text()
    print(int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e9)
    return 0


def main(arguments: list[str] | None = None) -> int:
    values = {"corpus": "numbers", "rounds": "5", "max_tokens": "4096", "device": "cpu", "side": ""}
    for argument in sys.argv[1:] if arguments is None else arguments:
        key, equals, value = argument.partition("=")
        if not equals or key not in values:
            print((__doc__ or "").strip(), file=sys.stderr)
            return 2
        values[key] = value
    side = values.pop("side")
    if not Path(values["corpus"]).is_dir() and values["corpus"] != "numbers":
        print(f"error: corpus={values['corpus']}: no such folder", file=sys.stderr)
        return 2
    return alone(values, side) if side else measure(values)


if __name__ == "__main__":
    sys.exit(main())
