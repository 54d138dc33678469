"""From command-line overrides to a checked, resolved configuration and its run key.

No torch here: asking for help or for the state of a sweep must not pay for importing it.
"""

import difflib
import functools
import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Glob, Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from runners import search
from runners.overrides import ConfigError, parse_one

search.register()  # configurations may use its functions

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"

# Seeds from here on choose hyper-parameters; seeds below report. They never meet.
TUNING_SEEDS_START = 1_000_000

# What decides the numbers; all else may change without making it another run. The device does, too, in
# their last bits: it is part of the key, but the same seed on two devices would count twice.
IDENTITY = ("task", "optimizer", "schedule", "seed", "seeds", "steps", "eval_every", "precision")
# Overrides with which an experiment is still itself: how and where it runs, not what.
MANNER = (
    "experiment", "scale", "device", "tracking", "results_dir", "data_dir", "checkpoint_every",
    "force",
)  # fmt: skip
ADDED = "optimizers"  # optimizers=+mine compares one optimizer more (runners/plan.py)
CHOICES = {
    "scale": ("smoke", "quick", "paper"),
    "precision": ("fp32", "bf16"),
    "device": ("auto", "cpu", "cuda"),
    "tracking": ("offline", "online", "disabled"),
}


@dataclass(frozen=True)
class RunConfig:
    """One run, resolved: what `runners.run.run` needs, and nothing of Hydra.

    Attributes:
        key: hash of everything that decides the numbers; directory name and W&B id.
        names: the chosen ``task``, ``optimizer``, ``schedule`` and ``experiment``.
        values: the resolved configuration as plain containers, ``seeds`` as a list that ends in
            the tuning seeds.
    """

    key: str
    names: dict[str, str]
    values: dict[str, Any]

    @property
    def folder(self) -> Path:
        return Path(self.values["results_dir"]) / "runs" / self.key

    @property
    def label(self) -> str:
        """Short text for people: task, optimizer and its learning rate."""
        lr = self.values["optimizer"].get("lr")
        return f"{self.names['task']} {self.names['optimizer']}" + (
            f" lr={lr:g}" if _is_number(lr) else ""
        )


def groups() -> dict[str, list[str]]:
    """The configuration groups and their options, from the files under ``conf``."""
    found = {}
    for folder in sorted(p for p in CONF.iterdir() if p.is_dir() and p.name != "hydra"):
        found[folder.name] = sorted(p.stem for p in folder.glob("*.yaml"))
    return found


def all_experiments() -> list[str]:
    """Those that there are; ``none`` stands for no experiment."""
    return [name for name in groups()["experiment"] if name != "none"]


def check_option(group: str, option: str) -> None:
    """Raise ConfigError, with the nearest name, unless ``group`` has ``option``."""
    options = groups()[group]
    if option not in options:
        named = [name for name in options if name != "none"]
        raise ConfigError(f"{group}={option}: unknown {group}{hint(option, named)}")


def check_scale(overrides: Sequence[str]) -> None:
    """Refuse a scale where there is no experiment that would have it."""
    for override in parse(overrides):
        if override.key_or_group == "scale" or override.key_or_group.startswith("scales."):
            raise ConfigError(f"{override.input_line}: of no effect without experiment=E")


def check_seeds(overrides: Sequence[str]) -> None:
    """Refuse a seed that nothing would come of: beside a list, and not a number, of seeds."""
    given = {o.key_or_group: o for o in parse(overrides)}
    if "seed" in given and "seeds" in given and isinstance(given["seeds"].value(), list):
        lines = given["seed"].input_line, given["seeds"].input_line
        raise ConfigError(f"{lines[0]}: of no effect beside {lines[1]}")


def on_leaderboard() -> list[str]:
    """The experiments that compare all optimizers, and that another one can be added to."""
    files = sorted((CONF / "experiment").glob("*.yaml"))
    return [path.stem for path in files if OmegaConf.select(OmegaConf.load(path), "leaderboard")]


def added(overrides: Sequence[str]) -> list[str]:
    """The optimizers that ``optimizers=+mine,+other`` adds; raises ConfigError for unknown ones."""
    names: list[str] = []
    for override in parse(overrides):
        if override.key_or_group == ADDED:
            _, _, text = (override.input_line or "").partition("=")
            names = text.split(",")
    for name in names:
        if not name.startswith("+"):
            raise ConfigError(f"{ADDED}={name}: {ADDED}=+NAME adds one to those of the experiment; "
                              f"optimizer={name} narrows it to one of them")  # fmt: skip
        options = groups()["optimizer"]
        if name[1:] not in options:
            raise ConfigError(f"{ADDED}={name}: unknown optimizer{hint(name[1:], options)}")
    return sorted({name[1:] for name in names})


def folder_name(scale: str, added: Sequence[str]) -> str:
    """Where results at ``scale`` go when ``added`` are compared too: beside the real ones."""
    return scale + "".join(f"+{name}" for name in added)


def parse(overrides: Sequence[str]) -> list[Override]:
    """Parse ``key=value`` arguments; raises ConfigError where one is not of that form."""
    return [_matching(override) for override in map(parse_one, overrides)]


def _matching(override: Override) -> Override:
    """With the list of options that Hydra's ``optimizer=glob(ada*)`` stands for in its place."""
    key, text, pattern = override.key_or_group, override.input_line, override.value()
    if not isinstance(pattern, Glob):
        return override
    options = [name for name in groups().get(key, ()) if name != "none"]
    if not options:
        raise ConfigError(f"{text}: glob() chooses among the options of {', '.join(groups())}")
    if not (names := pattern.filter(options)):
        raise ConfigError(f"{text}: no {key} is named so; one of {', '.join(options)} expected")
    return replace(parse_one(f"{key}=choice({','.join(names)})"), input_line=text)


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """Hydra's composition of conf/config.yaml with ``overrides``, Hydra's own node included."""
    options = groups()
    for override in parse(overrides):
        key, value = override.key_or_group, override.value()
        if key in options and not override.is_sweep_override():
            check_option(key, str(value))
    try:
        _drop_other_launchers()
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(CONF), version_base="1.3", job_name="run"):
            return compose("config", list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise _explain(error, overrides) from None
    except YAMLError as error:
        raise ConfigError(f"not valid YAML: {' '.join(str(error).split())}") from None


@functools.cache
def _drop_other_launchers() -> None:
    """hydra-submitit-launcher, where it is installed, has options of the same names as those in
    conf/hydra/launcher, and Hydra would take them for the schemas of ours."""
    Plugins.instance()  # they are there from now on
    launchers = ConfigStore.instance().repo["hydra"]["launcher"]
    for path in (CONF / "hydra" / "launcher").glob("*.yaml"):
        launchers.pop(path.name, None)


def resolve(cfg: DictConfig) -> RunConfig:
    """Check a composed ``cfg`` and turn it into a RunConfig; ConfigError names the first bad key."""
    return resolve_values(*without_hydra(cfg))


def experiment_values(overrides: Sequence[str]) -> dict[str, Any]:
    """The resolved configuration of an experiment, its ``sweeps`` included.

    Overrides that only narrow the sweep, being several values, or widen it, are not values of it.
    """
    single = [o.input_line or "" for o in parse(overrides)
              if not o.is_sweep_override() and o.key_or_group != ADDED]  # fmt: skip
    cfg = compose_config(single)
    values = resolve(cfg).values
    sweeps: Any = OmegaConf.to_container(cfg.sweeps, resolve=True)
    return {**values, "sweeps": sweeps}


def without_hydra(cfg: DictConfig) -> tuple[DictConfig, dict[str, str]]:
    """The part of ``cfg`` that is the run's own, and the names of the options chosen in it."""
    choices = cfg.hydra.runtime.choices
    names = {group: choices[group] for group in ("task", "optimizer", "schedule", "experiment")}
    return OmegaConf.masked_copy(cfg, [str(k) for k in cfg if k not in ("hydra", "sweeps")]), names


def resolve_values(cfg: DictConfig, names: dict[str, str]) -> RunConfig:
    """`resolve` after `without_hydra`."""
    try:
        if cfg.scale not in CHOICES["scale"]:  # before the interpolations that depend on it
            scale = str(cfg.scale)
            raise ConfigError(f"scale={scale}: unknown scale{hint(scale, CHOICES['scale'])}")
        values: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        where = f"{error.full_key}: " if error.full_key else ""
        raise ConfigError(where + str(error).splitlines()[0]) from None
    _check(values, names)
    values["seeds"] = _seeds(values["seed"], values["seeds"], values.pop("tuning_seeds"))
    identity = {key: values[key] for key in IDENTITY} | {"device": values["device"]}
    if "data_dir" in values["task"]:  # where the data lie decides no number
        identity["task"] = values["task"] | {"data_dir": "data"}
    # what is null is as if it were not there, so that runs outlive a new key of their optimizer
    identity["optimizer"] = {k: v for k, v in values["optimizer"].items() if v is not None}
    text = json.dumps(canonical(identity), sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    return RunConfig(key, names, values)


def canonical(value: Any) -> Any:
    """The same number in one spelling: lr=1 and lr=1.0 are the same run."""
    if isinstance(value, dict):
        return {key: canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _seeds(seed: int, seeds: int | list[int], tuning_seeds: int) -> list[int]:
    reporting = list(range(seed, seed + seeds)) if isinstance(seeds, int) else seeds
    return reporting + list(range(TUNING_SEEDS_START, TUNING_SEEDS_START + tuning_seeds))


@functools.cache
def _defaults(group: str, option: str) -> dict[str, Any]:
    """An option as its YAML gives it and what that builds on, interpolations unresolved."""
    path = CONF / group / f"{option}.yaml"
    loaded: Any = OmegaConf.to_container(OmegaConf.load(path)) if path.exists() else {}
    below = [base for base in loaded.get("defaults", ()) if isinstance(base, str)]
    return {k: v for base in below for k, v in _defaults(group, base).items()} | loaded


def _check(values: dict[str, Any], names: dict[str, str]) -> None:
    for key, allowed in CHOICES.items():
        if values[key] not in allowed:
            raise ConfigError(f"{key}={values[key]}: one of {', '.join(allowed)} expected")
    for key, least in {
        "steps": 1,
        "eval_every": 1,
        "checkpoint_every": 1,
        "tuning_seeds": 0,
    }.items():
        if not _is_int(values[key]) or values[key] < least:
            raise ConfigError(f"{key}={values[key]}: a whole number >= {least} expected")
    # from TUNING_SEEDS_START on: a tuning seed of a task that holds one replica
    if not _is_int(values["seed"]) or values["seed"] < 0:
        raise ConfigError(f"seed={values['seed']}: a whole number >= 0 expected")
    _check_seeds(values["seeds"])
    counted = values["seeds"] if isinstance(values["seeds"], int) else 0
    several = counted > 1 or values["tuning_seeds"] > 0
    if counted and several and values["seed"] + counted > TUNING_SEEDS_START:
        raise ConfigError(
            f"seed={values['seed']}: with seeds={counted} and tuning_seeds={values['tuning_seeds']} at most "
            f"{TUNING_SEEDS_START - counted:,} expected, for tuning seeds begin at {TUNING_SEEDS_START:,}"
        )
    for key in ("results_dir", "data_dir"):
        if not isinstance(values[key], str) or not values[key]:
            raise ConfigError(f"{key}={values[key]}: a folder expected")
    if not isinstance(values["force"], bool):
        raise ConfigError(f"force={values['force']}: true or false expected")
    scale = values["scale"]
    trials = values.get("scales", {}).get(scale, {}).get("trials", 1)
    if not _is_int(trials) or not 1 <= trials <= search.MOST_TRIALS:
        raise ConfigError(f"scales.{scale}.trials={trials}: a whole number from 1 to "
                          f"{search.MOST_TRIALS:,} expected")  # fmt: skip
    checks = {"optimizer": _check_hyper_parameter, "schedule": _check_schedule, "task": None}
    for group, check in checks.items():
        defaults = _defaults(group, names[group])
        for key, value in values[group].items():
            name = f"{group}.{key}"
            if isinstance(defaults.get(key), bool) and not isinstance(value, bool):
                raise ConfigError(f"{name}={value}: true or false expected")
            if check is None:  # a task's number may as well be a list
                continue
            check(name, key, value)
            if _is_number(defaults.get(key)) and not (_is_number(value) and math.isfinite(value)):
                raise ConfigError(f"{name}={value}: a finite number expected")


def _check_seeds(seeds: Any) -> None:
    if isinstance(seeds, list):
        wrong = [s for s in seeds if not _is_int(s) or not 0 <= s < TUNING_SEEDS_START]
        if not seeds or wrong or len(set(seeds)) < len(seeds):
            raise ConfigError(
                f"seeds={seeds}: a non-empty list of different whole numbers from 0 to "
                f"{TUNING_SEEDS_START - 1:,} expected"
            )
    elif not _is_int(seeds) or not 1 <= seeds < TUNING_SEEDS_START:
        raise ConfigError(f"seeds={seeds}: a count >= 1 or a list of seeds expected")


def _check_hyper_parameter(name: str, key: str, value: Any) -> None:
    """The bounds that all optimizers share; each checks its own further arguments itself."""
    if key in ("lr", "eps", "weight_decay") and not (_is_number(value) and 0 <= value < math.inf):
        raise ConfigError(f"{name}={value}: a finite number >= 0 expected")
    if key == "fused" and type(value) not in (bool, type(None)):
        raise ConfigError(f"{name}={value}: true, false or null expected")
    if key == "momentum" and not (_is_number(value) and 0 <= value < 1):
        raise ConfigError(f"{name}={value}: a number in [0, 1) expected")
    if key == "betas":
        pair = isinstance(value, list) and len(value) == 2
        if not pair or not all(_is_number(b) and 0 <= b < 1 for b in value):
            raise ConfigError(f"{name}={value}: two numbers in [0, 1) expected")


def _check_schedule(name: str, key: str, value: Any) -> None:
    """The bounds of what schedules take, which torch's own hardly look at."""
    if key in ("eta_min", "power") and not (_is_number(value) and 0 <= value < math.inf):
        raise ConfigError(f"{name}={value}: a finite number >= 0 expected")
    if key in ("start_factor", "end_factor") and not (_is_number(value) and 0 <= value <= 1):
        raise ConfigError(f"{name}={value}: a number from 0 to 1 expected")
    least = {"T_max": 1, "total_iters": 1, "total": 1, "warmup": 0}.get(key)
    if least is not None and not (_is_int(value) and value >= least):
        raise ConfigError(f"{name}={value}: a whole number of steps >= {least} expected")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def hint(value: str, allowed: Sequence[str]) -> str:
    """The end of a message about an unknown ``value``: the nearest one, and all of them."""
    close = difflib.get_close_matches(value, allowed, n=1, cutoff=0.5)
    nearest = f"did you mean {close[0]}? " if close else ""
    return f"; {nearest}one of {', '.join(allowed)} expected"


def _explain(error: Exception, overrides: Sequence[str]) -> ConfigError:
    """Hydra's several lines about one override as one line, with the nearest existing key."""
    for override in parse(overrides):
        if override.is_sweep_override():
            key, _, values = str(override.input_line).partition("=")
            listed = "" if "(" in values else f"; one list of them is {key}=[{values}]"
            return ConfigError(f"{override.input_line}: several values are a sweep; add -m{listed}")
    known = _all_keys(overrides)
    for override in parse(overrides):
        key = override.key_or_group
        # those of the scales have the names of others, and are meant only where they are named
        keys = [k for k in known if k.startswith("scales.") == key.startswith("scales.")]
        if key not in keys and key not in groups() and not key.startswith("hydra"):
            group = key.partition(".")[0]
            of = [f" of {o.input_line}" for o in parse(overrides) if o.key_or_group == group]
            more = _sweeps_without(key, overrides) or _nearest_key(key, keys)
            return ConfigError(f"{key}: unknown key{''.join(of)}{more}")
    text = " ".join(str(error).split())
    # Hydra's own keys: its words, without advice that is not for here
    if found := re.search(
        r"Could not find '(.+)/(.+)' Available options in '\1': (.+?) Config", text
    ):
        group, option, options = found.groups()
        return ConfigError(f"{group}={option}: unknown {group}{hint(option, options.split())}")
    if found := re.match(r"Could not override '([^']+)'", text):
        return ConfigError(f"{found[1]}: unknown key")
    return ConfigError(
        re.sub(r"^Error merging override (.+)$", r"\1: not a value of its type", text)
    )


def _sweeps_without(key: str, overrides: Sequence[str]) -> str:
    """Which sweeps of the experiment choose options without a ``key`` that others of them have."""
    group, _, name = key.partition(".")
    named = [str(o.value()) for o in parse(overrides) if o.key_or_group == "experiment"]
    experiment = named[-1] if named else "none"
    sweeps = _defaults("experiment", experiment).get("sweeps", {})
    chosen = [(sweep, option) for sweep in sweeps for option in sweeps[sweep].get(group, ())]
    has = {option: name in _defaults(group, option) for _, option in chosen}
    having = [option for option in has if has[option]]
    if not having or len(having) == len(has):
        return ""
    lacking = ", ".join(dict.fromkeys(sweep for sweep, option in chosen if not has[option]))
    without = ",".join(option for option in has if not has[option])
    return (f"; sweeps {lacking} of experiment={experiment} are without it, for {group}={without}; "
            f"{group}={','.join(having)} narrows to those with it")  # fmt: skip


def _nearest_key(key: str, keys: Sequence[str]) -> str:
    """A hint for an unknown key: its namesakes under an existing parent, else the nearest key."""
    parent, _, name = key.rpartition(".")
    siblings = [k for k in keys if k.rpartition(".")[0] == parent and "._" not in k]
    if parent and siblings:
        close = difflib.get_close_matches(name, [k.rpartition(".")[2] for k in siblings], n=1)
        nearest = f"did you mean {parent}.{close[0]}? " if close else ""
        return f"; {nearest}one of {', '.join(siblings)} expected"
    if namesakes := [k for k in keys if k.endswith(f".{key}")]:
        return f"; did you mean {' or '.join(namesakes)}?"
    close = difflib.get_close_matches(key, keys, n=1, cutoff=0.65)
    return f"; did you mean {close[0]}?" if close else ""


def _all_keys(overrides: Sequence[str]) -> list[str]:
    """Every key that exists under the groups chosen in ``overrides``."""
    options = groups()
    chosen = [o.input_line for o in parse(overrides) if o.key_or_group in options]
    with initialize_config_dir(str(CONF), version_base="1.3", job_name="run"):
        cfg = compose("config", [text for text in chosen if text])
    return _flat(OmegaConf.to_container(cfg, resolve=False))


def _flat(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return []
    found = []
    for key, value in node.items():
        if prefix or key != "sweeps":
            found += [prefix + str(key), *_flat(value, f"{prefix}{key}.")]
    return found
