"""Corpora: generated, plain, in pieces, fairseq's data-bin; and everything that may be wrong."""

import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest

from tasks.images import DataError
from tasks.iwslt_transformer import numbers, text
from tasks.iwslt_transformer.corpus import load
from tasks.iwslt_transformer.text import SPLITS, Dictionary

GERMAN = ["Das Haus ist klein .", "Ein kleines Haus !", "Häuser , kleine Häuser ."]
ENGLISH = ["The house is small.", "A small house!", "Houses, small houses."]


@pytest.fixture
def plain(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for split in SPLITS:
        times = 6 if split == "train" else 1
        (folder / f"{split}.de").write_text("".join(f"{s}\n" for s in GERMAN * times))
        (folder / f"{split}.en").write_text("".join(f"{s}\n" for s in ENGLISH * times))
    return folder


@pytest.mark.parametrize(
    ("n", "de", "en"),
    [
        (0, "null", "zero"),
        (1, "eins", "one"),
        (21, "ein und zwanzig", "twenty one"),
        (101, "ein hundert eins", "one hundred and one"),
        (1_001, "ein tausend eins", "one thousand and one"),
        (21_350, "ein und zwanzig tausend drei hundert fünfzig",
         "twenty one thousand three hundred and fifty"),
        (999_999, "neun hundert neun und neunzig tausend neun hundert neun und neunzig",
         "nine hundred and ninety nine thousand nine hundred and ninety nine"),
    ],
)  # fmt: skip
def test_numbers_in_words(n, de, en):
    assert (" ".join(numbers.german(n)), " ".join(numbers.english(n))) == (de, en)


def test_the_generated_splits_share_no_sentence():
    splits = {split: numbers.sentences(split) for split in SPLITS}
    sources = [set(pair[0]) for pair in splits.values()]
    assert [len(s) for s in sources] == [numbers.SIZES[split] for split in SPLITS]
    assert not (sources[0] & sources[1] or sources[0] & sources[2] or sources[1] & sources[2])
    assert splits == {split: numbers.sentences(split) for split in SPLITS}


def test_plain_text_is_cut_into_pieces_once_and_the_references_stay_as_they_are(
    plain, tmp_path, capsys
):
    corpus = load(str(plain), tmp_path / "data", merges=20)
    assert "learning 20 merges" in capsys.readouterr().out
    assert list(corpus.valid.references) == ENGLISH
    words = [corpus.target.decode(corpus.valid.target[i]) for i in range(3)]
    assert text.detokenize(words, "en") == ENGLISH
    again = load(str(plain), tmp_path / "data", merges=20)
    assert capsys.readouterr().out == ""
    assert np.array_equal(corpus.train.source.flat, again.train.source.flat)
    load(str(plain), tmp_path / "data", merges=10)
    assert "learning 10 merges" in capsys.readouterr().out


def write(folder, name, content):
    (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "valid.en").unlink(), "valid.en: cannot be read: No such file"),
        (
            lambda f: [write(f, f"train.{side}", b"a b\nc\n") for side in ("de", "en")],
            ": no word of two letters in train.de and train.en",
        ),
        (lambda f: write(f, "train.de", b"eins\nzwei\n"), "train.de:2: ends here, where"),
        (lambda f: write(f, "test.de", b"eins\n \ndrei\n"), "test.de:2: empty line"),
        (lambda f: write(f, "test.de", b"eins\n\x01\x02\ndrei\n"), "test.de:2: empty line"),
        (lambda f: write(f, "test.en", b""), "test.en: empty; a sentence a line expected"),
        (lambda f: write(f, "valid.de", "eins\nzwölf\ndrei\n".encode("latin-1")),
         "valid.de:2: not UTF-8 (byte 0xf6 at byte 3 of the line)"),
        (lambda f: [write(f, f"test.{side}", b"") for side in ("de", "en")], "test.de: empty"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_corpus_is_one_line_with_file_and_line(
    plain, tmp_path, damage, message
):
    damage(plain)
    with pytest.raises(DataError) as error:
        load(str(plain), tmp_path / "data", 10)
    assert str(error.value).startswith(f"corpus={plain}: ")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "data").exists()


def test_a_data_dir_that_cannot_be_written_is_named_and_not_the_corpus(plain, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="^data_dir=.*/file: cannot be written: "):
        load(str(plain), tmp_path / "file", 10)


def test_a_sentence_longer_than_a_batch_is_named(plain, tmp_path):
    lines = (plain / "train.de").read_text().splitlines()
    lines[4] = "lang " * 50
    (plain / "train.de").write_text("\n".join([*lines, ""]))
    with pytest.raises(
        DataError, match=r"^max_tokens=40: .*train\.de:5 has \d+ pieces; a max_tokens as large"
    ):
        load(str(plain), tmp_path / "data", 10).check_lengths(40)


# ---------------------------------------------------------------------- data-bin


@pytest.fixture(scope="module")
def data_bin(tmp_path_factory):
    """The generated corpus, through fairseq-preprocess; and the same as pieces in a folder."""
    pytest.importorskip("fairseq", reason="pip install '.[fairseq]'")
    folder = tmp_path_factory.mktemp("data")
    pieces = folder / "pieces"
    pieces.mkdir()
    for split in SPLITS:
        count = 300 if split == "train" else 40
        for language, lines in zip(("de", "en"), numbers.sentences(split), strict=True):
            (pieces / f"{split}.{language}").write_text("".join(f"{s}\n" for s in lines[:count]))
    (pieces / text.CODE).write_text("#version: 0.2\n")
    arguments = ["--source-lang", "de", "--target-lang", "en", "--destdir", str(folder / "bin")]
    arguments += [f"--{split}pref={pieces / split}" for split in SPLITS]
    subprocess.run([sys.executable, "-m", "fairseq_cli.preprocess", *arguments], check=True,
                   capture_output=True, timeout=120)  # fmt: skip
    return folder


def test_a_data_bin_is_the_same_corpus_as_its_text(data_bin, tmp_path):
    a, b = load(str(data_bin / "bin"), tmp_path, 1), load(str(data_bin / "pieces"), tmp_path, 1)
    assert a.source.symbols == b.source.symbols and a.target.symbols == b.target.symbols
    for split in SPLITS:
        for side in ("source", "target"):
            one, two = (getattr(c.splits[split], side) for c in (a, b))
            assert np.array_equal(one.flat, two.flat) and np.array_equal(one.starts, two.starts)
        assert list(a.splits[split].references) == list(b.splits[split].references)


def cut(path, count):
    path.write_bytes(path.read_bytes()[:-count])


def emptied(folder, split):
    """As fairseq-preprocess writes a split of no sentences: an index that is all head, no data."""
    for index in folder.glob(f"{split}.*.idx"):
        index.write_bytes(index.read_bytes()[:18] + bytes(8))
        index.with_suffix(".bin").write_bytes(b"")


def without_line(path, number):
    lines = path.read_text().splitlines(keepends=True)
    assert "madeupword" in lines[-1]
    path.write_text("".join(lines[:number] + lines[number + 1 :]))


def strange(path):
    content = bytearray(path.read_bytes())
    code = struct.unpack("B", path.with_suffix(".idx").read_bytes()[17:18])[0]
    width = {4: 4, 8: 2}[code]
    content[10 * width : 11 * width] = (30_000).to_bytes(width, "little")
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: cut(f / "train.de-en.de.bin", 7), "train.de-en.de.bin: "),
        (lambda f: cut(f / "valid.de-en.en.idx", 7), "valid.de-en.en.idx: "),
        (
            lambda f: (f / "test.de-en.de.idx").write_bytes(b"no"),
            "not an index of fairseq-preprocess",
        ),
        (lambda f: (f / "test.de-en.de.bin").unlink(), "test.de-en.de.bin: cannot be read"),
        (lambda f: emptied(f, "valid"), "valid.de-en.de.idx: no sentence in it; run fairseq-pre"),
        (lambda f: emptied(f, "test"), "test.de-en.de.idx: no sentence in it; run fairseq-pre"),
        (lambda f: strange(f / "train.de-en.en.bin"), "symbol 30,000 is beyond the dictionary's"),
        (
            lambda f: (f / "dict.en.txt").write_text("one 3\ntwo\n"),
            "dict.en.txt:2: a symbol and its count",
        ),
        (lambda f: without_line(f / "dict.de.txt", 2), "more a multiple of 8 expected"),
    ],
)
def test_a_damaged_data_bin_is_one_line(data_bin, tmp_path, damage, message):
    folder = tmp_path / "bin"
    shutil.copytree(data_bin / "bin", folder)
    damage(folder)
    with pytest.raises(DataError) as error:
        load(str(folder), tmp_path, 1)
    assert str(error.value).startswith(f"corpus={folder}: ")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_dictionary_is_fairseqs(data_bin):
    ours = Dictionary.of((data_bin / "pieces" / "train.en").read_text().splitlines())
    assert ours.symbols == Dictionary.load(data_bin / "bin" / "dict.en.txt").symbols
    assert len(ours) % 8 == 0
