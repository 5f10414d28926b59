"""Rain as layers of streaks.

K. Garg and S. K. Nayar, "Vision and rain", IJCV 75(1), 2007: during the exposure a falling drop covers a pixel for
a part ``alpha`` of the time, so the pixel shows ``(1 - alpha) J + alpha L`` in linear light, with ``L`` the light
of a wide part of the sky. Layers of different distance, and the veil of the drops too far to be seen one by one,
follow R. Li, L.-F. Cheong and R. T. Tan, "Heavy rain image restoration", CVPR 2019. Benchmarks such as Rain100L
(W. Yang et al., "Deep joint rain detection and removal from a single image", CVPR 2017) add the streaks to display
values instead, ``J + S``; ``blend`` covers both.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from basicsr.errors import OptionError
from basicsr.registry import DEGRADATION_REGISTRY

from ._fields import Span, check_span, draw, three, to_linear, to_srgb
from ._particles import blend, lens_drops, mist, streaks

# (size, streaks per million pixels at amount 1, opacity, blur in pixels) of each layer, far to near. Size multiplies
# length and width. The nearest drops are out of focus.
LAYERS = (
    (0.5, 7000, 0.8, 0.0),
    (1.0, 2000, 1.0, 0.0),
    (1.6, 300, 0.9, 0.3),
    (3.0, 20, 0.4, 2.0),
)
SLENDER = 8.0  # times as long as wide, at least
SHORT = 20.0  # pixels; longer streaks grow fainter
DROP_RADIUS: Span = (5.0, 30.0)  # pixels


@DEGRADATION_REGISTRY.register()
class Rain:
    """Rain: four layers of streaks of different distance, and a veil that thickens with distance.

    Lengths are pixels of a photograph of about 480 rows, whatever the size of the image.

    Args:
        amount: Range of the number of streaks and of the strength of the veil; 1 is dense rain, 0 none.
        length: Range of the mean length of the streaks at middle distance, in pixels; equally likely per octave.
        width: Range of the width of the streaks at middle distance, in pixels at half their brightness; an
            eighth of the length at most.
        angle: Range of the direction in degrees from straight down, positive to the right.
        spread: Range of the standard deviation of the direction from streak to streak, in degrees.
        directions: Fewest and most directions within a photo; the first is twice as frequent as any other.
        gust: Standard deviation in degrees by which further directions differ from the first.
        opacity: Range of the part of the exposure for which a streak of 20 pixels or less covers a pixel (blend
            light), or of the drops' light that a streak adds (blend display).
        light: Range of the brightness of the drops, a display value in [0,1].
        tint: Range of the part of the drops' colour that is taken from the scene around them.
        flicker: Range of how unevenly a streak is lit along its way, 0 evenly.
        veil: Range of the part of the light that distant rain replaces far off at amount 1 (blend light); 0 for none.
        blend: ``light`` lets streaks and veil cover the scene in linear light (Garg and Nayar), ``display`` adds
            streaks to display values and knows no veil (Rain100L), ``both`` does either for half of the photos.
        lens_drops: Range of the number of drops on the lens per million pixels.

    Raises:
        OptionError: A range is not (smallest, largest) within its limits, or blend is unknown.
    """

    task = 'rain'
    uses_depth = True

    def __init__(
        self,
        amount: Span = (0.2, 3.0),
        length: Span = (10, 80),
        width: Span = (1.0, 2.4),
        angle: Span = (-30, 30),
        spread: Span = (1.0, 5.0),
        directions: tuple[int, int] = (1, 2),
        gust: float = 8.0,
        opacity: Span = (0.2, 0.8),
        light: Span = (0.65, 0.95),
        tint: Span = (0.0, 0.4),
        flicker: Span = (0.0, 0.4),
        veil: Span = (0.0, 0.1),
        blend: Literal['light', 'display', 'both'] = 'both',
        lens_drops: Span = (0.0, 0.0),
    ) -> None:
        self.amount = check_span(self, 'amount', amount, 0, 10)
        self.length = check_span(self, 'length', length, 1, 500)
        self.width = check_span(self, 'width', width, 0.2, 50)
        self.angle = check_span(self, 'angle', angle, -90, 90)
        self.spread = check_span(self, 'spread', spread, 0, 90)
        self.directions = check_span(self, 'directions', directions, 1, 10)
        self.gust = check_span(self, 'gust', (gust, gust), 0, 90)[0]
        self.opacity = check_span(self, 'opacity', opacity, 0, 1)
        self.light = check_span(self, 'light', light, 0, 1)
        self.tint = check_span(self, 'tint', tint, 0, 1)
        self.flicker = check_span(self, 'flicker', flicker, 0, 1)
        self.veil = check_span(self, 'veil', veil, 0, 0.99)
        if blend not in ('light', 'display', 'both'):
            raise OptionError(f"Rain: blend is '{blend}'; it must be 'light', 'display' or 'both'.")
        self.blend = blend
        self.lens_drops = check_span(self, 'lens_drops', lens_drops, 0, 10000)

    def __call__(self, image: np.ndarray, rng: np.random.Generator, depth: np.ndarray | None = None) -> np.ndarray:
        """Lets rain fall on an image.

        Args:
            image: (H,W,3) float32 RGB in [0,1].
            rng: Draws every parameter and streak.
            depth: (H,W) float32 in [0,1], 1 farthest, for the veil; None draws one.

        Returns:
            The same shape and range.
        """
        amount, opacity, veil = draw(rng, self.amount), draw(rng, self.opacity), draw(rng, self.veil)
        light, tint, drops = draw(rng, self.light), draw(rng, self.tint), draw(rng, self.lens_drops)
        added = self.blend == 'display' or (self.blend == 'both' and rng.random() < 0.5)
        if amount > 0:
            layers = self._layers(rng, *image.shape[:2], amount, opacity, added)
            if added:
                image = np.clip(image + three(np.float32(light) * sum(layers)), 0, 1)
            elif opacity > 0 or veil > 0:
                left = (1 - veil) ** (amount * mist(rng, *image.shape[:2], depth)) if veil > 0 else np.float32(1)
                image = _cover(image, layers, left, light, tint)
        return lens_drops(rng, image, drops, DROP_RADIUS) if drops > 0 else image.copy()

    def _layers(
        self, rng: np.random.Generator, height: int, width: int, amount: float, opacity: float, added: bool
    ) -> list[np.ndarray]:
        """(height,width) float32 for each layer: the part of the exposure that its streaks take."""
        length = math.exp(rng.uniform(*np.log(self.length)))
        thickness, spread, flicker = (draw(rng, s) for s in (self.width, self.spread, self.flicker))
        thickness = min(thickness, length / SLENDER)
        if not added:  # a long exposure makes long streaks, and a drop covers a pixel for a smaller part of it
            opacity *= min(1.0, math.sqrt(SHORT / length))
        number = int(rng.integers(int(self.directions[0]), int(self.directions[1]), endpoint=True))
        angles = draw(rng, self.angle) + np.concatenate([[0.0], rng.normal(0, self.gust, number - 1)])
        layers = []
        for size, count, weight, blur in LAYERS:
            reach, wide = size * length, size * thickness
            layer = streaks(rng, height, width, amount * count, reach, wide, angles, spread, flicker, blur)
            layers.append(np.minimum(layer, 1) * np.float32(opacity * weight))
        return layers


def _cover(image: np.ndarray, layers: list[np.ndarray], left: np.ndarray, light: float, tint: float) -> np.ndarray:
    """Streaks take the place of the scene's light, in linear light, and so does a veil that leaves ``left`` of it."""
    for layer in layers:
        left = left * (1 - layer)
    return to_srgb(blend(to_linear(image), left, float(to_linear(np.float32(light))), tint))
