"""``results/REPORT.md``: the verdicts on all claims, on one page.

It is put together from the claims.csv of each experiment and scale that lies under the results
directory, so it never says more than the tables do.
"""

from pathlib import Path

import pandas as pd

from runners.collect import write_atomically
from scripts import judging

SCALES = ("paper", "quick")  # the strongest evidence first; smoke proves nothing


def write(results_dir: Path) -> Path:
    """Write ``results_dir/REPORT.md`` anew and return its path."""
    sections = []
    for experiment in sorted(p for p in results_dir.iterdir() if p.is_dir()):
        for scale in SCALES:
            table = experiment / scale / "claims.csv"
            if table.exists():
                sections.append(_section(experiment.name, scale, pd.read_csv(table)))
    head = (
        "# Does it reproduce?\n\n"
        "Each claim of the LaProp paper that has been put to the test here, with its verdict. "
        "Effects come with 95% intervals; a claim with too few seeds, or whose comparison would "
        "not be fair, is inconclusive.\n"
    )
    path = results_dir / "REPORT.md"
    write_atomically(path, "\n".join([head, *sections]).encode())
    return path


def _section(experiment: str, scale: str, table: pd.DataFrame) -> str:
    link = f"{experiment}/{scale}/"
    return (
        f"## {experiment}, scale {scale}\n\n"
        f"[figure]({link}figure.png) · [tables and provenance]({link})\n\n"
        f"{judging.frame_to_markdown(table).strip()}\n"
    )
