"""What takes the place of the paper's data and nets in an experiment, in words for its readers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

# (key of the task, value) -> what it stands in for
STAND_INS = {
    ("dataset", "digits"): "scikit-learn's digits stand in for CIFAR-10 and MNIST",
    ("weights", "random"): "random VGG weights stand in for those trained on ImageNet",
    ("corpus", "numbers"): "a generated corpus of numbers in words stands in for IWSLT14",
    ("game", "CartPole-v1"): "CartPole stands in for Breakout",
}
IWSLT14 = "iwslt14.de-en"  # the folder that scripts.prepare_iwslt14 makes


def stand_ins(values: Mapping[str, Any]) -> list[str]:
    """Those of a resolved configuration; none at the paper's own setting."""
    task = values["task"]
    found = [text for (key, value), text in STAND_INS.items() if task.get(key) == value]
    corpus = Path(task.get("corpus", IWSLT14)).name
    if corpus not in (IWSLT14, "numbers"):
        found.append(f"the corpus {corpus} stands in for IWSLT14")
    return found
