"""Ctrl-C and bad input at every command, with the line and the exit code of `runners.run`."""

import errno
import os
import subprocess
import sys

import pytest

from runners.config import ROOT, ConfigError
from scripts import (
    bench_collect,
    bench_rosenbrock,
    compare_implementations,
    leaderboard,
    report,
    reproduce,
)
from scripts.figures import __main__ as figures

# module, what it does first, and arguments that bring it there
COMMANDS = [
    (reproduce, "reproduce", ["experiments=uv_plane"]),
    (figures, "make", ["uv_plane"]),
    (report, "write", []),
    (leaderboard, "make", []),
    (compare_implementations, "compare", []),
]


@pytest.mark.parametrize(("module", "work", "arguments"), COMMANDS)
def test_an_interrupted_command_says_that_it_can_go_on(
    module, work, arguments, monkeypatch, capsys
) -> None:
    def interrupted(*values):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, work, interrupted)
    monkeypatch.setattr(compare_implementations, "_installed", lambda name: True)
    if module is figures:  # no report in the time that a user waits for the end
        monkeypatch.setattr(report, "write", lambda folder: pytest.fail("a report was begun"))
    assert module.main(arguments) == 130
    assert capsys.readouterr().err == "interrupted; the same command goes on from here\n"


@pytest.mark.parametrize(("module", "work", "arguments"), COMMANDS[:4])
def test_bad_input_gets_one_line(module, work, arguments, monkeypatch, capsys) -> None:
    def refused(*values):
        raise ConfigError("key=value: a number expected")

    monkeypatch.setattr(module, work, refused)
    monkeypatch.setattr(report, "write", refused)
    assert module.main(arguments) == 2
    assert capsys.readouterr().err == "error: key=value: a number expected\n"


@pytest.mark.parametrize(("module", "work", "arguments"), COMMANDS)
def test_what_cannot_be_written_is_named(module, work, arguments, monkeypatch, capsys) -> None:
    def refused(*values):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "there/table.csv")

    monkeypatch.setattr(module, work, refused)
    monkeypatch.setattr(compare_implementations, "_installed", lambda name: True)
    assert module.main(arguments) == 2
    assert capsys.readouterr().err == "error: there/table.csv: Read-only file system\n"


@pytest.mark.parametrize("module", ["scripts.leaderboard", "runners.run", "runners.status"])
def test_a_reader_that_has_seen_enough_ends_a_command_without_a_word(module) -> None:
    code = f"import sys; from {module} import main; sys.exit(main(['--help']))"
    done = subprocess.run(
        ["bash", "-c", '"$0" -c "$1" | true; sleep 1; exit ${PIPESTATUS[0]}', sys.executable, code],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("module", "arguments", "named"),
    [(figures, ["none"], "experiment"), (reproduce, ["scale=smoke", "experiments=none"], "experiments"),
     (reproduce, ["experiments=uv_plane,none"], "experiments")],
)  # fmt: skip
def test_none_is_no_experiment(module, arguments, named, capsys) -> None:
    assert module.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {named}=none: unknown experiment; ")
    assert error.count("\n") == 1 and "uv_plane" in error


@pytest.mark.parametrize(
    ("bench", "wrong"),
    [(bench_rosenbrock, f"--{name}") for name in ("replicas", "steps", "repeats")]
    + [(bench_collect, f"--{name}") for name in ("records", "rows", "repeats")],
)
def test_a_benchmark_of_nothing_is_refused(bench, wrong, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["bench", wrong, "0"])
    with pytest.raises(SystemExit) as ended:
        bench.main()
    error = capsys.readouterr().err
    assert ended.value.code == 2 and wrong in error and "expected" in error


def test_figures_make_no_folder_where_there_are_no_runs(tmp_path, capsys) -> None:
    assert figures.main(["uv_plane", "scale=smoke", f"results_dir={tmp_path / 'none'}"]) == 2
    assert "runs not finished" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_without_arguments_reproduce_begins_nothing(capsys) -> None:
    assert reproduce.main([]) == 2
    assert "python -m scripts.reproduce scale=S" in capsys.readouterr().out


def test_an_experiment_given_twice_is_made_once(monkeypatch) -> None:
    made = []
    monkeypatch.setattr(reproduce, "reproduce", lambda names, rest: made.append((names, rest)))
    reproduce.main(["experiments=uv_plane,interpolation,uv_plane", "scale=smoke"])
    assert made == [(["uv_plane", "interpolation"], ["scale=smoke"])]
