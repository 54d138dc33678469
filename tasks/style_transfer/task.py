"""Neural style transfer: a picture with the content of one and the style of another.

Gatys, Ecker and Bethge (2015, arXiv:1508.06576). With the activations F_l of shape (H W, C) of a
picture x at layer l of VGG, P_l those of the content picture, G_l = F_l^T F_l / (H W C) the Gram
matrix and A_l that of the style picture,

    loss = sum over content layers of w_l mean((F_l - P_l)^2)
         + sum over style layers of w_l mean((G_l - A_l)^2) + tv_weight * tv(x).

Means where the paper has sums, so that the weights do not depend on the size of the picture; the
paper's weights are these times constants of the layer. x alone is trained. It holds red, green and
blue in [0, 1], and every step begins by cutting it to that range: a projected gradient method,
whichever the optimizer.
"""

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tasks.style_transfer import pictures, vgg
from tasks.task import Task, check_choice, check_numbers, check_texts, stream

INITS, POOLINGS = ("content", "noise"), ("max", "avg")


class StyleTransfer(Task):
    """Replicas: pairs of content and style, each with every seed; all pictures are one batch.

    Args:
        seeds: of the noise that a picture starts from; one where it starts from the content.
        content: a picture, or several; see `pictures.load`.
        style: as many, or one for all.
        size: pixels of the longer side, or [height, width], for the content pictures, which must
            come out alike; the style pictures are brought to the same size, their shape is kept.
        net: ``vgg19`` or ``vgg16``.
        weights: ``imagenet``, ``random`` or a file; see `vgg.load_weights`.
        pooling: ``max`` or ``avg``.
        content_layers: such as ``relu4_2``, ``conv4_2`` (before the rectification), ``pool4``.
        style_layers: likewise.
        content_weight: one number for all content layers, or one for each.
        style_weight: likewise.
        tv_weight: of the total variation, the mean squared difference of neighbours.
        init: start from the ``content`` picture, or from uniform ``noise``.
        data_dir: where downloaded weights lie or go.

    Metrics:
        loss, and its parts content_loss and style_loss, weights included.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        content: str | Sequence[str] = "china",
        style: str | Sequence[str] = "flower",
        size: int | Sequence[int] = 512,
        net: str = "vgg19",
        weights: str = "imagenet",
        pooling: str = "max",
        content_layers: str | Sequence[str] = ("relu4_2",),
        style_layers: str | Sequence[str] = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"),
        content_weight: float | Sequence[float] = 1.0,
        style_weight: float | Sequence[float] = 4.0,
        tv_weight: float = 0.0,
        init: str = "content",
        data_dir: str | Path = "data",
    ) -> None:
        super().__init__()
        check_choice(vgg.BLOCKS, net=net)
        check_choice(POOLINGS, pooling=pooling)
        check_choice(INITS, init=init)
        if init == "content" and len(seeds) > 1:
            raise ValueError(f"seeds={list(seeds)}: one seed with init=content, which draws nothing, "
                             "or init=noise expected")  # fmt: skip
        check_texts(weights=weights, data_dir=data_dir)
        contents, styles = _pairs(content, style)
        self.content_weights = _weights("content", net, content_layers, content_weight)
        self.style_weights = _weights("style", net, style_layers, style_weight)
        check_numbers("a number >= 0", _at_least_zero, tv_weight=tv_weight)
        self.tv_weight = float(tv_weight)
        taps = {*self.content_weights, *self.style_weights}
        if not taps:
            raise ValueError("style_layers=[]: a layer expected, here or in content_layers")
        layers = vgg.up_to(net, taps)
        self.size = _size(size)  # pictures come first: the weights are a download of 550 MB
        content_pictures = [self._load("content", source, layers) for source in contents]
        style_pictures = [self._load("style", source, layers) for source in styles]
        shapes = {tuple(picture.shape[1:]) for picture in content_pictures}
        if len(shapes) > 1:
            told = ", ".join(f"{height} x {width}" for height, width in sorted(shapes))
            raise ValueError(f"size={size}: the content pictures come out unlike, {told}; "
                             "size=[height,width] crops them alike")  # fmt: skip
        try:
            loaded = vgg.load_weights(weights, net, taps, data_dir)
        except ValueError as error:
            raise ValueError(f"weights={weights}: {error}") from None
        self.vgg = vgg.VGG(net, taps, loaded, pooling)
        self.pairs, self.seeds = len(contents), tuple(seeds)
        self.replicas = [
            {"seed": seed, "content": pictures.name(one), "style": pictures.name(other)}
            for one, other in zip(contents, styles, strict=True)
            for seed in seeds
        ]
        self._set_targets(torch.stack(content_pictures), style_pictures)
        self.image = nn.Parameter(self._start(init, content_pictures))
        self._gradient: Tensor | None = None

    def _load(self, key: str, source: str, layers: Sequence[str]) -> Tensor:
        """A picture that each of the poolings among ``layers`` can halve."""
        try:
            picture = pictures.load(source, self.size)
        except ValueError as error:
            raise ValueError(f"{key}={source}: {error}") from None
        height, width = picture.shape[1:]
        least = 2 ** sum(name.startswith("pool") for name in layers)
        if min(height, width) < least:
            raise ValueError(
                f"{key}={source}: comes out as {height} x {width} pixels, at least {least} x "
                f"{least} expected for {layers[-1]}"
            )
        return picture

    def _start(self, init: str, contents: list[Tensor]) -> Tensor:
        """The pictures (R, 3, H, W) before the first step."""
        start = torch.stack(contents).repeat_interleave(len(self.seeds), 0)
        if init == "noise":
            for place, replica in enumerate(self.replicas):
                drawn = stream(int(replica["seed"]), "init image").random(
                    start.shape[1:], dtype=np.float32
                )
                start[place] = torch.from_numpy(drawn)
        return start

    @torch.no_grad()
    def _set_targets(self, contents: Tensor, styles: list[Tensor]) -> None:
        """Content activations (pairs, 1, H, W, C) and Gram matrices (pairs, 1, C, C), the 1 for
        the seeds: computed once, not saved."""
        for name, x in self.vgg.walk(contents, contents.dtype):
            if name in self.content_weights:
                self.register_buffer(f"content_{name}", x[:, None].clone(), persistent=False)
        each = [{name: _gram(x) for name, x in self.vgg.walk(style[None], style.dtype)
                 if name in self.style_weights} for style in styles]  # fmt: skip
        for name in self.style_weights:
            gram = torch.stack([grams[name] for grams in each])
            self.register_buffer(f"style_{name}", gram, persistent=False)

    @torch.no_grad()
    def loss(self) -> Tensor:
        """The loss (R,); its gradient is ready as well, for `backward`."""
        self.image.clamp_(0, 1)
        with self._precision() as dtype:
            found = dict(self.vgg.walk(self.image, dtype, places=True))
            content, style, differences = self._compare(found.items())
            variation, gradient = _total_variation(self.image)

            def add(name: str, x: Tensor, delta: Tensor | None) -> Tensor:
                delta = torch.zeros_like(x) if delta is None else delta
                if name in self.content_weights:
                    scale = 2 * self.content_weights[name] / x[0].numel()
                    self._by_pair(delta).add_(self._off_content(name, x), alpha=scale)
                if name in self.style_weights:
                    # by way of both factors of the symmetric F^T F / (H W C)
                    scale = 4 * self.style_weights[name] / (x[0].numel() * x.shape[-1] ** 2)
                    off = differences[name].flatten(0, 1).to(x.dtype)
                    rows = (len(x), -1, x.shape[-1])
                    delta.view(rows).baddbmm_(x.view(rows), off, alpha=scale)
                return delta

            self._gradient = self.vgg.backward(found, add).add_(gradient, alpha=self.tv_weight)
        return content + style + self.tv_weight * variation

    def backward(self, loss: Tensor, weight: Tensor) -> None:
        assert self._gradient is not None  # made by loss()
        # Of a frozen replica, with weight 0, nothing may stay, not even what is no number.
        shaped = weight.view(-1, 1, 1, 1)
        self.image.grad = (self._gradient * shaped).masked_fill_(shaped == 0, 0)
        self._gradient = None

    @torch.no_grad()
    def evaluate(self) -> dict[str, Tensor]:
        """In float32, whatever the precision of the training."""
        image = self.image.clamp(0, 1)
        content, style, _ = self._compare(self.vgg.walk(image, image.dtype))
        loss = content + style + self.tv_weight * _total_variation(image)[0]
        return {"loss": loss, "content_loss": content, "style_loss": style}

    def artifacts(self) -> dict[str, bytes]:
        """The pictures: image.png; of several replicas image_<replica>.png."""
        files, digits = {}, len(str(len(self.image) - 1))
        for place, image in enumerate(self.image):
            buffer = io.BytesIO()
            pictures.to_image(image).save(buffer, "png")
            name = f"image_{place:0{digits}}.png" if len(self.image) > 1 else "image.png"
            files[name] = buffer.getvalue()
        return files

    @contextmanager
    def _precision(self) -> Iterator[torch.dtype]:
        """The activations' type: bf16 where the loop asks for it. Losses and Gram matrices stay
        with the image's, which autocast would not leave them."""
        kind = self.image.device.type
        half = torch.is_autocast_enabled(kind)
        with torch.autocast(kind, enabled=False):
            yield torch.bfloat16 if half else self.image.dtype

    def _compare(
        self, layers: Iterable[tuple[str, Tensor]]
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Content and style loss (R,), and of each style layer G - A (pairs, seeds, C, C)."""
        content = style = self.image.new_zeros(self.pairs, len(self.seeds))
        differences = {}
        for name, x in layers:
            if name in self.content_weights:
                off = self._off_content(name, x).to(self.image.dtype)
                content = content + self.content_weights[name] * off.square_().mean((2, 3, 4))
            if name in self.style_weights:
                gram = self._by_pair(_gram(x.to(self.image.dtype)))
                off = gram - getattr(self, f"style_{name}")
                style = style + self.style_weights[name] * off.square().mean((2, 3))
                differences[name] = off
        return content.flatten(), style.flatten(), differences

    def _off_content(self, name: str, x: Tensor) -> Tensor:
        """F - P (pairs, seeds, H, W, C)."""
        return self._by_pair(x) - getattr(self, f"content_{name}").to(x.dtype)

    def _by_pair(self, x: Tensor) -> Tensor:
        return x.view(self.pairs, len(self.seeds), *x.shape[1:])


def _gram(x: Tensor) -> Tensor:
    """F^T F / (H W C) of activations (N, H, W, C): (N, C, C)."""
    rows = x.flatten(1, 2)
    return (rows.mT @ rows).div_(x[0].numel())


def _total_variation(image: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared differences of neighbours, down plus right, (R,); and the gradient."""
    total, gradient = image.new_zeros(len(image)), torch.zeros_like(image)
    for axis in (2, 3):
        length = image.shape[axis]
        if length == 1:
            continue
        step = image.diff(dim=axis)
        total += step.square().mean((1, 2, 3))
        slope = step * (2 / step[0].numel())
        gradient.narrow(axis, 1, length - 1).add_(slope)
        gradient.narrow(axis, 0, length - 1).sub_(slope)
    return total, gradient


# Arguments ----------------------------------------------------------------------------------


def _pairs(content: str | Sequence[str], style: str | Sequence[str]) -> tuple[list[str], list[str]]:
    contents, styles = _list(content), _list(style)
    for name, values in (("content", contents), ("style", styles)):
        if not values or not all(isinstance(value, str) for value in values):
            raise ValueError(f"{name}={values}: a picture or a list of pictures expected")
    if len(styles) == 1:
        styles *= len(contents)
    if len(contents) == 1:
        contents *= len(styles)
    if len(contents) != len(styles):
        raise ValueError(f"style={styles}: one expected, or as many as there are content pictures "
                         f"({len(contents)})")  # fmt: skip
    return contents, styles


def _size(size: int | Sequence[int]) -> int | tuple[int, int]:
    sides = _list(size) if isinstance(size, Sequence) else [size, size]
    whole = all(isinstance(side, int) and not isinstance(side, bool) for side in sides)
    if not whole or len(sides) != 2 or min(sides) < 1:
        raise ValueError(f"size={size}: a whole number of pixels, or [height,width], expected")
    return size if isinstance(size, int) else (sides[0], sides[1])


def _list(value: Any) -> list[Any]:
    """A single one as a list of one."""
    several = isinstance(value, Sequence) and not isinstance(value, str)
    return list(value) if several else [value]


def _at_least_zero(x: float) -> bool:
    return 0 <= x < math.inf


def _weights(
    kind: str, net: str, layers: str | Sequence[str], weight: float | Sequence[float]
) -> dict[str, float]:
    """Of each layer its weight."""
    name, layers = f"{kind}_layers", _list(layers)
    try:
        vgg.check_layers(net, layers)
    except ValueError as error:
        raise ValueError(f"{name}={','.join(map(str, layers))}: {error}") from None
    each = _list(weight) if isinstance(weight, Sequence) else [weight] * len(layers)
    if len(each) != len(layers):
        raise ValueError(f"{kind}_weight={weight}: one number expected, or one for each of "
                         f"{len(layers)} layers")  # fmt: skip
    for value in each:
        check_numbers("a number >= 0", _at_least_zero, **{f"{kind}_weight": value})
    return {layer: float(value) for layer, value in zip(layers, each, strict=True)}
