"""Where a number comes from, told by what a run is begun with."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from runners import provenance, record
from runners.config import ConfigError, RunConfig, compose_config, resolve
from runners.run import CHECKPOINT, main, run


def of_files(tmp_path, **task) -> RunConfig:
    config = resolve(compose_config(["task=rosenbrock", f"results_dir={tmp_path}"]))
    return replace(config, values={**config.values, "task": task})


def begun(config):
    first = {"key": config.key, "inputs": provenance.inputs(config)}
    record.RecordWriter.start(config.folder, first)


def test_a_file_that_has_changed_is_named_and_one_that_is_gone_is_not_missed(tmp_path):
    picture = tmp_path / "a.png"
    picture.write_bytes(b"one")
    config = of_files(tmp_path, content=str(picture), style="a name", data_dir=str(tmp_path))
    assert list(provenance.inputs(config)) == [f"task.content={picture}"]
    begun(config)
    provenance.check_inputs(config)
    os.utime(picture, (1, 1))  # touched, the same content
    provenance.check_inputs(config)
    picture.write_bytes(b"two")
    with pytest.raises(ConfigError, match=r"task.content=.*a.png: .*changed since.*force=true"):
        provenance.check_inputs(config)
    picture.unlink()
    provenance.check_inputs(config)


@pytest.mark.parametrize("change", ["edited", "added", "renamed"])
def test_a_folder_is_what_its_files_are(tmp_path, change):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "train.de").write_text("eins")
    (corpus / "train.en").write_text("one")
    config = of_files(tmp_path, corpus=str(corpus))
    begun(config)
    provenance.check_inputs(config)
    if change == "edited":
        (corpus / "train.en").write_text("uno")
    elif change == "added":
        (corpus / "dict").write_text("")
    else:
        (corpus / "train.en").rename(corpus / "train.fr")
    with pytest.raises(ConfigError, match="task.corpus"):
        provenance.check_inputs(config)


def test_each_file_of_a_list_counts_and_a_text_too_long_for_a_path_does_not(tmp_path):
    paths = [str(tmp_path / name) for name in ("a", "b")]
    for path in paths:
        Path(path).write_text("x")
    config = of_files(tmp_path, content=paths, note="x" * 1000, empty="")
    begun(config)
    provenance.check_inputs(config)
    Path(paths[1]).write_text("y")
    with pytest.raises(ConfigError, match=f"task.content={paths[1]}: "):
        provenance.check_inputs(config)


def test_a_home_is_expanded_as_tasks_do(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a").write_text("x")
    assert list(provenance.inputs(of_files(tmp_path, content="~/a"))) == ["task.content=~/a"]


def test_a_record_from_before_inputs_were_noted_is_left_alone(tmp_path):
    (tmp_path / "a").write_text("x")
    config = of_files(tmp_path, content=str(tmp_path / "a"))
    record.RecordWriter.start(config.folder, {"key": config.key})
    provenance.check_inputs(config)


def test_another_picture_under_the_same_name_is_not_passed_off_as_done(tmp_path, capsys):
    picture = tmp_path / "a.png"
    arguments = [
        "task=style_transfer", f"task.content={picture}", "task.weights=random", "task.size=32",
        "task.style_layers=[relu1_1]", "task.content_layers=[relu1_1]", "steps=2", "eval_every=1",
        "tracking=disabled", f"results_dir={tmp_path}",
    ]  # fmt: skip
    Image.new("RGB", (40, 40), "red").save(picture)
    assert main(arguments) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    before = (folder / record.FILE_NAME).read_bytes()
    Image.new("RGB", (40, 40), "blue").save(picture)
    for command in (arguments, ["-m", *arguments]):
        capsys.readouterr()
        assert main(command) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: task.content={picture}: ") and error.count("\n") == 1
    assert (folder / record.FILE_NAME).read_bytes() == before
    assert main([*arguments, "force=true"]) == 0
    assert (folder / record.FILE_NAME).read_bytes() != before
    assert main(arguments) == 0


def test_a_failed_run_whose_file_was_put_right_runs_and_a_stopped_one_does_not_go_on(tmp_path):
    (tmp_path / "a").write_text("x")
    config = resolve(compose_config(["task=rosenbrock", "steps=3", "tracking=disabled",
                                     "task.start=[0.0,0.0]", f"results_dir={tmp_path}"]))  # fmt: skip
    wrong = {"key": config.key, "inputs": {f"task.sigma={tmp_path / 'a'}": "of another content"}}
    task = {**config.values["task"], "sigma": str(tmp_path / "a")}
    changed = replace(config, values={**config.values, "task": task})
    record.RecordWriter.start(config.folder, wrong).close(record.INTERRUPTED, step=1)
    (config.folder / CHECKPOINT).write_bytes(b"")
    with pytest.raises(ConfigError, match=r"task\.sigma=.*changed since"):
        run(changed)
    (config.folder / CHECKPOINT).unlink()
    record.RecordWriter.start(config.folder, wrong).close(record.FAILED, step=0)
    with pytest.raises(ConfigError) as caught:
        run(changed)  # it is begun, and the task has its say on the file
    assert "changed since" not in str(caught.value)


def test_a_package_that_is_not_there_is_noted_as_that():
    assert provenance.version("no-such-package") == "none"
    assert provenance.version("torch").startswith(torch.__version__.partition("+")[0])
