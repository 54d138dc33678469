"""The runs of a sweep, before any is run: from the overrides of a command, or an experiment.

Hydra's own multirun composes every job (0.1 s each) before it can know that the job is done, so the
plan is made here: one composition for each choice of groups, and the values set in.
"""

import functools
import itertools
import json
import re
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import Glob, Override
from omegaconf import DictConfig, OmegaConf

from runners.config import (
    ADDED,
    ConfigError,
    RunConfig,
    added,
    canonical,
    check_scale,
    check_seeds,
    compose_config,
    groups,
    hint,
    on_leaderboard,
    parse,
    resolve,
    resolve_values,
    without_hydra,
)
from runners.overrides import parse_one

LONGEST_VALUE = 24  # in a label
NAMED = re.compile(r"\$\{(\w+)")  # the first part of what an interpolation names
FROM_SCALE = re.compile(r"\$\{scales\.\$\{scale\}\.(\w+)\}")


@dataclass(frozen=True)
class Job:
    """One run of a sweep: the overrides that a launcher gets, what they resolve to, and a label for
    people, in which the runs of a sweep differ."""

    overrides: tuple[str, ...]
    config: RunConfig
    label: str


def plan(overrides: Sequence[str]) -> list[Job]:
    """All runs of a sweep, finished or not, each once, in the order in which they are written.

    With ``experiment=E`` they are the products of E's sweeps; an override of a swept key then
    narrows the sweep to the given values, and ``optimizers=+mine`` adds an optimizer. Otherwise
    they are the product of the comma-separated overrides. Raises ConfigError.
    """
    return list(_plan(tuple(o for o in overrides if not is_hydra(parse([o])[0]))))


@functools.cache  # a sweep and its analysis ask for the same plan, and it takes seconds
def _plan(overrides: tuple[str, ...]) -> tuple[Job, ...]:
    check_seeds(overrides)
    more = added(overrides)
    given = {o.key_or_group: _values(o) for o in parse(overrides) if o.key_or_group != ADDED}
    if len(names := given.get("experiment", ())) > 1:
        raise ConfigError(f"experiment={','.join(names)}: one experiment expected; python -m "
                          f"scripts.reproduce experiments={','.join(names)} runs several")  # fmt: skip
    fixed = {key: values for key, values in given.items() if len(values) == 1}
    experiment = fixed.get("experiment", ["none"])
    products = [given]
    if experiment != ["none"]:
        base = _with_sweeps(given)
        for key in fixed:
            if key.startswith("scales.") and not key.startswith(f"scales.{base.scale}."):
                raise ConfigError(f"{key}: of no effect at scale={base.scale}")
        task = resolve(base).names["task"]
        if given.get("task", [task]) != [task]:
            other = ",".join(given["task"])
            raise ConfigError(f"task={other}: experiment={experiment[0]} is on {task}")
        if "optimizer" in given:  # narrowed to these and those that are added
            given["optimizer"] = [*given["optimizer"], *more]
        sweeps = _widen(_sweeps(base), more, experiment[0])
        for key in _patterns(overrides):  # of what is swept, not of all that there is
            swept = {value for sweep in sweeps for value in sweep.get(key, ())}
            given[key] = [value for value in given[key] if value in swept] or given[key]
        products = _narrow(sweeps, given, base)
    else:
        check_scale(overrides)
        if more:
            raise ConfigError(f"{ADDED}=+{more[0]}: for experiments; optimizer={more[0]} runs it")
    resolve_job = _Resolver()
    several = functools.cache(lambda optimizer: _several(products, optimizer))
    jobs: dict[str, Job] = {}
    for product in products:
        for values in itertools.product(*product.values()):
            job = tuple(f"{k}={v}" for k, v in zip(product, values, strict=True))
            config = resolve_job(job)
            chosen = dict(zip(product, values, strict=True))
            keys = several(chosen.get("optimizer"))
            apart = [_short(key, value) for key, value in chosen.items() if key in keys]
            jobs.setdefault(config.key, Job(job, config, " ".join([config.label, *apart])))
    return tuple(jobs.values())


def _with_sweeps(given: dict[str, list[str]]) -> DictConfig:
    """The experiment with those of the ``given`` overrides that its sweeps take values from."""

    def composed(feeding: Container[str]) -> DictConfig:
        return compose_config([f"{key}={values[0]}" for key, values in given.items()
                               if key.partition(".")[0] in feeding and len(values) == 1])  # fmt: skip

    always = ("experiment", "scale", "scales")
    feeding = {*always, *_feeding(composed(always))}
    for key, values in given.items():
        if key.partition(".")[0] in feeding and len(values) > 1:
            raise ConfigError(f"{key}={','.join(values)}: one value expected, as the sweeps of the "
                              "experiment depend on it")  # fmt: skip
    return composed(feeding)


def _feeding(base: DictConfig) -> set[str]:
    """The keys that the sweeps take values from, directly or by way of others."""
    whole: Any = OmegaConf.to_container(base, resolve=False)
    found, new = set(), {"sweeps"}
    while new:
        found |= new
        written = json.dumps([whole[key] for key in new])
        new = set(NAMED.findall(written)) & set(whole) - found
    return found - {"sweeps"}


def _several(products: Sequence[dict[str, list[str]]], optimizer: str | None) -> set[str]:
    """The keys that take several values among the runs of an ``optimizer``, without those that the
    label of a run names; where a product leaves a key as it is, that is a value of its own."""
    mine = [p for p in products if optimizer is None or optimizer in p.get("optimizer", ())]
    keys = {key for product in mine for key in product}
    values = {key: {v for product in mine for v in product.get(key, ("",))} for key in keys}
    named = ("task", "optimizer", "optimizer.lr")
    return {key for key, some in values.items() if len(some) > 1 and key not in named}


def _short(key: str, value: str) -> str:
    if len(value) > LONGEST_VALUE:
        half = (LONGEST_VALUE - 3) // 2
        value = f"{value[:half]}...{value[-half:]}"
    return f"{key.rpartition('.')[2]}={value}"


class _Resolver:
    """`resolve` for many jobs: Hydra composes once per choice of groups, values are set in."""

    def __init__(self) -> None:
        self._bases: dict[tuple[str, ...], tuple[DictConfig, dict[str, str]]] = {}
        self._groups = groups()

    def __call__(self, overrides: tuple[str, ...]) -> RunConfig:
        parsed = dict(zip(overrides, parse(overrides), strict=True))
        structural = tuple(text for text, o in parsed.items() if self._is_structural(o))
        if structural not in self._bases:
            self._bases[structural] = without_hydra(compose_config(structural))
        base, names = self._bases[structural]
        cfg = base.copy()
        for text, override in parsed.items():
            if text in structural:
                continue
            key = override.key_or_group
            if OmegaConf.select(cfg, key, default=_ABSENT) is _ABSENT:
                compose_config(overrides)  # raises, with the error for an unknown key
            OmegaConf.update(cfg, key, override.value(), merge=True)
        return resolve_values(cfg, names)

    def _is_structural(self, override: Override) -> bool:
        """Whether it does more than set a value: it chooses an option."""
        return override.key_or_group in self._groups


_ABSENT = object()


def is_hydra(override: Override) -> bool:
    """Whether it is about the launcher and the like, not about the runs."""
    return override.key_or_group.startswith(("hydra/", "hydra."))


def _patterns(overrides: Sequence[str]) -> list[str]:
    """The keys whose value is glob(...)."""
    return [o.key_or_group for o in map(parse_one, overrides) if isinstance(o.value(), Glob)]


def _values(override: Override) -> list[str]:
    if override.is_sweep_override():
        if not override.is_discrete_sweep():
            raise ConfigError(f"{override.input_line}: only lists of values can be swept")
        return [str(value) for value in override.sweep_string_iterator()]
    return [override.get_value_element_as_str()]


def _sweeps(cfg: DictConfig) -> list[dict[str, list[str]]]:
    resolved: Any = OmegaConf.to_container(cfg.sweeps, resolve=True)
    for name, sweep in resolved.items():
        for key, values in sweep.items():
            if not isinstance(values, list):
                raise ConfigError(f"sweeps.{name}.{key}={values}: a list of values expected")
    return [
        {key: [_text(value) for value in values] for key, values in sweep.items()}
        for sweep in resolved.values()
    ]


def _text(value: Any) -> str:
    """A value in Hydra's override grammar."""
    return value if isinstance(value, str) else json.dumps(value)


def _other_values(key: str, values: Sequence[str], base: DictConfig) -> str:
    """Where the sweeps take a key's values from, for one who wants others."""
    written: Any = OmegaConf.to_container(base.sweeps, resolve=False)
    text = ",".join(value.replace(" ", "") for value in values)
    places: dict[str, None] = {}
    for entry in (sweep[key] for sweep in written.values() if key in sweep):
        if found := FROM_SCALE.fullmatch(str(entry)):
            places[f"scales.{base.scale}.{found[1]}=[{text}]"] = None
        elif found := re.fullmatch(NAMED.pattern + "}", str(entry)):
            places[f"{found[1]}=[{text}]"] = None
        elif isinstance(entry, list) and len(values) == 1:
            places |= {f"scales.{base.scale}.{found[1]}={text}": None
                       for item in entry if (found := FROM_SCALE.fullmatch(str(item)))}  # fmt: skip
    own = OmegaConf.to_container(base, resolve=False)
    for part in key.split("."):  # what the runs have whose sweep does not name the key
        own = own.get(part) if isinstance(own, dict) else None
    if len(values) == 1 and (found := FROM_SCALE.fullmatch(str(own))):
        places[f"scales.{base.scale}.{found[1]}={text}"] = None
    more = f"; other values: {' or '.join(places)}" if places else ""
    if key == "optimizer" and set(values) <= set(groups()[key]):
        more += f"; {ADDED}=+{',+'.join(values)} adds to those of an experiment that compares all"
    return more


def _narrow(
    sweeps: list[dict[str, list[str]]], given: dict[str, list[str]], base: DictConfig
) -> list[dict[str, list[str]]]:
    """The given overrides put into every sweep; on a swept key they keep what they name."""
    given = {key: [_normal(v) for v in values] for key, values in given.items()}
    same = {key: [_number(v) for v in values] for key, values in given.items()}
    for key, values in given.items():
        swept = [_normal(v) for sweep in sweeps for v in sweep.get(key, ())]
        for value in values:
            if swept and _number(value) not in map(_number, swept):
                raise ConfigError(
                    f"{key}={value}: the experiment sweeps {key}"
                    f"{hint(value, list(dict.fromkeys(swept)))}{_other_values(key, values, base)}"
                )
    narrowed = []
    for sweep in sweeps:
        kept = {
            key: [v for v in map(_normal, values) if key not in given or _number(v) in same[key]]
            for key, values in sweep.items()
        }
        if all(kept.values()):
            narrowed.append({**given, **kept})
    if not narrowed:
        names = " ".join(f"{key}={','.join(values)}" for key, values in given.items())
        raise ConfigError(f"{names}: no run of the experiment has all of these")
    return narrowed


def _widen(
    sweeps: list[dict[str, list[str]]], names: Sequence[str], experiment: str
) -> list[dict[str, list[str]]]:
    """The sweeps, and for each of ``names`` those of its kind once more with it in their place.

    Its kind: with two betas or without. It gets the grid, the seeds, and, of the hyper-parameters
    that it has, the values that the others have; what it has not is left out.
    """
    if names and experiment not in (possible := on_leaderboard()):
        raise ConfigError(f"{ADDED}=+{names[0]}: {experiment} does not compare all optimizers; "
                          f"an experiment of {', '.join(possible)} expected")  # fmt: skip
    widened = list(sweeps)
    eps = [sweep["optimizer.eps"] for sweep in sweeps if "optimizer.eps" in sweep]
    for name in names:
        if any(name in sweep["optimizer"] for sweep in sweeps):
            raise ConfigError(f"{ADDED}=+{name}: {experiment} has it already")
        own = {f"optimizer.{key}" for key in compose_config([f"optimizer={name}"]).optimizer}
        if "optimizer.lr" not in own:
            raise ConfigError(f"{ADDED}=+{name}: conf/optimizer/{name}.yaml has no lr to compare")
        for sweep in sweeps:
            if ("optimizer.betas" in sweep) == ("optimizer.betas" in own):
                # those without betas have no eps in their sweep: it is that of the others
                mine = sweep | {"optimizer": [name]} | ({"optimizer.eps": eps[0]} if eps else {})
                widened.append({key: values for key, values in mine.items()
                                if not key.startswith("optimizer.") or key in own})  # fmt: skip
    return widened


def _normal(value: str) -> str:
    """One spelling for numbers and lists, so that 1e-2 is found among 0.01."""
    try:
        return json.dumps(json.loads(value))
    except ValueError:
        return value


def _number(value: str) -> str:
    """What `_normal` gave, with 1.0 as 1: for comparing, since a sweep keeps its own spelling."""
    try:
        return json.dumps(canonical(json.loads(value)))
    except ValueError:
        return value
