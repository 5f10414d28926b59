"""Falling snow as layers of flakes.

Translucent flakes, ``I = (1 - z) J + z C`` (here in linear light), and the sorts small, medium and large follow Y.-F.
Liu et al., "DesnowNet: context-aware deep network for snow removal", IEEE TIP 27(6), 2018 (Snow100K); the veil follows
W.-T. Chen et al., "JSTASR: joint size and transparency-aware snow removal algorithm based on modified partial
convolution and veiling effect removal", ECCV 2020.
"""

from __future__ import annotations

import numpy as np

from basicsr.registry import DEGRADATION_REGISTRY

from ._fields import Span, check_span, draw, to_linear, to_srgb
from ._particles import blend, flakes, mist, specks

# (specks per million pixels at amount 1, diameter in pixels at size 1, opacity) of the two layers far off.
SPECKS = ((6000, 1.2, 0.8), (2500, 1.9, 1.0))
# (flakes per million pixels at amount 1, diameter in pixels at size 1, softness of the rim, opacity, speed) of the
# layers near by; flakes of the last one are out of focus.
FLAKES = (
    (900, (2.5, 5.0), (0.3, 0.8), 1.0, 0.7),
    (130, (4.5, 12.0), (0.4, 1.0), 0.75, 0.5),
    (25, (12.0, 36.0), (0.7, 1.0), 0.35, 0.4),
)


@DEGRADATION_REGISTRY.register()
class Snow:
    """Snow: five layers of irregular flakes, from sharp specks far off to large blurred ones near by, and a veil.

    Sizes are those of a photograph of about 480 rows, whatever the size of the image.

    Args:
        amount: Range of the number of flakes and of the strength of the veil; 1 is dense snow, 0 none.
        size: Range of the factor on the diameter of the flakes (1.2 to 36 pixels).
        near: Range of the number of large blurred flakes near the camera, 1 usual, 0 none.
        speed: Range of how far a flake moves during the exposure, in diameters.
        angle: Range of the direction of the wind in degrees from straight down, positive to the right.
        spread: Range of the standard deviation of the direction from flake to flake, in degrees.
        opacity: Range of how much of the scene a flake hides.
        light: Range of the brightness of the flakes, a display value in [0,1].
        tint: Range of the part of the flakes' colour that is taken from the scene around them.
        veil: Range of the part of the light that distant snow replaces far off at amount 1; 0 for none.

    Raises:
        OptionError: A range is not (smallest, largest) within its limits.
    """

    task = 'snow'
    uses_depth = True

    def __init__(
        self,
        amount: Span = (0.3, 3.0),
        size: Span = (0.6, 1.4),
        near: Span = (0.0, 2.0),
        speed: Span = (0.0, 2.5),
        angle: Span = (-50, 50),
        spread: Span = (8, 25),
        opacity: Span = (0.6, 1.0),
        light: Span = (0.75, 1.0),
        tint: Span = (0.0, 0.25),
        veil: Span = (0.0, 0.2),
    ) -> None:
        self.amount = check_span(self, 'amount', amount, 0, 10)
        self.size = check_span(self, 'size', size, 0.1, 20)
        self.near = check_span(self, 'near', near, 0, 50)
        self.speed = check_span(self, 'speed', speed, 0, 20)
        self.angle = check_span(self, 'angle', angle, -90, 90)
        self.spread = check_span(self, 'spread', spread, 0, 90)
        self.opacity = check_span(self, 'opacity', opacity, 0, 1)
        self.light = check_span(self, 'light', light, 0, 1)
        self.tint = check_span(self, 'tint', tint, 0, 1)
        self.veil = check_span(self, 'veil', veil, 0, 0.99)

    def __call__(self, image: np.ndarray, rng: np.random.Generator, depth: np.ndarray | None = None) -> np.ndarray:
        """Lets snow fall on an image.

        Args:
            image: (H,W,3) float32 RGB in [0,1].
            rng: Draws every parameter and flake.
            depth: (H,W) float32 in [0,1], 1 farthest, for the veil; None draws one.

        Returns:
            The same shape and range.
        """
        amount, opacity, veil = draw(rng, self.amount), draw(rng, self.opacity), draw(rng, self.veil)
        if amount == 0 or (opacity == 0 and veil == 0):
            return image.copy()
        shape = image.shape[:2]
        seen = self._between(rng, *shape, amount, opacity)
        if veil > 0:
            seen = seen * (1 - veil) ** (amount * mist(rng, *shape, depth))
        light = float(to_linear(np.float32(draw(rng, self.light))))
        return to_srgb(blend(to_linear(image), seen, light, draw(rng, self.tint)))

    def _between(self, rng: np.random.Generator, height: int, width: int, amount: float, opacity: float) -> np.ndarray:
        """(height,width) float32: the part of the scene that is seen between the flakes."""
        spans = (self.size, self.near, self.speed, self.angle, self.spread)
        size, near, speed, angle, spread = (draw(rng, s) for s in spans)
        seen = np.ones((height, width), np.float32)
        for count, diameter, weight in SPECKS:
            layer = specks(rng, height, width, amount * count, size * diameter, speed, angle, spread)
            seen *= 1 - np.float32(opacity * weight) * layer
        for count, diameter, softness, weight, pace in FLAKES:
            number = amount * count * (near if count == FLAKES[-1][0] else 1)
            span = size * diameter[0], size * diameter[1]
            layer = flakes(rng, height, width, number, span, pace * speed, angle, spread, softness)
            seen *= 1 - np.float32(opacity * weight) * layer
        return seen
