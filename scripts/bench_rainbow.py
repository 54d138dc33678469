"""Agent steps a second of Rainbow on an Atari game while it learns, and where the time goes.

    python -m scripts.bench_rainbow [--rounds 5] [--updates 20] [--setting rainbow_hessel] [--at-once 4]

Once the replay is filled, every action is the network's (epsilon 0), as in all but the first steps
of a run; evaluation is not in it. The optimizer is that of `optimizer=adam optimizer.fused=true`;
without fused it is a loop over the parameters, which takes longer on a CPU. fp32 and bf16 take turns.
The floor is what cannot be overlapped away: the update's arithmetic at the speed of a large matrix
product in that precision, plus the emulation, timed alone, and the actions of train_every steps; a
GPU can do the update during one emulation. Where the emulator is a process of its own, its column
is the time that was waited for it. ``--at-once``: that many runs side by side, each in a
process of its own, as `hydra.launcher.runs_at_once` has them, against one.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from hydra.utils import instantiate
from torch.utils.flop_counter import FlopCounterMode

from runners.config import compose_config
from scripts.progress import progress
from tasks.rainbow import environment
from tasks.rainbow.elsewhere import Elsewhere
from tasks.rainbow.task import Rainbow

PARTS = ("emulate", "act", "update", "optimizer")
CPU = torch.device("cpu")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Run:
    """One training run whose parts are timed."""

    def __init__(self, setting: str, half: bool, device: torch.device) -> None:
        cfg = compose_config([f"task={setting}"]).task
        changes = {"capacity": 20_000, "learning_starts": 1_000}
        changes |= {"epsilon": 1.0, "epsilon_end": 0.0, "epsilon_decay": 100.0}
        self.task: Rainbow = instantiate(cfg, seeds=[0], _convert_="all", **changes).to(device)
        self.optimizer = torch.optim.Adam(
            self.task.online.parameters(), lr=6.25e-5, eps=1.5e-4, fused=True
        )
        self._half, self._device = half, device
        self.spent: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self.update()  # fills the replay
        assert self.task._learner is not None
        playing = self.task._playing
        self._time(playing, "end" if isinstance(playing, Elsewhere) else "step", "emulate")
        self._time(self.task._learner, "act", "act")
        self._time(self.task._learner, "update", "update")
        self._time(self.optimizer, "step", "optimizer")

    def update(self) -> None:
        """One optimizer step, as the training loop does it."""
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._half):
            loss = self.task.loss()
        self.task.backward(loss, torch.ones_like(loss))
        self.optimizer.step()

    def flops(self) -> int:
        """Floating-point operations of one update, counted by torch."""
        assert self.task._learner is not None
        self.task._learner._update._calls = 0  # a graph would not let its inside be seen
        with FlopCounterMode(display=False) as counter:
            self.task._draw()
        return counter.get_total_flops()

    def _time(self, owner: Any, method: str, part: str) -> None:
        plain: Callable[..., Any] = getattr(owner, method)

        def timed(*given: Any) -> Any:
            start = time.perf_counter()
            result = plain(*given)
            self.spent[part] += time.perf_counter() - start
            return result

        setattr(owner, method, timed)


def seconds(action: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def flops_a_second(dtype: torch.dtype, device: torch.device) -> float:
    """Of a large matrix product; the best of several."""
    a = torch.randn(2048, 2048, device=device).to(dtype)
    best = min(seconds(lambda: a @ a, device) for _ in range(8))
    return 2 * 2048**3 / best


def emulation(setting: dict[str, Any], steps: int = 1000) -> float:
    """Seconds of one agent step of the environment alone."""
    playing = environment.make(**setting)
    playing.reset()
    return seconds(lambda: [playing.step(i % playing.actions) for i in range(steps)], CPU) / steps


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="turns of each precision (default 5)")
    parser.add_argument("--updates", type=int, default=20, help="updates a turn (default 20)")
    parser.add_argument("--setting", default="rainbow", choices=("rainbow", "rainbow_hessel"))
    parser.add_argument("--at-once", type=int, default=1, help="runs side by side (default 1)")
    arguments = parser.parse_args()
    if min(arguments.rounds, arguments.updates, arguments.at_once) < 1:
        parser.error("--rounds, --updates and --at-once: whole numbers >= 1 expected")
    torch.set_flush_denormal(True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, "
          f"{arguments.setting}, Adam(fused=True)")  # fmt: skip
    runs = {name: Run(arguments.setting, name == "bf16", device) for name in PRECISIONS}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in progress(range(-1, arguments.rounds), "rounds"):
        for name, run in runs.items():
            if round_ <= 0:
                run.spent = dict.fromkeys(PARTS, 0.0)
            spent = seconds(
                lambda run=run: [run.update() for _ in range(arguments.updates)], device
            )
            if round_ >= 0:
                times[name].append(spent / arguments.updates)
    print(f"{'':6}{'steps/s':>9}{'floor':>9}{'ms an update, of which:':>26}"
          + "".join(f"{part:>11}" for part in PARTS) + f"{'GFLOP':>8}{'GFLOP/s':>9}")  # fmt: skip
    for name, run in runs.items():
        every, whole = run.task.train_every, statistics.median(times[name])
        parts = {p: run.spent[p] / arguments.rounds / arguments.updates for p in PARTS}
        work, speed = run.flops(), flops_a_second(PRECISIONS[name], device)
        emulate = emulation(run.task._playing_settings)
        hidden = min(emulate, work / speed) if device.type == "cuda" else 0.0
        floor = every * emulate + parts["act"] + work / speed - hidden
        print(f"{name:6}{every / whole:9.0f}{every / floor:9.0f}{1e3 * whole:26.1f}"
              + "".join(f"{1e3 * parts[part]:11.2f}" for part in PARTS)
              + f"{work / 1e9:8.2f}{speed / 1e9:9.0f}", flush=True)  # fmt: skip
    del runs
    if arguments.at_once > 1:
        updates = arguments.rounds * arguments.updates
        for name in PRECISIONS:
            one, many = (side_by_side(n, arguments.setting, name, updates)
                         for n in (1, arguments.at_once))  # fmt: skip
            print(f"{name:6}{arguments.at_once} runs at once: {many:.0f} steps/s in all, "
                  f"{many / one:.2f} times one ({one:.0f})", flush=True)  # fmt: skip
    return 0


def side_by_side(processes: int, setting: str, precision: str, updates: int) -> float:
    """Agent steps a second of so many runs together, which begin at the same time."""
    context = torch.multiprocessing.get_context("spawn")
    together, results = context.Barrier(processes), context.SimpleQueue()
    threads = max(1, torch.get_num_threads() // processes)
    given = (setting, precision, updates, threads, together, results)
    started = [context.Process(target=_one_of_them, args=given) for _ in range(processes)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    if any(process.exitcode for process in started):
        raise RuntimeError("a run has failed, with the traceback above")
    return sum(results.get() for _ in started)


def _one_of_them(
    setting: str, precision: str, updates: int, threads: int, together: Any, results: Any
) -> None:
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        run = Run(setting, precision == "bf16", device)
        for _ in range(10):  # to warm up, and to capture
            run.update()
        together.wait(timeout=600)
    except BaseException:
        together.abort()  # or the others would wait for ever
        raise
    spent = seconds(lambda: [run.update() for _ in range(updates)], device)
    results.put(run.task.train_every * updates / spent)


if __name__ == "__main__":
    sys.exit(main())
