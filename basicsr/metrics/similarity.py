"""The core of every SSIM: local means by a window, and the index that follows from them (Wang et al., TIP 2004)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

GAUSSIAN = 11  # side of the Gaussian window in pixels
BOX = 7  # side of scikit-image's uniform window
SIGMA = 1.5
C1 = (0.01 * 255) ** 2
C2 = (0.03 * 255) ** 2


def similarity(a: Tensor, b: Tensor, local_mean: Callable[[Tensor], Tensor], sample: float = 1.0) -> Tensor:
    """Mean structural similarity of each image.

    Args:
        a: (N, ...) in levels, float64.
        b: The same of the image compared with.
        local_mean: Means over the window around each pixel, of (4, N, ...).
        sample: What variances are multiplied by; n / (n - 1) for the sample variance of a window of n pixels.

    Returns:
        (N,), at most 1.
    """
    mean_a, mean_b, energy, product = local_mean(torch.stack((a, b, a * a + b * b, a * b)))
    mean_product, mean_energy = mean_a * mean_b, mean_a * mean_a + mean_b * mean_b
    luminance = (2 * mean_product + C1) / (mean_energy + C1)
    structure = (2 * sample * (product - mean_product) + C2) / (sample * (energy - mean_energy) + C2)
    return (luminance * structure).flatten(1).mean(dim=1)


def gaussian_mean(x: Tensor) -> Tensor:
    """Mean under the 11 x 11 Gaussian, without padding: (..., H, W) to (..., H - 10, W - 10)."""
    return _windowed(x, gaussian_weights())


def box_mean(x: Tensor) -> Tensor:
    """Mean over 7 x 7 pixels, without padding: (..., H, W) to (..., H - 6, W - 6)."""
    return _windowed(x, (1 / BOX,) * BOX)


def gaussian_mean_3d(x: Tensor) -> Tensor:
    """Mean under the 11 x 11 x 11 Gaussian, (..., C, H, W) to the same; rows, columns, channels repeat at the edges."""
    reach = GAUSSIAN // 2
    padded = F.pad(x.flatten(0, -4), (reach,) * 4, mode='replicate')
    planes = _windowed(padded, gaussian_weights()).view(x.shape).unbind(-3)
    mixed = [sum(p * w for p, w in zip(planes, row)) for row in _channel_weights(len(planes))]
    return torch.stack(mixed, dim=-3)


@lru_cache
def gaussian_weights() -> tuple[float, ...]:
    """The Gaussian window along one axis; sums to 1."""
    weights = [math.exp(-((i - GAUSSIAN // 2) ** 2) / (2 * SIGMA**2)) for i in range(GAUSSIAN)]
    return tuple(w / sum(weights) for w in weights)


@lru_cache
def _channel_weights(channels: int) -> tuple[tuple[float, ...], ...]:
    """The Gaussian across channels with the outer ones repeated: what each channel counts in the mean at each."""
    rows = [[0.0] * channels for _ in range(channels)]
    for row, weights in enumerate(rows):
        for offset, weight in enumerate(gaussian_weights(), -(GAUSSIAN // 2)):
            weights[min(max(row + offset, 0), channels - 1)] += weight
    return tuple(map(tuple, rows))


def _windowed(x: Tensor, weights: tuple[float, ...]) -> Tensor:
    """Weighted mean over a separable window.

    Written as shifted sums, which on a CPU take a sixth of the time of a float64 convolution.
    """
    height, width = (n - len(weights) + 1 for n in x.shape[-2:])
    rows = x[..., :height, :] * weights[0]
    for i, weight in enumerate(weights[1:], 1):
        rows.add_(x[..., i : i + height, :], alpha=weight)
    result = rows[..., :width] * weights[0]
    for i, weight in enumerate(weights[1:], 1):
        result.add_(rows[..., i : i + width], alpha=weight)
    return result
