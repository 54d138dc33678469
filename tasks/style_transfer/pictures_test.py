import numpy as np
import pytest
import torch
from PIL import Image

from tasks.style_transfer import pictures

RED, HALF = (255, 0, 0), 128


def saved(tmp_path, image, name="a.png", **options):
    image.save(tmp_path / name, **options)
    return str(tmp_path / name)


def test_size_is_the_longer_side_and_the_shape_is_kept(tmp_path):
    wide = saved(tmp_path, Image.new("RGB", (300, 100), RED))
    assert pictures.load(wide, 60).shape == (3, 20, 60)
    tall = saved(tmp_path, Image.new("RGB", (100, 300), RED))
    assert pictures.load(tall, 60).shape == (3, 60, 20)
    assert pictures.load(tall, (10, 30)).shape == (3, 10, 30)
    assert pictures.load(tall, 2).shape == (3, 2, 1)  # never without pixels


def test_a_crop_keeps_the_middle(tmp_path):
    image = Image.new("RGB", (90, 30))
    image.paste(RED, (30, 0, 60, 30))
    found = pictures.load(saved(tmp_path, image), (30, 30))
    assert found[0].mean() > 0.95 and found[1:].abs().max() < 0.05


@pytest.mark.parametrize(
    "image, expected",
    [
        (Image.new("L", (8, 8), HALF), (HALF, HALF, HALF)),
        (Image.new("1", (8, 8), 1), (255, 255, 255)),
        (Image.new("RGBA", (8, 8), (*RED, 0)), (255, 255, 255)),  # white shows through
        (Image.new("RGBA", (8, 8), (*RED, 255)), RED),
        (Image.new("LA", (8, 8), (HALF, 255)), (HALF, HALF, HALF)),
        (Image.new("RGB", (8, 8), RED).quantize(), RED),
        (Image.fromarray(np.full((8, 8), 0x8080, np.uint16)), (HALF, HALF, HALF)),
    ],
)
def test_modes_become_red_green_and_blue(tmp_path, image, expected):
    found = pictures.load(saved(tmp_path, image), 8)
    assert found.shape == (3, 8, 8) and found.dtype == torch.float32
    assert found.mean((1, 2)).tolist() == pytest.approx([v / 255 for v in expected], abs=1e-6)


def test_cmyk_and_a_turned_photograph(tmp_path):
    path = saved(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "a.jpg", quality=100)
    assert pictures.load(path, 8).mean((1, 2)).tolist() == pytest.approx([1, 0, 0], abs=0.03)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    path = saved(tmp_path, Image.new("RGB", (40, 20)), "turned.jpg", exif=exif)
    assert pictures.load(path, 40).shape == (3, 40, 20)


def test_what_is_no_picture_is_said_in_one_line(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    whole = saved(tmp_path, Image.effect_noise((64, 64), 50), "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:500])
    for name, message in {
        "text.png": "not an image of a known format",
        "cut.png": "truncated",
        "none.png": "No such file or directory",
        ".": "Is a directory",
    }.items():
        with pytest.raises(ValueError, match=message) as error:
            pictures.load(str(tmp_path / name), 8)
        assert "\n" not in str(error.value)
    assert pictures.load(whole, 8).shape == (3, 8, 8)
    with pytest.raises(ValueError, match="mode F, without a known range"):
        pictures.load(saved(tmp_path, Image.new("F", (8, 8)), "f.tiff"), 8)


@pytest.mark.parametrize("name", list(pictures.EMBEDDED))
def test_embedded_photographs_and_back_to_a_file(name):
    picture = pictures.load(name, 64)
    assert picture.shape == (3, 43, 64) and 0 <= picture.min() < picture.max() <= 1
    image = pictures.to_image(picture)
    assert np.array_equal(np.asarray(image), (picture * 255).round().byte().permute(1, 2, 0))
    assert pictures.to_image(torch.full((3, 2, 2), torch.nan)).getpixel((0, 0)) == (0, 0, 0)
