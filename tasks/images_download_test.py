"""Downloads: taken up where they broke, told when they fail, done once by many processes."""

import errno
import io
import os
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torchvision.datasets import CIFAR10, MNIST

from tasks import images
from tasks.conftest import ARCHIVE
from tasks.images import load
from tasks.images_test import error_of, names_in


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
