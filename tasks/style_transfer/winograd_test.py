import pytest
import torch
from torch.nn import functional as F

from tasks.style_transfer.winograd import conv3x3, transform

SHAPES = [(1, 1, 1, 2, 3), (3, 7, 10, 5, 4), (2, 4, 4, 1, 1), (1, 13, 130, 40, 130)]


def direct(x, weight, adjoint):
    convolve = F.conv_transpose2d if adjoint else F.conv2d
    return convolve(x.permute(0, 3, 1, 2), weight.permute(3, 2, 0, 1), padding=1).permute(
        0, 2, 3, 1
    )


def drawn(shape, adjoint, dtype):
    images, height, width, inputs, outputs = shape
    random = torch.Generator().manual_seed(0)
    x = torch.randn(images, height, width, outputs if adjoint else inputs, generator=random)
    weight = torch.randn(3, 3, inputs, outputs, generator=random) / (3 * inputs**0.5)
    return x.to(dtype), weight.to(dtype)


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_torchs_convolution(shape, adjoint):
    x, weight = drawn(shape, adjoint, torch.float64)
    found = conv3x3(x, transform(weight), adjoint)
    torch.testing.assert_close(found, direct(x, weight, adjoint), rtol=1e-12, atol=1e-12)
    assert found.is_contiguous()


@pytest.mark.parametrize("adjoint", [False, True])
def test_rounding_stays_within_a_few_times_that_of_the_direct_form(adjoint):
    x, weight = drawn((2, 24, 24, 256, 256), adjoint, torch.float32)
    exact = direct(x.double(), weight.double(), adjoint)

    def error(y):
        return ((y - exact).norm() / exact.norm()).item()

    assert error(conv3x3(x, transform(weight), adjoint)) < 3e-6
    assert error(direct(x, weight, adjoint)) > 1e-7  # the yardstick itself


def test_chunks_do_not_change_the_numbers(monkeypatch):
    x, weight = drawn((3, 21, 18, 6, 5), False, torch.float64)
    whole = conv3x3(x, transform(weight))
    monkeypatch.setattr("tasks.style_transfer.winograd.CHUNK", 1)
    torch.testing.assert_close(conv3x3(x, transform(weight)), whole, rtol=1e-13, atol=1e-13)
