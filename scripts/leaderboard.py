"""The leaderboard: all optimizers by steps to target, on each problem and over all problems.

    python -m scripts.leaderboard scale=S [optimizers=+MINE] [results_dir=DIR]

Reads ``<results_dir>/<experiment>/<scale>/steps_to_target.csv`` of every experiment that has one
(scripts/figures/targets.py) and writes ``<results_dir>/leaderboard/<scale>/``: ranking.csv (each
problem), profile.csv and board.csv (over problems, scripts/profiles.py), figure.png, .pdf and .svg,
and a README. Nothing is run. ``optimizers=+MINE`` is the board of the experiments that were run with
one more optimizer.
"""

# What a column of a table holds is beyond the types of pandas.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from runners.collect import write_if_changed
from runners.command import command
from runners.config import ADDED, CHOICES, ConfigError, added, folder_name, hint
from scripts import fractions, profiles, provenance, statistics
from scripts.figures import board, hover, style, targets
from scripts.profiles import Problem
from scripts.statistics import MIN_SEEDS

FILE_NAME, NAME = "steps_to_target.csv", "leaderboard"
TAUS = 2.0 ** np.linspace(0, np.log2(profiles.TAU_MAX), 81)
ALL, FAIR = "all", "not refused"  # the two boards


@dataclass(frozen=True)
class Tables:
    optimizers: list[str]  # those on the board, in the order of the figures
    absent: list[str]  # those that some problem lacks: ranked where they are, not on the board
    ranking: pd.DataFrame
    profile: pd.DataFrame
    board: pd.DataFrame


def make(results_dir: Path, scale: str) -> Path:
    """Rank what ``results_dir`` holds at ``scale`` ("quick", or "quick+mine" with an optimizer
    added) and return the folder of the board, which is left as it is where it is up to date.
    Raises ConfigError where there is nothing to rank."""
    base = scale.partition("+")[0]
    if base not in CHOICES["scale"]:
        raise ConfigError(f"scale={scale}: unknown scale{hint(base, CHOICES['scale'])}")
    steps = read(Path(results_dir), scale)
    folder = Path(results_dir) / NAME / scale
    made_from = _digest(steps)
    before = provenance.read(folder)
    if before.get("made_from") == made_from and provenance.all_there(folder, before):
        return folder
    tables = tabulate(steps)
    frames = {f"{name}.csv": getattr(tables, name) for name in ("ranking", "profile", "board")}
    for name, frame in frames.items():
        write_if_changed(folder / name, frame.to_csv(index=False).encode())
    drawn = style.save(board.draw(tables.ranking, tables.profile, tables.board, scale), folder)
    write_if_changed(folder / "README.md", readme(tables, scale).encode())
    files = [*frames, *(path.name for path in drawn), "README.md"]
    provenance.write(folder, {"made_from": made_from, "files": files})
    return folder


def _digest(steps: pd.DataFrame) -> str:
    """Of everything that a board is made from."""
    digest = hashlib.sha256(steps.to_csv(index=False).encode())
    for module in (sys.modules[__name__], profiles, statistics, fractions, board, style, hover):
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()[:16]


# ---------------------------------------------------------------- reading


def read(results_dir: Path, scale: str) -> pd.DataFrame:
    """The steps to target of all experiments at ``scale``, their experiment named.

    What has lost its basis (provenance.json) counts as refused.
    """
    found = []
    for path in sorted(results_dir.glob(f"*/{scale}/{FILE_NAME}")):
        anew = f"with its folder removed, python -m scripts.figures {path.parts[-3]} makes it anew"
        try:
            table = pd.read_csv(path, keep_default_na=False, na_values={"steps": [""]})
        except ValueError:  # what pandas raises for an empty or a torn file is one
            raise ConfigError(f"{path}: not a table; {anew}") from None
        if missing := [name for name in targets.COLUMNS if name not in table]:
            raise ConfigError(f"{path}: no column {', '.join(missing)}; {anew}")
        for name in ("seed", "steps", "horizon"):
            if len(table) and not pd.api.types.is_numeric_dtype(table[name]):
                raise ConfigError(f"{path}: {name}: numbers expected; {anew}")
        if withheld := provenance.read(path.parent).get("withheld"):
            table["refused"] = "; ".join(withheld)
        found.append(table.assign(experiment=path.parts[-3]))
    steps = pd.concat(found, ignore_index=True) if found else pd.DataFrame()
    if steps.empty:
        base, _, names = scale.partition("+")
        more = f" optimizers=+{names.replace('+', ',+')}" if names else ""
        raise ConfigError(f"{results_dir}: no experiment has a {FILE_NAME} at scale={scale}; "
                          f"python -m scripts.reproduce scale={base}{more} makes them")  # fmt: skip
    return steps


def _problem(rows: pd.DataFrame, optimizers: Sequence[str]) -> Problem:
    name, horizon = rows.problem.iloc[0], float(rows.horizon.iloc[0])
    if rows.duplicated(["optimizer", "seed"]).any():
        raise ConfigError(f"{name}: a seed of an optimizer occurs twice in {FILE_NAME}")
    seeds = {o: frozenset(rows.seed[rows.optimizer == o]) for o in optimizers}
    if len(set(seeds.values())) > 1:
        raise ConfigError(f"{name}: the report seeds differ between optimizers in {FILE_NAME}")
    wide = rows.pivot(index="seed", columns="optimizer", values="steps")[list(optimizers)]
    steps = wide.to_numpy(dtype=float)
    if (steps <= 0).any() or (steps > horizon).any():
        raise ConfigError(f"{name}: steps outside (0, {horizon:g}] in {FILE_NAME}")
    return Problem(rows.experiment.iloc[0], name, horizon, tuple(wide.index), steps)


# ---------------------------------------------------------------- tables


def tabulate(steps: pd.DataFrame) -> Tables:
    """Ranking of each problem, profiles and boards over all of them."""
    groups = {name: rows for name, rows in steps.groupby(["experiment", "problem"], sort=False)}
    present = [set(rows.optimizer) for rows in groups.values()]
    common = style.in_order(set.intersection(*present))
    absent = style.in_order(set.union(*present) - set(common))
    if len(common) < 2:
        raise ConfigError("the experiments have fewer than two optimizers in common")
    ranking = pd.concat([_rank(rows) for rows in groups.values()], ignore_index=True)
    # few seeds rank nothing, here as in a verdict; at smoke scale there are no others
    enough = [rows for rows in groups.values() if rows.seed.nunique() >= MIN_SEEDS]
    everything = enough or list(groups.values())
    fair = [rows for rows in everything if not rows.refused.any()]
    boards, curves = [], []
    for which, chosen in {ALL: everything, FAIR: fair}.items():
        if chosen:
            found = profiles.board([_problem(rows, common) for rows in chosen])
            boards.append(_board(found, common).assign(problems=which))
            curves.append(_curves(found, common).assign(problems=which))
    return Tables(common, absent, ranking, pd.concat(curves), pd.concat(boards))


def _rank(rows: pd.DataFrame) -> pd.DataFrame:
    """One row an optimizer, the fewest restricted mean steps first; equals share a rank."""
    names = style.in_order(rows.optimizer)
    problem = _problem(rows, names)
    capped = np.fmin(problem.steps, problem.horizon)  # NaN, censored: the horizon
    means = [statistics.mean_interval(column) for column in capped.T]
    best = min(range(len(names)), key=lambda i: (means[i].value, i))
    ratios = profiles.ratios(problem, np.ones((1, len(problem.seeds))))[0]
    table = []
    for i, name in enumerate(names):
        n, reached = means[i].n, int(np.isfinite(problem.steps[:, i]).sum())
        low, high = fractions.wilson_interval(reached, n)
        behind = statistics.difference_of_restricted_means(
            problem.steps[:, i], problem.steps[:, best], problem.horizon
        )
        table.append({
            "experiment": problem.experiment, "problem": problem.name,
            "target": rows.target.iloc[0], "horizon": int(problem.horizon),
            "rank": 1 + sum(m.value < means[i].value for m in means), "optimizer": name,
            "restricted_mean": means[i].value, "low": means[i].low, "high": means[i].high,
            "n": n, "reached": reached, "fraction": reached / n, "fraction_low": low,
            "fraction_high": high, "ratio": ratios[i], "behind": behind.value,
            "behind_low": behind.low, "behind_high": behind.high,
            "tuning": rows.tuning.iloc[0], "few_seeds": n < MIN_SEEDS,
            "refused": rows.refused.iloc[0],
        })  # fmt: skip
    return pd.DataFrame(table).sort_values("rank", kind="stable")


def _board(found: profiles.Board, names: Sequence[str]) -> pd.DataFrame:
    """One row an optimizer, the largest area first, with its lead over the next."""
    scores, firsts = found.scores(), found.profile(1)
    reached = found.profile(sys.float_info.max)
    order = sorted(range(len(names)), key=lambda i: (-scores[i].value, i))
    table = []
    for place, i in enumerate(order):
        row = {
            "place": place + 1, "optimizer": names[i], "score": scores[i].value,
            "low": scores[i].low, "high": scores[i].high, "first": firsts[i].value,
            "reaches": reached[i].value,
        }  # fmt: skip
        if place + 1 < len(order):
            lead = found.ahead(i, order[place + 1])
            row |= {"lead": lead.value, "lead_low": lead.low, "lead_high": lead.high}
        table.append(row)
    return pd.DataFrame(table).assign(n=found.n)


def _curves(found: profiles.Board, names: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame([
        {"optimizer": name, "tau": tau, "rho": rho.value, "low": rho.low, "high": rho.high}
        for tau in TAUS
        for name, rho in zip(names, found.profile(float(tau)), strict=True)
    ])  # fmt: skip


# ---------------------------------------------------------------- README


def readme(tables: Tables, scale: str) -> str:
    ranking, boards = tables.ranking, tables.board
    base, _, names = scale.partition("+")
    more = f" optimizers=+{names.replace('+', ',+')}" if names else ""
    sections = [
        (
            f"# Leaderboard, scale {scale}\n\n![figure](figure.png)\n\n"
            f"    python -m scripts.leaderboard scale={base}{more}\n"
        ),
        (
            f"Score: the area under the performance profile (Dolan and Moré 2002) up to τ = "
            f"{profiles.TAU_MAX:g}, from 0 to 1. ρ(τ) is the share of problems on which an optimizer "
            "needs at most τ times the steps of the best one. The problems of an experiment share one "
            "unit of weight. Steps: restricted mean over seeds, a seed that does not reach the target "
            "counting as the horizon; an optimizer that reaches it with half of the seeds or fewer has "
            "not solved the problem. Problems marked * have fewer than 10 seeds and are not on the "
            "board. Intervals: 95%, bootstrap over seeds; they speak of these problems, not of "
            "others.\n"
        ),
        "## Over all problems\n\n" + board_table(boards[boards.problems == ALL]),
    ]
    ranked = ranking[~ranking.few_seeds] if not ranking.few_seeds.all() else ranking
    refused = ranked[ranked.refused != ""].drop_duplicates("problem")
    fair = boards[boards.problems == FAIR]
    if len(refused) and len(fair):
        told = "changes" if changes_order(boards) else "does not change"
        sections.append(
            f"## Without what the fairness gate refuses\n\nLeaving out the "
            f"{style.counted(len(refused), 'problem')} marked † {told} the order.\n\n"
            + board_table(fair)
        )
    elif len(refused):
        sections.append("The fairness gate refuses every problem: nothing is left without them.\n")
    if tables.absent:
        labels = ", ".join(style.mark(name).label for name in tables.absent)
        sections.append(f"Not on the board, as some problems lack them: {labels}.\n")
    sections.append("## Each problem\n\n" + _ranking_table(ranking))
    return "\n".join(sections)


def changes_order(boards: pd.DataFrame) -> bool:
    """Whether the order is another one without the refused problems."""
    orders = [list(boards[boards.problems == which].optimizer) for which in (ALL, FAIR)]
    return bool(orders[1]) and orders[0] != orders[1]


def board_table(rows: pd.DataFrame) -> str:
    """Rows of board.csv as a Markdown table."""
    lines = [
        "| | optimizer | score (95%) | lead over the next (95%) | fastest on | reaches on |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows.itertuples():
        lead = with_interval(row.lead, row.lead_low, row.lead_high)
        lines.append(
            f"| {row.place} | {style.mark(row.optimizer).label} | "
            f"{with_interval(row.score, row.low, row.high)} | {lead} | {row.first:.0%} | "
            f"{row.reaches:.0%} |"
        )
    return "\n".join(lines) + "\n"


def with_interval(value: float, low: float, high: float) -> str:
    """A score or a lead with its interval; a dash where there is none."""
    if np.isnan(value):
        return "–"
    if not np.isfinite([low, high]).all():  # one seed says nothing about the spread
        return f"{value:.2f}"
    text = f"{value:.2f} ({low:.2f} to {high:.2f})"
    return text.replace("-", "−").replace("−0.00", "0.00")


def _ranking_table(ranking: pd.DataFrame) -> str:
    names = style.in_order(ranking.optimizer)
    lines = [
        (
            "Restricted mean steps (95%), and how many seeds reach the target; bold: the fewest, where "
            "more than half do. † refused by the fairness gate, * fewer than 10 seeds.\n"
        ),
        "| problem | target | horizon | " + " | ".join(style.mark(o).label for o in names) + " |",
        "| --- " * (3 + len(names)) + "|",
    ]
    notes = []
    for problem, rows in ranking.groupby("problem", sort=False):
        first, cells = rows.iloc[0], rows.set_index("optimizer")
        each = [_cell(cells.loc[name]) if name in cells.index else "–" for name in names]
        marked = f"{problem}{board.marks(first)}"
        lines.append(f"| {marked} | {first.target} | {first.horizon:,} | {' | '.join(each)} |")
        tuning = f"- {marked}: tuning: {first.tuning}"
        notes.append(tuning + (f"; refused: {first.refused}" if first.refused else ""))
    return "\n".join(lines) + "\n\n" + "\n".join(notes) + "\n"


def _cell(row: Any) -> str:
    if not row.reached:
        return f"not within {row.horizon:,}, 0/{row.n}"
    known = np.isfinite([row.low, row.high]).all()  # not of a few seeds
    interval = f" ({row.low:,.0f} to {row.high:,.0f})" if known else ""
    text = f"{row.restricted_mean:,.0f}{interval}, {row.reached}/{row.n}"
    return f"**{text}**" if row["rank"] == 1 and 2 * row.reached > row.n else text


def to_text(folder: Path) -> str:
    """The boards of ``folder`` for a terminal."""
    found = pd.read_csv(folder / "board.csv")
    boards = []
    for which, rows in found.groupby("problems", sort=False):
        n = int(rows.n.min())
        few = f"; fewer than {MIN_SEEDS}, so that luck may decide" if n < MIN_SEEDS else ""
        boards.append(f"Leaderboard, problems: {which}, n = {style.counted(n, 'seed')}{few}\n"
                      f"{board_table(rows).strip()}")  # fmt: skip
    return "\n\n".join(boards)


# ---------------------------------------------------------------- command line


@command
def main(arguments: list[str]) -> int:
    given = {"scale": "quick", "results_dir": "results", ADDED: ""}
    for text in arguments:
        key, equals, value = text.partition("=")
        if not equals or key not in given:
            raise ConfigError(
                f"'{text}': not understood - {', '.join(given)} expected as key=value"
            )
        given[key] = value
    more = added([f"{ADDED}={given[ADDED]}"] if given[ADDED] else [])
    folder = make(Path(given["results_dir"]), folder_name(given["scale"], more))
    print(to_text(folder))
    print(f"\n{folder / 'figure.png'}\n{folder / 'README.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
