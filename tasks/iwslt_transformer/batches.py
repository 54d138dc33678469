"""Which sentences make a batch, in which order, and a batch as tensors without padding.

Grouping and order are fairseq's (``language_pair_dataset``, ``data_utils.batch_by_size``,
``EpochBatchIterator``): sentences are permuted, stably sorted by target and then by source length,
cut into batches, and each epoch goes through the batches in another order. numpy's RandomState is
what fairseq draws from, and its streams are frozen.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tasks.iwslt_transformer.text import EOS

MULTIPLE = 8  # of sentences in a batch, as far as that goes


@dataclass(frozen=True)
class Sentences:
    """Sentences one after the other, each ending in EOS.

    Attributes:
        flat: all pieces, int32.
        starts: where each sentence begins, one more at the end.
    """

    flat: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.flat[self.starts[i] : self.starts[i + 1]]

    def head(self, count: int) -> "Sentences":
        return Sentences(self.flat[: self.starts[count]], self.starts[: count + 1])


@dataclass(frozen=True)
class Pairs:
    """A split: source and target sentences, and the target as text to be compared with."""

    source: Sentences
    target: Sentences
    references: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.source)

    @property
    def lengths(self) -> np.ndarray:
        """Of the longer side, EOS included: what ``max_tokens`` counts."""
        return np.maximum(self.source.lengths, self.target.lengths)

    def head(self, count: int) -> "Pairs":
        """The first ``count`` of them."""
        return Pairs(self.source.head(count), self.target.head(count), self.references[:count])


def grouped(pairs: Pairs, max_tokens: int, seed: int | None) -> list[np.ndarray]:
    """The batches of a split, each the indices of its sentences.

    A batch is filled while (sentences x longest side) <= max_tokens, then cut back to a multiple
    of 8 sentences, or to the remainder modulo 8 where that is larger. With a ``seed`` (training)
    sentences of equal lengths are in random order, and a last batch that is no multiple of 8 is
    dropped; without (evaluation) the order is the file's and nothing is dropped.
    """
    order = np.arange(len(pairs))
    if seed is not None:
        order = np.random.RandomState(seed + 1).permutation(len(pairs))
    order = order[np.argsort(pairs.target.lengths[order], kind="stable")]
    order = order[np.argsort(pairs.source.lengths[order], kind="stable")]
    ends = _ends(pairs.lengths[order], max_tokens)
    batches = np.split(order, ends[:-1])
    if seed is not None and len(batches[-1]) % MULTIPLE:
        batches.pop()
    return batches


def _ends(lengths: np.ndarray, max_tokens: int) -> list[int]:
    """Where each batch ends.

    ``closed`` is where the present batch may end: after fewer than 8 sentences, or a multiple of
    8. What lies between there and the sentence with which it would overflow begins the next one;
    where that tail overflows as well, it is a batch of its own, without the last sentence.
    """
    ends, start, closed = [], 0, 0
    longest = tail = 0  # longest sentence up to ``closed``, and from there on
    for place, length in enumerate(lengths.tolist()):
        tail = max(tail, length)
        count = place + 1 - start
        overflows = count * max(longest, tail) > max_tokens
        if overflows:
            ends.append(closed)
            if tail * (place + 1 - closed) > max_tokens:
                ends.append(place)
                closed, tail = place, length
            start, longest = closed, 0
        if overflows or count < MULTIPLE or count % MULTIPLE == 0:
            longest, tail, closed = max(longest, tail), 0, place + 1
    return [*ends, closed, len(lengths)] if closed < len(lengths) else [*ends, closed]


@functools.lru_cache(maxsize=2)  # asked for at every update
def epoch_order(batches: int, seed: int, epoch: int) -> np.ndarray:
    """The order of the batches in ``epoch`` = 1, 2, ...; read-only."""
    order = np.arange(batches)
    np.random.RandomState(seed + epoch).shuffle(order)
    order.setflags(write=False)
    return order


@dataclass(frozen=True)
class Packed:
    """Sentences of a batch without padding, and how to lay them out as a padded rectangle.

    Attributes:
        tokens: (N,) int64, all sentences one after the other.
        positions: (N,) int64, 0 for the first token of a sentence.
        places: (N,) int64, of each token in the flattened (B, L) rectangle; None where it has no
            padding and nothing need be moved.
        sources: (B * L,) int64, the token at each place, any token of the sentence at padding; None
            with ``places``.
        mask: (B, 1, 1, L) bool, False at padding; None with ``places``.
        shape: (B, L).
    """

    tokens: Tensor
    positions: Tensor
    places: Tensor | None
    sources: Tensor | None
    mask: Tensor | None
    shape: tuple[int, int]

    def added_mask(self, dtype: torch.dtype) -> Tensor | None:
        """What attention adds to its scores: -inf at padding, else 0."""
        if self.mask is None:
            return None
        return torch.zeros_like(self.mask, dtype=dtype).masked_fill_(~self.mask, -math.inf)

    def to(self, device: torch.device) -> "Packed":
        if device.type == "cpu":
            return self
        tokens, positions, places, sources, mask = (
            t if t is None else t.to(device, non_blocking=True)
            for t in (self.tokens, self.positions, self.places, self.sources, self.mask)
        )
        assert tokens is not None and positions is not None  # they never are
        return Packed(tokens, positions, places, sources, mask, self.shape)


@dataclass(frozen=True)
class Batch:
    """Source, decoder input (target shifted right, EOS in front) and target of some sentences."""

    source: Packed
    shifted: Packed
    target: Tensor  # (N,) int64, the pieces to predict

    def to(self, device: torch.device) -> "Batch":
        target = self.target.to(device, non_blocking=True)
        return Batch(self.source.to(device), self.shifted.to(device), target)


def pack(sentences: Sequence[np.ndarray]) -> Packed:
    lengths = np.array([len(sentence) for sentence in sentences])
    rows, longest = len(lengths), int(lengths.max())
    ends = np.cumsum(lengths)
    positions = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
    tokens = torch.from_numpy(np.concatenate(sentences).astype(np.int64))
    places = sources = mask = None
    if lengths.min() < longest:
        row, column = np.repeat(np.arange(rows), lengths), np.arange(longest)
        places = torch.from_numpy(row * longest + positions)
        tokens_at = (ends - lengths)[:, None] + np.minimum(column, lengths[:, None] - 1)
        sources = torch.from_numpy(tokens_at.flatten())
        mask = torch.from_numpy(column < lengths[:, None])[:, None, None]
    return Packed(tokens, torch.from_numpy(positions), places, sources, mask, (rows, longest))


def batch(pairs: Pairs, indices: np.ndarray) -> Batch:
    """The sentences at ``indices``, by falling source length as fairseq has them."""
    indices = indices[np.argsort(-pairs.source.lengths[indices], kind="stable")]
    targets = [pairs.target[i] for i in indices]
    shifted = [np.concatenate([[EOS], target[:-1]]) for target in targets]
    target = torch.from_numpy(np.concatenate(targets).astype(np.int64))
    return Batch(pack([pairs.source[i] for i in indices]), pack(shifted), target)
