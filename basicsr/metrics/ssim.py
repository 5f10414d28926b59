"""SSIM as other toolboxes compute it: scikit-image's window, and MATLAB's on a colour image taken as a volume."""

from __future__ import annotations

import torch
from torch import Tensor

from basicsr.metrics import metric
from basicsr.metrics.images import Image, Order, answer
from basicsr.metrics.psnr_ssim import check_room, planes
from basicsr.metrics.similarity import BOX, GAUSSIAN, box_mean, gaussian_mean, gaussian_mean_3d, similarity
from basicsr.registry import METRIC_REGISTRY


@METRIC_REGISTRY.register()
@metric(higher_better=True)
def calculate_ssim_skimage(
    img: Image,
    img2: Image,
    crop_border: int = 0,
    input_order: Order = 'HWC',
    test_y_channel: bool = False,
    y_rounding: bool = False,
    gt_mean: bool = False,
    quantize: bool = True,
    gaussian_weights: bool = False,
) -> Tensor | float:
    """Structural similarity of each image with the defaults of scikit-image, as most all-in-one papers report it.

    ``skimage.metrics.structural_similarity``: a uniform window of 7 x 7 pixels, sample covariance, the data range of
    8-bit images, the mean over channels; 3 pixels at each edge are left out, so only windows wholly inside count.
    :func:`~basicsr.metrics.psnr_ssim.calculate_ssim` differs in the window (a Gaussian of 11 x 11) and the covariance;
    the two may be 0.02 apart.

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
        gaussian_weights: Whether the window is scikit-image's Gaussian (11 x 11, sigma 1.5) with sample covariance.

    Returns:
        For tensors a float64 tensor (N,) on their device, for numpy arrays a float.

    Raises:
        DataError: Shapes that differ or cannot be used, or images smaller than the window.
        OptionError: A wrong ``input_order`` or ``crop_border``, or ``y_rounding`` without ``test_y_channel``.
    """
    options = (crop_border, input_order, test_y_channel, y_rounding, gt_mean, quantize)
    first, second = planes('calculate_ssim_skimage', img, img2, *options)
    side, local_mean = (GAUSSIAN, gaussian_mean) if gaussian_weights else (BOX, box_mean)
    check_room('calculate_ssim_skimage', first, side)
    sample, pairs = side**2 / (side**2 - 1), zip(first.unbind(1), second.unbind(1))
    return answer(torch.stack([similarity(a, b, local_mean, sample) for a, b in pairs]).mean(dim=0), img)


@METRIC_REGISTRY.register()
@metric(higher_better=True)
def calculate_ssim_3d(
    img: Image,
    img2: Image,
    crop_border: int = 0,
    input_order: Order = 'HWC',
    test_y_channel: bool = False,
    y_rounding: bool = False,
    gt_mean: bool = False,
    quantize: bool = True,
) -> Tensor | float:
    """Structural similarity of each image as MATLAB's ``ssim`` of an H x W x 3 array: one volume, not three planes.

    A 3-D Gaussian window of 11 x 11 x 11, sigma 1.5; rows, columns and channels beyond the edges repeat the outermost
    ones, so every pixel counts. Restormer and NAFNet report this (``ssim3d`` of their BasicSR, whose float32 may err by
    0.001 on bright smooth images; this is float64). :func:`~basicsr.metrics.psnr_ssim.calculate_ssim` has one window
    per channel and counts only windows wholly inside; this one mixes the channels and is mostly higher. On one channel,
    such as Y, it is the usual SSIM with repeated edges.

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
    first, second = planes('calculate_ssim_3d', img, img2, *options)
    check_room('calculate_ssim_3d', first, GAUSSIAN)
    return answer(similarity(first, second, gaussian_mean_3d), img)
