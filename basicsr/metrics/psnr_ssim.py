"""PSNR and SSIM with BasicSR's numbers, for batches of tensors on any device and for numpy images.

Tensors are measured as the 8-bit images that would be saved, clamped to [0, 1] and rounded to 256 levels, unless
``quantize`` is off.
"""

from __future__ import annotations

import torch
from torch import Tensor

from basicsr.errors import DataError, OptionError
from basicsr.metrics import metric
from basicsr.metrics.images import Image, Order, answer, luma, pair_of_levels
from basicsr.metrics.similarity import GAUSSIAN, gaussian_mean, similarity
from basicsr.registry import METRIC_REGISTRY


@METRIC_REGISTRY.register()
@metric(higher_better=True)
def calculate_psnr(
    img: Image,
    img2: Image,
    crop_border: int = 0,
    input_order: Order = 'HWC',
    test_y_channel: bool = False,
    y_rounding: bool = False,
    gt_mean: bool = False,
    quantize: bool = True,
) -> Tensor | float:
    """Peak signal-to-noise ratio in dB, 10 log10(255^2 / MSE), of each image; ``inf`` for identical ones.

    Args:
        img: Restored images: a tensor (N, C, H, W) or (C, H, W), RGB in [0, 1], or a numpy array in [0, 255], BGR.
        img2: Wanted images, of the same form and shape.
        crop_border: Pixels left out at each edge.
        input_order: Order of a numpy array; tensors are always CHW.
        test_y_channel: Measure only the luma Y of ITU-R BT.601 (16 to 235), as MATLAB's rgb2ycbcr.
        y_rounding: Whether Y is rounded to whole levels, as MATLAB does with 8-bit images and BasicSR does not.
        gt_mean: Whether the restored image is first scaled to the mean brightness of the wanted one, as some low-light
            papers do; such a number must not stand beside others.
        quantize: Whether tensors are rounded to 256 levels; off for all-in-one papers that measure floats.

    Returns:
        For tensors a float64 tensor (N,) on their device, for numpy arrays a float.

    Raises:
        DataError: Shapes that differ or cannot be used.
        OptionError: A wrong ``input_order`` or ``crop_border``, or ``y_rounding`` without ``test_y_channel``.
    """
    options = (crop_border, input_order, test_y_channel, y_rounding, gt_mean, quantize)
    first, second = planes('calculate_psnr', img, img2, *options)
    mse = (first - second).square().mean(dim=(1, 2, 3))
    return answer(10 * torch.log10(255**2 / mse), img)


@METRIC_REGISTRY.register()
@metric(higher_better=True)
def calculate_ssim(
    img: Image,
    img2: Image,
    crop_border: int = 0,
    input_order: Order = 'HWC',
    test_y_channel: bool = False,
    y_rounding: bool = False,
    gt_mean: bool = False,
    quantize: bool = True,
) -> Tensor | float:
    """Structural similarity of each image (Wang et al., IEEE TIP 2004), at most 1: the mean over its channels.

    Gaussian window of 11 x 11 pixels, sigma 1.5; only windows that lie wholly inside the image count.

    Args:
        img: Restored images: a tensor (N, C, H, W) or (C, H, W), RGB in [0, 1], or a numpy array in [0, 255], BGR.
        img2: Wanted images, of the same form and shape.
        crop_border: Pixels left out at each edge.
        input_order: Order of a numpy array; tensors are always CHW.
        test_y_channel: Measure only the luma Y of ITU-R BT.601 (16 to 235), as MATLAB's rgb2ycbcr.
        y_rounding: Whether Y is rounded to whole levels, as MATLAB does with 8-bit images and BasicSR does not.
        gt_mean: Whether the restored image is first scaled to the mean brightness of the wanted one, as some low-light
            papers do; such a number must not stand beside others.
        quantize: Whether tensors are rounded to 256 levels; off for all-in-one papers that measure floats.

    Returns:
        For tensors a float64 tensor (N,) on their device, for numpy arrays a float.

    Raises:
        DataError: Shapes that differ or cannot be used, or images smaller than the window.
        OptionError: A wrong ``input_order`` or ``crop_border``, or ``y_rounding`` without ``test_y_channel``.
    """
    options = (crop_border, input_order, test_y_channel, y_rounding, gt_mean, quantize)
    first, second = planes('calculate_ssim', img, img2, *options)
    check_room('calculate_ssim', first, GAUSSIAN)
    pairs = zip(first.unbind(1), second.unbind(1))  # one channel at a time, to save memory
    return answer(torch.stack([similarity(a, b, gaussian_mean) for a, b in pairs]).mean(dim=0), img)


def planes(
    name: str,
    img: Image,
    img2: Image,
    crop_border: int,
    input_order: Order,
    test_y_channel: bool,
    y_rounding: bool,
    gt_mean: bool,
    quantize: bool,
) -> tuple[Tensor, Tensor]:
    """Two images as the levels (N, C, H, W), float64, that the options ask to compare: RGB or Y."""
    if y_rounding and not test_y_channel:
        raise OptionError(f'{name}: y_rounding rounds Y, so it needs test_y_channel: true.')
    first, second = pair_of_levels(name, img, img2, crop_border, input_order, quantize)
    if isinstance(img, Tensor) and not quantize:  # those who measure floats clip them first
        first, second = first.clamp(0, 255), second.clamp(0, 255)
    if gt_mean:
        first = _as_bright(name, first, second)
    if test_y_channel:
        first, second = luma(name, first, y_rounding), luma(name, second, y_rounding)
    return first, second


def check_room(name: str, x: Tensor, window: int) -> None:
    """Refuses images with no room for a window.

    Raises:
        DataError: Height or width is smaller than the window.
    """
    height, width = x.shape[-2:]
    if min(height, width) < window:
        raise DataError(f'{name}: needs {window} x {window} pixels inside the border, got {height} x {width}.')


def _as_bright(name: str, x: Tensor, like: Tensor) -> Tensor:
    """Images scaled to the mean grey of others and clipped, not rounded again.

    The convention of the low-light papers KinD (Y. Zhang et al., ACM MM 2019), LLFlow (Y. Wang et al., AAAI 2022) and
    Retinexformer (Y. Cai et al., ICCV 2023); grey as OpenCV's RGB2GRAY. An image without any light stays black.
    """
    mean, wanted = (_grey(name, levels).mean(dim=(1, 2, 3), keepdim=True) for levels in (x, like))
    return torch.where(mean > 0, x * (wanted / mean), x).clamp(0, 255)


def _grey(name: str, x: Tensor) -> Tensor:
    if x.shape[1] == 1:
        return x
    if x.shape[1] != 3:
        raise DataError(f'{name}: gt_mean needs 1 or 3 channels, not {x.shape[1]}.')
    red, green, blue = x.split(1, dim=1)
    return 0.299 * red + 0.587 * green + 0.114 * blue
