"""What is done again and again on tensors of one size, as a CUDA graph."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Captured:
    """A function of tensors that becomes a CUDA graph after WARM_UP calls; on a CPU it is called.

    What it returns is overwritten by the next call.
    """

    WARM_UP = 3

    def __init__(self, function: Callable[..., Any], device: torch.device) -> None:
        self._function, self._device = function, device
        self._inputs: list[Tensor] = []
        # those from the host, in memory that a copy need not wait for
        self._staged: list[Tensor] = []
        self._copied = torch.cuda.Event() if device.type == "cuda" else None
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._outputs: Any = None

    def __call__(self, *inputs: Tensor) -> Any:
        if self._device.type != "cuda":
            return self._function(*inputs)
        self._take(inputs)
        self._calls += 1
        if self._calls <= self.WARM_UP:  # on a stream of its own, as capturing asks for
            side, present = torch.cuda.Stream(), torch.cuda.current_stream()
            side.wait_stream(present)
            with torch.cuda.stream(side):
                outputs = self._function(*self._inputs)
            present.wait_stream(side)
            return outputs
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._outputs = self._function(*self._inputs)
        self._graph.replay()
        return self._outputs

    def _take(self, inputs: tuple[Tensor, ...]) -> None:
        """Copy the inputs to where the graph reads them."""
        if not self._inputs:
            self._inputs = [torch.empty_like(x, device=self._device) for x in inputs]
            self._staged = [
                torch.empty(0) if x.is_cuda else torch.empty_like(x, pin_memory=True)
                for x in inputs
            ]
        assert self._copied is not None
        self._copied.synchronize()  # what was staged last is on its way no longer
        for held, staged, new in zip(self._inputs, self._staged, inputs, strict=True):
            if not new.is_cuda:
                # NumPy's copy: torch's has threads that look for more work for milliseconds
                # afterwards, and with an emulator beside there are not cores enough for all.
                np.copyto(staged.numpy(), new.numpy())
                new = staged
            held.copy_(new, non_blocking=True)
        self._copied.record()
