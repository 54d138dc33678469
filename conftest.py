"""What holds for the tests of all folders."""

from typing import Any

import pytest
from hydra.core.config_store import ConfigNode, ConfigStore


@pytest.fixture(autouse=True, scope="module")
def _no_configs_of_fairseq():
    """Importing fairseq gives Hydra schemas for everybody's ``config``, ``optimizer/adam``, ...,
    ours among them."""
    _remove_fairseqs(ConfigStore.instance().repo)
    yield
    _remove_fairseqs(ConfigStore.instance().repo)


def _remove_fairseqs(repo: dict[str, Any]) -> None:
    for name, node in list(repo.items()):
        if isinstance(node, dict):
            _remove_fairseqs(node)
        elif isinstance(node, ConfigNode) and node.provider in (None, "fairseq"):
            del repo[name]
