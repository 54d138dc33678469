"""VGG's convolution layers (Simonyan and Zisserman 2014, arXiv:1409.1556), to look into and back.

The weights are frozen and only the gradient with respect to the picture is wanted, so forward and
backward are written out: activations are kept once, rectified in place and dropped on the way
back, and nothing is computed for the weights or above the last layer that is looked at.
"""

import difflib
import math
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.style_transfer import winograd
from tasks.task import stream

BLOCKS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}  # convolutions before each pooling
CHANNELS = (64, 128, 256, 512, 512)
# Of ImageNet's pictures in [0, 1]; torchvision's weights were trained on what these standardise.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WEIGHTS_SEED = 0
# Below either, transforming tiles and filters costs more than the multiplications that it saves.
WINOGRAD_CHANNELS, WINOGRAD_PIXELS = 64 * 128, 512
KEEP_PIXELS = 1 << 17  # of all pictures; transformed filters take 200 MB, as their activations do

Weights = dict[str, tuple[Tensor, Tensor]]  # of each convolution: weight (O, C, 3, 3), bias (O,)


def layer_names(net: str) -> list[str]:
    """In torchvision's order: conv1_1, relu1_1, conv1_2, relu1_2, pool1, conv2_1, ..., pool5."""
    names = []
    for block, convolutions in enumerate(BLOCKS[net], 1):
        for place in range(1, convolutions + 1):
            names += [f"conv{block}_{place}", f"relu{block}_{place}"]
        names.append(f"pool{block}")
    return names


def check_layers(net: str, names: Collection[str]) -> None:
    """Raises ValueError for a layer that ``net`` does not have."""
    known = layer_names(net)
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            nearest = f"did you mean {close[0]}? " if close else ""
            raise ValueError(
                f"{net} has no layer {name}; {nearest}conv1_1, relu1_1, ..., pool1, ... expected"
            )


class VGG(nn.Module):
    """The layers up to the deepest of ``taps``, with frozen weights.

    Args:
        net: one of BLOCKS.
        taps: the layers that are looked at.
        weights: of every convolution up to there; they are taken out.
        pooling: ``max``, or ``avg``, which Gatys et al. found to give smoother pictures.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: str, taps: Collection[str], weights: Weights, pooling: str) -> None:
        super().__init__()
        self.taps, self.pooling = frozenset(taps), pooling
        self._kept: dict[str, Tensor] = {}
        self._keep = False
        self.layers = up_to(net, taps)
        # Not in the state dict: they are read again, not saved. (3, 3, C, O) suits all products.
        for name in list(weights):
            weight, bias = weights.pop(name)  # so that no two copies of all are there at a time
            self.register_buffer(name, weight.permute(2, 3, 1, 0).contiguous(), persistent=False)
            self.register_buffer(f"{name}_bias", bias, persistent=False)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def walk(
        self, picture: Tensor, dtype: torch.dtype, places: bool = False
    ) -> Iterator[tuple[str, Tensor]]:
        """Each layer's name and activation (N, H, W, C), of pictures (N, 3, H, W) in [0, 1].

        What is below a rectification is overwritten by it, unless it is one of the taps.
        ``places``: also, as "pool1 places", where the maxima are; `backward` needs all of it.
        """
        self._keep = picture[:, 0].numel() <= KEEP_PIXELS
        x = ((picture - self.mean) / self.std).permute(0, 2, 3, 1).to(dtype).contiguous()
        for name in self.layers:
            if name.startswith("conv"):
                x = self._convolve(x, name)
            elif name.startswith("relu"):
                x = x.relu() if name.replace("relu", "conv") in self.taps else x.relu_()
            elif self.pooling == "avg":
                x = _pixels(F.avg_pool2d(_planes(x), 2))
            elif places:
                planes, where = F.max_pool2d(_planes(x), 2, return_indices=True)
                yield f"{name} places", where.int()  # half the memory of torch's
                x = _pixels(planes)
            else:
                x = _pixels(F.max_pool2d(_planes(x), 2))
            yield name, x

    def backward(
        self, found: dict[str, Tensor], add: Callable[[str, Tensor, Tensor | None], Tensor]
    ) -> Tensor:
        """The gradient with respect to the picture, (N, 3, H, W), of all that `walk` has ``found``,
        which is empty then.

        ``add(layer, activation, delta)`` adds to ``delta``, the gradient with respect to the
        activation from the layers above (None: there are none), the loss's own at that layer.
        """
        delta: Tensor | None = None
        for place in reversed(range(len(self.layers))):
            name = self.layers[place]
            x = found.pop(name)
            if name in self.taps:
                delta = add(name, x, delta)
            assert delta is not None  # the last layer is looked at
            if name.startswith("conv"):
                delta = self._convolve(delta, name, adjoint=True)
            elif name.startswith("relu"):
                # 0 where the rectified is not above 0, in place
                torch.ops.aten.threshold_backward.grad_input(delta, x, 0, grad_input=delta)
            else:
                below = found[self.layers[place - 1]]
                delta = self._unpool(delta, below.shape, found.pop(f"{name} places", None))
        assert delta is not None
        return (delta.permute(0, 3, 1, 2).to(self.std.dtype) / self.std).contiguous()

    def _convolve(self, x: Tensor, name: str, adjoint: bool = False) -> Tensor:
        weight: Tensor = getattr(self, name).to(x.dtype)
        bias = None if adjoint else getattr(self, f"{name}_bias").to(x.dtype)
        channels, pixels = weight.shape[2] * weight.shape[3], x[..., 0].numel()
        # bf16 would not survive the transforms; a GPU's library has such forms of its own
        exact = x.device.type == "cpu" and x.dtype != torch.bfloat16
        if exact and channels >= WINOGRAD_CHANNELS and pixels >= WINOGRAD_PIXELS:
            y = winograd.conv3x3(x, self._transformed(name, weight), adjoint)
            return y if bias is None else y.add_(bias)
        # of the adjoint: channels exchanged, filters turned by half a turn
        filters = weight.flip(0, 1).permute(2, 3, 0, 1) if adjoint else weight.permute(3, 2, 0, 1)
        return _pixels(F.conv2d(_planes(x), filters, bias, padding=1))

    def _transformed(self, name: str, weight: Tensor) -> Tensor:
        """Filters for `winograd.conv3x3`, kept from step to step for pictures so small that making
        them would be much of a step."""
        if not self._keep:
            return winograd.transform(weight)
        if name not in self._kept or self._kept[name].dtype != weight.dtype:
            self._kept[name] = winograd.transform(weight)
        return self._kept[name]

    def _unpool(self, delta: Tensor, shape: torch.Size, places: Tensor | None) -> Tensor:
        if places is not None:
            size = [shape[0], shape[3], shape[1], shape[2]]
            where = places.long()
            return _pixels(F.max_unpool2d(_planes(delta), where, (2, 2), output_size=size))
        height, width = (2 * side for side in delta.shape[1:3])
        spread = (delta / 4).repeat_interleave(2, 1).repeat_interleave(2, 2)
        return F.pad(spread, (0, 0, 0, shape[2] - width, 0, shape[1] - height))


def up_to(net: str, taps: Collection[str]) -> list[str]:
    """The layers up to the deepest of ``taps``."""
    names = layer_names(net)
    return names[: 1 + max(names.index(tap) for tap in taps)]


def _planes(x: Tensor) -> Tensor:
    """(N, H, W, C) as (N, C, H, W), which torch calls channels_last; a view."""
    return x.permute(0, 3, 1, 2)


def _pixels(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous()


# Weights ------------------------------------------------------------------------------------


def load_weights(source: str, net: str, taps: Collection[str], data_dir: str | Path) -> Weights:
    """The weights of the convolutions up to the deepest of ``taps``, float32.

    Args:
        source: ``imagenet``: torchvision's, downloaded into ``data_dir`` where they lack;
            ``random``: normal with variance 2 / fan-in (He et al. 2015) from a fixed seed, biases
            0; or a file with the keys of ``torchvision.models.<net>()`` (``features.0.weight``,
            ...), safetensors or a state dict of torch, of which nothing is executed.

    Raises ValueError: one line, why they cannot be had.
    """
    needed = _shapes(up_to(net, taps))
    if source == "random":
        return {name: (_random(name, shape), torch.zeros(shape[0]))
                for name, (_, shape) in needed.items()}  # fmt: skip
    state = _imagenet(net, data_dir) if source == "imagenet" else _read(source)
    found: Weights = {}
    for name, (key, shape) in needed.items():
        pair = []
        for part, expected in (("weight", shape), ("bias", shape[:1])):
            value = state.get(f"{key}.{part}")
            if value is None:
                raise ValueError(f"no {key}.{part} in it ({name} of {net}); the keys of "
                                 f"torchvision.models.{net}() expected")  # fmt: skip
            if tuple(value.shape) != expected:
                raise ValueError(f"{key}.{part} in it is {_by(value.shape)}, {_by(expected)} "
                                 f"expected ({name} of {net})")  # fmt: skip
            if not value.is_floating_point() or not value.isfinite().all():
                raise ValueError(f"{key}.{part} in it holds what is no finite number")
            pair.append(value.float())
        found[name] = (pair[0], pair[1])
    return found


def _shapes(layers: list[str]) -> dict[str, tuple[str, tuple[int, int, int, int]]]:
    """Of each convolution among ``layers``: torchvision's key, and the shape of its weight."""
    found, before = {}, 3
    for place, name in enumerate(layers):
        if name.startswith("conv"):
            channels = CHANNELS[int(name[4]) - 1]
            found[name] = (f"features.{place}", (channels, before, 3, 3))
            before = channels
    return found


def _random(name: str, shape: tuple[int, int, int, int]) -> Tensor:
    drawn = stream(WEIGHTS_SEED, f"vgg {name}").standard_normal(shape, dtype=np.float32)
    return torch.from_numpy(drawn).mul_(math.sqrt(2 / math.prod(shape[1:])))


def _imagenet(net: str, data_dir: str | Path) -> dict[str, Tensor]:
    from torchvision.models import get_model_weights

    folder = Path(data_dir).expanduser()
    weights = get_model_weights(net)["IMAGENET1K_V1"]
    file = folder / weights.url.rpartition("/")[2]
    try:
        return dict(
            weights.get_state_dict(model_dir=str(folder), check_hash=True, weights_only=True)
        )
    except Exception as error:  # of the network, of the disk, of a damaged file
        reason = " ".join(str(getattr(error, "reason", error)).split())
        raise ValueError(
            f"cannot be downloaded or read ({reason}); put {file.name} into {folder}, name a file, "
            "or take task.weights=random"
        ) from None


def _read(source: str) -> dict[str, Tensor]:
    path = Path(source).expanduser()
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise ValueError(f"{error.strerror}; imagenet, random or a file expected") from None
    try:
        if head[8:] == b"{":  # the length of a JSON header, and its beginning
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the readers raise for a file that is not theirs
        raise ValueError(
            f"neither safetensors nor a state dict that torch can load safely "
            f"({type(error).__name__})"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError("not a state dict: tensors by name expected")
    return state


def _by(shape: Collection[int]) -> str:
    return " x ".join(map(str, shape))
