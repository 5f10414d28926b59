"""Falling snow as layers of flakes.

Translucent flakes, ``I = (1 - z) J + z C`` (here in linear light), follow Y.-F. Liu et al., "DesnowNet:
context-aware deep network for snow removal", IEEE TIP 27(6), 2018; the veil follows W.-T. Chen et al., "JSTASR:
joint size and transparency-aware snow removal algorithm based on modified partial convolution and veiling effect
removal", ECCV 2020.
"""

from __future__ import annotations

import numpy as np

from basicsr.registry import DEGRADATION_REGISTRY

from ._fields import VIEW, Span, check_span, clouds, draw, to_linear, to_srgb
from ._particles import falling

# (flakes per million pixels at amount 1, diameter in pixels at size 1, blur as a part of the diameter, opacity) of each
# layer, far to near.
LAYERS = (
    (5000, (1, 2), 0.35, 0.7),
    (1200, (2, 4), 0.25, 1.0),
    (220, (4, 7), 0.22, 0.95),
    (25, (9, 16), 0.3, 0.5),
)


@DEGRADATION_REGISTRY.register()
class Snow:
    """Snow: four layers of flakes, from sharp specks far off to large blurred ones near by, and a veil.

    Args:
        amount: Range of the number of flakes, 1 for dense snow.
        size: Range of the size of the flakes, 1 for those of a photograph of 480 rows.
        speed: Range of how far a flake moves during the exposure, in diameters.
        angle: Range of the direction in degrees from straight down, positive to the right.
        opacity: Range of how much of the scene a flake hides.
        veil: Range of the part of the light that distant snow replaces; 0 for none.
        light: Range of the brightness of the flakes, a display value in [0,1].

    Raises:
        OptionError: A range is not (smallest, largest) within its limits.
    """

    task = 'snow'

    def __init__(
        self,
        amount: Span = (0.3, 1.0),
        size: Span = (0.6, 1.3),
        speed: Span = (0.0, 1.5),
        angle: Span = (-40, 40),
        opacity: Span = (0.6, 1.0),
        veil: Span = (0.0, 0.06),
        light: Span = (0.8, 1.0),
    ) -> None:
        self.amount = check_span(self, 'amount', amount, 0, 10)
        self.size = check_span(self, 'size', size, 0.1, 20)
        self.speed = check_span(self, 'speed', speed, 0, 20)
        self.angle = check_span(self, 'angle', angle, -90, 90)
        self.opacity = check_span(self, 'opacity', opacity, 0, 1)
        self.veil = check_span(self, 'veil', veil, 0, 1)
        self.light = check_span(self, 'light', light, 0, 1)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Lets snow fall on an image.

        Args:
            image: (H,W,3) float32 RGB in [0,1].
            rng: Draws every parameter and flake.

        Returns:
            The same shape and range.
        """
        spans = (self.amount, self.size, self.speed, self.angle, self.opacity, self.veil, self.light)
        amount, size, speed, angle, opacity, veil, light = (draw(rng, s) for s in spans)
        height, width = image.shape[:2]
        drift = clouds(rng, height, width, max(height, width, VIEW) / 3, octaves=2)
        seen = 1 - veil * (0.5 + drift)
        for count, diameter, softness, weight in LAYERS:
            span = diameter[0] * size, diameter[1] * size
            mean = sum(span) / 2
            moved = 0.2 * speed * mean, speed * mean
            flakes = falling(rng, height, width, amount * count, moved, span, angle, 15.0, softness * mean)
            seen *= 1 - opacity * weight * flakes
        return to_srgb(to_linear(image) * seen[..., None] + to_linear(np.float32(light)) * (1 - seen[..., None]))
