"""The preparation, on an archive made here in the layout of IWSLT14's."""

import io
import tarfile
import threading

import numpy as np
import pytest

from scripts.prepare_iwslt14 import TESTS, download, fits, main, read_archive
from tasks.conftest import Server
from tasks.images import DataError
from tasks.iwslt_transformer import text
from tasks.iwslt_transformer.corpus import load

WORDS = {
    "de": ["Haus", "Baum", "See", "Stadt", "Land"],
    "en": ["house", "tree", "lake", "town", "country"],
}


def sentence(language, i):
    words = WORDS[language]
    return f"{words[i % 5]} {words[i // 5 % 5].lower()} , {words[i // 25 % 5]} ’ {i}."


def members(count=115):
    found = {}
    for language in ("de", "en"):
        lines = ["<url>http://x</url>", "<title>" + sentence(language, 3) + "</title>", ""]
        lines[2:] = ["a " * 200 if i == 7 else sentence(language, i) for i in range(count)]
        lines.append("kurz" if language == "de" else "far too long for such a short one")
        found[f"train.tags.de-en.{language}"] = "\n".join(lines) + "\n"
        for name in TESTS:
            body = "".join(f'<seg id="{i}"> {sentence(language, i)} </seg>\n' for i in (1, 2))
            found[f"{name}.de-en.{language}.xml"] = f"<doc>\n{body}</doc>\n"
    return found


def archive(path, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"de-en/{name}")
            info.size = len(content.encode())
            tar.addfile(info, io.BytesIO(content.encode()))
    return path


def prepare(path, folder):
    return main([f"archive={path}", f"data_dir={folder}", "merges=30"])


def test_a_file_that_is_not_there_is_named(tmp_path, capsys):
    assert prepare(tmp_path / "none.tgz", tmp_path / "data") == 2
    assert capsys.readouterr().err == f"error: archive={tmp_path}/none.tgz: no such file\n"


def test_splits_are_those_of_fairseqs_script(tmp_path, capsys):
    folder = tmp_path / "data"
    source = archive(tmp_path / "de-en.tgz", members())
    assert prepare(source.as_uri(), folder) == 0  # through the downloader
    made = folder / "iwslt14.de-en"
    lines = {name: text.read_lines(made / name) for name in ("train.en", "valid.en", "test.en")}
    # the title and 115 sentences, without the one too long and the unequal pair
    kept = 1 + 115 - 1
    assert len(lines["valid.en"]) == kept // 23 and len(lines["train.en"]) == kept - kept // 23
    assert len(lines["test.en"]) == 2 * len(TESTS)
    assert text.join_pieces(lines["test.en"][0]) == "tree house , house &apos; 1 ."
    assert text.join_pieces(lines["train.en"][0]) == "town house , house ’ 3 ."
    assert load(str(made), tmp_path, 30).train.source.lengths.max() < 40
    merged = (made / text.CODE).read_text().count("\n") - 1
    assert prepare("nowhere", folder) == 0 and (
        f"there already, with {merged} merges" in capsys.readouterr().out
    )


def test_damage_is_one_line_and_nothing_half_written_stays(tmp_path, capsys):
    whole = archive(tmp_path / "whole.tgz", members())
    short = tmp_path / "short.tgz"
    short.write_bytes(whole.read_bytes()[:-400])
    noise = tmp_path / "noise.tgz"
    noise.write_bytes(bytes(range(256)) * 9)
    files = members()
    del files["train.tags.de-en.en"]
    lacking = archive(tmp_path / "lacking.tgz", files)
    uneven = members()
    uneven["train.tags.de-en.de"] += "noch ein Satz\n"
    uneven = archive(tmp_path / "uneven.tgz", uneven)
    for path, message in [(short, "damaged or no archive"), (noise, "damaged or no archive"), (tmp_path, "a file expected"), (lacking, "train.tags.de-en.en is not in it"),
                          (uneven, "117 sentences"), ("http://127.0.0.1:9/x.tgz", "refused"),
                          ("/nowhere/x.tgz", "archive=/nowhere/x.tgz: no such file"), ("http://[x/y", "archive=http://[x/y: ")]:  # fmt: skip
        assert prepare(path, tmp_path / "data") == 2
        error = capsys.readouterr().err.removeprefix("tokenising: 12\n")
        assert error.startswith("error: ") and message in error and error.count("\n") == 1
        assert not (tmp_path / "data" / "iwslt14.de-en").exists()
    content = whole.read_bytes()
    rng = np.random.default_rng(0)
    accepted = []
    for place in rng.integers(40, len(content), 60):
        flipped = bytearray(content)
        flipped[place] ^= 1 << rng.integers(8)
        short.write_bytes(flipped)
        try:
            read_archive(short)
            accepted.append(place)
        except DataError as error:
            assert "damaged or no archive" in str(error)
    assert accepted == []
    assert main(["merges=x"]) == 2 and "merges=x: a whole number" in capsys.readouterr().err


def test_ctrl_c_is_one_line_and_the_download_goes_on_from_there(tmp_path, monkeypatch, capsys):
    whole = archive(tmp_path / "whole.tgz", members())

    def interrupted(bar, size):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tasks.images.CHUNK", 100)
        patch.setattr("tasks.images.tqdm.update", interrupted)
        assert prepare(whole.as_uri(), tmp_path / "data") == 130
    assert capsys.readouterr().err == "interrupted; the same command goes on from here\n"
    assert (tmp_path / "data" / "iwslt14.de-en.part").stat().st_size == 100
    assert prepare(whole.as_uri(), tmp_path / "data") == 0
    assert "from byte 100 on" in capsys.readouterr().out


def test_a_download_that_was_killed_before_its_end_or_just_after_it_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    content = archive(tmp_path / "whole.tgz", members()).read_bytes()
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        server.files["whole.tgz"] = content
        for have in (0, 100, len(content)):
            part = tmp_path / "archive.part"
            part.write_bytes(content[:have])
            target = download(server.url + "whole.tgz", tmp_path / "archive")
            assert target.read_bytes() == content and not part.exists()
            target.unlink()
        server.shutdown()
    asked = [None, "bytes=100-", f"bytes={len(content)}-"]
    assert server.requests == [("whole.tgz", which) for which in asked]


@pytest.mark.parametrize(("a", "b", "kept"), [(3, 2, True), (4, 2, False), (2, 4, False),
                                             (176, 176, False), (0, 1, False)])  # fmt: skip
def test_pairs_that_stay(a, b, kept):
    assert fits("w " * a, "w " * b) is kept
