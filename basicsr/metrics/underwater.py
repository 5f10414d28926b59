"""UCIQE and UIQM, the two scores of underwater papers, in each form that is in wide use.

M. Yang and A. Sowmya, "An underwater color image quality evaluation metric", IEEE TIP 24(12), 2015; K. Panetta, C. Gao
and S. Agaian, "Human-visual-system-inspired underwater image quality measures", IEEE JOE 41(3), 2016. Neither paper
fixes every detail, and the programs that circulate differ by far: figures compare only within one variant.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

UciqeVariant = Literal['matlab', 'opencv', 'nmetrics']
UiqmVariant = Literal['python', 'matlab']

UCIQE_WEIGHTS = (0.4680, 0.2745, 0.2576)
UIQM_WEIGHTS = (0.0282, 0.2953, 3.5753)
TRIM = 0.1  # part of the pixels left out at either end
SRGB_TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
WHITE = (0.95047, 1.0, 1.08883)  # D65
OPENCV_WHITE = (0.950456, 1.0, 1.088754)


def uciqe(images: Tensor, variant: UciqeVariant = 'matlab') -> Tensor:
    """Underwater colour image quality: 0.4680 spread of chroma + 0.2745 contrast of luminance + 0.2576 saturation.

    Args:
        images: (N,3,H,W) RGB in [0,1].
        variant: The form; see :func:`~basicsr.metrics.colour.calculate_uciqe`.

    Returns:
        (N,), higher is better. ``matlab`` and ``opencv`` round Lab to 8 bits, so they have no gradient.
    """
    if variant == 'nmetrics':
        terms = _uciqe_nmetrics(rgb_to_lab(images).flatten(2))
    else:
        coded = _coded_lab_of_opencv(images) if variant == 'opencv' else _coded_lab(images)
        terms = _uciqe_coded(coded.flatten(2) / 255, variant)
    return sum(c * t for c, t in zip(UCIQE_WEIGHTS, terms))


def uiqm(images: Tensor, variant: UiqmVariant = 'python') -> Tensor:
    """Underwater image quality: 0.0282 colourfulness + 0.2953 sharpness + 3.5753 contrast.

    Args:
        images: (N,3,H,W) RGB in [0,1].
        variant: The form; see :func:`~basicsr.metrics.colour.calculate_uiqm`.

    Returns:
        (N,), higher is better.
    """
    x = images * 255
    if variant == 'python':
        terms = _colour(x), _sharpness_python(x), _contrast(_blocks(x, 10).flatten(1, 2), 10)
    else:
        terms = _colour_matlab(x), _sharpness_matlab(x), _contrast_matlab(x)
    return sum(c * t for c, t in zip(UIQM_WEIGHTS, terms))


def rgb_to_lab(images: Tensor) -> Tensor:
    """sRGB (N,3,H,W) in [0,1] to CIE L*a*b* for a D65 white, L in [0,100]."""
    red, green, blue = _linear(images).unbind(1)
    x, y, z = ((r * red + g * green + b * blue) / w for (r, g, b), w in zip(SRGB_TO_XYZ, WHITE))
    fx, fy, fz = (torch.where(t > 0.008856, t.clamp(min=0.008856) ** (1 / 3), 7.787 * t + 16 / 116) for t in (x, y, z))
    return torch.stack((116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)), dim=1)


def _linear(images: Tensor) -> Tensor:
    """Light from display values."""
    return torch.where(images > 0.04045, ((images.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4, images / 12.92)


def _coded_lab(images: Tensor) -> Tensor:
    """Lab as 8-bit images hold it, 255 / 100 L, a + 128, b + 128, rounded."""
    light, a, b = rgb_to_lab(images).detach().unbind(1)
    return torch.stack((light * 2.55, a + 128, b + 128), dim=1).round().clamp(0, 255)


def _coded_lab_of_opencv(images: Tensor) -> Tensor:
    """The same by the whole-number arithmetic that OpenCV uses for 8-bit images, a level off here and there."""
    light = (_linear((images.detach().clamp(0, 1) * 255).round() / 255).double() * 2040).round()
    weights = [[round(4096 * c / w) for c in row] for row, w in zip(SRGB_TO_XYZ, OPENCV_WHITE)]
    sums = (sum(c * w for c, w in zip(light.unbind(1), row)) for row in weights)
    x, y, z = (((s + 2048) / 4096).floor() / 2040 for s in sums)
    roots = (torch.where(t < 216 / 24389, 841 / 108 * t + 16 / 116, t.clamp(min=1e-9) ** (1 / 3)) for t in (x, y, z))
    fx, fy, fz = ((r * 32768).round() for r in roots)
    parts = 296 * fy - 1336934, 500 * (fx - fy) + 128 * 32768, 200 * (fy - fz) + 128 * 32768
    return ((torch.stack(parts, dim=1) + 16384) / 32768).floor().clamp(0, 255).to(images.dtype)


def _uciqe_coded(lab: Tensor, variant: str) -> tuple[Tensor, Tensor, Tensor]:
    """Terms of the authors' MATLAB code, on Lab as 8-bit images hold it over 255, its a and b not centred."""
    light, a, b = lab.unbind(1)
    chroma = (a * a + b * b).sqrt()
    spread = (1 - (chroma.mean(1, keepdim=True) / chroma) ** 2).abs().mean(1).sqrt()
    contrast = _stretch_limits(light)
    if variant == 'opencv':
        contrast = contrast / (light.amax(1) - light.amin(1)).clamp(min=1 / 255)
    return spread, contrast, (chroma / (chroma * chroma + light * light).sqrt()).mean(1)


def _stretch_limits(x: Tensor) -> Tensor:
    """Distance between the levels below which lie 1% and 99% of the pixels, as MATLAB's stretchlim finds them."""
    ordered, count = x.sort(dim=1).values, x.shape[1]
    low = math.floor(0.01 * count + 1e-9)  # the first level with more than 1% of the pixels up to it
    high = math.ceil(0.99 * count - 1e-9) - 1  # the first with at least 99%
    return ordered[:, high] - ordered[:, low]


def _uciqe_nmetrics(lab: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    light, a, b = lab.unbind(1)
    chroma = (a * a + b * b).sqrt()
    ordered = light.sort(dim=1).values
    step = max(round(0.01 * light.shape[1]), 1)
    contrast = ordered.flip(1)[:, ::step].mean(1) - ordered[:, ::step].mean(1)
    saturation = torch.where(light > 0, chroma / light.clamp(min=1e-12), 0)
    return chroma.std(1, correction=0), contrast, saturation.mean(1)


def _opponents(x: Tensor) -> tuple[Tensor, Tensor]:
    """Red against green and yellow against blue, (N, pixels) in ascending order."""
    red, green, blue = x.flatten(2).unbind(1)
    return (red - green).sort(1).values, ((red + green) / 2 - blue).sort(1).values


def _colour(x: Tensor) -> Tensor:
    """UICM: trimmed means, variances of all pixels about them."""
    means, variances = [], []
    for values in _opponents(x):
        count = values.shape[1]
        left, right = math.ceil(TRIM * count), math.floor(TRIM * count)
        mean = values[:, left + 1 : count - right].sum(1) / (count - left - right)
        means.append(mean)
        variances.append((values - mean[:, None]).square().mean(1))
    return -0.0268 * torch.hypot(*means) + 0.1586 * sum(variances).sqrt()


def _colour_matlab(x: Tensor) -> Tensor:
    """UICM: means and variances of the trimmed pixels."""
    means, variances = [], []
    for values in _opponents(x):
        count = values.shape[1]
        first, last = math.floor(TRIM * count + 1 + 0.5), math.floor(count * (1 - TRIM) + 0.5)  # as int32() rounds
        kept, number = values[:, first - 1 : last], count * (1 - 2 * TRIM)
        mean = kept.sum(1) / number
        means.append(mean)
        variances.append((kept - mean[:, None]).square().sum(1) / number)
    return -0.0268 * torch.hypot(*means) + 0.1586 * sum(variances).sqrt()


def _sobel(x: Tensor) -> tuple[Tensor, Tensor]:
    """Vertical and horizontal Sobel differences, edges repeated."""
    p = F.pad(x, (1, 1, 1, 1), mode='replicate')
    down, across = p[..., 2:, :] - p[..., :-2, :], p[..., 2:] - p[..., :-2]
    vertical = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
    return vertical, across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]


def _sharpness_python(x: Tensor) -> Tensor:
    """UISM: contrast within blocks of each channel times its edges."""
    edges = torch.hypot(*_sobel(x))
    edges = edges * 255 / edges.amax(dim=(2, 3), keepdim=True).clamp(min=1e-12)
    red, green, blue = _log_ratio(_blocks(edges * x, 10), 1.0)
    return 0.299 * red + 0.587 * green + 0.144 * blue  # 0.144, not 0.114, in the program that all copies go back to


def _sharpness_matlab(x: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    down, across = _sobel(x)
    edges = (across - down).abs()
    if height % 5 or width % 5:  # enlarged, but blocks are counted by the image's own size
        edges = _enlarge(edges)[..., : math.ceil(height / 5) * 5, : math.ceil(width / 5) * 5]
    blocks = _blocks(edges, 5)
    counted = blocks.shape[-2] * blocks.shape[-1] / (height * width / 25)
    red, green, blue = _log_ratio(blocks, counted)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _log_ratio(blocks: Tensor, counted: float) -> tuple[Tensor, ...]:
    """Twice the mean of log(largest / smallest) of the blocks, for each channel; blocks with a zero count as 0."""
    high, low = blocks.amax((2, 3)), blocks.amin((2, 3))
    valid = (low != 0) & (high != 0)
    logs = torch.where(valid, (torch.where(valid, high, 1) / torch.where(valid, low, 1)).abs().log(), 0)
    return (2 * counted * logs.mean((2, 3)).abs()).unbind(1)


def _contrast_matlab(x: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    blocks = _blocks(_enlarge(x) if height % 5 or width % 5 else x, 5)
    return sum(_contrast(channel, 5) for channel in blocks.unbind(1))


def _contrast(blocks: Tensor, side: int) -> Tensor:
    """UIConM of blocks (N, values, side, rows, columns) or without ``values``: entropy of their Michelson contrast."""
    blocks = blocks.flatten(1, -3)
    high, low = blocks.amax(1), blocks.amin(1)
    valid = (high != low) & (high + low != 0)
    ratio = torch.where(valid, (high - low) / torch.where(valid, high + low, 1), 1)
    return (ratio * ratio.abs().log()).mean((1, 2)).abs()


def _blocks(x: Tensor, side: int) -> Tensor:
    """Whole blocks of an image (N,C,H,W): (N, C, side, side, rows, columns); what is left over does not count."""
    rows, columns = (n // side for n in x.shape[-2:])
    cut = x[..., : rows * side, : columns * side]
    return cut.unflatten(3, (columns, side)).unflatten(2, (rows, side)).permute(0, 1, 3, 5, 2, 4)


def _enlarge(x: Tensor) -> Tensor:
    """Bicubic enlargement to the next multiples of 5, as MATLAB's imresize; a side that is one grows by 5 too."""
    height, width = (n - n % 5 + 5 for n in x.shape[-2:])
    rows = _resize_matrix(x.shape[-2], height).to(x, non_blocking=True)
    return rows @ x @ _resize_matrix(x.shape[-1], width).to(x, non_blocking=True).T


def _resize_matrix(size: int, wanted: int) -> Tensor:
    """What each old pixel of a line counts in each new one: cubic kernel, a = -0.5, mirrored edges, float64."""
    scale = wanted / size
    place = (torch.arange(wanted, dtype=torch.float64) + 0.5) / scale - 0.5
    taps = place.floor().long()[:, None] + torch.arange(-1, 3)
    d = (place[:, None] - taps).abs()
    weights = torch.where(d <= 1, 1.5 * d**3 - 2.5 * d**2 + 1, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2)
    mirrored = torch.where(taps < 0, -taps - 1, torch.where(taps >= size, 2 * size - 1 - taps, taps))
    return torch.zeros(wanted, size, dtype=torch.float64).scatter_add_(1, mirrored, weights)
