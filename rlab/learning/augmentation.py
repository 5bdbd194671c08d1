"""Augmentation by name: changes to the inputs of an update that keep their meaning.

Inputs `[S, B, ...]` and one generator per member go in, inputs of the same shape come out. Images end in `[H, W]`, so
`[S, B, C, H, W]` or `[S, B, H, W]`. Nothing is augmented in validation or in use.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from rlab.errors import UsageError, unknown

Generators = Sequence[torch.Generator]
Augmentation = Callable[[Tensor, Generators], Tensor]


def random_shift(x: Tensor, generators: Generators, pixels: float) -> Tensor:
    """Every image moved by up to `pixels` up, down, left and right; its border is repeated into the gap.

    DrQ's pad-and-crop (Kostrikov et al. 2021, section 3.1; they move 84 x 84 images by 4): padding by repeating the
    border and cropping at random is reading each pixel from so many rows and columns away, held inside the image.
    """
    height, width = _image_sides(x, "shift")
    rows, columns = _offsets(x, generators, int(pixels))
    return _read(x, rows.clamp(0, height - 1), columns.clamp(0, width - 1))


def random_crop(x: Tensor, generators: Generators, pixels: float) -> Tensor:
    """As `random_shift`, but zeros come into the gap: padded by `pixels` on each side and cropped to the old size.

    He et al. (2016), section 4.2, who pad images of 32 x 32 by 4.
    """
    height, width = _image_sides(x, "crop")
    rows, columns = _offsets(x, generators, int(pixels))
    inside = ((rows >= 0) & (rows < height)).unsqueeze(-1) & ((columns >= 0) & (columns < width)).unsqueeze(-2)
    inside = inside.view(*x.shape[:2], *[1] * (x.dim() - 4), height, width)
    return _read(x, rows.clamp(0, height - 1), columns.clamp(0, width - 1)) * inside


def random_flip(x: Tensor, generators: Generators, share: float) -> Tensor:
    """A share of the images mirrored left to right; half of them in He et al. (2016), section 4.2."""
    _image_sides(x, "flip")
    chosen = torch.stack([torch.rand(x.shape[1], generator=g) < share for g in generators]).to(x.device)
    return torch.where(chosen.view(*chosen.shape, *[1] * (x.dim() - 2)), x.flip(-1), x)


def gaussian_noise(x: Tensor, generators: Generators, deviation: float) -> Tensor:
    """Normal noise of this standard deviation added to every number (Bishop 1995: it acts as a ridge penalty)."""
    if not x.is_floating_point():
        raise UsageError(f"augmentation noise needs inputs that are real numbers, not {x.dtype}.")
    noise = torch.stack([torch.empty(x.shape[1:], dtype=x.dtype).normal_(generator=g) for g in generators])
    return torch.add(x, noise.to(x.device), alpha=deviation)


@dataclass(frozen=True)
class _Kind:
    """A row of the table: what `NAME` alone means, and which numbers `NAME:number` may have."""

    function: Callable[[Tensor, Generators, float], Tensor]
    default: float
    number: str
    allowed: Callable[[float], bool]


_PIXELS = ("a whole number of pixels from 1", lambda value: value >= 1 and value == int(value))
AUGMENTATIONS: dict[str, _Kind] = {
    "shift": _Kind(random_shift, 4, *_PIXELS),
    "crop": _Kind(random_crop, 4, *_PIXELS),
    "flip": _Kind(random_flip, 0.5, "a share in (0, 1]", lambda value: 0.0 < value <= 1.0),
    "noise": _Kind(gaussian_noise, 0.1, "a standard deviation above 0", lambda value: 0.0 < value < float("inf")),
}


def augmentation(words: str) -> Augmentation | None:
    """`"shift:2,flip"`: names from `AUGMENTATIONS`, in their order, each with a number where it is not the default.

    Returns:
        the whole as one function; None for `"none"`.

    Raises:
        UsageError: a name is unknown or a number is not allowed.
    """
    if words == "none":
        return None
    return partial(_one_after_the_other, [_parse(word.strip()) for word in words.split(",")])


def _one_after_the_other(steps: Sequence[Augmentation], x: Tensor, generators: Generators) -> Tensor:
    for step in steps:
        x = step(x, generators)
    return x


def _parse(word: str) -> Augmentation:
    name, colon, number = word.partition(":")
    if name not in AUGMENTATIONS:
        raise unknown("augmentation", name, [*AUGMENTATIONS, "none"])
    kind = AUGMENTATIONS[name]
    try:
        value = float(number) if colon else kind.default
        fits = kind.allowed(value)
    except (ValueError, OverflowError):
        fits = False
    if not fits:
        raise UsageError(f"augmentation {word!r}: {name} takes {kind.number}, such as {name}:{kind.default:g}.")
    function = kind.function
    return lambda x, generators: function(x, generators, value)


def _image_sides(x: Tensor, name: str) -> tuple[int, int]:
    if x.dim() < 4:
        raise UsageError(f"augmentation {name} needs images [..., H, W], not inputs of shape {list(x.shape[2:])}.")
    return x.shape[-2], x.shape[-1]


def _offsets(x: Tensor, generators: Generators, pixels: int) -> tuple[Tensor, Tensor]:
    """From which row `[S, B, H]` and column `[S, B, W]` of its image each pixel is read; it may lie outside."""
    drawn = [torch.randint(-pixels, pixels + 1, (2, x.shape[1]), generator=g) for g in generators]
    down, right = torch.stack(drawn, dim=1).to(x.device).unsqueeze(-1)  # [S, B, 1] each
    return down + torch.arange(x.shape[-2], device=x.device), right + torch.arange(x.shape[-1], device=x.device)


def _read(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """`x [S, B, ..., H, W]` with pixel (i, j) of each image taken from `(rows[i], columns[j])`."""
    between = [1] * (x.dim() - 4)
    rows = rows.view(*x.shape[:2], *between, -1, 1).expand(x.shape)
    columns = columns.view(*x.shape[:2], *between, 1, -1).expand(x.shape)
    return x.gather(-2, rows).gather(-1, columns)
