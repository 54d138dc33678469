"""Small data sets in the real layouts, served on this machine; torchvision's tables are patched."""

import gzip
import hashlib
import io
import pickle
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from torchvision.datasets import CIFAR10, MNIST

ARCHIVE = CIFAR10.filename
BATCHES = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"]


def md5(content):
    return hashlib.md5(content).hexdigest()


class Server(ThreadingHTTPServer):
    """Files from memory, with ranges unless told otherwise; breaks connections off on demand."""

    class Handler(BaseHTTPRequestHandler):
        server: "Server"

        def do_GET(self):
            name, asked = self.path.lstrip("/"), self.headers.get("Range")
            self.server.requests.append((name, asked))
            content = self.server.files.get(name)
            if content is None:
                return self.send_error(404)
            start = int(asked[len("bytes=") : -1]) if asked and self.server.ranges else 0
            if asked and self.server.ranges and start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
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
