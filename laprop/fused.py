"""The fused form: one pass over memory, by a kernel compiled at first use from ``fused.cpp``.

On a CPU the machine's C++ compiler makes a shared library, once for each number type and option
in question; it stays in ``$XDG_CACHE_HOME/laprop`` (``~/.cache/laprop``) for later processes. On
CUDA the compiler that comes with torch does it, without a CUDA toolkit. The number and the shapes of parameters never
matter, and the step can be captured in a CUDA graph.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import accumulate, chain
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("fused.cpp")
# Tensors in one call: the arguments of a CUDA kernel are 32,764 bytes at most, and those of up to
# 4,096 are launched faster.
CAPACITY = 400
FEW = 48
GPU_BLOCK = 256  # threads
GPU_STRETCH = 8192  # elements a block
# Below this number of elements a thread costs more than it saves.
CPU_STRETCH = 16384
COMPILERS = ("c++", "g++", "clang++")
# Of /proc/cpuinfo, on x86 and on Arm: what tells processors apart that need other machine code.
PROCESSOR = ("flags", "model name", "Features", "CPU implementer", "CPU variant", "CPU part")
FLAGS = (
    "-O3", "-march=native", "-std=c++17", "-fPIC", "-shared", "-fopenmp",
    "-fno-math-errno", "-fno-trapping-math",  # else a square root is not vectorized
)  # fmt: skip

# The number in which a type is stored; a complex number is two of them.
SCALARS = {
    torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3,
    torch.complex64: 0, torch.complex128: 1,
}  # fmt: skip

TABLES = (
    "param", "grad", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_mean_avg_beta2",
    "step", "exp_avg_lr_1", "exp_avg_lr_2",
)  # fmt: skip

_dtype = attrgetter("dtype")


@functools.cache
def arguments_of(capacity: int) -> type[ctypes.Structure]:
    """The struct Arguments in the source."""
    addresses = ctypes.c_longlong * capacity

    class Arguments(ctypes.Structure):
        _fields_ = [
            *((name, ctypes.c_double) for name in ("lr", "beta1", "beta2", "rest1", "rest2")),
            *((name, ctypes.c_double) for name in ("eps", "scale_before", "scale_after", "sign")),
            ("lr_address", ctypes.c_longlong),
            ("done", ctypes.c_longlong),
            ("count", ctypes.c_longlong),
            ("workers", ctypes.c_longlong),
            ("first", ctypes.c_longlong * (capacity + 1)),
            *((name, addresses) for name in TABLES),
        ]

    return Arguments


def check(params: Sequence[Tensor]) -> None:
    """Refuse, before any step, parameters that the kernel cannot reach, and a missing compiler."""
    for param in params:
        check_device(param)
    if any(param.device.type == "cpu" for param in params):
        _compiler()


def check_device(param: Tensor) -> None:
    """Refuse what the kernel cannot reach: other devices, number types and tensor subclasses."""
    if param.device.type not in ("cpu", "cuda") or torch.version.hip and param.is_cuda:
        raise RuntimeError(
            f"fused=True works on cpu and cuda, but a parameter is on {param.device}: "
            "use fused=False"
        )
    if param.dtype not in SCALARS:
        raise RuntimeError(f"fused=True does not support {param.dtype}: use fused=False")
    if type(param) not in (Tensor, torch.nn.Parameter):
        raise RuntimeError(
            f"fused=True takes plain tensors, but a parameter is a {type(param).__name__}: "
            "use fused=False"
        )


class Part:
    """At most ``CAPACITY`` parameters of one device and type, which one call of the kernel serves."""

    def __init__(self, places: list[int], tables: Sequence[list[Tensor]]) -> None:
        self.places = places  # in the group
        self.device, self.dtype = tables[0][0].device, tables[0][0].dtype
        numbers = 2 if self.dtype.is_complex else 1
        ends = list(accumulate((numbers * t.numel() for t in tables[0]), initial=0))
        self.count, self.total = len(places), ends[-1]
        on_gpu = self.device.type == "cuda"
        self.capacity = FEW if on_gpu and self.count <= FEW else CAPACITY
        self.arguments: Any = arguments_of(self.capacity)(count=self.count)
        self.pointers = (ctypes.c_void_p * 1)(ctypes.addressof(self.arguments))
        self.arguments.first[: len(ends)] = ends
        for name, table in zip(TABLES, tables, strict=True):
            self.point(name, list(map(Tensor.data_ptr, table)))

    @functools.cached_property
    def done(self) -> Tensor:
        """In which the workers count themselves, on a GPU."""
        return _zero(self.device)

    def point(self, name: str, addresses: list[int]) -> None:
        getattr(self.arguments, name)[: len(addresses)] = addresses


class Kept:
    """What a group's step leaves for the next: what the kernel is told, which stays as it is but
    for the gradients and the options, as long as the tensors ``looked_at`` stay where they are."""

    def __init__(self) -> None:
        self.looked_at: list[list[Any]] = []
        self.parts: list[Part] = []


@torch.compiler.disable
def step(tables: Sequence[list[Tensor]], group: dict[str, Any], kept: Kept) -> None:
    """One step of all parameters of a group.

    Args:
        tables: the lists of tensors in the order of ``TABLES``; those of the maximum and of the
            mean are empty where the option is off.
        group: the options of the parameter group.
        kept: by the last step of the group.

    Raises:
        RuntimeError: no compiler, or tensors of one parameter differ in device, type or size.
    """
    params, grads, *states = tables
    # Where all but the gradients are, which a backward pass makes anew; and of what kind they are.
    looked_at: list[list[Any]] = [
        list(map(Tensor.data_ptr, chain(params, *states))),
        list(map(_dtype, chain(params, grads))),
        list(map(Tensor.numel, params)),
    ]
    # A parameter can be laid out anew in the same place; a gradient be any view.
    plain = all(map(Tensor.is_contiguous, params)) and _plain(grads)
    if plain and looked_at == kept.looked_at:
        addresses = list(map(Tensor.data_ptr, grads))
        for part in kept.parts:
            part.point("grad", [addresses[place] for place in part.places])
            _launch(part, group)
    else:
        kept.looked_at = []
        tables, written_back = _flat(tables)
        kept.parts = _parts(tables)
        for part in kept.parts:
            _launch(part, group)
        for original, used in written_back:
            original.copy_(used)
        if not written_back:  # else the addresses are those of copies
            kept.looked_at = looked_at
    torch.autograd.graph.increment_version(params)


def _parts(tables: Sequence[list[Tensor]]) -> list[Part]:
    places: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for place, param in enumerate(tables[0]):
        places.setdefault((param.device, param.dtype), []).append(place)
    return [
        Part(some, [[table[place] for place in some] if table else [] for table in tables])
        for chosen in places.values()
        for start in range(0, len(chosen), CAPACITY)
        if (some := chosen[start : start + CAPACITY])
    ]


def _launch(part: Part, group: dict[str, Any]) -> None:
    device, arguments = part.device, part.arguments
    lr, (beta1, beta2), weight_decay = group["lr"], group["betas"], group["weight_decay"]
    arguments.beta1, arguments.beta2 = beta1, beta2
    arguments.rest1, arguments.rest2 = 1 - beta1, 1 - beta2
    arguments.eps = group["eps"]
    arguments.scale_before = weight_decay if group["decay_by_lr"] else 0.0
    arguments.scale_after = 1.0 if group["decay_by_lr"] else 1 - weight_decay
    arguments.sign = -1.0 if group["maximize"] else 1.0
    if isinstance(lr, Tensor):
        lr = lr.to(device=device, dtype=torch.float64)
        arguments.lr_address = lr.data_ptr()
    else:
        arguments.lr, arguments.lr_address = lr, 0

    options = (SCALARS[part.dtype], group["amsgrad"], group["centered"])
    if device.type == "cpu":
        arguments.workers = max(1, min(torch.get_num_threads(), part.total // CPU_STRETCH))
        _cpu_kernel(*options)(ctypes.byref(arguments))
    else:
        arguments.workers = max(1, -(-part.total // GPU_STRETCH))
        launch = _cuda_kernel(*options, part.capacity, device.index)
        # entering a context costs as much as a launch
        present = torch.cuda.current_device() == device.index
        with nullcontext() if present else torch.cuda.device(device):
            # A graph has a count of its own: it may outlive the part, and capturing sets nothing to 0.
            capturing = torch.cuda.is_current_stream_capturing()
            done = _zero(device) if capturing else part.done
            arguments.done = done.data_ptr()
            launch(arguments.workers, part.pointers)


def _zero(device: torch.device) -> Tensor:
    return torch.zeros((), dtype=torch.int32, device=device)


def _flat(
    tables: Sequence[list[Tensor]],
) -> tuple[Sequence[list[Tensor]], list[tuple[Tensor, Tensor]]]:
    """Tensors whose elements lie in memory without gaps, in the same order for each parameter.

    Where that is not so already, a copy takes part; the pairs say what to write back afterwards.
    """
    moments = [table for table in tables[:6] if table]
    kinds = [(param.device, param.dtype, param.numel()) for param in tables[0]]
    if any([(t.device, t.dtype, t.numel()) for t in table] != kinds for table in moments):
        raise RuntimeError(
            "fused=True needs parameter, gradient and state alike in device, type and size"
        )
    for table, number in zip(
        tables[6:], (torch.float32, torch.float64, torch.float64), strict=True
    ):
        if [(t.device, t.dtype) for t in table] != [(device, number) for device, _, _ in kinds]:
            raise RuntimeError(
                "fused=True was switched on after steps without it: the state moves with "
                "optimizer.load_state_dict(optimizer.state_dict())"
            )
    if all(map(_plain, moments)):
        return tables, []

    copied = [list(table) for table in tables]
    written_back = []
    for place, exp_avg in enumerate(tables[2]):
        # Strides that empty_like keeps leave no gaps: a transposed or channels-last tensor.
        layout = torch.empty_like(exp_avg)
        for number, table in enumerate(tables[:6]):
            if table and (table[place].stride() != layout.stride() or _lazy([table[place]])):
                copied[number][place] = torch.empty_like(layout).copy_(table[place])
                if table is not tables[1]:
                    written_back.append((table[place], copied[number][place]))
    return copied, written_back


def _plain(table: list[Tensor]) -> bool:
    """Whether all are contiguous and hold their numbers as they are."""
    return all(map(Tensor.is_contiguous, table)) and not _lazy(table)


def _lazy(table: list[Tensor]) -> bool:
    """Whether a conjugation or a change of sign is still to be done."""
    return any(map(Tensor.is_neg, table)) or any(map(Tensor.is_conj, table))


# ---- compiling and calling


@functools.cache
def _cpu_kernel(scalar: int, amsgrad: bool, centered: bool) -> Callable[..., None]:
    compiler = _compiler()
    command = [*compiler.split(), *FLAGS, *_defines(scalar, amsgrad, centered), str(SOURCE)]
    key = hashlib.sha256(
        "\n".join([*command, _compiler_version(compiler), _processor()]).encode()
        + SOURCE.read_bytes()
    ).hexdigest()[:20]
    name = f"laprop-{key}.so"
    folder = _cache_folder()
    path = folder / name
    if not path.exists():
        # Other processes may do the same: each writes a file of its own, the last rename wins.
        with tempfile.TemporaryDirectory(dir=folder) as private:
            made = Path(private) / name
            done = subprocess.run(
                [*command, "-o", str(made)], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise RuntimeError(
                    f"fused=True: {compiler} could not compile the kernel; use fused=False, or "
                    f"another compiler in $CXX\n{done.stderr.strip()}"
                )
            os.replace(made, path)
    kernel = ctypes.CDLL(str(path)).step_all
    kernel.argtypes, kernel.restype = [ctypes.c_void_p], None
    return kernel


def _compiler() -> str:
    compiler = os.environ.get("CXX") or next(filter(shutil.which, COMPILERS), None)
    if compiler is None:
        raise RuntimeError(
            "fused=True on a CPU needs a C++ compiler, and none of "
            f"$CXX, {', '.join(COMPILERS)} is here: install one, or use fused=False"
        )
    if shutil.which((compiler.split() or [""])[0]) is None:
        raise RuntimeError(
            f"fused=True on a CPU needs a C++ compiler, but there is no $CXX={compiler!r} here: "
            "install one, or use fused=False"
        )
    return compiler


def _defines(scalar: int, amsgrad: bool, centered: bool, capacity: int = CAPACITY) -> list[str]:
    values = {"SCALAR": scalar, "AMSGRAD": amsgrad, "CENTERED": centered, "CAPACITY": capacity}
    return [f"-D{name}={int(value)}" for name, value in values.items()]


def _compiler_version(compiler: str) -> str:
    command = [*compiler.split(), "--version"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _processor() -> str:
    """What -march=native looks at: a home directory may be shared by different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.platform() + platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(PROCESSOR)}))


def _cache_folder() -> Path:
    """A folder that this user alone writes, since what lies in it is loaded as code."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "laprop"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.stat()
        others_write = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if found.st_uid == os.getuid() and not others_write:
            with tempfile.TemporaryFile(dir=folder):
                return folder
    except (OSError, RuntimeError):  # not writable; no home directory
        pass
    return _private_folder()


@functools.cache
def _private_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="laprop-"))


Launch = Callable[[int, ctypes.Array[ctypes.c_void_p]], None]  # so many blocks, the arguments


@functools.cache
def _cuda_kernel(scalar: int, amsgrad: bool, centered: bool, capacity: int, index: int) -> Launch:
    compile_kernel = getattr(torch.cuda, "_compile_kernel", None)
    if compile_kernel is None:
        raise RuntimeError(
            f"fused=True on CUDA: torch {torch.__version__} cannot compile it; use fused=False"
        )
    source = SOURCE.read_text()
    options = ["--std=c++17", *_defines(scalar, amsgrad, centered, capacity)]
    try:
        with torch.cuda.device(index), _headers_not_needed():
            kernel = compile_kernel(source, "step_all", nvcc_options=options)
    except OSError as error:
        raise RuntimeError(
            f"fused=True on CUDA: torch's compiler cannot be used ({error}); use fused=False"
        ) from error
    return _launcher(kernel.func, index)


@contextmanager
def _headers_not_needed() -> Iterator[None]:
    """Torch gives its compiler the headers of a CUDA toolkit, and refuses to compile without one;
    the source includes none of them."""
    from torch.utils import cpp_extension

    toolkit = cpp_extension.CUDA_HOME
    cpp_extension.CUDA_HOME = toolkit or str(SOURCE.parent)
    try:
        yield
    finally:
        cpp_extension.CUDA_HOME = toolkit


def _launcher(function: Any, index: int) -> Launch:
    """Torch's own takes tensors and numbers, but no struct. A step of few parameters takes as long
    as its launches, so that this is short."""
    from torch.cuda._utils import _check_cuda, _get_gpu_runtime_library

    launch_kernel = _get_gpu_runtime_library().cuLaunchKernel
    present_stream = torch._C._cuda_getCurrentRawStream

    def launch(blocks: int, pointers: ctypes.Array[ctypes.c_void_p]) -> None:
        stream = ctypes.c_void_p(present_stream(index))
        _check_cuda(
            launch_kernel(function, blocks, 1, 1, GPU_BLOCK, 1, 1, 0, stream, pointers, None)
        )

    return launch
