"""The report: every claim with its verdict, every figure, the published numbers beside ours.

    python -m scripts.report [results_dir=DIR]

Writes ``DIR/REPORT.md``, ``DIR/index.html`` (self-contained: it asks nothing of a network),
``DIR/figures.pdf`` (one figure a page) and, where DIR is the checkout's own ``results``, the table
of results in README.md. All of it comes from the tables, claims and provenance that lie in
``DIR/<experiment>/<scale>/``, so that it never says more than they do.
"""

import base64
import io
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from runners.collect import write_if_changed
from runners.command import command
from runners.config import ROOT, ConfigError
from scripts import judging, leaderboard, provenance, published
from scripts.claims import CLAIMS, Claim
from scripts.figures import style
from scripts.judging import CONTRADICTED, INCONCLUSIVE, SUPPORTED, Verdict

SCALES = ("paper", "quick", published.FOLDER)  # the strongest evidence first; smoke proves nothing
NOT_RUN = "not run"
README, BEGIN, END = (
    ROOT / "README.md",
    "<!-- results: made by scripts/report.py -->",
    "<!-- end -->",
)
LEADERBOARD_NOTE = (
    "Steps to a target; the score is the area under the performance profile. Read the leads: a score counts for a place only where "
    "the interval of its lead over the next lies above 0."
)
FURTHER = (
    "Settings beside those of the scales, told in their own words; not in the table of claims."
)
DISTANCES = (
    "Mean distance of our curve from the authors' (n = 1), at their points within ours. Where there is "
    "a stand-in, data, vocabulary and length differ from theirs: compare the shapes, not the heights."
)
TEMPLATE = Path(__file__).with_name("report.html.jinja")


@dataclass(frozen=True)
class Section:
    """The results of one experiment at one scale."""

    experiment: str
    scale: str
    folder: Path
    about: dict[str, Any]
    verdicts: list[Verdict]
    distances: list[dict[str, Any]] = field(default_factory=list)

    @property
    def place(self) -> str:
        return f"{self.experiment}/{self.scale}"

    @property
    def warnings(self) -> list[str]:
        return [*self.about.get("withheld", ()), *self.about.get("noticed", ())]


@dataclass(frozen=True)
class Row:
    """A claim with its verdicts, one a setting; without any it has not been put to the test."""

    claim: Claim
    section: Section | None
    verdicts: list[Verdict]

    @property
    def papers(self) -> bool:
        return not self.claim.source.startswith("not a claim of the paper")


@dataclass(frozen=True)
class Board:
    """The leaderboard at one scale: over all problems, and without those the gate refuses."""

    scale: str
    folder: Path
    tables: dict[str, list[dict[str, Any]]]  # which problems -> its rows
    problems: dict[str, int]  # experiment -> how many problems of it

    @property
    def text(self) -> str:
        """What the board is about."""
        told = ", ".join(f"{name} ({count})" for name, count in self.problems.items())
        return f"{LEADERBOARD_NOTE} Problems: {told}."

    @property
    def place(self) -> str:
        return f"{leaderboard.NAME}/{self.scale}"


def boards(results_dir: Path) -> list[Board]:
    """The leaderboards under ``results_dir``, those with an added optimizer left out."""
    found = []
    for scale in SCALES:
        path = results_dir / leaderboard.NAME / scale / "board.csv"
        if path.exists():
            table = pd.read_csv(path)
            table["label"] = [style.mark(name).label for name in table.optimizer]
            tables: Any = {which: rows.to_dict("records")
                           for which, rows in table.groupby("problems", sort=False)}  # fmt: skip
            ranking = pd.read_csv(path.with_name("ranking.csv"), keep_default_na=False)
            if not ranking.refused.any():  # both boards are the same
                tables = {leaderboard.ALL: tables[leaderboard.ALL]}
            problems: Any = ranking.groupby("experiment").problem.nunique().to_dict()
            found.append(Board(scale, path.parent, tables, problems))
    return found


def sections(results_dir: Path) -> list[Section]:
    """What lies under ``results_dir``, experiments in the order of their claims."""
    experiments = list(dict.fromkeys(claim.experiment for claim in CLAIMS))
    return [
        _section(experiment, scale, results_dir / experiment / scale)
        for experiment in experiments
        for scale in SCALES
        if (results_dir / experiment / scale / "claims.csv").exists()
    ]


def further(results_dir: Path) -> list[tuple[str, str]]:
    """Title and link of results that were made and written up by hand, beside the scales."""
    found = []
    for experiment in dict.fromkeys(claim.experiment for claim in CLAIMS):
        for path in sorted(results_dir.glob(f"{experiment}/*/README.md")):
            if provenance.by_hand(path.parent):
                title = path.read_text().partition("\n")[0].lstrip("# ")
                found.append((title, f"{experiment}/{path.parent.name}/"))
    return found


def _section(experiment: str, scale: str, folder: Path) -> Section:
    about = provenance.read(folder)
    if about and (missing := [key for key in provenance.TOLD if key not in about]):
        raise ConfigError(f"{folder / provenance.FILE_NAME}: no {', '.join(missing)}")
    path = folder / "claims.csv"
    try:
        verdicts = judging.from_frame(pd.read_csv(path, dtype=judging.NUMBERS))
    except (KeyError, TypeError, ValueError):
        raise ConfigError(f"{path}: not a table of verdicts; python -m scripts.figures {experiment} "
                          f"scale={scale} makes it anew") from None  # fmt: skip
    words = (SUPPORTED, CONTRADICTED, INCONCLUSIVE)
    for verdict in verdicts:
        if verdict.verdict not in words:
            raise ConfigError(f"{path}: {verdict.verdict}: one of {', '.join(words)} expected")
    if reasons := about.get("withheld"):
        verdicts = [judging.withheld(v, "; ".join(reasons)) for v in verdicts]
    return Section(experiment, scale, folder, about, verdicts, _distances(folder))


def _distances(folder: Path) -> list[dict[str, Any]]:
    path = folder / published.DISTANCES
    if not path.exists():
        return []
    read: Any = {"dtype": {"distance": float, "points": int},
                 "converters": {"setting": str, "unit": str}}  # fmt: skip
    try:
        found: Any = pd.read_csv(path, **read)[["setting", "distance", "unit", "points"]]
    except (KeyError, ValueError):
        raise ConfigError(f"{path}: not a table of distances; {_anew(path)}") from None
    return found.to_dict("records")


def _anew(path: Path) -> str:
    """What makes a file of results again, for messages."""
    experiment, scale = path.parts[-3:-1]
    made = experiment if experiment == leaderboard.NAME else f"figures {experiment}"
    return f"with its folder removed, python -m scripts.{made} scale={scale} makes it anew"


def rows(found: Sequence[Section]) -> list[Row]:
    """Every claim, with its verdicts at the strongest scale at which it was put to the test."""
    result = []
    for claim in CLAIMS:
        tested = [(s, [v for v in s.verdicts if v.claim == claim.id]) for s in found]
        result.append(Row(claim, *next((pair for pair in tested if pair[1]), (None, []))))
    return result


def write(results_dir: Path) -> list[Path]:
    """Write the report anew; returns what was written.

    Raises ConfigError where results cannot be read; a missing figure is found before anything is
    written.
    """
    _check_figures([s for s in sections(results_dir) if s.scale != published.FOLDER])
    published.make(results_dir)  # which draws its figure anew
    for scale in SCALES:
        if list(results_dir.glob(f"*/{scale}/{leaderboard.FILE_NAME}")):
            leaderboard.make(results_dir, scale)
    found, ranked, more = sections(results_dir), boards(results_dir), further(results_dir)
    folders = {section.place: section.folder for section in [*found, *ranked]}
    pages = {
        results_dir / "REPORT.md": to_markdown(found, ranked, more).encode(),
        results_dir / "index.html": to_html(found, ranked, more).encode(),
        results_dir / "figures.pdf": to_pdf(folders),
    }
    if results_dir.resolve() == (ROOT / "results").resolve():
        pages[README] = with_results(README.read_text(), found).encode()
    for path, content in pages.items():
        write_if_changed(path, content)
    return list(pages)


def _check_figures(found: Sequence[Section]) -> None:
    for section in found:
        if not (path := section.folder / "figure.png").exists():
            raise ConfigError(f"{path}: missing; {_anew(path)}")
        inline_figure(section.place, section.folder)
    to_pdf({section.place: section.folder for section in found})


# ---------------------------------------------------------------- REPORT.md and README.md


def to_markdown(
    found: Sequence[Section], ranked: Sequence[Board], more: Sequence[tuple[str, str]] = ()
) -> str:
    """``REPORT.md``."""
    table = rows(found)
    parts = [
        "# Does it reproduce?",
        (
            "Each claim of the LaProp paper and how it fared here; what is no claim of the paper says "
            "so. Effects come with 95% intervals. A claim with too few seeds, or whose comparison would "
            f"not be fair, is inconclusive. {judging.N_COUNTS} {judging.P_MEANS} {summary(table)}"
        ),
        _claims_table(table),
        "# Experiment by experiment",
    ]
    for section in found:
        parts += [f"## {section.experiment}, {scale_text(section)}", *_section_text(section)]
    if more:
        parts += [
            "# Further runs",
            FURTHER,
            "\n".join(f"- [{title}]({link})" for title, link in more),
        ]
    if rows_ := [(s, d) for s in found for d in s.distances]:
        parts += ["# Published numbers beside ours", _distances_table(rows_)]
    for ranking in ranked:
        link = f"{ranking.place}/"
        parts += [f"# Leaderboard, {ranking.scale} scale", (f"[figure]({link}figure.png) · [each "
                  f"problem, and how it is made]({link})"), ranking.text]  # fmt: skip
        parts += [f"Problems: {which}.\n\n{leaderboard.board_table(pd.DataFrame(rows_))}".strip()
                  for which, rows_ in ranking.tables.items()]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def with_results(readme: str, found: Sequence[Section]) -> str:
    """``readme`` with the table of results between its two marks made anew: the paper's claims."""
    if BEGIN not in readme or END not in readme:
        raise ConfigError(f"README.md: the lines {BEGIN} and {END} expected around its results")
    head, rest = readme.split(BEGIN, 1)
    _, tail = rest.split(END, 1)
    table = rows(found)
    papers = [row for row in table if row.papers]
    body = f"{summary(table)}\n\n{_claims_table(papers, base='results/')}"
    return f"{head}{BEGIN}\n{body}\n{END}{tail}"


def summary(table: Sequence[Row]) -> str:
    """How many verdicts on the paper's claims came out which way."""
    papers = [row for row in table if row.papers]
    counts = Counter(v.verdict for row in papers for v in row.verdicts)
    counts[NOT_RUN] = sum(not row.verdicts for row in papers)
    told = [f"{counts[name]} {name}" for name in (SUPPORTED, CONTRADICTED, INCONCLUSIVE, NOT_RUN)
            if counts[name]]  # fmt: skip
    text = (
        f"{len(papers)} claims of the paper, some of them under several settings; verdicts: "
        f"{', '.join(told)}."
    )
    others = len(table) - len(papers)
    return text + (
        f" ({others} further claims, which are not the paper's, are not counted.)" if others else ""
    )


def _claims_table(table: Sequence[Row], base: str = "") -> str:
    lines = ["| claim | verdict: effect (95% interval) | evidence |", "|---|---|---|"]
    for row in table:
        claim = row.claim.sentence + ("" if row.papers else " (Not a claim of the paper.)")
        claim += " †" if row.claim.note else ""
        told = [f"**{verdict}**, {'; '.join(settings)}: {text}"
                for (verdict, text), settings in _told(row.verdicts).items()]  # fmt: skip
        where = "–"
        if row.section:
            place = f"[{row.section.experiment}]({base}{row.section.place}/)"
            mark = " ⚠" if row.section.warnings else ""
            where = f"{place}, {scale_text(row.section)}{mark}"
        cells = [claim, "<br>".join(told) or NOT_RUN, where]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _told(verdicts: Sequence[Verdict]) -> dict[tuple[str, str], list[str]]:
    """Verdict and effect, or in short why there is none -> the settings of which it is told."""
    told: dict[tuple[str, str], list[str]] = {}
    for v in verdicts:
        text = (
            judging.effect_text(v) if v.effect_unit else v.sentence.partition(". ")[0].rstrip(".")
        )
        verdict = v.verdict + (" (refused)" if v.refused else "")
        if v.verdict == INCONCLUSIVE and not math.isnan(v.p_holm):
            verdict += f" (p {judging.p_text(v)})"
        told.setdefault((verdict, text), []).append(v.setting)
    return told


def _section_text(section: Section) -> Iterator[str]:
    link = f"{section.place}/"
    yield f"![figure of {section.experiment}]({link}figure.png)"
    yield f"[tables and provenance]({link})"
    for warning in section.warnings:
        yield f"⚠ {warning[0].upper()}{warning[1:]}."
    yield judging.to_markdown(section.verdicts).strip()
    if section.about:
        yield provenance.to_markdown(section.about).strip()


def _distances_table(found: Sequence[tuple[Section, dict[str, Any]]]) -> str:
    lines = [DISTANCES, "",
             "| experiment | setting | distance | points | |", "|---|---|---|---|---|"]  # fmt: skip
    for section, row in found:
        cells = [f"[{section.experiment}]({section.place}/), {scale_text(section)}", row["setting"],
                 distance_text(row), str(row["points"]), stand_in_note(section)]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def distance_text(row: dict[str, Any]) -> str:
    if math.isnan(row["distance"]):
        return "none: no point of theirs lies within ours"
    return f"{judging.number(row['distance'])} {row['unit']}"


def stand_in_note(section: Section) -> str:
    if not section.about:
        return "provenance unknown"
    return "; ".join(section.about["stand_ins"]) or "no stand-in"


def scale_text(section: Section) -> str:
    if section.scale == published.FOLDER:
        return "the authors' own runs"
    seeds = section.about.get("report_seeds")
    return f"{section.scale} scale" + (f", {seeds} seeds" if seeds else "")


# ---------------------------------------------------------------- index.html and figures.pdf


def to_html(
    found: Sequence[Section], ranked: Sequence[Board], more: Sequence[tuple[str, str]] = ()
) -> str:
    """``index.html``: `report.html.jinja` filled in, with the figures in it."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined,
                                     trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    environment.globals.update(
        scale_text=scale_text, distance_text=distance_text, stand_in_note=stand_in_note,
        number=judging.number, effect_or_reason=judging.effect_or_reason, p_text=judging.p_text, effect_text=judging.effect_text,
        with_interval=leaderboard.with_interval,
    )  # fmt: skip
    table = rows(found)
    return environment.from_string(TEMPLATE.read_text()).render(
        rows=table,
        n_counts=judging.N_COUNTS,
        p_means=judging.P_MEANS,
        summary=summary(table),
        sections=found,
        sentences={claim.id: claim for claim in CLAIMS},
        figures={s.place: inline_figure(s.place, s.folder) for s in [*found, *ranked]},
        boards=ranked,
        further=more,
        further_told=FURTHER,
        distances_told=DISTANCES,
        distances=[(section, row) for section in found for row in section.distances],
    )


def inline_figure(place: str, folder: Path) -> Any:
    """The figure as a part of the page: its SVG, or its PNG where there is none."""
    import markupsafe

    name = f"figure of {place}"
    svg, png = folder / "figure.svg", folder / "figure.png"
    if not svg.exists():
        data = base64.b64encode(png.read_bytes()).decode()
        return markupsafe.Markup(f'<img alt="{name}" src="data:image/png;base64,{data}">')
    try:
        text = svg.read_text()
        text = text[text.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{name}"', 1)
    except ValueError:
        raise ConfigError(f"{svg}: not a readable SVG; {_anew(svg)}") from None
    prefix = place.replace("/", "-") + "-"  # identifiers must differ from other figures'
    return markupsafe.Markup(
        re.sub(r'(\bid="|href="#|url\(#)', lambda found: found[0] + prefix, text)
    )


def to_pdf(folders: Mapping[str, Path]) -> bytes:
    """``figures.pdf``: one figure a page."""
    import pypdf
    from pypdf.errors import PyPdfError

    writer = pypdf.PdfWriter()
    for place, folder in folders.items():
        path = folder / "figure.pdf"
        try:  # strict: it raises and says nothing of its own
            writer.append(pypdf.PdfReader(path, strict=True), outline_item=place)
        except (OSError, PyPdfError):
            missing = "not a readable PDF" if path.exists() else "missing"
            raise ConfigError(f"{path}: {missing}; {_anew(path)}") from None
    writer.metadata = None
    buffer = io.BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


@command
def main(arguments: list[str]) -> int:
    if others := [a for a in arguments if not a.startswith("results_dir=")]:
        raise ConfigError(f"{others[0]}: only results_dir=DIR expected")
    folder = Path(([a.partition("=")[2] for a in arguments] or ["results"])[-1])
    if not folder.is_dir():
        raise ConfigError(f"results_dir={folder}: no such folder")
    print("\n".join(map(str, write(folder))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
