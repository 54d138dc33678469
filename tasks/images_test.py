"""Small data sets in the real layouts, served on this machine; torchvision's tables are patched."""

import errno
import gzip
import hashlib
import io
import os
import pickle
import runpy
import socket
import sys
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10, MNIST

from runners.config import ConfigError
from runners.run import _arguments_checked
from tasks import images
from tasks.images import DataError, load

ARCHIVE = CIFAR10.filename
BATCHES = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"]


def md5(content):
    return hashlib.md5(content).hexdigest()


class Server(ThreadingHTTPServer):
    """Files from memory, with ranges unless told otherwise; breaks connections off on demand."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            name, asked = self.path.lstrip("/"), self.headers.get("Range")
            self.server.requests.append((name, asked))
            content = self.server.files.get(name)
            if content is None:
                return self.send_error(404)
            start = int(asked[len("bytes=") : -1]) if asked and self.server.ranges else 0
            if asked and self.server.ranges and start >= len(content):
                return self.send_error(416)
            self.send_response(206 if asked and self.server.ranges else 200)
            if asked and self.server.ranges:
                self.send_header(
                    "Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"
                )
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            sent = self.server.breaks.pop(0) if self.server.breaks else len(content)
            self.wfile.write(content[start : start + sent])

        def log_message(self, *args):
            pass

    def __init__(self):
        super().__init__(("127.0.0.1", 0), self.Handler)
        self.files, self.requests, self.breaks, self.ranges = {}, [], [], True
        self.url = f"http://127.0.0.1:{self.server_port}/"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def cifar_files():
    """Name to content of five training batches of 4 images, a test batch of 3, and the names."""
    random = np.random.default_rng(0)
    files = {}
    for name, count in [*((batch, 4) for batch in BATCHES), ("test_batch", 3)]:
        data = random.integers(0, 256, (count, 3072), dtype=np.uint8)
        labels = random.integers(0, 10, count).tolist()
        files[name] = pickle.dumps({"data": data, "labels": labels})
    files["batches.meta"] = pickle.dumps({"label_names": [f"class {i}" for i in range(10)]})
    return files


@pytest.fixture
def cifar(server, monkeypatch):
    """The batches; the server has their archive, and torchvision takes it for CIFAR-10."""
    files, buffer = cifar_files(), io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{CIFAR10.base_folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    server.files[ARCHIVE] = buffer.getvalue()
    monkeypatch.setattr(CIFAR10, "url", server.url + ARCHIVE)
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(buffer.getvalue()))
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5(files[name])] for name in BATCHES])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5(files["test_batch"])]])
    meta = {**CIFAR10.meta, "md5": md5(files["batches.meta"])}
    monkeypatch.setattr(CIFAR10, "meta", meta)
    return files


@pytest.fixture
def mnist(server, monkeypatch):
    """(pixels, labels) of "train" and "t10k"; the server is the second of two mirrors."""
    random, parts, resources = np.random.default_rng(1), {}, []
    for part, count in (("train", 6), ("t10k", 5)):
        pixels = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = random.integers(0, 10, count, dtype=np.uint8)
        parts[part] = pixels, labels
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            content = gzip.compress(header + array.tobytes())
            server.files[f"{part}-{kind}-ubyte.gz"] = content
            resources.append((f"{part}-{kind}-ubyte.gz", md5(content)))
    monkeypatch.setattr(MNIST, "resources", resources)
    monkeypatch.setattr(MNIST, "mirrors", [server.url + "gone/", server.url])
    return parts


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


@pytest.mark.parametrize("train", [True, False])
def test_cifar10_is_what_is_in_the_batches_standardised_by_channel(cifar, tmp_path, train):
    found = load("cifar10", tmp_path / "not" / "there", train)
    batches = [pickle.loads(cifar[name]) for name in (BATCHES if train else ["test_batch"])]
    pixels = np.concatenate([batch["data"] for batch in batches]).astype(np.float64) / 255
    expected = np.concatenate(
        [
            (pixels[:, :1024] - 0.4914) / 0.2470,
            (pixels[:, 1024:2048] - 0.4822) / 0.2435,
            (pixels[:, 2048:] - 0.4465) / 0.2616,
        ],
        axis=1,
    )
    assert found.name == "cifar10" and found.classes == 10
    assert found.inputs.dtype == torch.float32 and found.labels.dtype == torch.int64
    assert found.inputs.is_contiguous()
    np.testing.assert_allclose(found.inputs.numpy(), expected, atol=1e-5)
    assert found.labels.tolist() == [label for batch in batches for label in batch["labels"]]


@pytest.mark.parametrize("train", [True, False])
def test_mnist_is_what_is_in_the_idx_files_standardised(mnist, tmp_path, train):
    found = load("mnist", str(tmp_path), train)
    pixels, labels = mnist["train" if train else "t10k"]
    expected = (pixels.reshape(-1, 784) / 255 - 0.1307) / 0.3081
    assert found.name == "mnist" and found.classes == 10
    assert found.inputs.dtype == torch.float32 and found.labels.dtype == torch.int64
    np.testing.assert_allclose(found.inputs.numpy(), expected, atol=1e-5)
    assert found.labels.tolist() == labels.tolist()


def test_digits_are_all_there_in_a_fixed_split_standardised_over_the_training_part():
    train, test = load("digits", "/nowhere"), load("digits", "/nowhere", train=False)
    assert train.inputs.shape == (1437, 64) and test.inputs.shape == (360, 64)
    assert train.name == test.name == "digits" and train.classes == 10
    assert train.inputs.dtype == torch.float32 and train.labels.dtype == torch.int64
    assert train.inputs.double().mean().abs() < 1e-6
    assert abs(train.inputs.double().std(correction=0) - 1) < 1e-6
    assert test.labels.unique().tolist() == list(range(10))
    # undone, both parts are the 1,797 images of scikit-learn
    digits = load_digits()
    both = torch.cat([train.inputs, test.inputs])
    scaled = (both - both.min()) / (both.max() - both.min()) * 16
    rows = [
        (*row, label)
        for row, label in zip(
            scaled.round().int().tolist(),
            torch.cat([train.labels, test.labels]).tolist(),
            strict=True,
        )
    ]
    assert sorted(rows) == sorted(
        (*row, label) for row, label in zip(digits.data.astype(int), digits.target, strict=True)
    )
    assert not Path("/nowhere").exists()


def test_the_split_of_digits_is_part_of_the_results_and_does_not_change():
    labels = load("digits", "/nowhere", train=False).labels
    assert labels[:12].tolist() == SPLIT_BEGINS
    assert md5(bytes(labels.tolist())) == SPLIT_MD5


SPLIT_BEGINS = [2, 8, 2, 6, 6, 7, 1, 9, 8, 5, 2, 8]
SPLIT_MD5 = "839b68db0e1f9283b6576765d5765186"


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


# Downloads ----------------------------------------------------------------------------------


def test_a_broken_connection_is_taken_up_where_it_broke(cifar, server, tmp_path):
    server.breaks = [1000, 500]
    load("cifar10", tmp_path)
    assert server.requests == [
        (ARCHIVE, None), (ARCHIVE, "bytes=1000-"), (ARCHIVE, "bytes=1500-"),
    ]  # fmt: skip
    assert names_in(tmp_path).count(ARCHIVE) == 1 and f"{ARCHIVE}.part" not in names_in(tmp_path)


def test_a_download_that_failed_goes_on_in_the_next_call(cifar, server, tmp_path):
    server.breaks = [2000, 0]
    size = len(server.files[ARCHIVE])
    text = error_of("cifar10", tmp_path)
    assert f"broke off after 2,000 of {size:,} bytes" in text and ".part is kept" in text
    part = tmp_path / f"{ARCHIVE}.part"
    assert part.read_bytes() == server.files[ARCHIVE][:2000]
    assert not (tmp_path / ARCHIVE).exists()
    server.requests.clear()
    load("cifar10", tmp_path)
    assert server.requests == [(ARCHIVE, "bytes=2000-")] and not part.exists()


def test_a_host_without_ranges_sends_all_again(cifar, server, tmp_path):
    server.breaks, server.ranges = [1000], False
    assert len(load("cifar10", tmp_path).labels) == 20
    assert (tmp_path / ARCHIVE).read_bytes() == server.files[ARCHIVE]


def test_a_complete_part_only_gets_its_name(cifar, server, tmp_path):
    (tmp_path / f"{ARCHIVE}.part").write_bytes(server.files[ARCHIVE])
    load("cifar10", tmp_path)
    assert not server.requests and (tmp_path / ARCHIVE).exists()


@pytest.mark.parametrize("size", [100, 1_000_000])  # shorter and longer than the archive
def test_a_part_of_another_file_is_thrown_away(size, cifar, server, tmp_path):
    (tmp_path / f"{ARCHIVE}.part").write_bytes(bytes(size))
    assert len(load("cifar10", tmp_path).labels) == 20
    assert server.requests == [(ARCHIVE, f"bytes={size}-"), (ARCHIVE, None)]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_wrong_file_is_told_and_not_kept(ranges, cifar, server, tmp_path):
    server.files[ARCHIVE], server.ranges = b"<html>Log in to the network</html>", ranges
    text = error_of("cifar10", tmp_path)
    assert ARCHIVE in text and "wrong file, md5" in text and "kept" not in text
    assert names_in(tmp_path) in ([], [".lock"])


def test_mnist_tries_the_next_mirror_and_tells_of_all(mnist, server, tmp_path):
    load("mnist", tmp_path / "a")
    assert [name for name, _ in server.requests[:2]] == [
        "gone/train-images-idx3-ubyte.gz", "train-images-idx3-ubyte.gz",
    ]  # fmt: skip
    del server.files["t10k-labels-idx1-ubyte.gz"]
    text = error_of("mnist", tmp_path / "b")
    assert text.count("HTTP 404") == 2 and "t10k-labels-idx1-ubyte.gz: not there" in text


def test_no_network(cifar, mnist, tmp_path, monkeypatch):
    closed = "http://127.0.0.1:9/"
    monkeypatch.setattr(CIFAR10, "url", closed + ARCHIVE)
    text = error_of("cifar10", tmp_path)
    assert f"{tmp_path / ARCHIVE}: not there" in text and "Connection refused" in text
    assert "put the file there" in text and "mirror=URL" in text
    monkeypatch.setattr(MNIST, "mirrors", [closed])
    assert "train-images-idx3-ubyte.gz" in error_of("mnist", tmp_path)
    monkeypatch.setattr(CIFAR10, "url", "https://no-such-host.invalid/" + ARCHIVE)
    assert "https://no-such-host.invalid/" in error_of("cifar10", tmp_path)


def test_a_silent_host_is_not_waited_for_forever(cifar, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert "timed out" in error_of("cifar10", tmp_path, mirror=url)


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
@pytest.mark.parametrize("slash", ["", "/"])
def test_a_mirror_takes_the_place_of_the_hosts(
    name, slash, cifar, mnist, server, tmp_path, monkeypatch
):
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/" + ARCHIVE)
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    expected = load(name, tmp_path / "http", mirror=server.url.rstrip("/") + slash)
    before = len(server.requests)
    shelf = tmp_path / "a shelf"
    shelf.mkdir()
    for file, content in server.files.items():
        (shelf / file).write_bytes(content)
    found = load(name, tmp_path / "file", mirror=shelf.as_uri() + slash)
    assert torch.equal(found.inputs, expected.inputs) and len(server.requests) == before
    text = error_of(name, tmp_path / "empty", mirror=(tmp_path / "none").as_uri())
    assert "No such file" in text
    text = error_of(name, tmp_path / "x", mirror=server.url + "gone")
    assert "HTTP 404" in text and text.count("HTTP") == 1


def test_processes_that_start_together_download_once(cifar, mnist, server, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda name: load(name, tmp_path), ["cifar10", "mnist"] * 4))
    assert len({len(part.labels) for part in found}) == 2
    names = [name for name, _ in server.requests]
    assert len(names) == len(set(names)) == 1 + 2 * 4


# The disk -----------------------------------------------------------------------------------


def no_space(*arguments, **keywords):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class FullAfter(io.BufferedRandom):
    def __init__(self, path, room):
        super().__init__(io.FileIO(path, "ab+"))
        self.room = room

    def write(self, data):
        super().write(data[: self.room])
        return no_space() if len(data) > self.room else len(data)


def test_a_full_disk_while_downloading(cifar, server, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(images, "open", lambda path, mode: FullAfter(path, 300), raising=False)
        text = error_of("cifar10", tmp_path)
    assert f"{ARCHIVE}.part: No space left on device; free some space, or set data_dir" in text
    assert (tmp_path / f"{ARCHIVE}.part").stat().st_size == 300
    server.requests.clear()
    assert len(load("cifar10", tmp_path).labels) == 20
    assert server.requests == [(ARCHIVE, "bytes=300-")]


def test_a_full_disk_while_unpacking(cifar, mnist, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("tarfile.TarFile.extractall", no_space)
        assert "No space left" in error_of("cifar10", tmp_path)
        patch.setattr("shutil.copyfileobj", no_space)
        text = error_of("mnist", tmp_path)
        assert "No space left" in text and "TMPDIR" in text
    left = {path.name for path in tmp_path.iterdir()}
    assert CIFAR10.base_folder not in left and ".extracting" not in left
    assert len(load("cifar10", tmp_path).labels) == 20 and len(load("mnist", tmp_path).labels) == 6


def test_what_a_killed_process_left_of_unpacking_is_not_used(cifar, tmp_path):
    staging = tmp_path / ".extracting" / CIFAR10.base_folder
    staging.mkdir(parents=True)
    (staging / "data_batch_1").write_bytes(cifar["data_batch_1"][:100])
    assert len(load("cifar10", tmp_path).labels) == 20
    assert not (tmp_path / ".extracting").exists()


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_a_data_dir_that_cannot_be_made(name, cifar, mnist, tmp_path):
    (tmp_path / "file").touch()
    for data_dir in (tmp_path / "file", tmp_path / "file" / "below"):
        text = error_of(name, data_dir)
        assert text.startswith(f"data_dir={data_dir}: cannot be made or written: ")


def test_a_data_dir_without_permission(cifar, tmp_path, monkeypatch):
    def refused(lock):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), lock.lock_file)

    monkeypatch.setattr(images.FileLock, "acquire", refused)  # root may write everywhere
    text = error_of("cifar10", tmp_path)
    assert f"data_dir={tmp_path}: cannot be made or written: Permission denied" in text


# Arguments ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, text",
    [
        ("cifar-10", "'cifar-10': unknown data set; did you mean cifar10? one of cifar10, mnist"),
        ("MNIST", "did you mean mnist?"),
        ("imagenet64", "'imagenet64': unknown data set; one of cifar10, mnist, digits expected"),
        (None, "None: unknown data set"),
    ],
)
def test_unknown_names(name, text, tmp_path):
    assert text in error_of(name, tmp_path)


@pytest.mark.parametrize("mirror", ["ftp://host/", "host/cifar", "", 3])
def test_bad_mirrors(mirror, tmp_path):
    assert error_of("mnist", tmp_path, mirror=mirror).startswith(f"mirror={mirror}: a base URL")


def test_the_runner_makes_one_line_of_it(tmp_path):
    line = pytest.raises(ConfigError, match=r"^task\.mirror=x: a base URL")
    with line, _arguments_checked("task", {"task": {"mirror": "x"}}):
        load("mnist", tmp_path, mirror="x")
