"""Seconds and memory of gathering many finished records, the first time and when nothing changed.

    python -m scripts.bench_collect [--records 10000] [--rows 100] [--repeats 3]

One real run is done; its record is copied under other keys and seeds, with other values, as nothing
in a real directory is the same twice. What is timed is the command, `python -m runners.collect`, as
a process of its own: imports, reading, and writing the table.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from runners import archive, record
from runners.config import ROOT
from scripts.progress import progress

MEGABYTE = 2**20


def make_records(folder: Path, count: int, rows: int) -> None:
    """``count`` finished records of ``rows`` rows each in ``folder/runs``."""
    real = folder / "real"
    # a process of its own: what this one has in memory is in the peak of its children
    command = [sys.executable, "-m", "runners.run", "task=rosenbrock", "optimizer=laprop",
               f"steps={rows - 1}", "eval_every=1", "tracking=disabled",
               f"results_dir={real}"]  # fmt: skip
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    (path,) = real.glob(f"runs/*/{record.FILE_NAME}")
    first, *between, last = map(json.loads, path.read_text().splitlines())
    if len(between) != rows:
        raise RuntimeError(f"{path}: {len(between)} rows, {rows} expected")
    chance = random.Random(0)
    for number in progress(range(count), "records"):
        key = f"{number:016x}"
        mine = {**first, "key": key, "replicas": [{**first["replicas"][0], "seed": number}]}
        lines = [mine, *(_other_values(row, chance) for row in between), last]
        place = folder / "runs" / key
        place.mkdir(parents=True)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (place / record.FILE_NAME).write_text(text)


def _other_values(row: dict, chance: random.Random) -> dict:
    return {
        name: [v and v * chance.uniform(0.5, 2) for v in value]
        if isinstance(value, list)
        else value
        for name, value in row.items()
    }


def gather(folder: Path) -> tuple[float, float, str]:
    """Seconds, peak memory in bytes, and the last line of one `python -m runners.collect`."""
    command = [sys.executable, "-m", "runners.collect", f"results_dir={folder}"]
    with tempfile.TemporaryFile("w+") as out:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}")
        out.seek(0)
        said = out.read().strip().rpartition("\n")[2]
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    return seconds, used.ru_maxrss * unit, said


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    if min(arguments.records, arguments.repeats) < 1:
        parser.error("--records and --repeats: whole numbers >= 1 expected")
    if arguments.rows < 2:  # of a run, which has one at the start and one at the end
        parser.error(f"--rows {arguments.rows}: a whole number >= 2 expected")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        make_records(folder, arguments.records, arguments.rows)
        print(f"{arguments.records:,} records of {arguments.rows:,} rows, {os.cpu_count()} cores")
        print(f"{'':12}{'seconds':>9}{'peak MB':>9}")
        for _ in range(arguments.repeats):
            for path in (folder / archive.FOLDER).glob("*"):
                path.unlink()
            (folder / archive.TABLE).unlink(missing_ok=True)
            for name in ("first", "unchanged"):
                seconds, memory, said = gather(folder)
                print(f"{name:12}{seconds:9.2f}{memory / MEGABYTE:9.0f}  {said}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
