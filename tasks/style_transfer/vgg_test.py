import pytest
import torch
from safetensors.torch import save_file
from torchvision.models.vgg import cfgs, make_layers

from tasks.style_transfer import vgg

NETS = list(vgg.BLOCKS)


def torchvisions(net):
    """What torchvision.models.vgg16() calls features, without the large classifier behind it."""
    return make_layers(cfgs[{"vgg16": "D", "vgg19": "E"}[net]])


@pytest.fixture(scope="module")
def states():
    torch.manual_seed(0)
    return {net: torchvisions(net).state_dict(prefix="features.") for net in NETS}


@pytest.mark.parametrize("pooling", ["max", "avg"])
@pytest.mark.parametrize("net", NETS)
def test_every_layer_is_torchvisions(net, pooling, states, tmp_path):
    torch.save(states[net], tmp_path / "w.pt")
    names = vgg.layer_names(net)
    model = vgg.VGG(net, names, vgg.load_weights(str(tmp_path / "w.pt"), net, names, ""), pooling)
    layers = torchvisions(net)
    layers.load_state_dict({key.removeprefix("features."): v for key, v in states[net].items()})
    assert len(names) == len(layers)
    picture = torch.rand(2, 3, 33, 36)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (vgg.MEAN, vgg.STD))
    x = (picture - mean) / std
    found = dict(model.walk(picture, torch.float32))
    with torch.no_grad():
        for name, layer in zip(names, layers, strict=True):
            if isinstance(layer, torch.nn.ReLU):
                layer.inplace = False
            if isinstance(layer, torch.nn.MaxPool2d) and pooling == "avg":
                layer = torch.nn.AvgPool2d(2)
            x = layer(x)
            torch.testing.assert_close(found[name].permute(0, 3, 1, 2), x, rtol=1e-4, atol=1e-5)


def test_the_net_ends_at_the_deepest_layer_in_use():
    weights = vgg.load_weights("random", "vgg19", ["relu2_1", "conv1_2"], "")
    assert list(weights) == ["conv1_1", "conv1_2", "conv2_1"]
    model = vgg.VGG("vgg19", ["relu2_1", "conv1_2"], weights, "max")
    assert model.layers[-1] == "relu2_1" and not list(model.parameters())
    assert not model.state_dict()  # weights are read again, not saved


def test_random_weights_are_always_the_same_and_keep_the_scale():
    first, again = (vgg.load_weights("random", "vgg16", ["relu5_3"], "") for _ in range(2))
    for name, (weight, bias) in first.items():
        assert torch.equal(weight, again[name][0]) and not bias.any()
        fan_in = weight[0].numel()
        assert weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.03)


def test_files_of_either_format_and_dtype(states, tmp_path):
    state = states["vgg16"]
    torch.save(state, tmp_path / "a.pth")
    save_file({key: value.half() for key, value in state.items()}, tmp_path / "b.safetensors")
    for name, tolerance in (("a.pth", 0), ("b.safetensors", 1e-3)):
        found = vgg.load_weights(str(tmp_path / name), "vgg16", ["relu3_1"], "")
        for layer, key in {"conv1_1": "features.0", "conv3_1": "features.10"}.items():
            weight, bias = found[layer]
            assert weight.dtype == bias.dtype == torch.float32
            torch.testing.assert_close(weight, state[f"{key}.weight"], rtol=tolerance, atol=1e-4)


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def test_wrong_files_are_said_in_one_line_and_nothing_is_executed(states, tmp_path, capsys):
    state = states["vgg16"]
    torch.save(Evil(), tmp_path / "evil.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save(state | {"features.2.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "shape.pth")
    torch.save(state | {"features.0.bias": torch.full((64,), torch.nan)}, tmp_path / "nan.pth")
    save_file({"features.0.weight": state["features.0.weight"]}, tmp_path / "few.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "few.safetensors").read_bytes()[:99])
    (tmp_path / "text").write_text("hello, world")
    torch.save(state, tmp_path / "vgg16.pth")
    for name, message in {
        "none": "No such file or directory; imagenet, random or a file expected",
        "evil.pth": "neither safetensors nor a state dict that torch can load safely",
        "text": "neither safetensors nor",
        "cut.safetensors": "neither safetensors nor",
        "list.pth": "not a state dict",
        "shape.pth": r"features.2.weight in it is 64 x 3 x 3 x 3, 64 x 64 x 3 x 3 expected",
        "nan.pth": "features.0.bias in it holds what is no finite number",
        "few.safetensors": r"no features.0.bias in it \(conv1_1 of vgg19\)",
        "vgg16.pth": r"no features.16.weight in it \(conv3_4 of vgg19\)",
    }.items():
        with pytest.raises(ValueError, match=message) as error:
            vgg.load_weights(str(tmp_path / name), "vgg19", ["relu4_1"], "")
        assert "\n" not in str(error.value)
    assert "executed" not in capsys.readouterr().out


def test_imagenet_weights_come_from_data_dir_or_the_network(states, tmp_path, monkeypatch):
    torch.save(states["vgg19"], tmp_path / "vgg19-dcbb9e9d.pth")  # torchvision's name for them
    found = vgg.load_weights("imagenet", "vgg19", ["relu1_2"], tmp_path)
    assert torch.equal(found["conv1_2"][0], states["vgg19"]["features.2.weight"])

    def unreachable(*arguments, **options):
        from urllib.error import URLError

        raise URLError("no route to host")

    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    with pytest.raises(ValueError, match=r"cannot be downloaded or read \(no route to host\); put "
                       r"vgg16-\w+.pth into .*, name a file, or take task.weights=random"):  # fmt: skip
        vgg.load_weights("imagenet", "vgg16", ["relu1_2"], tmp_path)


def test_an_unknown_layer_is_named_with_the_nearest():
    with pytest.raises(ValueError, match="vgg16 has no layer relu4_4; did you mean relu4_3?"):
        vgg.check_layers("vgg16", ["relu1_1", "relu4_4"])
