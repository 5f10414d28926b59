"""What CKDN sees of an image: the centre of it at a fixed size, as the release or as pyiqa prepares it.

``pil`` is Pillow's resizing of 8-bit images to the bit, which the release trains and tests with: bicubic weights in 22
binary digits, columns first, each pass rounded to whole levels and clipped. It is written here as two products with
sparse matrices, so that it runs in batches, on any device, and passes a gradient: that of the products, as if nothing
were rounded. ``tensor`` is the resizing of float tensors by PyTorch, which pyiqa uses and which rounds nowhere.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Resize = Literal['pil', 'tensor']
DIGITS = 22  # binary digits of Pillow's weights behind the point
A = -0.5  # parameter of the cubic


class Side(NamedTuple):
    """One dimension of an image, resized and cut: ``resized`` pixels of ``whole``, of which ``[start, stop)`` stay."""

    whole: int
    resized: int
    start: int
    stop: int


def sides(height: int, width: int, short_side: int, crop: int) -> tuple[Side, Side]:
    """Rows and columns of the central ``crop`` of an image whose shorter side is resized to ``short_side``."""
    short = min(height, width)
    rows, columns = (_side(n, int(short_side * n / short), crop) for n in (height, width))
    return rows, columns


def restored_view(images: Tensor, short_side: int, crop: int, resize: Resize) -> Tensor:
    """The bicubic view of images (N,3,H,W) in [0,1], (N,3,crop,crop); with gradient."""
    rows, columns = sides(*images.shape[-2:], short_side, crop)
    if resize == 'tensor':
        size = (rows.resized, columns.resized)
        whole = F.interpolate(images, size=size, mode='bicubic', antialias=True, align_corners=False)
        return whole[..., rows.start : rows.stop, columns.start : columns.stop]
    levels = _rounded(255 * _double(images))
    levels = _resampled(levels, columns)
    levels = _resampled(levels.transpose(2, 3), rows).transpose(2, 3)
    return (levels / 255).to(images)


def reference_view(images: Tensor, short_side: int, crop: int, resize: Resize) -> Tensor:
    """The view of images (N,3,H,W) in [0,1] by their nearest pixels, (N,3,crop,crop); with gradient."""
    rows, columns = sides(*images.shape[-2:], short_side, crop)
    if resize == 'pil':
        images = _rounded(255 * _double(images)).div(255).to(images)
    picked = [torch.from_numpy(_nearest(side, resize)).to(images.device) for side in (rows, columns)]
    return images.index_select(2, picked[0]).index_select(3, picked[1])


def _side(whole: int, resized: int, crop: int) -> Side:
    start = round((resized - crop) / 2)  # a half goes to the even number, as torchvision has it
    return Side(whole, resized, start, start + crop)


def _double(images: Tensor) -> Tensor:
    """In float64, whose products of 8 and 22 binary digits are exact; MPS, which has none, hands over to the CPU."""
    return (images.cpu() if images.device.type == 'mps' else images).double()


def _rounded(levels: Tensor) -> Tensor:
    """Whole levels in [0,255], with the gradient of the clipped ones."""
    clipped = levels.clamp(0, 255)
    return clipped + ((clipped + 0.5).floor() - clipped).detach()


def _resampled(levels: Tensor, side: Side) -> Tensor:
    """Levels (N,C,H,W), their columns resized and cut, (N,C,H,stop - start)."""
    columns = levels.permute(3, 0, 1, 2)
    found = torch.sparse.mm(_matrix(side).to(levels.device), columns.flatten(1))
    return _rounded(found.view(-1, *columns.shape[1:]).permute(1, 2, 3, 0))


@lru_cache(maxsize=64)
def _matrix(side: Side) -> Tensor:
    """Pillow's bicubic weights, sparse (stop - start, whole) float64."""
    scale = side.whole / side.resized
    stretch = max(scale, 1.0)  # a reduced image is smoothed first
    centres = (np.arange(side.start, side.stop)[:, None] + 0.5) * scale
    taps = np.arange(side.whole)
    inside = (taps >= np.floor(centres - 2 * stretch + 0.5)) & (taps < np.floor(centres + 2 * stretch + 0.5))
    weights = np.where(inside, _cubic((taps + 0.5 - centres) / stretch), 0.0)
    weights /= weights.sum(1, keepdims=True)
    whole = np.trunc(weights * 2**DIGITS + np.copysign(0.5, weights))
    with torch.inference_mode(False):  # it is kept, and gradients may be asked for later
        return torch.from_numpy(whole / 2**DIGITS).to_sparse_coo().coalesce()


def _cubic(x: np.ndarray) -> np.ndarray:
    """The cubic convolution kernel (R. Keys, 1981)."""
    x = np.abs(x)
    near = ((A + 2) * x - (A + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * A
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


@lru_cache(maxsize=64)
def _nearest(side: Side, resize: Resize) -> np.ndarray:
    """Which pixels are the nearest: Pillow looks from the middle of the new pixel, PyTorch from its edge."""
    if resize == 'tensor':
        scale = np.float32(side.whole) / np.float32(side.resized)
        found = np.floor(np.arange(side.resized, dtype=np.float32) * scale)
    else:  # step by step, as Pillow does: where a place falls between two pixels, its rounding errors decide
        steps = np.full(side.resized, side.whole / side.resized)
        steps[0] /= 2
        found = np.floor(np.cumsum(steps))
    return found[side.start : side.stop].clip(0, side.whole - 1).astype(np.int64)
