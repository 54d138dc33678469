"""An update of the translation transformer against fairseq's and against its own arithmetic.

    python -m scripts.bench_iwslt [--corpus DIR] [--rounds 12] [--max-tokens 4096] [--device cpu]
    python -m scripts.bench_iwslt --follow 20 [--corpus DIR] [--max-tokens 4096] [--device cpu]

The full model (`transformer_iwslt_de_en`) and Adam on all sides, ours fused
(`optimizer.fused=true`), fairseq's its own. The first command measures speed and memory: fairseq
in float32, ours in float32 and in bfloat16, each in a process of its own, take turns on one batch
after the other, and the first batches do not count. The ratio is that of the tokens a second; the
median of the batches' own ratios stands beside it. A batch's depends on how much of it is padding,
so batches should be many. Memory is the most that a process ever held. Where fairseq is not installed,
ours are measured alone.

The floor is the time of an update's matrix products, forward and backward, on those batches, at the
speed of a large square product in that precision (float32 as torch has it by default, without TF32).
Attention counts as its plain products over the whole rectangle: padding and what the causal mask
hides are in it, the scores that fused kernels compute a second time are not. Nothing but products is
in it: no embeddings, norms, softmax, dropout, no making of batches, and no optimizer, which is bound
by memory.

The second command trains fairseq's and ours in float32 for so many updates, from the same weights,
without dropout, and prints how far apart their losses are. fairseq: `pip install '.[fairseq]'`.
"""

import argparse
import logging
import multiprocessing
import statistics
import sys
import time
import warnings
from argparse import Namespace
from collections.abc import Callable, Sequence
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from scripts.progress import progress
from tasks.images import DataError
from tasks.iwslt_transformer.batches import Batch, batch
from tasks.iwslt_transformer.task import BITS, IwsltTransformer

THEIRS = "fairseq fp32"
OURS = {"ours fp32": torch.float32, "ours bf16": torch.bfloat16}
BETAS = (0.9, 0.98)
# Rounds that do not count. On a GPU each new shape may bring memory and kernels of its own.
WARM_UP = {"cpu": 1, "cuda": 5}
PRODUCT = {"cpu": 2048, "cuda": 8192}  # rows and columns that keep the device busy
Update = Callable[[], float]  # the next one; its loss in bits per token


def quiet() -> None:
    """fairseq turns on what all libraries have to say, and calls what torch warns of."""
    logging.disable(logging.INFO)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    warnings.filterwarnings("ignore", "Support for mismatched", UserWarning)


def no_fairseq() -> str:
    """Why fairseq cannot be imported; empty where it can."""
    try:
        import_module("fairseq")
    except ImportError as error:
        return str(error)
    return ""


def task_for(arguments: Namespace, dropout: float) -> IwsltTransformer:
    return IwsltTransformer(
        [0], corpus=arguments.corpus, max_tokens=arguments.max_tokens, dropout=dropout
    ).to(arguments.device)


def ours(task: IwsltTransformer, device: str, lr: float, half: bool) -> Update:
    optimizer = torch.optim.Adam(task.parameters(), lr=lr, betas=BETAS, fused=True)

    def update() -> float:
        with torch.autocast(device, torch.bfloat16, enabled=half):
            loss = task.loss()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item() * BITS

    return update


def fairseq(task: IwsltTransformer, device: str, lr: float, dropout: float) -> Update:
    """fairseq's model, criterion and Adam, with the initial weights and the batches of ``task``."""
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

    args = Namespace(share_decoder_input_output_embed=True, dropout=dropout)
    transformer_iwslt_de_en(args)
    names = dictionary(len(task.source)), dictionary(len(task.target))
    torch.manual_seed(task.seed)
    model = TransformerModel.build_model(
        args, Namespace(source_dictionary=names[0], target_dictionary=names[1])
    ).to(device)
    optimizer = Adam(model.parameters(), lr=lr, betas=BETAS, eps=1e-8)
    pairs = task.pairs
    source, target = ([torch.from_numpy(side[i].astype(np.int64)) for i in range(len(side))]
                      for side in (pairs.source, pairs.target))  # fmt: skip
    data = LanguagePairDataset(source, pairs.source.lengths, names[0],
                               target, pairs.target.lengths, names[1])  # fmt: skip

    def update() -> float:
        sample = data.collater([data[i] for i in task.indices(task.step)[0]])
        inputs = {k: v.to(device) for k, v in sample["net_input"].items()}
        wanted = sample["target"].to(device)
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
        task.step += 1
        return loss.item() / sample["ntokens"] * BITS

    return update


def follow(arguments: Namespace) -> None:
    """Both losses, update by update."""
    task, other = task_for(arguments, dropout=0.0), task_for(arguments, dropout=0.0)
    mine = ours(task, arguments.device, lr=3e-4, half=False)
    theirs = fairseq(other, arguments.device, lr=3e-4, dropout=0.0)
    most = 0.0
    print(f"{'update':>6} {'fairseq':>9} {'ours':>9} {'difference':>10}  bits per token")
    for step in range(arguments.follow):
        a, b = theirs(), mine()
        most = max(most, abs(a - b))
        print(f"{step + 1:6} {a:9.5f} {b:9.5f} {b - a:10.1e}", flush=True)
    print(f"largest difference in {arguments.follow} updates: {most:.1e} bits per token")


def seconds(action: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    action()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def flops(task: IwsltTransformer, made: Batch) -> int:
    """Floating-point operations of an update with that batch, whose ``task`` is on meta."""
    with FlopCounterMode(display=False) as counter:
        # bfloat16 stands for both: in float32 one of the same products is an addmm_, which torch
        # does not count. On meta attention is plain products, whatever a device makes of it.
        task._forward(made.to(torch.device("meta")), half=True)[0].backward()
    return counter.get_total_flops()


def flops_a_second(dtype: torch.dtype, device: str) -> float:
    """Of a large matrix product; the best of several."""
    size = PRODUCT[device]
    a = torch.randn(size, size, device=device).to(dtype)
    return 2 * size**3 / min(seconds(lambda: a @ a, device) for _ in range(8))


def side_alone(name: str, arguments: Namespace, wire: Connection) -> None:
    """A process: sends the seconds of an update whenever asked, at the end its memory."""
    quiet()
    device, lr = arguments.device, 1e-6  # so small that all sides stay where they are
    task = task_for(arguments, dropout=0.3)
    if name == THEIRS:
        del task.model  # only its batches are wanted
        update = fairseq(task, device, lr, dropout=0.3)
    else:
        update = ours(task, device, lr, half=OURS[name] == torch.bfloat16)
    while wire.recv():
        wire.send(seconds(update, device))
    # not ru_maxrss, which a process takes over from the one that started it
    status = Path("/proc/self/status").read_text()
    host = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    wire.send(torch.cuda.max_memory_allocated() if device == "cuda" else host)


def padding(task: IwsltTransformer) -> float:
    """Fraction of all rectangles of an epoch, source and target, that is padding."""
    filled = places = 0
    for indices in task.groups:
        for side in (task.pairs.source, task.pairs.target):
            lengths = side.lengths[indices]
            filled, places = filled + lengths.sum(), places + len(lengths) * lengths.max()
    return 1 - filled / places


def measure(arguments: Namespace, names: Sequence[str]) -> None:
    """Speed and memory of these sides, and the floor of ours."""
    device, rounds, warm_up = arguments.device, arguments.rounds, WARM_UP[arguments.device]
    task = task_for(arguments, dropout=0.3).to("meta")  # only for its batches, and to be counted
    spawn = multiprocessing.get_context("spawn")
    wires = []
    for name in names:
        wire, end = spawn.Pipe()
        spawn.Process(target=side_alone, args=(name, arguments, end), daemon=True).start()
        end.close()  # so that the death of the process ends the conversation
        wires.append(wire)
    rows = []
    for step in progress(range(warm_up + rounds), "batches"):
        row = {}
        for name, wire in zip(names, wires, strict=True):
            wire.send(True)
            row[name] = wire.recv()
        if step >= warm_up:
            rows.append(row)
    speeds = {name: flops_a_second(dtype, device) for name, dtype in OURS.items()}
    memory = []
    for wire in wires:
        wire.send(False)
        memory.append(wire.recv() / 1e9)
    batches = [batch(task.pairs, task.indices(warm_up + i)[0]) for i in range(rounds)]
    tokens = sum(len(made.target) for made in batches) / rounds
    work = sum(flops(task, made) for made in batches) / rounds
    print(f"torch {torch.__version__}, {device}, {rounds} batches of at most "
          f"{arguments.max_tokens} tokens, {tokens:.0f} target tokens each, "
          f"padding of an epoch {padding(task):.1%}")  # fmt: skip
    for name, most in zip(names, memory, strict=True):
        spent = statistics.mean(row[name] for row in rows)
        line = f"{name:13} {tokens / spent:9,.0f} target tokens a second"
        if THEIRS in names:
            ratios = [row[THEIRS] / row[name] for row in rows]
            ratio = statistics.mean(row[THEIRS] for row in rows) / spent
            line += f", {ratio:.2f} times fairseq's (of a batch {statistics.median(ratios):.2f})"
        print(f"{line}, peak memory {most:.2f} GB")
    for name, speed in speeds.items():
        spent, floor = statistics.mean(row[name] for row in rows), work / speed
        print(f"{name:13} {1e3 * spent:9,.1f} ms an update, {spent / floor:.0%} of the floor of "
              f"{1e3 * floor:,.1f} ms, which would be {tokens / floor:,.0f} target tokens a second "
              f"({work / 1e9:,.0f} GFLOP at {speed / 1e9:,.0f} GFLOP/s)")  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--corpus", default="numbers", help="a folder, as task.corpus takes it")
    parser.add_argument("--rounds", type=int, default=12, help="batches that count (default 12)")
    parser.add_argument("--max-tokens", type=int, default=4096, help="of a batch (default 4096)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--follow", type=int, metavar="UPDATES", help="compare losses instead")
    arguments = parser.parse_args()
    follow_updates = 1 if arguments.follow is None else arguments.follow
    if min(arguments.rounds, arguments.max_tokens, follow_updates) < 1:
        parser.error("--rounds, --max-tokens and --follow: whole numbers >= 1 expected")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no CUDA device here")
    if not Path(arguments.corpus).is_dir() and arguments.corpus != "numbers":
        parser.error(f"--corpus {arguments.corpus}: no such folder")
    missing = no_fairseq()
    if missing and arguments.follow is not None:
        parser.error(f"--follow: needs fairseq, pip install '.[fairseq]' ({missing})")
    if missing:
        print(f"fairseq is not installed and takes no part ({missing})", file=sys.stderr)
    try:
        if arguments.follow is not None:
            follow(arguments)
        else:
            measure(arguments, [*OURS] if missing else [THEIRS, *OURS])
    except DataError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    quiet()
    sys.exit(main())
