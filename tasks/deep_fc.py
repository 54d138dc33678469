"""Extremely deep fully connected ReLU nets on small images, packed over seeds.

    h_0 = relu(x W_0 + b_0),  h_l = relu(h_{l-1} W_l + b_l),  logits = h_{L-1} W_L + b_L

with L hidden layers (``depth``) of one ``width``, cross-entropy averaged over the batch. R seeds are
one batched net. All hidden layers are one parameter of shape (R, L - 1, width, width), so that an
optimizer sees six tensors at any depth, and a layer's weights and gradients are views of it.

Forward and backward are written out instead of left to autograd: at width 64 its bookkeeping costs
more than the arithmetic, and a thousand slices of one parameter would cost it a thousand gradients
of the whole. Activations, gradients and batches have fixed places in memory; on a GPU the whole of
a step's forward and backward is one CUDA graph, replayed.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tasks import images
from tasks.task import Task, check_choice, check_counts, check_texts, stream

INITS = ("kaiming", "rolnick_hanin")
# Standard deviation of a standard normal that is cut at +-2.
TRUNCATED_STD = 0.879596566170685
SMOOTHING = 0.05


class DeepFC(Task):
    """Replicas: seeds, each with its own weights and its own order of the data.

    Args:
        seeds: one net each.
        depth: hidden layers, >= 1.
        width: of each hidden layer.
        batch: examples a step, without replacement within an epoch.
        dataset: ``cifar10``, ``mnist`` or ``digits``; see `tasks.images.load`.
        data_dir: where the data set lies or goes.
        mirror: another place to download it from.
        init: ``kaiming``: normal with variance 2 / fan-in (He et al. 2015); ``rolnick_hanin``: the
            same variance from a normal cut at two standard deviations (Hanin and Rolnick 2018,
            whose condition is on the variance alone). Biases are 0.
        eval_size: training examples that ``evaluate`` looks at, the same ones every time.

    Metrics:
        loss, accuracy: on the first ``eval_size`` examples of the training set, now.
        smoothed_loss: exponential mean of the batches' losses with weight SMOOTHING for the newest;
            NaN before the first step.
    """

    inputs: Tensor
    labels: Tensor
    smoothed_loss: Tensor

    def __init__(
        self,
        seeds: Sequence[int],
        depth: int = 100,
        width: int = 256,
        batch: int = 1024,
        dataset: str = "cifar10",
        data_dir: str | Path = "data",
        mirror: str | None = None,
        init: str = "kaiming",
        eval_size: int = 1024,
    ) -> None:
        super().__init__()
        check_counts(1, depth=depth, width=width, batch=batch, eval_size=eval_size)
        check_choice(INITS, init=init)
        check_texts(data_dir=data_dir)
        data = images.load(dataset, data_dir, mirror=mirror)
        if batch > len(data.labels):
            raise ValueError(f"batch={batch}: at most {len(data.labels):,} examples in {dataset}")
        self.replicas = [{"seed": seed, "depth": depth} for seed in seeds]
        self.seeds, self.depth, self.batch = tuple(seeds), depth, batch
        self.eval_size = min(eval_size, len(data.labels))
        self.step = 0
        # Not in the state dict: the data are drawn anew, not saved.
        self.register_buffer("inputs", data.inputs, persistent=False)
        self.register_buffer("labels", data.labels, persistent=False)
        self.register_buffer("smoothed_loss", torch.full((len(seeds),), math.nan))
        features, classes, replicas = data.inputs.shape[1], data.classes, len(seeds)
        self.first = nn.Parameter(self._draw("first", init, 1, features, width)[:, 0])
        self.first_bias = nn.Parameter(torch.zeros(replicas, width))
        if depth > 1:
            self.hidden = nn.Parameter(self._draw("hidden", init, depth - 1, width, width))
            self.hidden_bias = nn.Parameter(torch.zeros(replicas, depth - 1, width))
        self.last = nn.Parameter(self._draw("last", init, 1, width, classes)[:, 0])
        self.last_bias = nn.Parameter(torch.zeros(replicas, classes))
        self._order: tuple[int, Tensor] | None = None  # epoch, its permutations (R, N)
        self._net: _Net | None = None

    def _draw(self, name: str, init: str, layers: int, fan_in: int, fan_out: int) -> Tensor:
        """Weights (R, layers, fan_in, fan_out), each replica from its own stream."""
        shape = (layers, fan_in, fan_out)
        weights = np.empty((len(self.seeds), *shape), dtype=np.float32)
        for place, seed in enumerate(self.seeds):
            random = stream(seed, f"init {name}")
            if init == "kaiming":
                weights[place] = random.standard_normal(shape, dtype=np.float32)
            else:
                drawn = random.standard_normal(shape, dtype=np.float32)
                while (outside := np.abs(drawn) > 2).any():
                    drawn[outside] = random.standard_normal(outside.sum(), dtype=np.float32)
                weights[place] = drawn / TRUNCATED_STD
        return torch.from_numpy(weights).mul_(math.sqrt(2 / fan_in))

    def loss(self) -> Tensor:
        """The loss of the next batch, shape (R,). Gradients are ready as well, for `backward`."""
        half = torch.is_autocast_enabled(self.first.device.type)
        if self._net is None or self._net.half != half:
            self._net = _Net(self, half)
        loss = self._net.step(self._batch())
        self.step += 1
        if self.step == 1:
            self.smoothed_loss.copy_(loss)
        self.smoothed_loss.lerp_(loss, SMOOTHING)
        return loss

    def backward(self, loss: Tensor, weight: Tensor) -> None:
        assert self._net is not None  # made by loss()
        for parameter, gradient in self._net.gradients:
            # Of a frozen replica, with weight 0, nothing may stay, not even what is no number.
            if not self._net.all_ones(weight):
                shaped = weight.view(-1, *[1] * (gradient.dim() - 1))
                gradient.mul_(shaped).masked_fill_(shaped == 0, 0)
            parameter.grad = gradient

    @torch.no_grad()
    def evaluate(self) -> dict[str, Tensor]:
        """Loss and accuracy layer by layer, which keeps two activations and not all of them."""
        labels = self.labels[: self.eval_size]
        h = self.inputs[: self.eval_size].expand(len(self.seeds), -1, -1)
        h = torch.baddbmm(self.first_bias[:, None], h, self.first).relu_()
        for i in range(self.depth - 1):
            h = torch.baddbmm(self.hidden_bias[:, i, None], h, self.hidden[:, i]).relu_()
        logits = torch.baddbmm(self.last_bias[:, None], h, self.last)
        chosen = logits.log_softmax(-1)[:, torch.arange(self.eval_size), labels]
        return {
            "loss": -chosen.mean(1),
            "accuracy": (logits.argmax(-1) == labels).float().mean(1),
            "smoothed_loss": self.smoothed_loss.clone(),
        }

    def get_extra_state(self) -> dict[str, int]:
        return {"step": self.step}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.step = state["step"]

    def _batch(self) -> Tensor:
        """Places of the present batch in the training set, (R, batch): a new order every epoch."""
        examples = len(self.labels)
        epoch, place = divmod(self.step, examples // self.batch)
        if self._order is None or self._order[0] != epoch:
            orders = [stream(seed, "order", epoch).permutation(examples) for seed in self.seeds]
            self._order = epoch, torch.from_numpy(np.stack(orders)).to(self.labels.device)
        return self._order[1][:, place * self.batch : (place + 1) * self.batch]


class _Net:
    """Forward and backward of one packed batch, with everything at fixed places in memory.

    ``half``: matrices, activations and their products in bfloat16; parameters, gradients and the
    loss in float32, as under autocast.
    """

    def __init__(self, task: DeepFC, half: bool) -> None:
        self.task, self.half, self.depth = task, half, task.depth
        replicas, features, width = task.first.shape
        device, dtype = task.first.device, torch.bfloat16 if half else task.first.dtype

        def room(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.empty(replicas, *shape, dtype=dtype, device=device)

        self.parameters = dict(task.named_parameters())
        self._gradients = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self.gradients = [(p, self._gradients[name]) for name, p in self.parameters.items()]
        self.x = room(task.batch, features)
        self.labels = room(task.batch, 1, dtype=torch.int64)
        self.activations = [room(task.batch, width) for _ in range(task.depth)]
        self._spare = [room(task.batch, width) for _ in range(2)]
        self.loss = torch.empty(replicas, device=device)
        # matrices in the precision of the arithmetic, and room for a gradient in it
        self._cast = {n: torch.empty_like(p, dtype=dtype) for n, p in self.parameters.items()
                      if half}  # fmt: skip
        self._graph: torch.cuda.CUDAGraph | None = None
        self._weight: Tensor | None = None
        self._ones = True

    def step(self, places: Tensor) -> Tensor:
        """Loss (R,) of the examples at ``places`` (R, batch); the gradients are left behind."""
        chosen = places.flatten()
        self.x.copy_(self.task.inputs[chosen].view_as(self.x))
        self.labels.copy_(self.task.labels[chosen].view_as(self.labels))
        if self.x.is_cuda:
            self._replay()
        else:
            self._run()
        return self.loss.clone()

    def all_ones(self, weight: Tensor) -> bool:
        """Whether all replicas count; looked up once for each tensor of weights."""
        if weight is not self._weight:
            self._weight, self._ones = weight, bool((weight == 1).all())
        return self._ones

    def _replay(self) -> None:
        """A kernel launch costs more than most of these products: one launch for all of them."""
        if self._graph is None:
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):  # libraries set themselves up outside the capture
                self._run()
            torch.cuda.current_stream().wait_stream(aside)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._run()
        self._graph.replay()

    @torch.no_grad()
    @torch.autocast("cpu", enabled=False)
    @torch.autocast("cuda", enabled=False)
    def _run(self) -> None:
        for name, cast in self._cast.items():
            cast.copy_(self.parameters[name])
        self._backward(self._forward())

    def _matrix(self, name: str) -> Tensor:
        return self._cast[name] if self.half else self.parameters[name]

    def _forward(self) -> Tensor:
        """Logits, and the activations in their places."""
        h = self.activations
        bias = self._matrix("first_bias")[:, None]
        torch.baddbmm(bias, self.x, self._matrix("first"), out=h[0]).relu_()
        if self.depth > 1:
            layers = zip(
                self._matrix("hidden").unbind(1),
                self._matrix("hidden_bias")[:, :, None].unbind(1),
                strict=True,
            )
            for i, (matrix, bias) in enumerate(layers):
                torch.baddbmm(bias, h[i], matrix, out=h[i + 1]).relu_()
        return torch.baddbmm(self._matrix("last_bias")[:, None], h[-1], self._matrix("last"))

    def _backward(self, logits: Tensor) -> None:
        h, found = self.activations, self._gradients
        logp = logits.float().log_softmax(-1)
        torch.mean(logp.gather(2, self.labels)[..., 0].neg_(), 1, out=self.loss)
        # d loss / d logits = (softmax - one-hot) / batch
        delta = logp.exp_().scatter_add_(
            2, self.labels, -torch.ones_like(self.labels, dtype=logp.dtype)
        )
        delta = delta.div_(self.task.batch).to(h[0].dtype)
        self._product(h[-1], delta, found["last"], found["last_bias"])
        d, spare = self._spare
        torch.bmm(delta, self._matrix("last").mT, out=d)
        if self.depth > 1:
            matrices = self._matrix("hidden").unbind(1)
            slots = found["hidden"].unbind(1), found["hidden_bias"].unbind(1)
            for i in range(self.depth - 2, -1, -1):
                _mask(d, h[i + 1])
                self._product(h[i], d, slots[0][i], slots[1][i])
                torch.bmm(d, matrices[i].mT, out=spare)
                d, spare = spare, d
        _mask(d, h[0])
        self._product(self.x, d, found["first"], found["first_bias"])

    def _product(self, h: Tensor, delta: Tensor, weight: Tensor, bias: Tensor) -> None:
        """Gradients of one layer's weights, h^T delta, and biases, into their places."""
        if self.half:
            weight.copy_(torch.bmm(h.mT, delta))
        else:
            torch.bmm(h.mT, delta, out=weight)
        torch.sum(delta, 1, out=bias, dtype=bias.dtype)


def _mask(delta: Tensor, activation: Tensor) -> None:
    """In place, the gradient of relu: 0 where the activation is not above 0."""
    torch.ops.aten.threshold_backward.grad_input(delta, activation, 0, grad_input=delta)
