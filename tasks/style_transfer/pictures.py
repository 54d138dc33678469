"""Pictures from files to tensors and back."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

# The two photographs that scikit-learn ships: a Chinese temple, a dahlia (both CC BY 2.0).
EMBEDDED = {"china": "china.jpg", "flower": "flower.jpg"}


def load(source: str, size: int | tuple[int, int]) -> Tensor:
    """A picture as float32 of shape (3, H, W), red, green and blue in [0, 1].

    Args:
        source: a file, or one of EMBEDDED. Turned as its EXIF data say; grey, palette and CMYK
            become RGB; what is transparent gets white behind it; of an animation the first frame.
        size: pixels of the longer side, the shape is kept; or (H, W), which the picture is scaled
            and cropped to, its middle kept.

    Raises ValueError: one line without the name of the file, why it cannot be had.
    """
    try:
        with _open(source) as file:
            picture = _rgb(ImageOps.exif_transpose(file))
    except UnidentifiedImageError:
        raise ValueError("not an image of a known format") from None
    except (OSError, Image.DecompressionBombError, SyntaxError) as error:
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ValueError(" ".join(text.split())) from None
    if isinstance(size, int):
        scale = size / max(picture.size)
        width, height = (max(1, round(side * scale)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    else:
        height, width = size
        picture = ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float().div_(255)


def to_image(picture: Tensor) -> Image.Image:
    """A picture (3, H, W) in [0, 1] for a file; what is no number is black."""
    values = picture.detach().cpu().float().nan_to_num(0).clamp(0, 1).mul(255).round()
    return Image.fromarray(values.byte().permute(1, 2, 0).numpy())


def name(source: str) -> str:
    """What a picture is called in tables: its file's name without the ending."""
    return Path(source).stem


def _open(source: str) -> Image.Image:
    if source not in EMBEDDED:
        return Image.open(Path(source).expanduser())
    from sklearn.datasets import load_sample_image

    return Image.fromarray(load_sample_image(EMBEDDED[source]))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow's own conversion would clip at 255
        image = Image.fromarray((np.asarray(image, dtype=np.uint16) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"an image of mode {image.mode}, without a known range; save it in 8 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
