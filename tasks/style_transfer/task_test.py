import json
import math

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

from runners.config import CONF
from runners.run import main
from tasks.style_transfer import pictures, vgg
from tasks.style_transfer.task import StyleTransfer

OPTIMIZERS = sorted(path.stem for path in (CONF / "optimizer").glob("*.yaml"))
CONTENT = {"relu3_2": 2.0}
STYLE = {"relu1_1": 1e6, "conv2_2": 3e5, "pool2": 1e5, "relu4_1": 1e7}
TV = 5.0
SETTINGS = {
    "weights": "random", "content_layers": list(CONTENT), "content_weight": list(CONTENT.values()),
    "style_layers": list(STYLE), "style_weight": list(STYLE.values()), "tv_weight": TV,
}  # fmt: skip
SMALL = {"weights": "random", "content_layers": "relu2_1", "style_layers": ["relu1_1", "relu2_1"],
         "style_weight": 1e5, "size": 24, "init": "noise"}  # fmt: skip


def gram(x):
    rows = x.flatten(2)
    return rows @ rows.mT / x[0].numel()


def straightforward(net, pooling, content, style, image):
    """Loss and gradient from torchvision's layers, hooks and autograd, one picture at a time."""
    layers = make_layers(cfgs[{"vgg16": "D", "vgg19": "E"}[net]]).to(image.dtype)
    names = vgg.layer_names(net)
    for name, (weight, bias) in vgg.load_weights("random", net, ["pool5"], "").items():
        layer = layers[names.index(name)]
        layer.weight.data, layer.bias.data = weight.to(image.dtype), bias.to(image.dtype)
    found = {}
    for place, name in enumerate(names):
        if isinstance(layers[place], nn.ReLU):
            layers[place].inplace = False
        if isinstance(layers[place], nn.MaxPool2d) and pooling == "avg":
            layers[place] = nn.AvgPool2d(2)
        layers[place].register_forward_hook(lambda m, x, y, name=name: found.update({name: y}))

    def activations(x):
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (vgg.MEAN, vgg.STD))
        layers[: names.index("relu4_1") + 1]((x - mean.to(x.dtype)) / std.to(x.dtype))
        return dict(found)

    of_content, of_style = activations(content), activations(style)
    losses, gradients = [], []
    for one in image:
        x = one[None].clone().requires_grad_()
        of_x = activations(x)
        loss = sum(w * nn.functional.mse_loss(of_x[n], of_content[n]) for n, w in CONTENT.items())
        loss += sum(w * nn.functional.mse_loss(gram(of_x[n]), gram(of_style[n]))
                    for n, w in STYLE.items())  # fmt: skip
        loss += TV * sum(x.diff(dim=axis).square().mean() for axis in (2, 3))
        losses.append(loss.item())
        gradients.append(torch.autograd.grad(loss, x)[0][0])
    return torch.tensor(losses, dtype=image.dtype), torch.stack(gradients)


def step(task):
    loss = task.loss()
    task.backward(loss, torch.ones_like(loss))
    return loss, task.image.grad


@pytest.mark.parametrize("init", ["content", "noise"])
@pytest.mark.parametrize("pooling", ["max", "avg"])
@pytest.mark.parametrize("net", ["vgg16", "vgg19"])
def test_loss_and_gradient_are_those_of_a_straightforward_implementation(net, pooling, init):
    """In float32. Small pictures: where a number is so near 0, or to its neighbour, that rounding
    decides whether it is rectified or pooled, two right implementations differ by far more."""
    seeds = [0, 1] if init == "noise" else [0]
    task = StyleTransfer(seeds, size=32, net=net, pooling=pooling, init=init, **SETTINGS)
    with torch.no_grad():  # away from the content picture, where the content loss is 0
        task.image.lerp_(
            torch.rand(task.image.shape, generator=torch.Generator().manual_seed(1)), 0.3
        )
    content, style = (pictures.load(name, 32)[None] for name in ("china", "flower"))
    expected, gradient = straightforward(net, pooling, content, style, task.image.detach())
    loss, found = step(task)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    error = (found - gradient).flatten(1).norm(dim=1) / gradient.flatten(1).norm(dim=1)
    assert error.max() < 1e-5
    torch.testing.assert_close(task.evaluate()["loss"], loss, rtol=1e-6, atol=0)


def test_in_float64_also_where_the_fast_convolutions_are_at_work(monkeypatch):
    monkeypatch.setattr(vgg, "WINOGRAD_PIXELS", 1)
    task = StyleTransfer([0, 1], size=[38, 45], init="noise", **SETTINGS)
    content, style = (pictures.load(name, size)[None].double()
                      for name, size in (("china", (38, 45)), ("flower", (38, 45))))  # fmt: skip
    task.double()
    task._set_targets(content, [style[0]])
    expected, gradient = straightforward("vgg19", "max", content, style, task.image.detach())
    loss, found = step(task)
    torch.testing.assert_close(loss, expected, rtol=1e-11, atol=0)
    torch.testing.assert_close(found, gradient, rtol=1e-8, atol=1e-12 * gradient.abs().max().item())


def trained(task, steps=3, name="adam"):
    optimizer = instantiate(OmegaConf.load(CONF / "optimizer" / f"{name}.yaml"), _convert_="all")(
        task.parameters(), lr=0.05
    )
    for _ in range(steps):
        step(task)
        optimizer.step()
    return task


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_packed_replicas_are_as_many_runs_of_their_own(name):
    pairs, settings = [("china", "flower"), ("flower", "china")], SMALL | {"size": [20, 28]}
    packed = trained(
        StyleTransfer([0, 7], *map(list, zip(*pairs, strict=True)), **settings), name=name
    )
    assert [(r["content"], r["style"], r["seed"]) for r in packed.replicas] == [
        ("china", "flower", 0), ("china", "flower", 7), ("flower", "china", 0), ("flower", "china", 7),
    ]  # fmt: skip
    place = 0
    for content, style in pairs:
        for seed in (0, 7):
            one = trained(StyleTransfer([seed], content, style, **settings), name=name)
            torch.testing.assert_close(packed.image[place], one.image[0], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(
                packed.evaluate()["loss"][place], one.evaluate()["loss"][0], rtol=1e-4, atol=0
            )
            place += 1


def test_it_gets_better_and_the_picture_stays_displayable():
    task = StyleTransfer([0], **SMALL)
    before = task.evaluate()
    trained(task, 20)
    after = task.evaluate()
    assert after["loss"] < 0.5 * before["loss"]
    assert after["loss"] == after["content_loss"] + after["style_loss"]
    with torch.no_grad():
        task.image.add_(5.0)
    assert task.evaluate()["loss"] == task.evaluate()["loss"] and task.image.max() > 1  # unchanged
    loss = task.loss()
    assert task.image.min() >= 0 and task.image.max() <= 1 and loss.isfinite()


def test_starts():
    at_content = StyleTransfer([0], **SMALL | {"init": "content"})
    assert torch.equal(at_content.image[0], pictures.load("china", 24))
    assert at_content.evaluate()["content_loss"].max() < 1e-9  # rounding
    noise = StyleTransfer([0, 1], **SMALL).image
    assert not torch.equal(noise[0], noise[1])
    assert torch.equal(noise[1], StyleTransfer([1], **SMALL).image[0])
    assert 0 <= noise.min() and noise.max() <= 1 and abs(noise.mean().item() - 0.5) < 0.02


def test_a_frozen_replica_gets_no_gradient_at_all():
    task = StyleTransfer([0, 1], **SMALL)
    with torch.no_grad():
        task.image[0] = torch.nan
    loss = task.loss()
    assert loss.isfinite().tolist() == [False, True]
    task.backward(loss, torch.tensor([0.0, 1.0]))
    assert not task.image.grad[0].any() and task.image.grad[1].isfinite().all()
    assert set(task.artifacts()) == {"image_0.png", "image_1.png"}  # also of what is no number


def test_bf16_is_near():
    exact, half = StyleTransfer([0], **SMALL), StyleTransfer([0], **SMALL)
    loss, gradient = step(exact)
    with torch.autocast("cpu", torch.bfloat16):
        rough = half.loss()
    half.backward(rough, torch.ones(1))
    assert half.image.grad.dtype == rough.dtype == torch.float32
    torch.testing.assert_close(rough, loss, rtol=0.03, atol=0)
    cosine = nn.functional.cosine_similarity(half.image.grad.flatten(), gradient.flatten(), dim=0)
    assert cosine > 0.98 and rough != loss


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_has_the_same_loss_and_gradient():
    (loss, gradient), (there, found) = (
        step(StyleTransfer([0, 1], **SMALL).to(device)) for device in ("cpu", "cuda")
    )
    torch.testing.assert_close(there.cpu(), loss, rtol=2e-3, atol=0)  # TF32 convolutions
    cosine = nn.functional.cosine_similarity(found.cpu().flatten(), gradient.flatten(), dim=0)
    assert cosine > 0.999


WRONG = {
    "content=none.jpg": "task.content=none.jpg: No such file or directory",
    "style=conf": "task.style=conf: Is a directory",
    "content=README.md": "task.content=README.md: not an image of a known format",
    "content=[china,flower] task.style=[china,flower,china]": "task.style=['china', 'flower', 'china']:"
    " one expected, or as many as there are content pictures (2)",
    "content=[china,none.png]": "task.content=none.png: No such file",
    # before the weights, which may be a download
    "content=none.png task.weights=nowhere": "task.content=none.png: No such file",
    "size=7": "task.content=china: comes out as 5 x 7 pixels, at least 8 x 8 expected for relu4_2",
    "size=[64]": "task.size=[64]: a whole number of pixels",
    "size=true": "task.size=True: a whole number of pixels",
    "content=5": "task.content=[5]: a picture or a list of pictures expected",
    "net=[vgg19]": "task.net=['vgg19']: one of vgg16, vgg19 expected",
    "style_layers=5": "task.style_layers=5: vgg19 has no layer 5",
    "style_weight=true": "task.style_weight=True: a number >= 0 expected",
    "weights=5": "task.weights=5: a text expected",
    "data_dir=5": "task.data_dir=5: a text expected",
    "size=0": "task.size=0: a whole number of pixels, or [height,width], expected",
    "size=[64,32,3]": "task.size=[64, 32, 3]: a whole number of pixels",
    "net=vgg13": "task.net=vgg13: one of vgg16, vgg19 expected",
    "init=style": "task.init=style: one of content, noise expected",
    "pooling=mean": "task.pooling=mean: one of max, avg expected",
    "content_layers=[relu9_1]": "task.content_layers=relu9_1: vgg19 has no layer relu9_1; did you mean",
    "style_weight=[1,2]": "task.style_weight=[1, 2]: one number expected, or one for each of 3 layers",
    "style_weight=-1": "task.style_weight=-1: a number >= 0 expected",
    "tv_weight=nan": "task.tv_weight=nan: a number >= 0 expected",
    "weights=README.md": "task.weights=README.md: neither safetensors nor a state dict",
    "weights=nowhere": "task.weights=nowhere: No such file or directory; imagenet, random or a file",
    "content_layers=[] task.style_layers=[]": "task.style_layers=[]: a layer expected",
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_bad_input_is_one_line(wrong, tmp_path, capsys):
    arguments = ["task=style_transfer", "task.weights=random", f"results_dir={tmp_path}", "steps=1",
                 "task.style_layers=[relu1_1,relu2_1,relu3_1]"]  # fmt: skip
    assert main([*arguments, *f"task.{wrong}".split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {WRONG[wrong]}") and error.count("\n") == 1
    assert not list(tmp_path.rglob("*.jsonl"))


@pytest.mark.parametrize("seeds", ["seeds=2", "seeds=[3,5]", "tuning_seeds=1"])
def test_several_seeds_of_a_start_that_draws_nothing_are_refused(seeds, tmp_path, capsys):
    arguments = ["task=style_transfer", "task.weights=nowhere", f"results_dir={tmp_path}", seeds]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: task=style_transfer: seeds=[") and error.count("\n") == 1
    assert "one seed with init=content" in error
    assert main([*arguments, "task.init=noise"]) == 2  # which gets as far as the weights
    assert capsys.readouterr().err.startswith("error: task.weights=nowhere: ")


def test_weights_are_fetched_after_all_else_is_checked(tmp_path, monkeypatch):
    def fetched(*_):
        raise ValueError("fetched")

    monkeypatch.setattr(vgg, "load_weights", fetched)
    with pytest.raises(ValueError, match="^weights=imagenet: fetched$"):
        StyleTransfer([0])
    Image.new("RGB", (20, 30)).save(tmp_path / "tall.png")
    for name, value in {"content": "none.jpg", "style": ["none.jpg"], "size": 3, "tv_weight": -1,
                        "content_weight": "x", "data_dir": 5}.items():  # fmt: skip
        with pytest.raises(ValueError, match=f"^({name}|content)="):
            StyleTransfer([0], **{name: value})
    with pytest.raises(ValueError, match="^size=512: the content pictures come out unlike"):
        StyleTransfer([0], content=["china", str(tmp_path / "tall.png")])


def test_contents_of_unlike_shapes_are_not_packed(tmp_path, capsys):
    Image.new("RGB", (20, 30)).save(tmp_path / "tall.png")
    arguments = ["task=style_transfer", "task.weights=random", f"results_dir={tmp_path}", "task.size=32",
                 f"task.content=[china,{tmp_path}/tall.png]"]  # fmt: skip
    assert main(arguments) == 2
    assert "task.size=32: the content pictures come out unlike, 21 x 32, 32 x 21; size=[height,width]" \
        in capsys.readouterr().err  # fmt: skip


def test_a_picture_by_one_command_is_the_same_after_a_stop(tmp_path, monkeypatch, capsys):
    Image.effect_noise((40, 30), 60).save(tmp_path / "grey.png")
    arguments = ["task=style_transfer", "task.weights=random", f"task.content={tmp_path}/grey.png",
                 "task.content_layers=[relu2_1]", "task.style_layers=[relu1_1,relu2_1]",
                 "task.size=24", "task.init=noise", "steps=9", "eval_every=3", "tracking=disabled",
                 "optimizer=laprop", "optimizer.lr=0.02"]  # fmt: skip
    assert main([*arguments, f"results_dir={tmp_path}/whole"]) == 0
    loss, calls = StyleTransfer.loss, []

    def interrupted(self):
        calls.append(0)
        if len(calls) == 5:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGINT)
        return loss(self)

    monkeypatch.setattr(StyleTransfer, "loss", interrupted)
    assert main([*arguments, f"results_dir={tmp_path}/stopped"]) == 130
    (half,) = tmp_path.glob("stopped/runs/*/image.png")
    with Image.open(half) as image:
        assert image.size == (24, 18)
    before = half.read_bytes()
    assert main([*arguments, f"results_dir={tmp_path}/stopped"]) == 0 and len(calls) == 9
    (whole,) = tmp_path.glob("whole/runs/*/image.png")
    assert half.read_bytes() == whole.read_bytes() != before
    assert capsys.readouterr().out.count(str(half)) == 2
    rows = [
        [json.loads(line) for line in path.with_name("record.jsonl").read_text().splitlines()[1:-1]]
        for path in (half, whole)
    ]
    assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]]
    assert [row["step"] for row in rows[0]] == [0, 3, 6, 9]
    assert all(math.isfinite(row["loss"][0]) for row in rows[0])
