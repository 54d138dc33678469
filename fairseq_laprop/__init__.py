"""LaProp, AdaBound and signSGD for fairseq's command line: ``fairseq-train --user-dir fairseq_laprop``.

    pip install '.[fairseq]'
    fairseq-train data-bin/iwslt14.tokenized.de-en --user-dir fairseq_laprop \\
        --optimizer laprop --laprop-betas '(0.9, 0.98)' --weight-decay 0.0001 ...

The folder lies at the top of the checkout because fairseq puts a user directory's parent on
``sys.path``. LaProp's options have the names of the authors' own fairseq module (their
``transformer/laprop.py``), whose weight decay is decoupled and scaled by the lr.
"""

import ast
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.optim import FairseqOptimizer, register_optimizer
from omegaconf import II

from laprop import AdaBound, LaProp, SignSGD

_DECAY = {"help": "weight decay", "argparse_alias": "--wd"}


@dataclass
class LaPropConfig(FairseqDataclass):
    laprop_betas: str = field(default="(0.9, 0.999)", metadata={"help": "mu and nu"})
    laprop_eps: float = field(default=1e-15, metadata={"help": "added outside the square root"})
    weight_decay: float = field(default=0.0, metadata=_DECAY)
    laprop_centered: bool = field(default=False, metadata={"help": "subtract the mean gradient"})
    lr: list[float] = field(default=II("optimization.lr"))  # type: ignore[arg-type]


@dataclass
class AdaBoundConfig(FairseqDataclass):
    adabound_betas: str = field(default="(0.9, 0.999)", metadata={"help": "decay rates"})
    adabound_final_lr: float = field(default=0.1, metadata={"help": "learning rate of the end"})
    adabound_gamma: float = field(default=1e-3, metadata={"help": "speed of the bounds"})
    adabound_eps: float = field(default=1e-8, metadata={"help": "added outside the square root"})
    weight_decay: float = field(default=0.0, metadata=_DECAY)
    amsbound: bool = field(default=False, metadata={"help": "second moments that never fall"})
    lr: list[float] = field(default=II("optimization.lr"))  # type: ignore[arg-type]


@dataclass
class SignSGDConfig(FairseqDataclass):
    signsgd_momentum: float = field(default=0.0, metadata={"help": "momentum"})
    signsgd_momentum_of: ChoiceEnum(["gradient", "sign"]) = field(  # type: ignore[valid-type]
        default="gradient", metadata={"help": "what the momentum averages"}
    )
    weight_decay: float = field(default=0.0, metadata=_DECAY)
    lr: list[float] = field(default=II("optimization.lr"))  # type: ignore[arg-type]


class _Optimizer(FairseqOptimizer):
    """``optimizer_config`` is what the optimizer is made with."""

    torch_class: type

    def __init__(self, cfg: Any, params: Any) -> None:
        super().__init__(cfg)
        self._optimizer = self.torch_class(params, **self.optimizer_config)

    @property
    def supports_flat_params(self) -> bool:
        return True  # they work element by element

    @property
    def lr(self) -> float:
        """The first: fairseq has one an epoch, and sets the later ones itself."""
        return self.cfg.lr[0] if isinstance(self.cfg.lr, Sequence) else self.cfg.lr


@register_optimizer("laprop", dataclass=LaPropConfig)
class FairseqLaProp(_Optimizer):
    torch_class = LaProp

    @property
    def optimizer_config(self) -> dict[str, Any]:
        return {
            "lr": self.lr,
            "betas": pair("--laprop-betas", self.cfg.laprop_betas),
            "eps": self.cfg.laprop_eps,
            "weight_decay": self.cfg.weight_decay,
            "decay_by_lr": True,
            "centered": self.cfg.laprop_centered,
        }


@register_optimizer("adabound", dataclass=AdaBoundConfig)
class FairseqAdaBound(_Optimizer):
    torch_class = AdaBound

    @property
    def optimizer_config(self) -> dict[str, Any]:
        return {
            "lr": self.lr,
            "betas": pair("--adabound-betas", self.cfg.adabound_betas),
            "final_lr": self.cfg.adabound_final_lr,
            "gamma": self.cfg.adabound_gamma,
            "eps": self.cfg.adabound_eps,
            "weight_decay": self.cfg.weight_decay,
            "amsbound": self.cfg.amsbound,
        }


@register_optimizer("signsgd", dataclass=SignSGDConfig)
class FairseqSignSGD(_Optimizer):
    torch_class = SignSGD

    @property
    def optimizer_config(self) -> dict[str, Any]:
        return {
            "lr": self.lr,
            "momentum": self.cfg.signsgd_momentum,
            "momentum_of": str(self.cfg.signsgd_momentum_of),
            "weight_decay": self.cfg.weight_decay,
        }


def pair(option: str, text: str) -> tuple[float, float]:
    """Two numbers written as a Python tuple, as fairseq's own options are, but never evaluated."""
    try:
        first, second = ast.literal_eval(str(text))
        return float(first), float(second)
    except (ValueError, TypeError, SyntaxError):
        raise ValueError(f"{option} {text!r}: two numbers such as '(0.9, 0.98)' expected") from None
