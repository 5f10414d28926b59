"""No-reference measures of colour and content: UCIQE, UIQM, entropy, colourfulness.

The functions on images (:func:`uciqe`, :func:`uiqm`, :func:`entropy`, :func:`colourfulness`) take batches in [0,1] as
they are; the metrics measure what the 8-bit file would hold.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from basicsr.errors import DataError, OptionError
from basicsr.metrics import metric
from basicsr.metrics.images import Image, Order, answer, levels
from basicsr.metrics.underwater import UciqeVariant, UiqmVariant, uciqe, uiqm
from basicsr.registry import METRIC_REGISTRY

__all__ = [
    'calculate_colourfulness', 'calculate_entropy', 'calculate_uciqe', 'calculate_uiqm', 'colourfulness', 'entropy',
    'uciqe', 'uiqm',
]  # fmt: skip

UIQM_SIDE = 10  # pixels that one block of UIQM needs
RGB_TO_GREY = (0.298936021293775, 0.587043074451121, 0.114020904255103)  # MATLAB's rgb2gray


@METRIC_REGISTRY.register()
@metric(higher_better=True, needs=('img',))
def calculate_uciqe(
    img: Image, crop_border: int = 0, input_order: Order = 'HWC', variant: UciqeVariant = 'matlab'
) -> Tensor | float:
    """Underwater colour image quality evaluation (Yang and Sowmya, IEEE TIP 2015) of each image; higher is better.

    0.4680 spread of chroma + 0.2745 contrast of luminance + 0.2576 mean saturation, in CIE Lab. ``matlab`` is the
    authors' code, whose values (0.3 to 0.7) most tables show: Lab as 8-bit images hold it, a and b not centred on 0,
    spread as the root mean of |1 - (mean / chroma)^2|, contrast between the 1% and 99% levels. (MATLAB converts to Lab
    by way of D50, and OpenCV by coarse tables: the third digit depends on it.) ``opencv`` is its usual Python port,
    which divides the contrast by the range of luminance. ``nmetrics`` is the other Python program in wide use: CIE
    units, the standard deviation of chroma, saturation as chroma over luminance, contrast between two nearly equal
    samples; values 0.5 to 30.

    Args:
        img: A tensor (N, 3, H, W) or (3, H, W), RGB in [0, 1], or a numpy array in [0, 255], BGR.
        crop_border: Pixels left out at each edge.
        input_order: Order of a numpy array; tensors are always CHW.
        variant: matlab (the authors'), opencv or nmetrics (two Python programs); they do not compare.

    Returns:
        For tensors a float64 tensor (N,) on their device, for numpy arrays a float.

    Raises:
        DataError: An image that cannot be used, or is not RGB.
        OptionError: A wrong option.
    """
    _check_variant('calculate_uciqe', variant, ('matlab', 'opencv', 'nmetrics'))
    return answer(uciqe(_rgb('calculate_uciqe', img, crop_border, input_order), variant), img)


@METRIC_REGISTRY.register()
@metric(higher_better=True, needs=('img',))
def calculate_uiqm(
    img: Image, crop_border: int = 0, input_order: Order = 'HWC', variant: UiqmVariant = 'python'
) -> Tensor | float:
    """Underwater image quality measure (Panetta et al., IEEE JOE 2016) of each image; higher is better.

    0.0282 UICM (colour) + 0.2953 UISM (sharpness) + 3.5753 UIConM (contrast). ``python`` is the program of FUnIE-GAN
    (Islam et al., 2020) that most papers copy: blocks of 10 x 10 pixels, edges multiplied by the channel, contrast over
    the three channels together; its users resize images to 256 x 256 first, which this function leaves to them.
    ``matlab`` is the code that Semi-UIR (Huang et al., CVPR 2023) passes on: blocks of 5 x 5, edges alone, contrasts of
    the channels added up, variances of the trimmed pixels. Neither uses the PLIP arithmetic of the paper.

    Args:
        img: A tensor (N, 3, H, W) or (3, H, W), RGB in [0, 1], or a numpy array in [0, 255], BGR.
        crop_border: Pixels left out at each edge.
        input_order: Order of a numpy array; tensors are always CHW.
        variant: python (FUnIE-GAN's) or matlab (Semi-UIR's); they do not compare.

    Returns:
        For tensors a float64 tensor (N,) on their device, for numpy arrays a float.

    Raises:
        DataError: An image that cannot be used, is not RGB, or is smaller than 10 x 10 pixels.
        OptionError: A wrong option.
    """
    _check_variant('calculate_uiqm', variant, ('python', 'matlab'))
    images = _rgb('calculate_uiqm', img, crop_border, input_order)
    height, width = images.shape[-2:]
    if min(height, width) < UIQM_SIDE:
        raise DataError(f'calculate_uiqm: needs {UIQM_SIDE} x {UIQM_SIDE} pixels, got {height} x {width}.')
    return answer(uiqm(images, variant), img)


@METRIC_REGISTRY.register()
@metric(higher_better=True, needs=('img',))
def calculate_entropy(img: Image, crop_border: int = 0, input_order: Order = 'HWC') -> Tensor | float:
    """Shannon entropy in bits, 0 to 8, of the 256 grey levels of each image, as MATLAB's ``entropy(rgb2gray(x))``.

    Higher counts as better, as in papers on low light and haze; noise raises it too.

    Args:
        img: A tensor (N, C, H, W) or (C, H, W), RGB in [0, 1] or grey, or a numpy array in [0, 255], BGR or grey.
        crop_border: Pixels left out at each edge.
        input_order: Order of a numpy array; tensors are always CHW.

    Returns:
        For tensors a float64 tensor (N,) on their device, for numpy arrays a float.

    Raises:
        DataError: An image that cannot be used.
        OptionError: A wrong option.
    """
    found = levels('calculate_entropy', img, crop_border, input_order)
    if found.shape[1] not in (1, 3):
        raise DataError(f'calculate_entropy: needs 1 or 3 channels, not {found.shape[1]}.')
    return answer(entropy(found / 255), img)


@METRIC_REGISTRY.register()
@metric(higher_better=True, needs=('img',))
def calculate_colourfulness(img: Image, crop_border: int = 0, input_order: Order = 'HWC') -> Tensor | float:
    """Colourfulness M3 of each image (Hasler and Suesstrunk, SPIE 2003): 0 for grey, about 45 average, 109 extreme.

    Args:
        img: A tensor (N, 3, H, W) or (3, H, W), RGB in [0, 1], or a numpy array in [0, 255], BGR.
        crop_border: Pixels left out at each edge.
        input_order: Order of a numpy array; tensors are always CHW.

    Returns:
        For tensors a float64 tensor (N,) on their device, for numpy arrays a float.

    Raises:
        DataError: An image that cannot be used, or is not RGB.
        OptionError: A wrong option.
    """
    return answer(colourfulness(_rgb('calculate_colourfulness', img, crop_border, input_order)), img)


def entropy(images: Tensor) -> Tensor:
    """Shannon entropy in bits of the 256 grey levels of images (N,C,H,W) in [0,1], RGB or grey: (N,), no gradient."""
    grey = rounded_grey(images.detach()).long().flatten(1)
    counts = torch.zeros(len(grey), 256, dtype=torch.long, device=grey.device)
    counts.scatter_add_(1, grey, torch.ones_like(grey))
    share = counts.to(images.dtype) / grey.shape[1]
    return -torch.special.xlogy(share, share).sum(1) / math.log(2)


def rounded_grey(images: Tensor) -> Tensor:
    """Whole grey levels (N,H,W) in [0,255] of images (N,C,H,W) in [0,1], as MATLAB's rgb2gray of 8-bit images."""
    x = (images.clamp(0, 1) * 255).unbind(1)
    grey = sum(c * w for c, w in zip(x, RGB_TO_GREY)) if len(x) == 3 else x[0]
    return (grey + 0.5).floor()


def colourfulness(images: Tensor) -> Tensor:
    """Colourfulness M3 of images (N,3,H,W) in [0,1]: (N,), on the scale of 8-bit levels; differentiable."""
    red, green, blue = (images * 255).flatten(2).unbind(1)
    opponents = torch.stack((red - green, (red + green) / 2 - blue))
    spread, offset = opponents.var(2, correction=0), opponents.mean(2).square()
    return _root(spread.sum(0)) + 0.3 * _root(offset.sum(0))


def _root(x: Tensor) -> Tensor:
    """Square root whose gradient at 0 is 0."""
    return torch.where(x > 0, x.clamp(min=torch.finfo(x.dtype).tiny).sqrt(), 0)


def _rgb(name: str, img: Image, crop_border: int, input_order: Order) -> Tensor:
    """(N,3,H,W) float64 in [0,1]."""
    found = levels(name, img, crop_border, input_order)
    if found.shape[1] != 3:
        raise DataError(f'{name}: needs an RGB image, not one of {found.shape[1]} channels.')
    return found / 255


def _check_variant(name: str, variant: str, known: tuple[str, ...]) -> None:
    if variant not in known:
        raise OptionError(f"{name}: variant '{variant}' is not known; allowed are {', '.join(known)}.")
