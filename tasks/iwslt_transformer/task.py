"""IWSLT14 German to English: the paper's transformer, trained as fairseq trains it.

Architecture, initialisation, batches and their order, loss and its normalisation are those of
fairseq's ``transformer_iwslt_de_en`` with ``label_smoothed_cross_entropy`` (fairseq 0.12; the paper
used its ``transformer/readme.md`` command line), dropout included in kind, not in its random bits:
here it is drawn without padding. The learning rate is the schedule's (``polynomial_decay``).
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.func import functional_call

from tasks.iwslt_transformer import bleu
from tasks.iwslt_transformer.batches import Batch, Pairs, batch, epoch_order, grouped
from tasks.iwslt_transformer.corpus import load
from tasks.iwslt_transformer.loss import smoothed_loss
from tasks.iwslt_transformer.model import Shape, Transformer, in_half
from tasks.iwslt_transformer.text import SPLITS
from tasks.task import Task, check_choice, check_counts, check_numbers, check_texts

# torch and oneDNN keep each kernel of half precision with its memory, by shape, 1,024 of them. Batches
# have hundreds of shapes; by that a process grows to several times what an update needs.
for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(cache, "32")

BITS = 1 / math.log(2)
EVALUATION_TOKENS = 4096


class IwsltTransformer(Task):
    """One replica: a model of this size does not share its arithmetic with others.

    With ``torchrun`` the batches of an update are divided over the processes, and the gradients
    are added up: the same curve, for the same ``update_freq``, as one process.

    Args:
        seeds: one seed: of the initial weights, of the order of the data and of dropout.
        corpus: ``numbers`` (generated, see `tasks.iwslt_transformer.numbers`), or a folder with
            train, valid and test in .de and .en, in plain text or in pieces (`.text.segmented`),
            or a fairseq data-bin.
        data_dir: where the pieces of a plain corpus are kept.
        merges: of the joint byte-pair encoding learned on a plain corpus.
        max_tokens: sentences times the longest of either side, at most, in a batch.
        update_freq: batches of an update.
        width, feed_forward, heads, layers, dropout: of the model, at least 4 wide; layers on each
            side.
        label_smoothing: probability spread over all other symbols.
        window: so many updates, from one multiple of it to the next, are a window.
        bleu_sentences: so many of ``bleu_split`` are translated at every evaluation but that at
            step 0; 0 for no BLEU.
        bleu_split: valid or test; the losses are those of valid in any case.
        beam: width of the beam.
        average: weights at the ends of so many last windows are averaged for BLEU; 1 for the
            present ones.

    Metrics:
        train_loss: label-smoothed, bits per token, as fairseq logs it, over the updates since the
            present window began (at its end the whole of it); NaN before the first.
        valid_loss: the same measure on the validation set, without dropout.
        valid_ppl: 2 to the unsmoothed loss in bits per token.
        bleu: of the detokenised translations, as sacrebleu's command line computes it; NaN before
            the first update.
        context_free_loss: of the best prediction that looks at no context, as train_loss; a model
            that stays there has learned how frequent each piece is, and no more.
        padding: fraction of the rectangles of the batches that is padding, over the same updates
            as train_loss.
    """

    distributed = True
    sums: Tensor

    def __init__(
        self,
        seeds: Sequence[int],
        corpus: str = "numbers",
        data_dir: str | Path = "data",
        merges: int = 10_000,
        max_tokens: int = 4096,
        update_freq: int = 1,
        width: int = 512,
        feed_forward: int = 1024,
        heads: int = 4,
        layers: int = 6,
        dropout: float = 0.3,
        label_smoothing: float = 0.1,
        window: int = 100,
        bleu_sentences: int = 0,
        bleu_split: str = "valid",
        beam: int = 5,
        average: int = 1,
    ) -> None:
        super().__init__()
        check_texts(corpus=corpus, data_dir=data_dir)
        check_counts(
            1, merges=merges, max_tokens=max_tokens, update_freq=update_freq,
            feed_forward=feed_forward, heads=heads, layers=layers, window=window, beam=beam,
            average=average,
        )  # fmt: skip
        check_counts(4, width=width)  # positions are told by the sines of two frequencies or more
        if width % (2 * heads):
            raise ValueError(
                f"width={width}: a multiple of {2 * heads}, twice heads={heads}, expected"
            )
        check_counts(0, bleu_sentences=bleu_sentences)
        check_choice(SPLITS[1:], bleu_split=bleu_split)
        check_numbers(
            "a number in [0, 1)", lambda x: 0 <= x < 1, dropout=dropout,
            label_smoothing=label_smoothing,
        )  # fmt: skip
        if len(seeds) > 1:
            raise ValueError(f"seeds={list(seeds)}: one seed a run; sweep seed=0,1,... instead")
        (self.seed,) = seeds
        data = load(corpus, Path(data_dir), merges)
        self.replicas = [{"seed": self.seed, "corpus": data.name}]
        self.max_tokens, self.update_freq, self.window = max_tokens, update_freq, window
        self.label_smoothing, self.bleu_sentences = label_smoothing, bleu_sentences
        self.beam, self.average = beam, average
        self.pairs, self.valid = data.train, data.valid
        self.to_translate = _head(data.splits[bleu_split], bleu_sentences)
        self.source, self.target = data.source, data.target
        data.check_lengths(max_tokens)
        self.groups = grouped(self.pairs, max_tokens, self.seed)
        if not self.groups:
            raise ValueError(f"corpus={corpus}: no batch of 8 sentences in {len(self.pairs):,}")
        shape = Shape(width, feed_forward, heads, layers, dropout)
        torch.manual_seed(self.seed)
        self.model = Transformer(len(self.source), len(self.target), shape)
        self.context_free_loss = context_free_loss(self.pairs, len(self.target), label_smoothing)
        self.step: int = 0
        # loss, unsmoothed loss (nats), target tokens, filled and all places of the rectangles
        self.register_buffer("sums", torch.zeros(5, dtype=torch.float64))
        self.snapshots: list[Tensor] = []  # of all weights, at the ends of windows
        self.translated: bleu.Translation | None = None

    # ------------------------------------------------------------------ training

    def loss(self) -> Tensor:
        """Smoothed loss per target token (nats) of the next update; its gradients are in place.

        Each batch goes backward before the next goes forward, so that ``update_freq`` costs no
        memory; `backward` has nothing left to do.
        """
        half = torch.is_autocast_enabled(self.sums.device.type)
        if not self.model.training:  # telling every module takes a fiftieth of a small update
            self.model.train()
        if self.step % self.window == 0:
            self.sums.zero_()
            self.snapshots = self._ends()  # here the weights are still those of the window's end
        indices = self.indices(self.step)
        tokens = sum(int(self.pairs.target.lengths[i].sum()) for i in indices)
        first, processes = (
            (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        )
        sums = torch.zeros_like(self.sums)
        with torch.autocast(self.sums.device.type, enabled=False):
            for place in range(first, len(indices), processes):
                # as fairseq seeds an update; later batches of one have streams of their own
                torch.manual_seed(self.seed + self.step + (place << 40))
                made = batch(self.pairs, indices[place]).to(self.sums.device)
                loss, nll = self._forward(made, half)
                (loss / tokens).backward()
                sums += torch.stack([loss.detach(), nll.detach(),
                                     *loss.new_tensor(_sizes(made))]).double()  # fmt: skip
        if processes > 1:
            self._add_up(sums)
        self.sums += sums
        self.step += 1
        return (sums[0] / tokens).float()

    def backward(self, loss: Tensor, weight: Tensor) -> None:
        """The gradients are there; the only replica's weight is 1, for a dead one ends the run."""

    def _forward(self, made: Batch, half: bool = False) -> tuple[Tensor, Tensor]:
        """Sums over the tokens of a batch: smoothed and unsmoothed loss in nats.

        With ``half`` the layers' weights are cast to bfloat16 once a batch, embeddings and loss
        keep float32 weights.
        """
        if half:
            layers = {name: p for name, p in self.model.named_parameters()
                      if "embed_tokens" not in name}  # fmt: skip
            halves = dict(zip(layers, in_half(list(layers.values())), strict=True))
            states = functional_call(self.model, halves, (made,))
        else:
            states = self.model(made)
        weight = self.model.decoder.embed_tokens.weight
        return smoothed_loss(states, weight, made.target, self.label_smoothing)

    def _ends(self) -> list[Tensor]:
        """All weights at the ends of the last ``average`` windows, the present one's among them."""
        if self.average == 1 or self.step == 0 or self.step % self.window:
            return self.snapshots
        weights = torch.nn.utils.parameters_to_vector(self.parameters()).detach().clone()
        return [*self.snapshots[1 - self.average :], weights]

    def indices(self, step: int) -> list[np.ndarray]:
        """The batches of an update; the last one of an epoch may have fewer of them."""
        updates = -(-len(self.groups) // self.update_freq)
        epoch, place = divmod(step, updates)
        order = epoch_order(len(self.groups), self.seed, epoch + 1)
        chosen = order[place * self.update_freq : (place + 1) * self.update_freq]
        return [self.groups[i] for i in chosen]

    def _add_up(self, sums: Tensor) -> None:
        """Sums and gradients over the processes, the gradients as one message."""
        parameters = list(self.parameters())
        for p in parameters:
            if p.grad is None:  # this process had no batch left
                p.grad = torch.zeros_like(p)
        flat = torch.cat([p.grad.flatten() for p in parameters])  # type: ignore[union-attr]
        dist.all_reduce(flat)
        dist.all_reduce(sums)
        sizes = [p.numel() for p in parameters]
        for p, part in zip(parameters, flat.split(sizes), strict=True):
            p.grad = part.view_as(p)

    # ------------------------------------------------------------------ evaluation

    @torch.no_grad()
    def evaluate(self) -> dict[str, Tensor]:
        """In float32, whatever the precision of the training."""
        self.model.eval()
        sums = torch.zeros_like(self.sums)
        # without gradients there is room for more than a small batch of training
        for indices in grouped(self.valid, max(self.max_tokens, EVALUATION_TOKENS), None):
            made = batch(self.valid, indices).to(self.sums.device)
            loss, nll = self._forward(made)
            sums += torch.stack([loss, nll, *loss.new_tensor(_sizes(made))]).double()
        train = self.sums / self.sums[2]  # 0 / 0 before the first update
        metrics = {
            "train_loss": train[0] * BITS,
            "valid_loss": sums[0] / sums[2] * BITS,
            "valid_ppl": (sums[1] / sums[2]).exp(),
            "context_free_loss": torch.tensor(self.context_free_loss),
            "padding": 1 - self.sums[3] / self.sums[4],
        }
        if self.bleu_sentences:
            # with untrained weights it would be a search as long for nothing
            metrics["bleu"] = torch.tensor(self._translate().score if self.step else math.nan)
        return metrics

    def artifacts(self) -> dict[str, bytes]:
        """The translations of the last evaluation, and their BLEU with sacrebleu's signature.

        Where a run stops nothing is translated: minutes, which a batch system would not wait.
        """
        return self.translated.files() if self.translated else {}

    def _translate(self) -> "bleu.Translation":
        ends = self._ends()
        weights = torch.stack(ends).mean(0) if ends else None
        with _weights(self.model, weights):
            self.translated = bleu.translate(
                self.model, self.to_translate, self.target, self.beam, self.max_tokens
            )
        return self.translated

    # ------------------------------------------------------------------ state

    def get_extra_state(self) -> dict[str, Any]:
        return {"step": self.step, "snapshots": list(self.snapshots)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.snapshots = [s.to(self.sums.device) for s in state["snapshots"]]


def context_free_loss(pairs: Pairs, symbols: int, eps: float) -> float:
    """The least smoothed loss, bits per token, of one distribution for all places.

    It is the entropy of what it should predict on average: the frequencies of the targets,
    smoothed as the loss smooths them.
    """
    counts = np.bincount(pairs.target.flat, minlength=symbols) / len(pairs.target.flat)
    each = eps / (symbols - 1)
    wanted = (1 - eps - each) * counts + each
    return float(-(wanted * np.log2(wanted, where=wanted > 0, out=np.zeros(symbols))).sum())


def _sizes(made: Batch) -> list[int]:
    """Target tokens; filled places of both rectangles, and all of them."""
    filled = len(made.source.tokens) + len(made.shifted.tokens)
    rectangles = math.prod(made.source.shape) + math.prod(made.shifted.shape)
    return [len(made.target), filled, rectangles]


def _head(pairs: Pairs, count: int) -> Pairs:
    return pairs if count >= len(pairs) else pairs.head(count)


class _weights:
    """The model with other weights, for as long as the block lasts."""

    def __init__(self, model: Transformer, weights: Tensor | None) -> None:
        self.model, self.weights = model, weights

    def __enter__(self) -> None:
        if self.weights is not None:
            self.own = torch.nn.utils.parameters_to_vector(self.model.parameters()).clone()
            torch.nn.utils.vector_to_parameters(self.weights, self.model.parameters())

    def __exit__(self, *_: object) -> None:
        if self.weights is not None:
            torch.nn.utils.vector_to_parameters(self.own, self.model.parameters())
