"""IWSLT14 German-English, prepared as fairseq's ``examples/translation/prepare-iwslt14.sh`` does it.

    python -m scripts.prepare_iwslt14 [archive=URL_OR_FILE] [data_dir=data] [merges=10000]

Download, take the sentences out of the markup, tokenise (Moses), drop pairs that are too long or too
unequal, lowercase, hold out every 23rd pair for validation, join the old dev and test sets into the
test set, learn a joint byte-pair encoding and apply it. The result, `data/iwslt14.de-en`, is
what ``task=iwslt_transformer task.corpus=data/iwslt14.de-en`` trains on; ``fairseq-preprocess`` reads
it too. Finished steps are not done again; a result appears whole or not at all.

Deviations from the shell script: Moses' tokeniser is the Python port `sacremoses`, whose tokens
differ in rare cases; the byte-pair encoding is `subword-nmt`, as there.
"""

import gzip
import os
import re
import shutil
import sys
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from scripts.progress import progress
from tasks.images import NETWORK_ERRORS, DataError, append_all, reason_of
from tasks.iwslt_transformer import text
from tasks.iwslt_transformer.text import SOURCE, TARGET

# the mirror that fairseq's script names; WIT3 itself has moved to a drive without a stable address
URL = "http://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz"
NAME = "iwslt14.de-en"
TRAIN = "train.tags.de-en.{}"
TESTS = ("IWSLT14.TED.dev2010", "IWSLT14.TEDX.dev2012", "IWSLT14.TED.tst2010",
         "IWSLT14.TED.tst2011", "IWSLT14.TED.tst2012")  # fmt: skip
MARKUP = ("<url>", "<talkid>", "<keywords>")  # whole lines to leave out
TAGS = re.compile(r"</?(title|description)>")
LONGEST, RATIO = 175, 1.5  # words of a training sentence, and of one side over the other
EVERY = 23  # th pair is held out for validation


def prepare(archive: str, data_dir: Path, merges: int) -> Path:
    """Make ``data_dir``/iwslt14.de-en, unless it is there, and return it; raises DataError."""
    made = data_dir / NAME
    if (code := made / text.CODE).exists():
        there = len(code.read_text(encoding="utf-8").splitlines()) - 1  # the first is a version
        print(f"{made}: there already, with {there:,} merges (move it away to make it anew)")
        return made
    local = Path(archive).expanduser()
    if "://" not in archive and not local.is_file():
        raise DataError(
            f"archive={archive}: {'a file expected' if local.exists() else 'no such file'}"
        )
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        packed = local if local.exists() else download(archive, data_dir / "iwslt14.de-en.tgz")
        raw = read_archive(packed)
        words = {name: tokens(name, raw[name]) for name in progress(list(raw), "tokenising")}
        splits = split(words)
        print(f"learning {merges:,} merges, writing {made}", flush=True)
        draft = made.with_name(f"{NAME}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        text.write_segmented(draft, splits, merges)
        os.replace(draft, made)
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"data_dir={data_dir}: {error.strerror or error}") from None
    return made


def download(url: str, target: Path) -> Path:
    """``url`` into ``target``, going on where an earlier try has stopped; raises DataError."""
    if target.exists():
        print(f"{target}: there already (remove it to have {url} downloaded)")
        return target
    part = target.with_suffix(".part")
    have = part.stat().st_size if part.exists() else 0
    print(f"{url}: downloading" + (f", from byte {have:,} on" if have else ""), flush=True)
    try:
        append_all(url, part)
    except (*NETWORK_ERRORS, ValueError) as error:
        kept = "run it again to go on from there, or " if part.exists() else ""
        raise DataError(f"archive={url}: {reason_of(error)}; {kept}archive=FILE takes one downloaded "
                        "by hand") from None  # fmt: skip
    os.replace(part, target)
    return target


def read_archive(path: Path) -> dict[str, list[str]]:
    """The lines of the files that are needed, by their names; raises DataError."""
    wanted = {TRAIN.format(language) for language in (SOURCE, TARGET)}
    wanted |= {f"{name}.de-en.{language}.xml" for name in TESTS for language in (SOURCE, TARGET)}
    found = {}
    try:
        with path.open("rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
        if compressed:
            with gzip.open(path) as content:
                while content.read(1 << 20):  # to the checksum, which tarfile does not get to
                    pass
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                name = Path(member.name).name
                if name in wanted and member.isfile():
                    content = archive.extractfile(member)
                    assert content is not None  # it is a file
                    found[name] = text.decoded(content.read(), f"{path}: {name}")
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        if isinstance(error, DataError):
            raise
        reason = str(error).partition("\n")[0].rstrip(":- ")  # tarfile goes on, a line a format
        raise DataError(f"{path}: damaged or no archive ({reason}); remove it to have it downloaded "
                        "again, or give another archive=FILE") from None  # fmt: skip
    if missing := sorted(wanted - set(found)):
        raise DataError(f"{path}: {missing[0]} is not in it; the de-en archive of IWSLT14 expected")
    return found


def tokens(name: str, lines: list[str]) -> list[str]:
    """The sentences of a raw file, tokenised."""
    if name.endswith(".xml"):
        segments = (re.search(r"<seg id[^>]*>\s*(.*?)\s*</seg>", line) for line in lines)
        sentences = [found.group(1).replace("’", "'") for found in segments if found]
        return text.tokenize(sentences, name.split(".")[-2])
    kept = [TAGS.sub("", line) for line in lines if not any(tag in line for tag in MARKUP)]
    return text.tokenize(kept, name.split(".")[-1])


def split(words: dict[str, list[str]]) -> dict[str, tuple[list[str], list[str]]]:
    """Train, valid and test, lowercased, from the tokenised files; raises DataError."""
    sides = [words[TRAIN.format(language)] for language in (SOURCE, TARGET)]
    if len(sides[0]) != len(sides[1]):
        raise DataError(f"{TRAIN.format('*')}: {len(sides[0]):,} and {len(sides[1]):,} sentences")
    pairs = [(a.lower(), b.lower()) for a, b in zip(*sides, strict=True) if fits(a, b)]
    test: tuple[list[str], list[str]] = ([], [])
    for name in TESTS:
        both = [words[f"{name}.de-en.{language}.xml"] for language in (SOURCE, TARGET)]
        if len(both[0]) != len(both[1]):
            raise DataError(f"{name}: {len(both[0]):,} and {len(both[1]):,} sentences")
        for side, lines in zip(test, both, strict=True):
            side.extend(line.lower() for line in lines)
    return {
        "train": _sides(p for i, p in enumerate(pairs, 1) if i % EVERY),
        "valid": _sides(p for i, p in enumerate(pairs, 1) if not i % EVERY),
        "test": test,
    }


def fits(source: str, target: str) -> bool:
    """What Moses' ``clean-corpus-n.perl -ratio 1.5 1 175`` keeps."""
    a, b = len(source.split()), len(target.split())
    return 1 <= a <= LONGEST and 1 <= b <= LONGEST and a <= RATIO * b and b <= RATIO * a


def _sides(pairs: Iterator[tuple[str, str]]) -> tuple[list[str], list[str]]:
    both = list(pairs)
    return [a for a, _ in both], [b for _, b in both]


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if any(a in ("-h", "--help") for a in arguments):
        print((__doc__ or "").strip())
        return 0
    values = {"archive": URL, "data_dir": "data", "merges": "10000"}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or key not in values:
            print(f"error: '{argument}': archive=, data_dir= or merges= expected", file=sys.stderr)
            return 2
        values[key] = value
    if not values["merges"].isdecimal() or int(values["merges"]) < 1:
        print(f"error: merges={values['merges']}: a whole number >= 1 expected", file=sys.stderr)
        return 2
    try:
        made = prepare(values["archive"], Path(values["data_dir"]), int(values["merges"]))
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    print(f"python -m runners.run task=iwslt_transformer task.corpus={made}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
