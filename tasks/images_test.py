"""CIFAR-10, MNIST and the digits: what is read, what is refused; conftest.py serves them."""

import os
import pickle
import runpy
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10, MNIST

from runners.config import ConfigError
from runners.run import _arguments_checked
from tasks import images
from tasks.conftest import ARCHIVE, BATCHES, md5
from tasks.images import DataError, load


def error_of(*arguments, **keywords):
    """The text of the DataError that ``load`` raises; it is one line."""
    with pytest.raises(DataError) as caught:
        load(*arguments, **keywords)
    text = str(caught.value)
    assert "\n" not in text
    return text


def names_in(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


# What is loaded -----------------------------------------------------------------------------


def test_cifar10_is_what_is_in_the_batches_standardised_by_channel(cifar, tmp_path):
    found = load("cifar10", tmp_path / "not" / "there")
    batches = [pickle.loads(cifar[name]) for name in BATCHES]
    pixels = np.concatenate([batch["data"] for batch in batches]).astype(np.float64) / 255
    expected = np.concatenate(
        [
            (pixels[:, :1024] - 0.4914) / 0.2470,
            (pixels[:, 1024:2048] - 0.4822) / 0.2435,
            (pixels[:, 2048:] - 0.4465) / 0.2616,
        ],
        axis=1,
    )
    assert found.classes == 10
    assert found.inputs.dtype == torch.float32 and found.labels.dtype == torch.int64
    assert found.inputs.is_contiguous()
    np.testing.assert_allclose(found.inputs.numpy(), expected, atol=1e-5)
    assert found.labels.tolist() == [label for batch in batches for label in batch["labels"]]


def test_mnist_is_what_is_in_the_idx_files_standardised(mnist, tmp_path):
    found = load("mnist", str(tmp_path))
    pixels, labels = mnist["train"]
    expected = (pixels.reshape(-1, 784) / 255 - 0.1307) / 0.3081
    assert found.classes == 10
    assert found.inputs.dtype == torch.float32 and found.labels.dtype == torch.int64
    np.testing.assert_allclose(found.inputs.numpy(), expected, atol=1e-5)
    assert found.labels.tolist() == labels.tolist()


def test_digits_are_those_of_scikit_learn_standardised():
    found = load("digits", "/nowhere")
    assert found.inputs.shape == (1437, 64) and found.classes == 10
    assert found.inputs.dtype == torch.float32 and found.labels.dtype == torch.int64
    assert found.inputs.double().mean().abs() < 1e-6
    assert abs(found.inputs.double().std(correction=0) - 1) < 1e-6
    # undone, they are 1,437 of the 1,797 images
    low, high = found.inputs.aminmax()
    scaled = ((found.inputs - low) / (high - low) * 16).round().int()
    digits = load_digits()
    known = Counter(map(tuple, np.column_stack([digits.data.astype(int), digits.target]).tolist()))
    rows = Counter(map(tuple, torch.column_stack([scaled, found.labels]).tolist()))
    assert rows <= known
    assert not Path("/nowhere").exists()


def test_the_split_of_digits_is_part_of_the_results_and_does_not_change():
    labels = load("digits", "/nowhere").labels
    assert labels[:12].tolist() == SPLIT_BEGINS
    assert md5(bytes(labels.tolist())) == SPLIT_MD5


SPLIT_BEGINS = [6, 5, 3, 4, 4, 4, 8, 8, 7, 0, 9, 6]
SPLIT_MD5 = "2be3f9f295f0e4016a10b080fe76827b"


def test_digits_do_without_torchvision(monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.setitem(sys.modules, name, None)  # importing it is an error
    fresh = runpy.run_path(images.__file__)["load"]
    assert len(fresh("digits", tmp_path).labels) == 1437
    with pytest.raises(ImportError, match="torchvision"):
        fresh("mnist", tmp_path)


# What is in data_dir is enough, if it is right ----------------------------------------------


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_no_network_is_touched_for_what_is_there(name, cifar, mnist, server, tmp_path, monkeypatch):
    first = load(name, tmp_path)
    before = len(server.requests)
    modified = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.setattr(images, "urlopen", None)
    again = load(name, tmp_path)
    assert torch.equal(again.inputs, first.inputs) and len(server.requests) == before
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == modified


def test_the_batches_alone_or_the_archive_alone_will_do(cifar, server, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "urlopen", None)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ARCHIVE).write_bytes(server.files[ARCHIVE])
    folder = tmp_path / "b" / CIFAR10.base_folder
    folder.mkdir(parents=True)
    for name, content in cifar.items():
        (folder / name).write_bytes(content)
    a, b = load("cifar10", tmp_path / "a"), load("cifar10", tmp_path / "b")
    assert torch.equal(a.inputs, b.inputs) and torch.equal(a.labels, b.labels)
    (folder / "data_batch_3").unlink()
    (tmp_path / "b" / ARCHIVE).write_bytes(server.files[ARCHIVE])
    assert torch.equal(load("cifar10", tmp_path / "b").inputs, a.inputs)


def test_torchvisions_own_download_is_understood(cifar, mnist, server, tmp_path, monkeypatch):
    CIFAR10(tmp_path, download=True)
    monkeypatch.setattr(MNIST, "mirrors", [server.url])
    MNIST(tmp_path, download=True)
    monkeypatch.setattr(images, "urlopen", None)
    assert len(load("cifar10", tmp_path).labels) == 20
    assert len(load("mnist", tmp_path).labels) == 6


def test_mnist_reads_nothing_that_has_no_checksum(mnist, tmp_path):
    first = load("mnist", tmp_path)
    torch.save((torch.zeros(1, 28, 28), torch.zeros(1)), tmp_path / "legacy.pt")
    processed = tmp_path / "MNIST" / "processed"
    processed.mkdir()
    for name in ("training.pt", "test.pt"):  # of an old torchvision; preferred by the new one
        (processed / name).write_bytes((tmp_path / "legacy.pt").read_bytes())
    (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(b"not idx")
    assert len(MNIST(tmp_path).targets) == 1
    assert torch.equal(load("mnist", tmp_path).inputs, first.inputs)


# Damaged files ------------------------------------------------------------------------------


class Marker:
    """A pickle that does something when it is loaded: it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("name", ["data_batch_2", "test_batch", "batches.meta"])
def test_a_changed_batch_is_refused_before_it_is_unpickled(name, cifar, tmp_path):
    load("cifar10", tmp_path)
    batch = tmp_path / CIFAR10.base_folder / name
    batch.write_bytes(pickle.dumps(Marker(tmp_path / "unpickled")))
    text = error_of("cifar10", tmp_path)
    assert str(batch) in text and "md5" in text and "delete it" in text
    assert not (tmp_path / "unpickled").exists()
    pickle.loads(batch.read_bytes())  # the trap is armed
    assert (tmp_path / "unpickled").exists()


def test_a_changed_archive_is_refused_before_it_is_unpacked(cifar, server, tmp_path):
    (tmp_path / ARCHIVE).write_bytes(server.files[ARCHIVE] + b"\0")
    assert "truncated or damaged" in error_of("cifar10", tmp_path)
    assert not (tmp_path / CIFAR10.base_folder).exists() and not server.requests


def test_truncated_files_are_named_and_left_alone(cifar, mnist, server, tmp_path):
    load("cifar10", tmp_path), load("mnist", tmp_path)
    server.requests.clear()
    for name, path in (
        ("cifar10", tmp_path / CIFAR10.base_folder / "data_batch_1"),
        ("mnist", tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz"),
    ):
        os.truncate(path, 1000)
        text = error_of(name, tmp_path)
        assert f"{path}: truncated or damaged (1,000 bytes" in text
        assert path.stat().st_size == 1000
        path.unlink()  # the way out that the message names
        load(name, tmp_path)
    # the archive of CIFAR-10 was still there
    assert {name.rpartition("/")[2] for name, _ in server.requests} == {path.name}


# Arguments ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, text",
    [
        (
            "cifar-10",
            "dataset=cifar-10: unknown data set; did you mean cifar10? one of cifar10, mnist",
        ),
        ("MNIST", "did you mean mnist?"),
        (
            "imagenet64",
            "dataset=imagenet64: unknown data set; one of cifar10, mnist, digits expected",
        ),
        (None, "dataset=None: unknown data set"),
    ],
)
def test_unknown_names(name, text, tmp_path):
    assert text in error_of(name, tmp_path)


@pytest.mark.parametrize("mirror", ["ftp://host/", "host/cifar", "", 3])
def test_bad_mirrors(mirror, tmp_path):
    assert error_of("mnist", tmp_path, mirror=mirror).startswith(f"mirror={mirror}: a base URL")


def test_the_runner_makes_one_line_of_it(tmp_path):
    line = pytest.raises(ConfigError, match=r"^task\.mirror=x: a base URL")
    with line, _arguments_checked("task", "deep_fc", {"task": {"_target_": "x", "mirror": "x"}}):
        load("mnist", tmp_path, mirror="x")
