"""What an override on the command line may say, whatever the configuration."""

import functools
import re
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException


class ConfigError(Exception):
    """Bad input, in one line that names the key, the value and what is allowed."""


@functools.cache
def parse_one(text: str) -> Override:
    """``key=value``, parsed; raises ConfigError where it is not of that form, or not for overrides."""
    try:
        override = OverridesParser.create().parse_override(text)
        several = override.is_sweep_override()
        if not several:
            OmegaConf.create([override.value()])  # an interpolation that is none
        empty = override.is_range_sweep() and next(iter(override.sweep_iterator()), None) is None
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        why = " " if "=" not in text else f" ({str(error).splitlines()[0]}) "
        raise ConfigError(f"'{text}': not understood{why}- key=value expected") from None
    if override.is_add() or override.is_delete():
        raise ConfigError(f"'{text}': keys are changed, not added or removed - key=value expected")
    key, value = override.key_or_group, override.value()
    if not key or override.package is not None:
        raise ConfigError(f"'{text}': not understood - key=value expected")
    if empty:
        raise ConfigError(f"{text}: a range with a number in it expected")
    _check_reach(text, key, None if several else value, several)
    return override


def _check_reach(text: str, key: str, value: Any, several: bool) -> None:
    """Refuse what is for the files of conf to set; each of several values comes by itself, too."""
    within = _keys_within(value)
    for name in (*key.split("."), *within):
        if re.fullmatch(r"_\w+_", name):  # _target_ and the like: what Hydra builds, and how
            raise ConfigError(f"{text}: {name} is set in the files of conf, never by an override")
    if key.partition(".")[0] == "sweeps":
        raise ConfigError(f"{text}: sweeps are set in conf/experiment; what they sweep is narrowed "
                          "by its own name, as optimizer=adam")  # fmt: skip
    if key == "hydra/launcher":
        if not isinstance(value, str):
            raise ConfigError(f"{text}: one name expected")
    elif key.startswith("hydra.launcher."):
        if several:
            raise ConfigError(f"{text}: one value expected")
    elif re.match(r"hydra\b", key):
        raise ConfigError(f"{text}: of Hydra's keys hydra/launcher or hydra.launcher.… expected")
    elif within:
        raise ConfigError(f"{text}: a value or a list of values expected, not {{key: value}}")


def _keys_within(value: Any) -> list[str]:
    """The keys of all mappings in a value."""
    if isinstance(value, dict):
        return [*map(str, value), *_keys_within(list(value.values()))]
    return [key for item in value for key in _keys_within(item)] if isinstance(value, list) else []
