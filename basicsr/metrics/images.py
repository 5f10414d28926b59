"""What metrics share: images of either form become float64 levels, cropped, in RGB or luma; answers go back in kind."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from basicsr.errors import DataError, OptionError

Image = Tensor | np.ndarray
Order = Literal['HWC', 'CHW']


def levels(name: str, img: Image, crop_border: int = 0, input_order: Order = 'HWC', quantize: bool = True) -> Tensor:
    """Brings images to levels in [0, 255].

    Args:
        name: The metric, for messages.
        img: A tensor (N, C, H, W) or (C, H, W), RGB in [0, 1], or a numpy array in [0, 255], BGR or grey.
        crop_border: Pixels left out at each edge.
        input_order: Order of a numpy array; tensors are always CHW.
        quantize: Whether a tensor is clamped to [0, 1] and rounded to 256 levels, as the file that would be saved.

    Returns:
        (N, C, H, W), float64, RGB or grey, without gradient.

    Raises:
        DataError: A shape or number format that cannot be used.
        OptionError: A wrong ``input_order`` or ``crop_border``.
    """
    if input_order not in ('HWC', 'CHW'):
        raise OptionError(f"{name}: input_order '{input_order}' is not known; allowed are HWC and CHW.")
    if crop_border < 0:
        raise OptionError(f'{name}: crop_border must be 0 or more, not {crop_border}.')
    if not isinstance(img, Tensor | np.ndarray):
        raise DataError(f'{name}: an image must be a tensor or a numpy array, not {type(img).__name__}.')
    found = _from_tensor(name, img, quantize) if isinstance(img, Tensor) else _from_array(name, img, input_order)
    return _crop(name, found, crop_border)


def pair_of_levels(
    name: str, img: Image, img2: Image, crop_border: int = 0, input_order: Order = 'HWC', quantize: bool = True
) -> tuple[Tensor, Tensor]:
    """As :func:`levels` for two images that are compared.

    Raises:
        DataError: As there, or the two differ in kind or shape.
        OptionError: As there.
    """
    if not any(isinstance(img, kind) and isinstance(img2, kind) for kind in (Tensor, np.ndarray)):
        kinds = f'{type(img).__name__} and {type(img2).__name__}'
        raise DataError(f'{name}: both images must be tensors or both numpy arrays, not {kinds}.')
    if img.shape != img2.shape:
        raise DataError(f'{name}: img is {tuple(img.shape)} but img2 is {tuple(img2.shape)}; they must be equal.')
    options = (crop_border, input_order, quantize)
    return levels(name, img, *options), levels(name, img2, *options)


def luma(name: str, x: Tensor, rounded: bool = False) -> Tensor:
    """Y of BT.601 in [16, 235] from RGB levels (N, 3, H, W); one channel counts as luma already.

    Args:
        name: The metric, for messages.
        x: Levels in [0, 255].
        rounded: Whether Y is rounded to whole levels, as MATLAB's rgb2ycbcr does with 8-bit images.

    Returns:
        (N, 1, H, W).

    Raises:
        DataError: Not 1 or 3 channels.
    """
    channels = x.shape[1]
    if channels not in (1, 3):
        raise DataError(f'{name}: the Y channel needs 1 or 3 channels, not {channels}.')
    if channels == 1:
        return x
    red, green, blue = x.split(1, dim=1)
    found = 16 + (65.481 * red + 128.553 * green + 24.966 * blue) / 255
    return (found + 0.5).floor() if rounded else found  # MATLAB rounds halves up


def answer(values: Tensor, img: Image) -> Tensor | float:
    """Values (N,) as the caller wants them: a tensor for tensors, a float for a numpy image."""
    return values if isinstance(img, Tensor) else values.item()


def _from_tensor(name: str, x: Tensor, quantize: bool) -> Tensor:
    if x.dim() not in (3, 4) or not x.is_floating_point():
        kind = f'{x.dtype} of shape {tuple(x.shape)}'
        raise DataError(f'{name}: a tensor must be floating-point (N, C, H, W) or (C, H, W), not {kind}.')
    x = x.detach()
    x = x.cpu() if x.device.type == 'mps' else x  # MPS has no float64
    x = x if x.dim() == 4 else x.unsqueeze(0)
    return (x.float().clamp(0, 1) * 255).round().double() if quantize else x.double() * 255


def _from_array(name: str, x: np.ndarray, order: str) -> Tensor:
    if x.ndim not in (2, 3) or not (x.dtype == np.uint8 or np.issubdtype(x.dtype, np.floating)):
        kind = f'{x.dtype} of shape {x.shape}'
        raise DataError(
            f'{name}: an array must be 8-bit or floating-point, (H, W), (H, W, C) or (C, H, W), not {kind}.'
        )
    x = x[None] if x.ndim == 2 else x.transpose(2, 0, 1) if order == 'HWC' else x
    return torch.from_numpy(np.ascontiguousarray(x[::-1], dtype=np.float64)).unsqueeze(0)  # BGR to RGB


def _crop(name: str, x: Tensor, border: int) -> Tensor:
    height, width = x.shape[-2:]
    if min(height, width) <= 2 * border:
        raise DataError(f'{name}: crop_border {border} leaves nothing of an image of {height} x {width} pixels.')
    return x[..., border : height - border, border : width - border]
