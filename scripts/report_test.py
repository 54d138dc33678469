"""The report says what the tables say, and reads well in a browser, also a small one."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from runners.config import ROOT, ConfigError
from scripts import report
from scripts.claims import CLAIMS

RESULTS = ROOT / "results"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The committed results without their report and runs, and a report made anew from them."""
    folder = tmp_path_factory.mktemp("report") / "results"
    leave = shutil.ignore_patterns(
        "runs", "REPORT.md", "index.html", "figures.pdf", ".*", "*.parquet"
    )
    shutil.copytree(RESULTS, folder, ignore=leave)
    report.write(folder)
    return folder


# ---------------------------------------------------------------- says what the tables say


@pytest.mark.parametrize("name", ["REPORT.md", "index.html", "published/authors/ends.csv"])
def test_the_committed_report_is_what_the_tables_give(copy, name) -> None:
    assert (RESULTS / name).read_text() == (copy / name).read_text()


def test_the_results_in_the_readme_are_what_the_tables_give(copy) -> None:
    text = report.README.read_text()
    assert report.with_results(text, report.sections(copy)) == text


def test_every_claim_is_there_with_its_verdict(copy) -> None:
    text, page = ((copy / name).read_text() for name in ("REPORT.md", "index.html"))
    for claim in CLAIMS:
        assert claim.sentence in text
    for section in report.sections(copy):
        table = pd.read_csv(section.folder / "claims.csv")
        assert list(table.verdict) == [v.verdict for v in section.verdicts]
        assert f'id="{section.place}"' in page


def test_the_report_says_what_its_n_counts(copy) -> None:
    """128 trials on 200 report seeds: n is 128."""
    for name in ("REPORT.md", "index.html"):
        assert "where trials are resampled beside them" in (copy / name).read_text()


def test_a_changed_verdict_changes_the_report(copy, tmp_path) -> None:
    shutil.copytree(copy, tmp_path / "results")
    path = tmp_path / "results" / "uv_plane" / "quick" / "claims.csv"
    table = pd.read_csv(path)
    table.loc[0, ["verdict", "effect"]] = ["contradicted", 0.123]
    table.to_csv(path, index=False)
    before = (copy / "REPORT.md").read_text()
    report.write(tmp_path / "results")
    after = (tmp_path / "results" / "REPORT.md").read_text()
    assert "0.12 (" in after and after != before
    count = re.compile(r"(\d+) contradicted")
    assert int(count.search(after)[1]) == int(count.search(before)[1]) + 1  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [("claims.csv", "a,b\n1,2\n", "claims.csv: not a table of verdicts; python -m scripts.figures"),
     ("claims.csv", None, "claims.csv: suported: one of supported, contradicted, inconclusive"),
     ("claims.csv", "effect,low\nmuch,1\n", "claims.csv: not a table of verdicts"),
     ("provenance.json", "{garbage", "provenance.json: not JSON"),
     ("provenance.json", "[1]", "provenance.json: not a JSON object"),
     ("provenance.json", '{"runs": 1}', "provenance.json: no command, report_seeds")],
)  # fmt: skip
def test_a_file_edited_by_hand_is_named_and_nothing_is_written(
    copy, tmp_path, capsys, name, content, words
) -> None:
    shutil.copytree(copy, tmp_path / "results")
    path = tmp_path / "results" / "uv_plane" / "quick" / name
    path.write_text(content or path.read_text().replace("supported", "suported"))
    assert words in refused(tmp_path / "results", capsys)


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [("figure.png", None, "missing"), ("figure.pdf", None, "missing"),
     ("figure.pdf", lambda data: data[: len(data) // 2], "not a readable PDF"),
     ("figure.pdf", lambda data: b"", "not a readable PDF"),
     ("figure.svg", lambda data: b"", "not a readable SVG"),
     ("distance_to_published.csv", lambda data: b"", "not a table of distances"),
     ("distance_to_published.csv", lambda data: b"a,b\n1,2\n", "not a table of distances"),
     ("distance_to_published.csv", lambda data: data.replace(b",0\n", b",x\n"),
      "not a table of distances")],
)  # fmt: skip
def test_a_missing_or_torn_file_is_named_and_nothing_is_written(
    copy, tmp_path, capsys, name, damage, words
) -> None:
    shutil.copytree(copy, tmp_path / "results")
    path = tmp_path / "results" / "rainbow_breakout" / "quick" / name
    if damage:
        path.write_bytes(damage(path.read_bytes()))
    else:
        path.unlink()
    error = refused(tmp_path / "results", capsys)
    assert error.startswith(f"error: {path}: {words}; ")
    assert "python -m scripts.figures rainbow_breakout scale=quick" in error


def refused(results: Path, capsys) -> str:
    """The one line that the report refuses ``results`` with; nothing is written."""
    before = state_of(results)
    assert report.main([f"results_dir={results}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert state_of(results) == before
    return error


def state_of(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_claim_without_results_is_not_run(tmp_path) -> None:
    report.write(tmp_path)
    text = (tmp_path / "REPORT.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert sum("| not run |" in line for line in lines) == len(CLAIMS) - 1  # the authors' own runs


def test_the_paper_scale_comes_before_quick(copy) -> None:
    row = next(
        r for r in report.rows(report.sections(copy)) if r.claim.experiment == "rosenbrock_noise"
    )
    assert row.section is not None and row.section.scale == "paper"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["results_dir=/nowhere"], "results_dir=/nowhere: no such folder"),
     (["scale=quick"], "scale=quick: only results_dir=DIR expected")],
)  # fmt: skip
def test_bad_input_gets_one_line(arguments, words, capsys) -> None:
    assert report.main(arguments) == 2
    assert capsys.readouterr().err == f"error: {words}\n"


def test_a_readme_without_its_marks_is_named() -> None:
    with pytest.raises(ConfigError, match="README.md: the lines"):
        report.with_results("nothing", [])


# ---------------------------------------------------------------- reads well


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_page_opens_without_error_network_or_sideways_scrolling(
    copy, browser, tmp_path, width: int, scheme: str
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    asked, told = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    address = (copy / "index.html").as_uri()
    page.goto(address)
    assert asked == [address] and told == []
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    broken = "[...document.images].filter(i => !i.complete || i.naturalWidth === 0).length"
    assert page.evaluate(broken) == 0
    figures = page.locator(".figure > svg, .figure > img")
    assert figures.count() == len(report.sections(copy)) + len(report.boards(copy))
    for box in figures.evaluate_all("all => all.map(f => f.getBoundingClientRect().height)"):
        assert box > 100
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    bright = sum(map(int, re.findall(r"\d+", background))) / 3
    assert (bright > 128) == (scheme == "light")
    assert not page.locator("a[href^='#']").evaluate_all(
        "all => all.filter(a => !document.getElementById(a.getAttribute('href').slice(1)))"
    )
    page.close()


def test_a_missing_picture_or_a_wide_table_would_be_noticed(browser, tmp_path) -> None:
    """The checks of the test above, on a page that fails each of them."""
    path = tmp_path / "bad.html"
    path.write_text('<body><img src="gone.png"><div style="width:2000px">wide</div>'
                    "<script>nothing()</script></body>")  # fmt: skip
    page = browser.new_page(viewport={"width": 390, "height": 900})
    asked, told = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.goto(path.as_uri())
    assert len(asked) == 2 and told
    assert page.evaluate("document.scrollingElement.scrollWidth") > 390
    assert page.evaluate("[...document.images].filter(i => i.naturalWidth === 0).length") == 1
    page.close()
