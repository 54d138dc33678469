"""What is said of the data behind a figure."""

import pytest

from scripts.stand_ins import stand_ins


@pytest.mark.parametrize(
    ("task", "told"),
    [({"corpus": "data/iwslt14.de-en"}, []), ({"dataset": "cifar10"}, []), ({}, []),
     ({"weights": "imagenet", "game": "BreakoutNoFrameskip-v4"}, []),
     ({"corpus": "/data/de-en"}, ["the corpus de-en stands in for IWSLT14"]),
     ({"corpus": "numbers"}, ["a generated corpus of numbers in words stands in for IWSLT14"]),
     ({"dataset": "digits"}, ["scikit-learn's digits stand in for CIFAR-10 and MNIST"])],
)  # fmt: skip
def test_what_takes_the_place_of_the_papers_data_is_named(task, told) -> None:
    assert stand_ins({"task": task}) == told
