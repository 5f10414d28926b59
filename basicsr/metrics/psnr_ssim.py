"""PSNR and SSIM with BasicSR's numbers, for batches of tensors on any device and for numpy images.

Tensors are measured as the 8-bit images that would be saved: clamped to [0, 1] and rounded to 256 levels.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from basicsr.errors import DataError, OptionError
from basicsr.metrics import metric
from basicsr.registry import METRIC_REGISTRY

Image = Tensor | np.ndarray
Order = Literal['HWC', 'CHW']

WINDOW = 11  # side of SSIM's Gaussian window in pixels
SIGMA = 1.5
C1 = (0.01 * 255) ** 2
C2 = (0.03 * 255) ** 2


@METRIC_REGISTRY.register()
@metric(higher_better=True)
def calculate_psnr(
    img: Image, img2: Image, crop_border: int = 0, input_order: Order = 'HWC', test_y_channel: bool = False
) -> Tensor | float:
    """Peak signal-to-noise ratio in dB, 10 log10(255^2 / MSE), of each image; ``inf`` for identical ones.

    Args:
        img: Restored images: a tensor (N, C, H, W) or (C, H, W), RGB in [0, 1], or a numpy array in [0, 255], BGR.
        img2: Wanted images, of the same form and shape.
        crop_border: Pixels left out at each edge.
        input_order: Order of a numpy array; tensors are always CHW.
        test_y_channel: Measure only the luma Y of ITU-R BT.601 (16 to 235), as MATLAB's rgb2ycbcr.

    Returns:
        For tensors a float64 tensor (N,) on their device, for numpy arrays a float.

    Raises:
        DataError: Shapes that differ or cannot be used.
        OptionError: A wrong ``input_order`` or ``crop_border``.
    """
    first, second = _pair('calculate_psnr', img, img2, crop_border, input_order, test_y_channel)
    mse = (first - second).square().mean(dim=(1, 2, 3))
    return _answer(10 * torch.log10(255**2 / mse), img)


@METRIC_REGISTRY.register()
@metric(higher_better=True)
def calculate_ssim(
    img: Image, img2: Image, crop_border: int = 0, input_order: Order = 'HWC', test_y_channel: bool = False
) -> Tensor | float:
    """Structural similarity of each image (Wang et al., IEEE TIP 2004), at most 1: the mean over its channels.

    Gaussian window of 11 x 11 pixels with sigma 1.5, only where it lies wholly inside the image; K1 = 0.01, K2 = 0.03,
    L = 255.

    Args:
        img: Restored images: a tensor (N, C, H, W) or (C, H, W), RGB in [0, 1], or a numpy array in [0, 255], BGR.
        img2: Wanted images, of the same form and shape.
        crop_border: Pixels left out at each edge.
        input_order: Order of a numpy array; tensors are always CHW.
        test_y_channel: Measure only the luma Y of ITU-R BT.601 (16 to 235), as MATLAB's rgb2ycbcr.

    Returns:
        For tensors a float64 tensor (N,) on their device, for numpy arrays a float.

    Raises:
        DataError: Shapes that differ or cannot be used, or images smaller than the window.
        OptionError: A wrong ``input_order`` or ``crop_border``.
    """
    first, second = _pair('calculate_ssim', img, img2, crop_border, input_order, test_y_channel)
    height, width = first.shape[-2:]
    if min(height, width) < WINDOW:
        raise DataError(f'calculate_ssim: needs {WINDOW} x {WINDOW} pixels inside the border, got {height} x {width}.')
    planes = [_ssim(a, b) for a, b in zip(first.unbind(1), second.unbind(1))]  # one channel at a time, to save memory
    return _answer(torch.stack(planes).mean(dim=0), img)


def _ssim(a: Tensor, b: Tensor) -> Tensor:
    """SSIM of planes (N, H, W) in levels; returns (N,)."""
    mean_a, mean_b, energy, product = _blur(torch.stack((a, b, a * a + b * b, a * b)))
    mean_product, mean_energy = mean_a * mean_b, mean_a * mean_a + mean_b * mean_b
    luminance = (2 * mean_product + C1) / (mean_energy + C1)
    structure = (2 * (product - mean_product) + C2) / (energy - mean_energy + C2)
    return (luminance * structure).mean(dim=(1, 2))


def _blur(x: Tensor) -> Tensor:
    """Gaussian mean over the window, without padding: (..., H, W) to (..., H - 10, W - 10).

    Written as shifted sums, which on a CPU take a sixth of the time of a float64 convolution.
    """
    height, width = (n - WINDOW + 1 for n in x.shape[-2:])
    weights = _window()
    rows = x[..., :height, :] * weights[0]
    for i in range(1, WINDOW):
        rows.add_(x[..., i : i + height, :], alpha=weights[i])
    result = rows[..., :width] * weights[0]
    for i in range(1, WINDOW):
        result.add_(rows[..., i : i + width], alpha=weights[i])
    return result


@lru_cache
def _window() -> tuple[float, ...]:
    weights = [math.exp(-((i - WINDOW // 2) ** 2) / (2 * SIGMA**2)) for i in range(WINDOW)]
    return tuple(w / sum(weights) for w in weights)


def _pair(name: str, img: Image, img2: Image, border: int, order: str, y_channel: bool) -> tuple[Tensor, Tensor]:
    """Checks two images and brings both to float64 levels (N, C, H, W), RGB or Y."""
    if order not in ('HWC', 'CHW'):
        raise OptionError(f"{name}: input_order '{order}' is not known; allowed are HWC and CHW.")
    if border < 0:
        raise OptionError(f'{name}: crop_border must be 0 or more, not {border}.')
    if not any(isinstance(img, kind) and isinstance(img2, kind) for kind in (Tensor, np.ndarray)):
        kinds = f'{type(img).__name__} and {type(img2).__name__}'
        raise DataError(f'{name}: both images must be tensors or both numpy arrays, not {kinds}.')
    if img.shape != img2.shape:
        raise DataError(f'{name}: img is {tuple(img.shape)} but img2 is {tuple(img2.shape)}; they must be equal.')
    levels = [_from_tensor(name, x) if isinstance(x, Tensor) else _from_array(name, x, order) for x in (img, img2)]
    first, second = (_crop(name, x, border) for x in levels)
    return (_luma(name, first), _luma(name, second)) if y_channel else (first, second)


def _from_tensor(name: str, x: Tensor) -> Tensor:
    if x.dim() not in (3, 4) or not x.is_floating_point():
        kind = f'{x.dtype} of shape {tuple(x.shape)}'
        raise DataError(f'{name}: a tensor must be floating-point (N, C, H, W) or (C, H, W), not {kind}.')
    x = x.detach()
    x = x.cpu() if x.device.type == 'mps' else x  # MPS has no float64
    x = x if x.dim() == 4 else x.unsqueeze(0)
    return (x.float().clamp(0, 1) * 255).round().double()


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


def _luma(name: str, x: Tensor) -> Tensor:
    """Y of BT.601 in [16, 235], not rounded, from RGB levels; one channel counts as luma already."""
    channels = x.shape[1]
    if channels not in (1, 3):
        raise DataError(f'{name}: test_y_channel needs 1 or 3 channels, not {channels}.')
    if channels == 1:
        return x
    red, green, blue = x.split(1, dim=1)
    return 16 + (65.481 * red + 128.553 * green + 24.966 * blue) / 255


def _answer(values: Tensor, img: Image) -> Tensor | float:
    return values if isinstance(img, Tensor) else values.item()
