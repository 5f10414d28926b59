"""Haze by the atmospheric scattering model.

H. Koschmieder, "Theorie der horizontalen Sichtweite", 1924; as used by S. G. Narasimhan and S. K. Nayar, "Vision and
the atmosphere", IJCV 48(3), 2002: ``I = J t + A (1 - t)`` with ``t = exp(-beta d)``, in linear light.
"""

from __future__ import annotations

import numpy as np

from basicsr.registry import DEGRADATION_REGISTRY

from ._fields import Span, check_span, draw, scene_depth, to_linear, to_srgb


@DEGRADATION_REGISTRY.register()
class Haze:
    """Haze: light is lost with distance and replaced by near-white air light (Koschmieder's law, in linear light).

    The distance is a random smooth field, far above and near below, since a single photograph has no depth.

    Args:
        beta: Range of the scattering coefficient times the farthest distance; 0 leaves the image as it is.
        near: Range of the nearest distance, as a part of the farthest.
        airlight: Range of the brightness of the air, a display value in [0,1].
        tint: Largest difference of the air's red and blue from grey, up or down.

    Raises:
        OptionError: A range is not (smallest, largest) within its limits.
    """

    task = 'haze'

    def __init__(
        self, beta: Span = (0.3, 1.6), near: Span = (0.0, 0.15), airlight: Span = (0.6, 0.95), tint: float = 0.04
    ) -> None:
        self.beta = check_span(self, 'beta', beta, 0, 10)
        self.near = check_span(self, 'near', near, 0, 1)
        self.airlight = check_span(self, 'airlight', airlight, 0, 1)
        self.tint = check_span(self, 'tint', (-tint, tint), -0.5, 0.5)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Hazes an image.

        Args:
            image: (H,W,3) float32 RGB in [0,1].
            rng: Draws every parameter.

        Returns:
            The same shape and range.
        """
        beta, near, air, tint = (draw(rng, s) for s in (self.beta, self.near, self.airlight, self.tint))
        colour = to_linear(np.clip(np.array([air + tint, air, air - tint], np.float32), 0, 1))
        distance = near + (1 - near) * scene_depth(rng, *image.shape[:2])
        transmission = np.exp(-beta * distance)[..., None]
        return to_srgb(to_linear(image) * transmission + colour * (1 - transmission))
