"""Rain as layers of streaks.

K. Garg and S. K. Nayar, "Vision and rain", IJCV 75(1), 2007: during the exposure a falling drop covers a pixel for
a part ``alpha`` of the time, so the pixel shows ``(1 - alpha) J + alpha L`` in linear light, with ``L`` the light
of a wide part of the sky. Layers of different distance, and the veil of the drops too far to be seen one by one,
follow R. Li, L.-F. Cheong and R. T. Tan, "Heavy rain image restoration", CVPR 2019.
"""

from __future__ import annotations

import numpy as np

from basicsr.registry import DEGRADATION_REGISTRY

from ._fields import Span, check_span, draw, to_linear, to_srgb
from ._particles import falling

# (streaks per million pixels, length, thickness in pixels, blur, opacity) of each layer at amount 1, far to near.
# Lengths are parts of the drawn length.
LAYERS = (
    (6000, (0.2, 0.5), (1, 1), 0.5, 0.8),
    (2400, (0.5, 1.0), (1, 1.4), 0.6, 1.0),
    (500, (0.9, 1.6), (1, 3), 1.0, 0.8),
)


@DEGRADATION_REGISTRY.register()
class Rain:
    """Rain: three layers of streaks of different distance, and a thin veil (Garg and Nayar's blending in linear light).

    Args:
        amount: Range of the number of streaks, 1 for dense rain.
        length: Range of the length of a streak at middle distance, in pixels.
        angle: Range of the direction in degrees from straight down, positive to the right.
        opacity: Range of the part of the exposure that a streak covers a pixel.
        veil: Range of the part of the light that distant rain replaces; 0 for none.
        light: Range of the brightness of the drops, a display value in [0,1].

    Raises:
        OptionError: A range is not (smallest, largest) within its limits.
    """

    task = 'rain'

    def __init__(
        self,
        amount: Span = (0.3, 1.0),
        length: Span = (12, 60),
        angle: Span = (-25, 25),
        opacity: Span = (0.2, 0.5),
        veil: Span = (0.0, 0.04),
        light: Span = (0.75, 0.95),
    ) -> None:
        self.amount = check_span(self, 'amount', amount, 0, 10)
        self.length = check_span(self, 'length', length, 1, 500)
        self.angle = check_span(self, 'angle', angle, -90, 90)
        self.opacity = check_span(self, 'opacity', opacity, 0, 1)
        self.veil = check_span(self, 'veil', veil, 0, 1)
        self.light = check_span(self, 'light', light, 0, 1)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Lets rain fall on an image.

        Args:
            image: (H,W,3) float32 RGB in [0,1].
            rng: Draws every parameter and streak.

        Returns:
            The same shape and range.
        """
        spans = (self.amount, self.length, self.angle, self.opacity, self.veil, self.light)
        amount, length, angle, opacity, veil, light = (draw(rng, s) for s in spans)
        seen = np.full(image.shape[:2], 1 - veil, np.float32)  # the part of the exposure that the scene is seen
        for count, reach, thickness, blur, weight in LAYERS:
            span = reach[0] * length, reach[1] * length
            streaks = falling(rng, *image.shape[:2], amount * count, span, thickness, angle, 2.0, blur)
            seen *= 1 - min(1.0, opacity * weight) * streaks
        return to_srgb(to_linear(image) * seen[..., None] + to_linear(np.float32(light)) * (1 - seen[..., None]))
