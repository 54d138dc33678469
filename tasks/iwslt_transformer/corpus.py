"""From a corpus's name or folder to numbered sentence pairs and two dictionaries."""

import functools
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from tasks.images import DataError
from tasks.iwslt_transformer import numbers, text
from tasks.iwslt_transformer.batches import Pairs, Sentences
from tasks.iwslt_transformer.text import EOS, SOURCE, SPECIAL, SPLITS, TARGET, Dictionary

LANGUAGES = (SOURCE, TARGET)


@dataclass(frozen=True)
class Corpus:
    """Sentence pairs of the splits, their dictionaries, and a short name for the tables.

    ``places``: for each split, the file and for each language how its sentences are numbered there.
    """

    name: str
    source: Dictionary
    target: Dictionary
    splits: dict[str, Pairs]
    places: dict[str, str]

    @property
    def train(self) -> Pairs:
        return self.splits["train"]

    @property
    def valid(self) -> Pairs:
        return self.splits["valid"]

    def check_lengths(self, max_tokens: int) -> None:
        """Raise DataError for a sentence that is no batch even alone."""
        for split in ("train", "valid"):
            pairs = self.splits[split]
            for language, side in zip(LANGUAGES, (pairs.source, pairs.target), strict=True):
                long = np.flatnonzero(side.lengths > max_tokens)
                if len(long):
                    place = f"{self.places[split]}.{language}:{long[0] + 1}"
                    raise DataError(
                        f"max_tokens={max_tokens}: {place} has {side.lengths[long[0]]:,} pieces; "
                        "a max_tokens as large expected, or shorten or remove the sentence"
                    )


def load(name: str, data_dir: Path, merges: int) -> Corpus:
    """The corpus ``numbers``, or that of a folder: a data-bin, pieces, or plain text.

    Raises:
        DataError: one line that begins with the key, with file and line where there is one.
    """
    if name == numbers.NAME:
        return _generated()
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise DataError(f"corpus={name}: '{numbers.NAME}' or a folder expected; there is none")
    try:
        if any(folder.glob("dict.*.txt")):
            return _data_bin(folder)
        if not (folder / f"train.{SOURCE}").exists():
            raise DataError(f"no train.{SOURCE} in it; train, valid and test in .{SOURCE} and "
                            f".{TARGET} expected, or a fairseq data-bin")  # fmt: skip
        lines = {split: text.read_pairs(folder, split) for split in SPLITS}
        in_pieces = (folder / text.CODE).exists()
        if not in_pieces and not any(re.search(r"\w\w", line) for line in chain(*lines["train"])):
            raise DataError("no word of two letters in train.de and train.en, to learn pieces from")
    except OSError as error:
        raise DataError(f"corpus={name}: {error}") from None
    if in_pieces:  # the text itself is not there
        return _numbered(folder.resolve().name, lines, _joined(lines), folder)
    made = text.segmented(folder, lines, merges, data_dir)
    try:
        pieces = {split: text.read_pairs(made, split) for split in SPLITS}
    except DataError as error:
        raise DataError(f"{error}; remove {made}, which is made anew") from None
    references = {split: lines[split][1] for split in SPLITS[1:]}
    return _numbered(folder.resolve().name, pieces, references, folder)


@functools.cache  # a sweep makes it once a process
def _generated() -> Corpus:
    lines = {split: numbers.sentences(split) for split in SPLITS}
    return _numbered(numbers.NAME, lines, _joined(lines), Path(numbers.NAME))


def _joined(lines: dict[str, tuple[list[str], list[str]]]) -> dict[str, list[str]]:
    """Running text in the target language, of pieces."""
    return {split: text.detokenize(map(text.join_pieces, lines[split][1]), TARGET)
            for split in SPLITS[1:]}  # fmt: skip


def _numbered(
    name: str,
    lines: dict[str, tuple[list[str], list[str]]],
    references: dict[str, list[str]],
    folder: Path,
) -> Corpus:
    source, target = (Dictionary.of(lines["train"][i]) for i in (0, 1))
    splits = {
        split: Pairs(
            Sentences(*text.numbers(pair[0], source)),
            Sentences(*text.numbers(pair[1], target)),
            references.get(split, ()),
        )
        for split, pair in lines.items()
    }
    return Corpus(name, source, target, splits, {split: str(folder / split) for split in SPLITS})


# ---------------------------------------------------------------------- fairseq's data-bin

MAGIC = b"MMIDIDX\x00\x00"
TYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}


def _data_bin(folder: Path) -> Corpus:
    """What ``fairseq-preprocess`` writes in its default format (mmap)."""
    paths = [folder / f"dict.{language}.txt" for language in LANGUAGES]
    dictionaries = [Dictionary.load(path) for path in paths]
    for path, dictionary in zip(paths, dictionaries, strict=True):
        if dictionary.symbols[-1].startswith(text.FILLER) and len(dictionary) % 8:
            raise DataError(f"{path}: {len(dictionary) - len(SPECIAL):,} lines, with {len(SPECIAL)} "
                            "more a multiple of 8 expected of one that ends in "
                            f"{text.FILLER}; damaged")  # fmt: skip
    splits, places = {}, {}
    for split in SPLITS:
        stem = folder / f"{split}.{SOURCE}-{TARGET}"
        source, target = (_sentences(stem.with_name(f"{stem.name}.{language}"), dictionary)
                          for language, dictionary in zip(LANGUAGES, dictionaries, strict=True))  # fmt: skip
        if len(source) != len(target):
            raise DataError(f"{stem}: {len(source):,} source sentences, but {len(target):,} target "
                            "sentences; run fairseq-preprocess again")  # fmt: skip
        references: Sequence[str] = ()
        if split != "train":
            words = (dictionaries[1].decode(target[i]) for i in range(len(target)))
            references = text.detokenize(words, TARGET)
        splits[split], places[split] = Pairs(source, target, references), str(stem)
    return Corpus(folder.resolve().name, dictionaries[0], dictionaries[1], splits, places)


def _sentences(stem: Path, dictionary: Dictionary) -> Sentences:
    """The sentences of ``stem``.idx and .bin, checked against sizes and dictionary."""
    index, data = (stem.with_name(f"{stem.name}.{end}") for end in ("idx", "bin"))
    try:
        head, content = index.read_bytes(), data.read_bytes()
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from None
    start = len(MAGIC) + 17
    if head[: len(MAGIC)] != MAGIC or len(head) < start:
        raise DataError(f"{index}: not an index of fairseq-preprocess (--dataset-impl mmap)")
    version, code, count = struct.unpack("<QBQ", head[len(MAGIC) : start])
    if version != 1 or code not in TYPES:
        raise DataError(f"{index}: version {version}, type {code}: version 1 and integers expected")
    if not count:
        raise DataError(f"{index}: no sentence in it; run fairseq-preprocess again")
    if len(head) != start + 12 * count:
        raise DataError(f"{index}: {len(head):,} bytes, {start + 12 * count:,} expected for its "
                        f"{count:,} sentences; truncated or damaged")  # fmt: skip
    kind = np.dtype(TYPES[code]).newbyteorder("<")
    lengths = np.frombuffer(head, "<i4", count, start).astype(np.int64)
    pointers = np.frombuffer(head, "<i8", count, start + 4 * count)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    wrong = np.flatnonzero((lengths < 1) | (pointers != starts[:-1] * kind.itemsize))
    if len(wrong):
        raise DataError(f"{index}: sentence {wrong[0] + 1:,} has no place; damaged")
    if len(content) != starts[-1] * kind.itemsize:
        raise DataError(f"{data}: {len(content):,} bytes, {starts[-1] * kind.itemsize:,} expected; "
                        "truncated or damaged")  # fmt: skip
    flat = np.frombuffer(content, kind).astype(np.int32)
    strange = np.flatnonzero((flat < 0) | (flat >= len(dictionary)))
    if len(strange):
        sentence = int(np.searchsorted(starts, strange[0], side="right"))
        raise DataError(f"{data}: sentence {sentence:,}: symbol {flat[strange[0]]:,} is beyond the "
                        f"dictionary's {len(dictionary):,}; damaged")  # fmt: skip
    if (flat[starts[1:] - 1] != EOS).any():
        sentence = int(np.flatnonzero(flat[starts[1:] - 1] != EOS)[0]) + 1
        raise DataError(f"{data}: sentence {sentence:,} does not end; damaged")
    return Sentences(flat, starts)
