"""Parallel text: files read with care, words to pieces and back, dictionaries as fairseq has them.

A corpus is a folder with ``train``, ``valid`` and ``test`` in two languages, one sentence a line.
It is either *segmented* (a file ``code`` beside the texts holds the merges, as after fairseq's
``prepare-iwslt14.sh`` or our ``scripts/prepare_iwslt14.py``), or plain text, which is tokenised
(Moses, by sacremoses) and segmented here by a joint byte-pair encoding (Sennrich et al. 2016, by
subword-nmt), once for each corpus.
"""

import hashlib
import io
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import nullcontext, redirect_stderr
from pathlib import Path

import numpy as np
from filelock import FileLock

from tasks.images import DataError

SOURCE, TARGET = "de", "en"
SPLITS = ("train", "valid", "test")
CODE = "code"  # the merges of the byte-pair encoding; its presence tells that a folder is segmented
BOS, PAD, EOS, UNK = 0, 1, 2, 3  # fairseq's
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
FILLER = "madeupword"
BLANK = re.compile(r"[\s\x00-\x1f]*\Z")  # what the tokenizer leaves nothing of
CONTINUES = "@@"  # at the end of a piece whose word goes on


class Dictionary:
    """Pieces and their numbers: the four special ones, then by falling frequency.

    As fairseq's: ties in the order of code points, filled up to a multiple of 8 with
    ``madeupword0000`` and so on.
    """

    def __init__(self, symbols: Sequence[str]) -> None:
        self.symbols = [*SPECIAL, *symbols]
        self._numbers = {symbol: number for number, symbol in enumerate(self.symbols)}

    @classmethod
    def of(cls, lines: Iterable[str]) -> "Dictionary":
        """The dictionary of segmented text."""
        counts = Counter(piece for line in lines for piece in line.split())
        ordered = sorted(counts, key=lambda piece: (-counts[piece], piece))
        filled = -(len(SPECIAL) + len(ordered)) % 8
        return cls([*ordered, *(f"{FILLER}{i:04d}" for i in range(filled))])

    @classmethod
    def load(cls, path: Path) -> "Dictionary":
        """From fairseq's ``dict.<language>.txt``: a symbol and its count on each line."""
        symbols = []
        for number, line in enumerate(read_lines(path), 1):
            symbol, _, count = line.rstrip().rpartition(" ")
            if not symbol or not count.isdecimal():
                raise DataError(f"{path}:{number}: a symbol and its count expected, found {line!r}")
            symbols.append(symbol)
        return cls(symbols)

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, line: str) -> list[int]:
        """Numbers of the pieces of a segmented line, EOS at the end."""
        return [*(self._numbers.get(piece, UNK) for piece in line.split()), EOS]

    def decode(self, numbers: Iterable[int]) -> str:
        """Words joined by spaces, without special symbols other than unknown pieces."""
        pieces = [self.symbols[n] for n in numbers if n not in (BOS, PAD, EOS)]
        return join_pieces(" ".join(pieces))


def join_pieces(line: str) -> str:
    """The words of a segmented line."""
    return f"{line} ".replace(f"{CONTINUES} ", "").rstrip()


def detokenize(lines: Iterable[str], language: str) -> list[str]:
    """Words joined by spaces to running text, as Moses' detokenizer does it."""
    from sacremoses import MosesDetokenizer

    moses = MosesDetokenizer(language)
    return [str(moses.detokenize(line.split())) for line in lines]


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file; only a line feed ends one. Raises DataError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    return decoded(content, str(path))


def decoded(content: bytes, name: str) -> list[str]:
    """The lines of a file's ``content``; raises DataError with ``name`` and line."""
    lines = content.removesuffix(b"\n").split(b"\n") if content else []
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(line.removesuffix(b"\r").decode())
        except UnicodeDecodeError as error:
            raise DataError(f"{name}:{number}: not UTF-8 (byte {line[error.start]:#04x} at byte "
                            f"{error.start + 1} of the line)") from None  # fmt: skip
    return found


def read_pairs(folder: Path, split: str) -> tuple[list[str], list[str]]:
    """The lines of both languages of a split, equally many, none empty. Raises DataError."""
    paths = [folder / f"{split}.{language}" for language in (SOURCE, TARGET)]
    source, target = (read_lines(path) for path in paths)
    for path, lines in zip(paths, (source, target), strict=True):
        if not lines:
            raise DataError(f"{path}: empty; a sentence a line expected")
    if len(source) != len(target):
        shorter = paths[0] if len(source) < len(target) else paths[1]
        longer = paths[1] if len(source) < len(target) else paths[0]
        few, many = sorted((len(source), len(target)))
        raise DataError(
            f"{shorter}:{few}: ends here, where {longer} goes on to line {many:,}; the two must "
            "have a sentence a line, in the same order"
        )
    for path, lines in zip(paths, (source, target), strict=True):
        for number, line in enumerate(lines, 1):
            if BLANK.match(line):
                raise DataError(f"{path}:{number}: empty line; a sentence expected")
    return source, target


def segmented(
    folder: Path, texts: dict[str, tuple[list[str], list[str]]], merges: int, data_dir: Path
) -> Path:
    """The plain ``texts`` of ``folder`` in pieces: a folder under ``data_dir``, made once.

    Its name is the digest of the texts and of ``merges``; it appears whole or not at all. Raises
    DataError.
    """
    digest = hashlib.sha256(f"moses tokens, {merges} merges".encode())
    for pair in texts.values():
        for lines in pair:
            digest.update("\n".join(lines).encode() + b"\0")
    made = data_dir / "pieces" / digest.hexdigest()[:16]
    try:
        made.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(made.with_suffix(".lock")):
            if not made.exists():
                print(f"{folder}: tokenising, learning {merges:,} merges into {made}", flush=True)
                draft = made.with_suffix(".draft")
                shutil.rmtree(draft, ignore_errors=True)  # of a killed process; the lock is ours
                draft.mkdir()
                words = {split: (tokenize(pair[0], SOURCE), tokenize(pair[1], TARGET))
                         for split, pair in texts.items()}  # fmt: skip
                write_segmented(draft, words, merges)
                os.replace(draft, made)
    except OSError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"data_dir={data_dir}: cannot be written: {error.strerror}") from None
    return made


def tokenize(lines: Iterable[str], language: str) -> list[str]:
    """Moses' tokens, joined by spaces."""
    from sacremoses import MosesTokenizer

    moses = MosesTokenizer(language)
    return [str(moses.tokenize(line, return_str=True)) for line in lines]


def write_segmented(
    folder: Path, words: dict[str, tuple[list[str], list[str]]], merges: int
) -> None:
    """Learn ``merges`` on both languages of train, and write all splits and the merges."""
    from subword_nmt.apply_bpe import BPE
    from subword_nmt.learn_bpe import learn_bpe

    counts = Counter(word for lines in words["train"] for line in lines for word in line.split())
    # each word once with its count, in the order of the text
    counted = io.StringIO("".join(f"{word} {count}\n" for word, count in counts.items()))
    code = io.StringIO()
    # its progress bar writes a line a step where there is no terminal
    with nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO()):
        learn_bpe(counted, code, merges, is_dict=True)
    encoder = BPE(io.StringIO(code.getvalue()))
    for split, pair in words.items():
        for language, lines in zip((SOURCE, TARGET), pair, strict=True):
            pieces = [re.sub(r"\s+", " ", encoder.process_line(line)).strip() for line in lines]
            (folder / f"{split}.{language}").write_text("\n".join([*pieces, ""]), encoding="utf-8")
    (folder / CODE).write_text(code.getvalue(), encoding="utf-8")


def numbers(lines: Sequence[str], dictionary: Dictionary) -> tuple[np.ndarray, np.ndarray]:
    """All sentences as one int32 array, and where each begins (one more at the end)."""
    encoded = [dictionary.encode(line) for line in lines]
    starts = np.zeros(len(encoded) + 1, dtype=np.int64)
    np.cumsum([len(sentence) for sentence in encoded], out=starts[1:])
    flat = np.fromiter((n for sentence in encoded for n in sentence), np.int32, int(starts[-1]))
    return flat, starts
