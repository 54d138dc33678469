"""The fused form: its kernel over all layouts, its compilers, and its CUDA half without a GPU."""

import ctypes
import subprocess
import sys
import textwrap

import pytest
import torch

from laprop import LaProp, fused

VARIANTS = [(False, False), (True, False), (False, True), (True, True)]


@pytest.fixture(autouse=True)
def two_threads():
    """Whatever the machine has: work is to be divided."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(2, before))
    yield
    torch.set_num_threads(before)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache of its own, empty at first; kernels loaded before are forgotten and come back."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fused._cpu_kernel.cache_clear()
    yield tmp_path / "laprop"
    fused._cpu_kernel.cache_clear()


def follow(make, steps=12, **options):
    """Fused and for-loop side by side; ``make`` gives parameters and functions that fill grads."""
    ends = []
    for form in ({"foreach": False}, {"fused": True}):
        params, give = make()
        optimizer = LaProp(params, lr=0.01, **form, **options)
        for step in range(steps):
            torch.manual_seed(step)
            for param, gradient in zip(params, give(), strict=True):
                param.grad = gradient
            optimizer.step()
        ends.append((params, optimizer))
    (params, optimizer), (twins, other) = ends
    for one, two in zip(params, twins, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-11, atol=1e-12)
        state, other_state = optimizer.state[one], other.state[two]
        assert one.stride() == two.stride() and state.keys() == other_state.keys()
        for name in state:
            torch.testing.assert_close(other_state[name], state[name], rtol=1e-11, atol=1e-12)


def leaf(tensor):
    return tensor.detach().requires_grad_()


def randn(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype)


@pytest.mark.parametrize(("amsgrad", "centered"), VARIANTS)
def test_more_tensors_than_one_call_takes_and_larger_than_one_worker_takes(amsgrad, centered):
    sizes = [*([3] * (fused.CAPACITY - 1)), 0, 5 * fused.CPU_STRETCH + 7, 64, 1, *([2] * 50)]
    assert len(sizes) > fused.CAPACITY

    def make():
        torch.manual_seed(0)
        return [leaf(randn(size)) for size in sizes], lambda: [randn(size) for size in sizes]

    follow(make, amsgrad=amsgrad, centered=centered, eps=1e-3)


def test_the_last_element_belongs_to_a_worker():
    size = 2 * fused.CPU_STRETCH + 1
    torch.testing.assert_close(stepped(torch.zeros(size), lr=1.0), -torch.ones(size))


LAYOUTS = {
    "transposed": lambda: randn(5, 3).t(),
    "channels last": lambda: randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "every second": lambda: randn(12)[::2],
    "column": lambda: randn(4, 6)[:, 2],
    "scalar": lambda: randn(1)[0],
    "one wide": lambda: randn(7, 1),
    "complex": lambda: randn(3, 4, dtype=torch.complex128),
}


@pytest.mark.parametrize("gradient", [*LAYOUTS, "same", "expanded", "conjugated", "negated"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_parameter_and_gradient(layout, gradient):
    def make():
        torch.manual_seed(0)
        param = leaf(LAYOUTS[layout]())
        others = [leaf(randn(6)), leaf(randn(3, 3))]

        def one():
            like = torch.randn_like(param)
            if gradient == "expanded":
                return like.flatten()[0].expand(param.shape)
            if gradient == "conjugated":
                return like.conj()
            if gradient == "negated":
                return torch._neg_view(like)
            if gradient == "same":
                return like
            dense = LAYOUTS[gradient]()
            strided = torch.empty_strided(
                param.shape, sorted(like.contiguous().stride()), dtype=param.dtype
            )
            overlaps = strided.stride() != dense.stride() and len(set(strided.stride())) < 2
            return like.contiguous() if overlaps else strided.copy_(like)

        return [others[0], param, others[1]], lambda: [randn(6), one(), randn(3, 3)]

    follow(make)


def test_a_parameter_seen_through_a_view_keeps_its_neighbours():
    whole = torch.zeros(10, dtype=torch.float64)
    param = whole[::2].requires_grad_()
    optimizer = LaProp([param], lr=1.0, fused=True)
    param.grad = torch.ones(5, dtype=torch.float64)
    optimizer.step()
    torch.testing.assert_close(whole, torch.tensor([-1.0, 0.0] * 5, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once_and_to_nearest(dtype):
    """One step from zero state, in float64, and rounded at the end."""
    values = torch.cat([torch.randn(4000), torch.tensor([0.0, -0.0, 1e-3, 60000.0, -7.0])])
    param = leaf(values.to(dtype))
    gradient = torch.randn(values.shape).to(dtype)
    start, g = param.detach().double(), gradient.double()
    optimizer = LaProp([param], lr=0.25, betas=(0.5, 0.75), eps=0.5, fused=True)
    param.grad = gradient
    optimizer.step()
    n = 0.25 * g * g
    m = 0.5 * 0.25 * g / ((n / 0.25).sqrt() + 0.5)
    state = optimizer.state[param]
    for got, exact in (
        (state["exp_avg_sq"], n), (state["exp_avg"], m), (param.detach(), start - m / 0.5),
    ):  # fmt: skip
        rounded = exact.to(dtype)
        # float32 arithmetic may cross a tie of the half format, which is rare and one step wide
        assert (got != rounded).float().mean() < 0.01
        torch.testing.assert_close(got, rounded)


def test_not_a_number_stays_one():
    param = leaf(torch.zeros(4, dtype=torch.float32))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for options in ({}, {"amsgrad": True}, {"centered": True}):
            param = leaf(torch.zeros(4, dtype=dtype))
            optimizer = LaProp([param], lr=0.1, eps=1e-2, fused=True, **options)
            for value in ([1.0, torch.nan, torch.inf, 2.0], [1.0, 1.0, 1.0, 1.0]):
                param.grad = torch.tensor(value, dtype=dtype)
                optimizer.step()
            assert param.isnan().tolist() == [False, True, True, False]


@pytest.mark.parametrize(("amsgrad", "centered"), VARIANTS)
def test_overflow_and_nan_end_as_in_the_for_loop(amsgrad, centered):
    ends = []
    for form in ({"foreach": False}, {"fused": True}):
        param = leaf(torch.zeros(4, dtype=torch.float64))
        optimizer = LaProp([param], eps=1e-3, amsgrad=amsgrad, centered=centered, **form)
        for step in range(15):
            bad = [1.0, 1e200, torch.nan, torch.inf] if step == 12 else [1.0, -2.0, 3.0, 4.0]
            param.grad = torch.tensor(bad, dtype=torch.float64)
            optimizer.step()
        ends.append({"param": param.detach(), **optimizer.state[param]})
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-11, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_tensor_lr_of_any_precision(dtype):
    param = stepped(torch.zeros(2), lr=torch.tensor(0.5, dtype=dtype))
    torch.testing.assert_close(param.detach(), torch.full((2,), -0.5))


def test_the_host_does_not_read_a_tensor_lr(monkeypatch):
    """On a GPU that would wait for the device, and a graph would replay the number."""
    seen, struct = [], ctypes.POINTER(fused.Arguments)

    def kernel(*options):
        return lambda a: seen.append(ctypes.cast(a, struct).contents.lr_address)

    monkeypatch.setattr(fused, "_cpu_kernel", kernel)
    lr = torch.tensor(0.1, dtype=torch.float64)
    stepped(torch.zeros(2), lr=lr)
    assert seen == [lr.data_ptr()]


def test_a_conjugated_parameter():
    ends = []
    for lazy in (True, False):
        whole = torch.ones(3, dtype=torch.complex128)
        param = leaf(whole.conj() if lazy else whole.clone())
        param.grad = torch.full((3,), 1 + 2j, dtype=torch.complex128)
        LaProp([param], lr=0.5, fused=True).step()
        ends.append(param.detach().resolve_conj())
    assert torch.equal(*ends)


def test_autograd_notices_the_write():
    param = leaf(torch.ones(3))
    optimizer = LaProp([param], fused=True)
    loss = (param**2).sum()
    param.grad = torch.ones(3)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_state_takes_no_more_memory_than_adams():
    """Two buffers; three with amsgrad or centered; besides them a few numbers a parameter."""
    for options, buffers in (({}, 2), ({"amsgrad": True}, 3), ({"centered": True}, 3)):
        for form in ({"foreach": True}, {"fused": True}, {"capturable": True}):
            param = leaf(torch.zeros(1000))
            optimizer = LaProp([param], **options, **form)
            param.grad = torch.ones(1000)
            optimizer.step()
            sizes = [v.numel() * v.element_size() for v in optimizer.state[param].values()]
            assert sum(sizes) <= buffers * 4000 + 24


def test_state_of_another_kind_is_refused_with_the_way_out():
    param = leaf(torch.zeros(3))
    optimizer = LaProp([param], fused=True)
    param.grad = torch.ones(3)
    optimizer.step()
    state = optimizer.state[param]
    state["step"] = state["step"].double()
    with pytest.raises(RuntimeError, match="load_state_dict"):
        optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step()
    assert optimizer.state[param]["step"] == 2
    param.data = param.data.double()
    param.grad = torch.ones(3, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="alike in device, type and size"):
        optimizer.step()


@pytest.mark.parametrize(("size", "device"), [(300, "meta"), (3, "cpu")])
def test_state_elsewhere_or_of_another_size_is_refused(size, device):
    param = leaf(torch.zeros(300))
    optimizer = LaProp([param], fused=True)
    param.grad = torch.ones(300)
    optimizer.step()
    optimizer.state[param]["exp_avg"] = torch.zeros(size, device=device)
    with pytest.raises(RuntimeError, match="alike in device, type and size"):
        optimizer.step()


def test_other_tensors_are_refused():
    with pytest.raises(RuntimeError, match="works on cpu and cuda, but a parameter is on meta"):
        stepped(torch.zeros(2, device="meta"))
    with pytest.raises(RuntimeError, match="does not support torch.float8_e5m2"):
        fused.check_device(torch.zeros(2, dtype=torch.float8_e5m2))

    class Wrapped(torch.Tensor):
        pass

    with pytest.raises(RuntimeError, match="takes plain tensors, but a parameter is a Wrapped"):
        stepped(torch.zeros(2).as_subclass(Wrapped))


def stepped(param, **options):
    param = param.requires_grad_()
    param.grad = torch.ones_like(param)
    LaProp([param], fused=True, **options).step()
    return param


# ---- compilers


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


def test_a_library_appears_only_when_it_is_complete(own_cache, monkeypatch):
    run, seen = subprocess.run, []

    def watched(command, **options):
        done = run(command, **options)
        seen.append(list(own_cache.glob("*.so")))
        return done

    monkeypatch.setattr(subprocess, "run", watched)
    stepped(torch.zeros(2))
    assert seen == [[], []] and len(list(own_cache.glob("*.so"))) == 1


def test_without_a_compiler_the_way_out_is_named(own_cache, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(RuntimeError, match=r"needs a C\+\+ compiler.*install one, or use fused="):
        stepped(torch.zeros(2))


def test_a_compiler_that_does_not_start_is_named(own_cache, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RuntimeError, match=r"\$CXX='no-such-compiler' does not start"):
        stepped(torch.zeros(2))


def test_a_compiler_that_fails_is_quoted(own_cache, monkeypatch):
    monkeypatch.setenv("CXX", f"{sys.executable} -c exit('out_of_order')")
    with pytest.raises(RuntimeError, match=r"could not compile.*\n.*out_of_order"):
        stepped(torch.zeros(2))
    assert not list(own_cache.iterdir())


def test_a_home_that_cannot_be_written_is_no_obstacle(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    fused._cpu_kernel.cache_clear()
    try:
        torch.testing.assert_close(stepped(torch.zeros(2), lr=1.0), -torch.ones(2))
    finally:
        fused._cpu_kernel.cache_clear()


# ---- CUDA without a GPU


@pytest.mark.skipif(torch.version.cuda is None, reason="this torch brings no CUDA compiler")
@pytest.mark.parametrize("scalar", sorted(set(fused.SCALARS.values())))
@pytest.mark.parametrize(("amsgrad", "centered"), VARIANTS)
def test_torchs_cuda_compiler_takes_the_source(scalar, amsgrad, centered):
    from torch.cuda._utils import _nvrtc_compile

    options = ["--std=c++17", *fused._defines(scalar, amsgrad, centered)]
    for name in ("advance_all", "update_all"):
        binary, found = _nvrtc_compile(fused.SOURCE.read_text(), name, "90", nvcc_options=options)
        assert found == name and len(binary) > 1000


def test_the_python_struct_is_that_of_the_source(tmp_path):
    names = [name for name, _ in fused.Arguments._fields_]
    lines = "".join(f'printf("%zu\\n", offsetof(Arguments, {name}));' for name in names)
    program = tmp_path / "offsets.cpp"
    program.write_text(
        "#include <cstddef>\n#include <cstdio>\n"
        f'#include "{fused.SOURCE}"\n'
        f'int main() {{ {lines} printf("%zu\\n", sizeof(Arguments)); }}'
    )
    build([program, "-o", tmp_path / "offsets"], scalar=0)
    printed = subprocess.run([tmp_path / "offsets"], capture_output=True, text=True, check=True)
    expected = [getattr(fused.Arguments, name).offset for name in names]
    assert [int(n) for n in printed.stdout.split()] == [*expected, ctypes.sizeof(fused.Arguments)]
    assert ctypes.sizeof(fused.Arguments) <= 32_764  # what CUDA takes as arguments


# What CUDA's compiler knows by itself, and a launch as two loops.
EMULATION = """
    #include <cmath>
    #include <cstring>
    #define __CUDACC__
    #define __device__
    #define __forceinline__ static inline
    #define __global__
    #define __grid_constant__
    struct { unsigned x; } blockIdx, threadIdx, blockDim;
    float __uint_as_float(unsigned bits) { float x; std::memcpy(&x, &bits, 4); return x; }
    unsigned __float_as_uint(float x) { unsigned bits; std::memcpy(&bits, &x, 4); return bits; }
    using std::sqrt;
    #include "SOURCE"
    extern "C" void launch(int which, int blocks, int threads, const Arguments* a) {
      blockDim.x = threads;
      for (blockIdx.x = 0; blockIdx.x < (unsigned)blocks; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < (unsigned)threads; ++threadIdx.x)
          which ? update_all(*a) : advance_all(*a);
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


def build(command, scalar, amsgrad=False, centered=False):
    flags = [*fused._defines(scalar, amsgrad, centered), "-std=c++17", "-Wno-unknown-pragmas"]
    subprocess.run(["c++", *flags, *map(str, command)], check=True, capture_output=True)


@pytest.mark.parametrize(("amsgrad", "centered"), VARIANTS)
def test_the_cuda_kernels_run_as_loops_follow_the_for_loop(
    tmp_path, monkeypatch, amsgrad, centered
):
    """The GPU's half of the source with blocks and threads one after the other."""
    (tmp_path / "cuda.cpp").write_text(
        textwrap.dedent(EMULATION).replace("SOURCE", str(fused.SOURCE))
    )
    build(["-shared", "-fPIC", "-o", tmp_path / "cuda.so", tmp_path / "cuda.cpp"], 1, amsgrad,
          centered)  # fmt: skip
    launch = ctypes.CDLL(str(tmp_path / "cuda.so")).launch
    calls = []

    def kernel(*options):
        def call(arguments):
            a = ctypes.cast(arguments, ctypes.POINTER(fused.Arguments)).contents
            blocks = a.workers = -(-a.first[a.count] // 100)
            calls.append((a.count, blocks))
            launch(0, -(-a.count // 8), 8, arguments)
            launch(1, blocks, 8, arguments)

        return call

    monkeypatch.setattr(fused, "_cpu_kernel", kernel)
    sizes = [3, 0, 500, 64, 65, 1, 1000, *([2] * 20)]

    def make():
        torch.manual_seed(0)
        return [leaf(randn(size)) for size in sizes], lambda: [randn(size) for size in sizes]

    follow(make, amsgrad=amsgrad, centered=centered, eps=1e-3, weight_decay=0.01)
    assert calls == [(len(sizes), -(-sum(sizes) // 100))] * 12
