"""What the degradations share: ranges, the sRGB curve, and random fields that look alike on a crop and on a photo."""

from __future__ import annotations

import math

import cv2
import numpy as np

from basicsr.errors import OptionError

Span = tuple[float, float]

VIEW = 480  # pixels; a smaller image is taken for a window of a photograph at least this high


def check_span(owner: object, name: str, span: Span, low: float, high: float) -> Span:
    """Refuses a range that is not (smallest, largest) within ``[low, high]``.

    Raises:
        OptionError: It is not; the text names the parameter.
    """
    if len(span) != 2 or not low <= span[0] <= span[1] <= high:
        limits = f'{low:g} and {high:g}' if math.isfinite(high) else f'{low:g} and more'
        raise OptionError(
            f'{type(owner).__name__}: {name} is {list(span)}; it must be [smallest, largest] between {limits}.'
        )
    return float(span[0]), float(span[1])


def draw(rng: np.random.Generator, span: Span) -> float:
    """A number from a range, all equally likely."""
    return float(rng.uniform(*span))


def check_chance(owner: object, name: str, chance: float) -> float:
    """Refuses a probability outside [0,1].

    Raises:
        OptionError: It is; the text names the parameter.
    """
    if not 0 <= chance <= 1:
        raise OptionError(f'{type(owner).__name__}: {name} is {chance:g}; it must be a probability between 0 and 1.')
    return float(chance)


def as_float(pixels: np.ndarray) -> np.ndarray:
    """Whole numbers to float32 in [0,1]."""
    return pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)


def to_linear(image: np.ndarray) -> np.ndarray:
    """Display values in [0,1] to linear light (the sRGB curve of IEC 61966-2-1)."""
    values = np.asarray(image, np.float32)
    curve = _power((values + np.float32(0.055)) * np.float32(1 / 1.055), 2.4)
    np.multiply(values, np.float32(1 / 12.92), out=curve, where=values <= 0.04045)
    return curve


def to_srgb(light: np.ndarray) -> np.ndarray:
    """Linear light to display values in [0,1]; light outside [0,1] is clipped, as a sensor clips it."""
    light = np.clip(np.asarray(light, np.float32), 0.0, 1.0)
    curve = _power(light, 1 / 2.4)
    np.multiply(curve, np.float32(1.055), out=curve)
    np.subtract(curve, np.float32(0.055), out=curve)
    np.multiply(light, np.float32(12.92), out=curve, where=light <= 0.0031308)
    return curve


def _power(values: np.ndarray, exponent: float) -> np.ndarray:
    """``values ** exponent`` for values of 0 and more; OpenCV's vectorised power is several times numpy's."""
    if np.ndim(values) < 2:
        return np.asarray(values ** np.float32(exponent))
    return cv2.pow(np.ascontiguousarray(values).reshape(values.shape[0], -1), exponent).reshape(values.shape)


def three(plane: np.ndarray) -> np.ndarray:
    """An (H,W) plane as (H,W,3) with three equal channels, which numpy multiplies faster than it broadcasts."""
    return cv2.merge([plane, plane, plane]).reshape(*plane.shape, 3)


def smooth_noise(rng: np.random.Generator, height: int, width: int, cell: float) -> np.ndarray:
    """A smooth random surface: a uniform cubic B-spline through random control points.

    Args:
        rng: Draws the control points and where the window lies on them.
        height: Rows.
        width: Columns.
        cell: Pixels between control points, which sets the size of the hills.

    Returns:
        (height,width) float32 of mean 0, values within [-1,1].
    """
    rows, columns = (_spline_weights(n, cell, rng.random()) for n in (height, width))
    control = rng.uniform(-1, 1, (rows.shape[1], columns.shape[1])).astype(np.float32)
    return rows @ control @ columns.T


def _spline_weights(length: int, cell: float, offset: float) -> np.ndarray:
    """(length, control points) weights of a uniform cubic B-spline at every pixel."""
    position = np.arange(length) / cell + offset
    first = position.astype(int)
    t = position - first
    pieces = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    weights = np.zeros((length, int(first[-1]) + 4), np.float32)
    for k, piece in enumerate(pieces):
        weights[np.arange(length), first + k] = piece / 6
    return weights


def clouds(rng: np.random.Generator, height: int, width: int, cell: float, octaves: int = 4) -> np.ndarray:
    """Smooth noise of several sizes, each half as large and half as strong as the one before.

    Args:
        rng: Draws the surface.
        height: Rows.
        width: Columns.
        cell: Size of the largest hills in pixels.
        octaves: Number of sizes.

    Returns:
        (height,width) float32 in [0,1], mean about 0.5.
    """
    total = sum(smooth_noise(rng, height, width, cell / 2**k) / 2**k for k in range(octaves))
    return np.clip(0.5 + 0.75 * total, 0.0, 1.0)  # a B-spline flattens its control points to about a third


def scene_depth(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Distance as in many outdoor photographs: the far end above, the near end below, hills in between.

    An image smaller than a photograph is a window of one: it shows a part of the slope, not the whole of it.

    Args:
        rng: Draws slope, hills and the window.
        height: Rows.
        width: Columns.

    Returns:
        (height,width) float32 in [0,1], 1 is farthest.
    """
    view = max(height, width, VIEW)
    top = rng.uniform(0, view - height)
    ramp = 1 - (top + np.arange(height, dtype=np.float32)[:, None]) / view
    slope, bend = rng.uniform(0.4, 0.85), rng.uniform(1.0, 2.0)
    hills = clouds(rng, height, width, view / 2)
    return (slope * ramp**bend + (1 - slope) * hills).astype(np.float32, copy=False)
