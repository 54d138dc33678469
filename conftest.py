"""What holds for the tests of all folders."""

import re
from typing import Any

import pytest
import torch
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without a C++ compiler that can make the fused form, what needs it is skipped, and says so."""
    if missing := _no_compiler():
        skip = pytest.mark.skip(reason=missing)
        for item in items:
            if "compiler" in item.keywords or re.search(r"[\[-]fused", item.name):
                item.add_marker(skip)


def _no_compiler() -> str:
    from laprop import LaProp

    try:
        parameter = torch.zeros(1, requires_grad=True)
        parameter.grad = torch.zeros(1)
        LaProp([parameter], fused=True).step()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return ""
