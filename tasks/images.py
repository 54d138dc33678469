"""Training sets of images as flat, standardised tensors: CIFAR-10, MNIST, digits.

CIFAR-10 and MNIST are torchvision's: its addresses, checksums, layout of ``data_dir`` and readers.
Its download is not used: it would take a broken connection for the end of the file, keep a
damaged file under its final name, start again from the first byte and know no time limit. CIFAR's
batches are pickles, so nothing of them is read before torchvision has found their checksums right.

``digits`` (1,797 images of 8 x 8, in scikit-learn itself) needs no file: the stand-in where there
is neither network nor data.
"""

import difflib
import errno
import gzip
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from tempfile import TemporaryDirectory, gettempdir
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from tqdm import tqdm

TIMEOUT = 30.0  # seconds without a byte after which a connection counts as broken
CHUNK = 1 << 18  # bytes
DIGITS_TEST = 360  # of the 1,797 digits, a fifth, which is left out
NETWORK_ERRORS = (URLError, HTTPException, ConnectionError, TimeoutError, SSLError)

# Mean and standard deviation of the training set's pixels in [0, 1], a channel each; the constants
# in common use, so that the test set can be standardised without reading the training set. (The
# 0.2023, 0.1994, 0.2010 often seen for CIFAR-10 are deviations within an image, averaged.)
CIFAR10_STATISTICS = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))  # red, green, blue
MNIST_STATISTICS = ((0.1307,), (0.3081,))


class DataError(OSError):
    """A data set cannot be had: one line with the file or key, what is wrong, and the way out."""


@dataclass(frozen=True)
class Images:
    """The training part of a data set.

    Attributes:
        inputs: float32, shape (N, D). D is channel, row, column (torch's order), flattened;
            3072, 784 or 64. Of each channel the mean is 0 and the standard deviation 1 over all
            pixels.
        labels: int64, shape (N,), from 0 to ``classes - 1``.
        classes: how many there are.
    """

    inputs: Tensor
    labels: Tensor
    classes: int


def load(name: str, data_dir: str | Path, mirror: str | None = None) -> Images:
    """The training part of a data set, downloaded into ``data_dir`` where it lacks.

    Args:
        name: ``cifar10`` (50,000 images), ``mnist`` (60,000) or ``digits`` (1,437, the greater part
            of a fixed random split).
        data_dir: in torchvision's layout; made only when there is something to download.
        mirror: a base URL (http://, https:// or file://) that has the files under their own
            names, in place of the data set's hosts.

    Raises:
        DataError: one line; nothing damaged is ever loaded, or overwritten.
    """
    loaders = {"cifar10": _cifar10, "mnist": _mnist, "digits": _digits}
    if name not in list(loaders):
        close = difflib.get_close_matches(str(name).lower(), loaders, n=1, cutoff=0.5)
        nearest = f"did you mean {close[0]}? " if close else ""
        known = ", ".join(loaders)
        raise DataError(f"dataset={name}: unknown data set; {nearest}one of {known} expected")
    if mirror is not None and not str(mirror).startswith(("http://", "https://", "file://")):
        raise DataError(f"mirror={mirror}: a base URL http://, https:// or file:// expected")
    return loaders[name](Path(data_dir).expanduser(), mirror)


def _cifar10(data_dir: Path, mirror: str | None) -> Images:
    from torchvision.datasets import CIFAR10

    def read() -> Any:  # raises RuntimeError unless all checksums are right, before unpickling
        return CIFAR10(data_dir)

    with _disk(data_dir / CIFAR10.base_folder):
        data = None
        with suppress(RuntimeError):
            data = read()
        if data is None:
            with _locked(data_dir):
                _prepare_cifar10(data_dir, mirror)
            data = read()
    pixels = data.data.transpose(0, 3, 1, 2)  # torchvision turns it to channels last, for PIL
    return _images(pixels, data.targets, 255, CIFAR10_STATISTICS)


def _prepare_cifar10(data_dir: Path, mirror: str | None) -> None:
    """The batches from the archive into ``data_dir``, each whole or not at all."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import extract_archive

    meta = (CIFAR10.meta["filename"], CIFAR10.meta["md5"])
    batches = [*CIFAR10.train_list, *CIFAR10.test_list, meta]
    folder = data_dir / CIFAR10.base_folder
    missing = [name for name, md5 in batches if not _present(folder / name, md5)]
    if not missing:
        return
    archive = data_dir / CIFAR10.filename
    _fetch(archive, CIFAR10.tgz_md5, [mirror or CIFAR10.url.rpartition("/")[0]])
    staging = data_dir / ".extracting"
    shutil.rmtree(staging, ignore_errors=True)  # of a killed process; the lock is ours
    try:
        with _disk(staging):
            extract_archive(archive, staging)
            folder.mkdir(exist_ok=True)
            for name in missing:
                os.replace(staging / CIFAR10.base_folder / name, folder / name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _mnist(data_dir: Path, mirror: str | None) -> Images:
    from torchvision.datasets import MNIST

    folder = data_dir / "MNIST" / "raw"
    archives = [(folder / name, md5) for name, md5 in MNIST.resources]
    with _disk(folder):
        if not all(_present(path, md5) for path, md5 in archives):
            with _locked(data_dir):
                folder.mkdir(parents=True, exist_ok=True)
                for path, md5 in archives:
                    _fetch(path, md5, [mirror] if mirror else MNIST.mirrors)
    # torchvision knows no checksums of the unpacked files, so these are not kept
    with _disk(Path(gettempdir()), key="TMPDIR"), TemporaryDirectory() as unpacked:
        raw = Path(unpacked) / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for path, _ in archives:
            with gzip.open(path) as source, open(raw / path.stem, "wb") as target:
                shutil.copyfileobj(source, target, CHUNK)
        data = MNIST(unpacked)
    return _images(data.data.numpy()[:, None], data.targets, 255, MNIST_STATISTICS)


def _digits(data_dir: Path, mirror: str | None) -> Images:
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    # RandomState's streams are frozen, so this split is the same with every version of numpy
    chosen = np.random.RandomState(0).permutation(len(digits.target))[DIGITS_TEST:]
    pixels, labels = digits.images[chosen], digits.target[chosen]
    scaled = pixels / 16
    return _images(pixels[:, None], labels, 16, ((scaled.mean(),), (scaled.std(),)))


def _images(
    pixels: np.ndarray,
    labels: Any,
    white: int,
    statistics: tuple[Sequence[float], Sequence[float]],
) -> Images:
    """``pixels`` of shape (N, channels, rows, columns) from 0 to ``white``, standardised."""
    mean, deviation = (torch.tensor(values).view(-1, 1, 1) for values in statistics)
    inputs = torch.from_numpy(pixels).to(torch.float32, copy=True)
    inputs.div_(white).sub_(mean).div_(deviation)
    return Images(inputs.flatten(1), torch.as_tensor(labels).long(), classes=10)


# Files: whole and right, or refused ---------------------------------------------------------


def _present(path: Path, md5: str) -> bool:
    """Whether ``path`` is there; raises DataError if so, and it is not what it should be."""
    from torchvision.datasets.utils import calculate_md5

    if not path.exists():
        return False
    found = calculate_md5(path)
    if found != md5:
        raise DataError(
            f"{path}: truncated or damaged ({path.stat().st_size:,} bytes with md5 {found}, "
            f"{md5} expected); delete it, and it is fetched again"
        )
    return True


def _fetch(path: Path, md5: str, bases: Sequence[str]) -> None:
    """The file ``path`` from the first of ``bases`` that has it, unless it is there already.

    It grows as ``<path>.part``, which a killed or failed call leaves for the next one to go on
    with, and gets its name once its checksum is right.
    """
    from torchvision.datasets.utils import check_integrity

    if _present(path, md5):
        return
    part, failures = path.with_name(path.name + ".part"), []
    for base in bases:
        url = f"{base.rstrip('/')}/{path.name}"
        try:
            with _disk(part):
                if not check_integrity(part, md5):  # it may have been killed just before the end
                    _download(url, part, md5)
                os.replace(part, path)
                return
        except NETWORK_ERRORS as error:
            failures.append(f"{url}: {reason_of(error)}")
    kept = f"{part.name} is kept to go on from; " if part.exists() else ""
    raise DataError(
        f"{path}: not there, and cannot be downloaded ({'; '.join(failures)}); "
        f"{kept}try again, put the file there, name another host by task.mirror=URL, or take "
        "task.dataset=digits, which needs none"
    )


def _download(url: str, part: Path, md5: str) -> None:
    """Complete ``part`` from ``url``; where that gives a wrong file, leave none, and say so."""
    from torchvision.datasets.utils import calculate_md5

    print(f"{part.with_suffix('')}: downloading from {url}", file=sys.stderr)
    resumed = _size(part) > 0
    append_all(url, part)
    found = calculate_md5(part)
    if found == md5:
        return
    part.unlink()
    if resumed:  # what was there may have been the beginning of another file
        return _download(url, part, md5)
    raise ConnectionError(f"wrong file, md5 {found}, {md5} expected; deleted")


def append_all(url: str, part: Path) -> None:
    """Append to ``part`` all that it lacks of the file at ``url``; raises one of NETWORK_ERRORS.

    Again after each broken connection, as long as that brings anything.
    """
    while True:
        before = _size(part)
        try:
            return _append(url, part)
        except NETWORK_ERRORS:
            if _size(part) <= before:
                raise


def _append(url: str, part: Path) -> None:
    """Append to ``part`` what it lacks, over one connection; a host without ranges sends all."""
    start = _size(part)
    request = Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urlopen(request, timeout=TIMEOUT)
    except HTTPError as error:
        if error.code != 416 or not start:
            raise
        if error.headers.get("Content-Range") == f"bytes */{start}":
            return  # all of it is there
        part.unlink()  # nothing follows after `start`, so it is not a beginning of this file
        return _append(url, part)
    with response:
        resumes = getattr(response, "status", None) == 206
        start = start if resumes else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with (
            open(part, "ab" if resumes else "wb") as file,
            tqdm(desc=part.stem, total=total, initial=start, unit="B", unit_scale=True,
                 leave=False, disable=None) as bar,
        ):  # fmt: skip
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
            file.flush()
            os.fsync(file.fileno())
    if total is not None and _size(part) < total:  # http.client takes this for an ordinary end
        raise ConnectionError(f"broke off after {_size(part):,} of {total:,} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def reason_of(error: Exception) -> str:
    """Why the network failed, in a few words."""
    if isinstance(error, HTTPError):
        return f"HTTP {error.code} {error.reason}"
    reason = getattr(error, "reason", error)
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return " ".join(str(text).split())


@contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    """``data_dir``, made where it lacks, for this process alone: the others wait for its files."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(data_dir / ".lock")
        lock.acquire()
    except OSError as error:
        why = error.strerror or error
        raise DataError(
            f"data_dir={data_dir}: cannot be made or written: {why}; choose another"
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _disk(path: Path, key: str = "data_dir") -> Iterator[None]:
    """What the file system refuses at ``path``, as one line; ``key`` decides where that is."""
    try:
        yield
    except (DataError, *NETWORK_ERRORS):
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        way_out = "free some space" if full else "check its permissions"
        raise DataError(
            f"{error.filename or path}: {error.strerror or error}; {way_out}, or set {key} to "
            "another place"
        ) from error
