"""The fused form's compilers and their cache, and its CUDA half without a GPU."""

import contextlib
import ctypes
import subprocess
import sys
import textwrap

import pytest
import torch

from laprop import LaProp, fused
from laprop.fused_test import VARIANTS, follow, leaf, randn


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache of its own, empty at first; kernels loaded before are forgotten and come back."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fused._cpu_kernel.cache_clear()
    yield tmp_path / "laprop"
    fused._cpu_kernel.cache_clear()


def stepped(param, **options):
    param = param.requires_grad_()
    param.grad = torch.ones_like(param)
    LaProp([param], fused=True, **options).step()
    return param


# ---- compilers


@pytest.mark.compiler
def test_one_compilation_whatever_the_shapes_and_none_in_a_later_process(own_cache, monkeypatch):
    for shape in ((2,), (3, 4), (0,), (70_000,)):
        stepped(torch.zeros(shape))
    (library,) = own_cache.iterdir()
    program = (
        "import subprocess, torch\n"
        "from laprop import LaProp\n"
        "run = subprocess.run\n"
        "def refuse(command, **options):\n"
        "    assert '-o' not in command, 'compiled again'\n"
        "    return run(command, **options)\n"
        "subprocess.run = refuse\n"
        "param = torch.zeros(5, requires_grad=True)\n"
        "param.grad = torch.ones(5)\n"
        "LaProp([param], lr=1.0, fused=True).step()\n"
        "assert torch.allclose(param, -torch.ones(5))\n"
    )
    folder = str(fused.SOURCE.parent.parent)
    subprocess.run([sys.executable, "-c", program], check=True, cwd=folder, timeout=120)
    assert list(own_cache.iterdir()) == [library]


@pytest.mark.compiler
@pytest.mark.parametrize("what", ["version", "flags", "processor", "source"])
def test_what_decides_the_machine_code_decides_the_file(own_cache, monkeypatch, what):
    stepped(torch.zeros(2))

    class Edited(type(fused.SOURCE)):
        def read_bytes(self):
            return super().read_bytes() + b"\n"

    name, value = {
        "version": ("_compiler_version", lambda compiler: "another"),
        "flags": ("FLAGS", (*fused.FLAGS, "-DANOTHER")),
        "processor": ("_processor", lambda: "another"),
        "source": ("SOURCE", Edited(fused.SOURCE)),
    }[what]
    monkeypatch.setattr(fused, name, value)
    fused._cpu_kernel.cache_clear()
    stepped(torch.zeros(2))
    assert len(list(own_cache.glob("*.so"))) == 2


@pytest.mark.compiler
def test_a_library_appears_only_when_it_is_complete(own_cache, monkeypatch):
    run, seen = subprocess.run, []

    def watched(command, **options):
        done = run(command, **options)
        seen.append(list(own_cache.glob("*.so")))
        return done

    monkeypatch.setattr(subprocess, "run", watched)
    stepped(torch.zeros(2))
    assert seen == [[], []] and len(list(own_cache.glob("*.so"))) == 1


def test_without_a_compiler_the_way_out_is_named_before_any_step(own_cache, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    message = r"needs a C\+\+ compiler.*install one, or use fused="
    with pytest.raises(RuntimeError, match=message):
        LaProp([torch.zeros(2)], fused=True)
    optimizer = LaProp([torch.zeros(2)])
    with pytest.raises(RuntimeError, match=message):
        optimizer.add_param_group({"params": [torch.zeros(3)], "fused": True})
    assert len(optimizer.param_groups) == 1  # the refused group is not half there


def test_a_compiler_that_is_not_there_is_named(own_cache, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RuntimeError, match=r"there is no \$CXX='no-such-compiler' here"):
        LaProp([torch.zeros(2)], fused=True)


def test_a_compiler_that_fails_is_quoted(own_cache, monkeypatch):
    monkeypatch.setenv("CXX", f"{sys.executable} -c exit('out_of_order')")
    with pytest.raises(RuntimeError, match=r"could not compile.*\n.*out_of_order"):
        stepped(torch.zeros(2))
    assert not list(own_cache.iterdir())


@pytest.mark.compiler
def test_a_home_that_cannot_be_written_is_no_obstacle(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    fused._cpu_kernel.cache_clear()
    try:
        torch.testing.assert_close(stepped(torch.zeros(2), lr=1.0), -torch.ones(2))
    finally:
        fused._cpu_kernel.cache_clear()


@pytest.mark.compiler
@pytest.mark.parametrize("wrong", ["open to others", "somebody else's", "no home"])
def test_code_is_loaded_from_no_folder_that_others_can_write(tmp_path, monkeypatch, wrong):
    theirs = tmp_path / "laprop"
    theirs.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if wrong == "open to others":
        theirs.chmod(0o777)
    elif wrong == "somebody else's":
        monkeypatch.setattr(fused.os, "getuid", lambda: theirs.stat().st_uid + 1)
    else:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(fused.Path, "home", raising(RuntimeError("no home directory")))
    fused._cpu_kernel.cache_clear()
    try:
        torch.testing.assert_close(stepped(torch.zeros(2), lr=1.0), -torch.ones(2))
    finally:
        fused._cpu_kernel.cache_clear()
    assert not list(theirs.iterdir())


def raising(error):
    def call(*_, **__):
        raise error

    return call


# ---- CUDA without a GPU


def test_a_cuda_compiler_that_cannot_be_loaded_is_named(monkeypatch):
    missing = raising(OSError("libnvrtc.so: cannot open"))
    monkeypatch.setattr(torch.cuda, "_compile_kernel", missing, raising=False)
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    with pytest.raises(RuntimeError, match=r"libnvrtc\.so: cannot open\); use fused=False"):
        fused._cuda_kernel(0, False, False, fused.FEW, 0)


@pytest.mark.skipif(torch.version.cuda is None, reason="this torch brings no CUDA compiler")
@pytest.mark.parametrize("scalar", sorted(set(fused.SCALARS.values())))
@pytest.mark.parametrize("capacity", [fused.FEW, fused.CAPACITY])
@pytest.mark.parametrize(("amsgrad", "centered"), VARIANTS)
def test_torchs_cuda_compiler_takes_the_source(scalar, amsgrad, centered, capacity, monkeypatch):
    from torch.cuda._utils import _nvrtc_compile
    from torch.utils import cpp_extension

    monkeypatch.setattr(cpp_extension, "CUDA_HOME", None)  # torch alone is enough
    options = ["--std=c++17", *fused._defines(scalar, amsgrad, centered, capacity)]
    with fused._headers_not_needed():
        text = fused.SOURCE.read_text()
        binary, found = _nvrtc_compile(text, "step_all", "90", nvcc_options=options)
    assert found == "step_all" and len(binary) > 1000
    assert cpp_extension.CUDA_HOME is None


@pytest.mark.compiler
@pytest.mark.parametrize(("capacity", "most"), [(fused.FEW, 4096), (fused.CAPACITY, 32_764)])
def test_the_python_struct_is_that_of_the_source(tmp_path, capacity, most):
    struct = fused.arguments_of(capacity)
    names = [name for name, _ in struct._fields_]
    lines = "".join(f'printf("%zu\\n", offsetof(Arguments, {name}));' for name in names)
    program = tmp_path / "offsets.cpp"
    program.write_text(
        "#include <cstddef>\n#include <cstdio>\n"
        f'#include "{fused.SOURCE}"\n'
        f'int main() {{ {lines} printf("%zu\\n", sizeof(Arguments)); }}'
    )
    build([program, "-o", tmp_path / "offsets"], scalar=0, capacity=capacity)
    printed = subprocess.run([tmp_path / "offsets"], capture_output=True, text=True, check=True)
    expected = [getattr(struct, name).offset for name in names]
    assert [int(n) for n in printed.stdout.split()] == [*expected, ctypes.sizeof(struct)]
    assert ctypes.sizeof(struct) <= most  # what CUDA takes as arguments


# What CUDA's compiler knows by itself, and a launch: one block after the other, each in threads.
EMULATION = """
    #include <cmath>
    #include <cstring>
    #include <pthread.h>
    #include <thread>
    #include <vector>
    #define __CUDACC__
    #define __device__
    #define __forceinline__ static inline
    #define __global__
    #define __grid_constant__
    #define __shared__ static
    struct { unsigned x; } blockIdx, blockDim, gridDim;
    thread_local struct { unsigned x; } threadIdx;
    pthread_barrier_t barrier;
    void __syncthreads() { pthread_barrier_wait(&barrier); }
    void __threadfence() {}
    unsigned atomicAdd(unsigned* number, unsigned more) { return (*number += more) - more; }
    float __uint_as_float(unsigned bits) { float x; std::memcpy(&x, &bits, 4); return x; }
    unsigned __float_as_uint(float x) { unsigned bits; std::memcpy(&bits, &x, 4); return bits; }
    using std::sqrt;
    #include "SOURCE"
    extern "C" void launch(int blocks, int threads, const Arguments* a) {
      blockDim.x = threads, gridDim.x = blocks;
      pthread_barrier_init(&barrier, nullptr, threads);
      for (blockIdx.x = 0; blockIdx.x < (unsigned)blocks; ++blockIdx.x) {
        std::vector<std::thread> started;
        for (int i = 0; i < threads; ++i)
          started.emplace_back([=] { threadIdx.x = i; step_all(*a); });
        for (auto& thread : started) thread.join();
      }
      pthread_barrier_destroy(&barrier);
    }
"""


def test_bfloat16_stores_every_nan_as_one(tmp_path):
    """Rounding must not carry the bits of CUDA's NaN, all ones, into a number."""
    text = textwrap.dedent(EMULATION).replace("SOURCE", str(fused.SOURCE))
    text += '\nextern "C" unsigned stored(unsigned bits) { return store(from_bits(bits)); }\n'
    (tmp_path / "cuda.cpp").write_text(text)
    build(["-shared", "-fPIC", "-o", tmp_path / "cuda.so", tmp_path / "cuda.cpp"], scalar=2)
    stored = ctypes.CDLL(str(tmp_path / "cuda.so")).stored
    for bits in (0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000, 0x7F800001):
        assert stored(bits) & 0x7FFF > 0x7F80


def build(command, scalar, amsgrad=False, centered=False, capacity=fused.CAPACITY):
    flags = [
        *fused._defines(scalar, amsgrad, centered, capacity),
        "-std=c++17",
        "-pthread",
        "-Wno-unknown-pragmas",
    ]
    subprocess.run(["c++", *flags, *map(str, command)], check=True, capture_output=True)


@pytest.mark.compiler
@pytest.mark.parametrize(("amsgrad", "centered"), VARIANTS)
def test_the_cuda_kernel_run_by_threads_follows_the_for_loop(
    tmp_path, monkeypatch, amsgrad, centered
):
    """The GPU's half of the source, of which only the blocks come one after the other."""
    (tmp_path / "cuda.cpp").write_text(
        textwrap.dedent(EMULATION).replace("SOURCE", str(fused.SOURCE))
    )
    build(["-shared", "-fPIC", "-o", tmp_path / "cuda.so", tmp_path / "cuda.cpp"], 1, amsgrad,
          centered)  # fmt: skip
    launch = ctypes.CDLL(str(tmp_path / "cuda.so")).launch
    calls, done = [], ctypes.c_uint(0)

    def kernel(*options):
        def call(arguments):
            a = ctypes.cast(arguments, ctypes.POINTER(fused.arguments_of(fused.CAPACITY))).contents
            blocks = a.workers = -(-a.first[a.count] // 100)
            a.done = ctypes.addressof(done)
            calls.append((a.count, blocks))
            launch(blocks, 8, arguments)
            assert done.value == 0

        return call

    monkeypatch.setattr(fused, "_cpu_kernel", kernel)
    sizes = [3, 0, 500, 64, 65, 1, 1000, *([2] * 20)]

    def make():
        torch.manual_seed(0)
        return [leaf(randn(size)) for size in sizes], lambda: [randn(size) for size in sizes]

    follow(make, amsgrad=amsgrad, centered=centered, eps=1e-3, weight_decay=0.01)
    assert calls == [(len(sizes), -(-sum(sizes) // 100))] * 12
