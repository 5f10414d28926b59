"""Layers of falling particles, drawn as short lines, for rain and snow."""

from __future__ import annotations

import cv2
import numpy as np

from ._fields import Span

_SUBPIXEL = 4  # binary digits of a coordinate that lie behind the point


def falling(
    rng: np.random.Generator,
    height: int,
    width: int,
    count: float,
    length: Span,
    thickness: Span,
    angle: float,
    spread: float,
    blur: float,
) -> np.ndarray:
    """One layer of particles of about one distance from the camera.

    Args:
        rng: Draws the particles.
        height: Rows.
        width: Columns.
        count: Particles per million pixels.
        length: Range of the path that a particle moves during the exposure, in pixels.
        thickness: Range of its width in pixels, 1 at least.
        angle: Direction of the fall in degrees from straight down, positive to the right.
        spread: Standard deviation of the direction from particle to particle, in degrees.
        blur: Standard deviation of the lens blur in pixels; 0 for none.

    Returns:
        (height,width) float32 in [0,1]: which part of the exposure each pixel is covered.
    """
    margin = int(length[1] + 3 * blur) + 2
    canvas = np.zeros((height, width), np.uint8)
    area = (height + 2 * margin) * (width + 2 * margin)
    number = int(rng.poisson(count * area / 1e6))
    x, y = rng.uniform(-margin, width + margin, number), rng.uniform(-margin, height + margin, number)
    direction = np.deg2rad(rng.normal(angle, spread, number))
    reach = rng.uniform(*length, number)
    ends = np.stack([x, y, x + reach * np.sin(direction), y + reach * np.cos(direction)], axis=1)
    points = np.rint(ends * 2**_SUBPIXEL).astype(int).tolist()
    widths = np.rint(rng.uniform(*thickness, number)).astype(int).tolist()
    values = rng.integers(90, 256, number).tolist()
    for (x0, y0, x1, y1), size, value in zip(points, widths, values):
        cv2.line(canvas, (x0, y0), (x1, y1), value, max(size, 1), cv2.LINE_AA, _SUBPIXEL)
    layer = canvas.astype(np.float32) / np.float32(255)
    return cv2.GaussianBlur(layer, (0, 0), blur) if blur > 0 else layer
