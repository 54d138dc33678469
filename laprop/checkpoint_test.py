"""Checkpoints, copies and pickles of all three optimizers go on as if nothing had happened."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint.state_dict import (
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)

from laprop import SignSGD
from laprop.contract_test import CLASSES, EACH, EACH_AND_FORM, equal, parameters, train, values

pytestmark = pytest.mark.filterwarnings("ignore:Casting complex values to real")


def saved_and_loaded(state_dict):
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@EACH_AND_FORM
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_checkpoint_goes_on_with_the_same_bits(kind, options, dtype):
    params = parameters(dtype)
    options = {**options, "lr": 0.01}
    if dtype == torch.float16 and kind is not SignSGD:
        options["eps"] = 1e-3
    optimizer = kind(params, **options)
    train(optimizer, params, 15)
    resumed_params = [param.detach().clone().requires_grad_() for param in params]
    resumed = kind(resumed_params, **{**options, "lr": 0.5})
    resumed.load_state_dict(saved_and_loaded(optimizer.state_dict()))

    for one, other in zip(params, resumed_params, strict=True):
        state, loaded = optimizer.state[one], resumed.state[other]
        assert list(state) == list(loaded)
        assert isinstance(loaded["step"], torch.Tensor)
        assert (loaded["step"].shape, loaded["step"].dtype) == (torch.Size([]), torch.float32)
        for name, entry in state.items():
            assert type(loaded[name]) is type(entry)
            assert loaded[name].dtype == entry.dtype
            assert torch.equal(loaded[name], entry)
    train(optimizer, params, 15, first=15)
    train(resumed, resumed_params, 15, first=15)
    assert equal(values(params), values(resumed_params))
    assert all(param.isfinite().all() for param in params)


@EACH
def test_copies_and_pickles_go_on_with_the_same_bits(kind, options):
    param = parameters(torch.float64)[0]
    optimizer = kind([param], **options)
    train(optimizer, [param], 12)
    twins = [copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))]
    train(optimizer, [param], 5, first=12)
    for twin in twins:
        (twin_param,) = twin.param_groups[0]["params"]
        train(twin, [twin_param], 5, first=12)
        assert torch.equal(twin_param, param)


@CLASSES
def test_old_checkpoints_are_completed(kind):
    """Without the flags, and with the step as a plain number."""
    params = parameters(torch.float32)
    optimizer = kind(params)
    train(optimizer, params, 3)
    saved = copy.deepcopy(optimizer.state_dict())
    expected = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
    newer = ("maximize", "foreach", "capturable", "differentiable", "fused", "amsgrad", "centered",
             "decay_by_lr", "amsbound", "momentum_of")  # fmt: skip
    for name in newer:
        saved["param_groups"][0].pop(name, None)
    for state in saved["state"].values():
        state["step"] = int(state["step"])
    optimizer.load_state_dict(saved)
    group = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
    assert group == expected
    step = optimizer.state[params[0]]["step"]
    assert isinstance(step, torch.Tensor) and step == 3
    train(optimizer, params, 1)
    assert step == 4


@CLASSES
def test_arguments_are_stored_as_plain_python(kind):
    """Else torch.load(weights_only=True) refuses the checkpoint."""
    betas = {} if kind is SignSGD else {"betas": [0.5, np.float64(0.75)]}
    param = torch.zeros(1, requires_grad=True)
    groups = [{"params": [param], "weight_decay": np.float32(0.5), **betas}]
    optimizer = kind(groups, lr=np.float64(0.25))
    group = saved_and_loaded(optimizer.state_dict())["param_groups"][0]
    assert type(group["lr"]) is type(group["weight_decay"]) is float
    assert (group["lr"], group["weight_decay"]) == (0.25, 0.5)
    if betas:
        assert group["betas"] == (0.5, 0.75)
        assert [type(beta) for beta in group["betas"]] == [float, float]
    assert list(groups[0]) == ["params", "weight_decay", *betas], "the caller's group is changed"


@EACH
@pytest.mark.parametrize("apart", [False, True])
def test_a_distributed_checkpoint_moves_no_parameter(kind, options, apart):
    """torch makes the state of a fresh optimizer by a step at lr = 0, on the weights just loaded."""

    def made():
        net = torch.nn.Linear(3, 3)
        return net, kind(net.parameters(), lr=0.01, **options)

    net, optimizer = made()
    for _ in range(3):
        net(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    saved = copy.deepcopy(get_state_dict(net, optimizer))
    other, loaded = made()
    if apart:
        set_model_state_dict(other, saved[0])
        set_optimizer_state_dict(other, loaded, saved[1])
    else:
        set_state_dict(other, loaded, model_state_dict=saved[0], optim_state_dict=saved[1])
    for _ in range(2):
        assert equal(values(net.parameters()), values(other.parameters()))
        for n, o in ((net, optimizer), (other, loaded)):
            n(torch.ones(1, 3)).sum().backward()
            o.step()
            o.zero_grad()
