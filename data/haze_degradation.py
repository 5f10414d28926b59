"""Haze by the atmospheric scattering model.

H. Koschmieder, "Theorie der horizontalen Sichtweite", 1924; as used by S. G. Narasimhan and S. K. Nayar, "Vision and
the atmosphere", IJCV 48(3), 2002: ``I = J t + A (1 - t)`` with ``t = exp(-beta d)``, in linear light.

The options gamma, noise and jpeg, and the recipe of docs/degradations.md, are those of R.-Q. Wu et al., "RIDCP:
revitalizing real image dehazing via high-quality codebook priors", CVPR 2023.
"""

from __future__ import annotations

import cv2
import numpy as np

from basicsr.registry import DEGRADATION_REGISTRY

from ._camera import gaussian_noise, jpeg
from ._depth import distance_map
from ._fields import VIEW, Span, check_chance, check_span, clouds, draw, three, to_linear, to_srgb

NOISE_KINDS = ('colour', 'grey', 'correlated')


@DEGRADATION_REGISTRY.register()
class Haze:
    """Haze: light is lost with distance and replaced by the light of the air (Koschmieder's law).

    The distance comes from a depth map where the data set has one, else from a scene made up to suit the photograph.

    Args:
        beta: Range of the scattering coefficient times the farthest distance; 0 leaves the image as it is.
        near: Range of the nearest distance, as a part of the farthest.
        airlight: Range of the brightness of the air, a display value in [0,1].
        tint: How far the air's colour may be from grey, yellowish or bluish; small differences are the likelier ones.
        jitter: Largest change of each of the air's channels by itself, up or down.
        dim: Range of how far the scene's light follows that of the air, 0 not at all, 1 as bright air lights it.
        patchy: Range of how much the density varies from place to place, 0 not at all, 1 from nothing to double.
        linear: Whether light is blended, as it physically is, or display values, as RIDCP and OneRestore do.
        stretch_depth: Whether a given depth map is stretched so that it spans 0 to 1.
        gamma: Range of the exponent that darkens the scene before it is hazed.
        gamma_p: Probability of that.
        noise: Range of the noise added before the haze, in 255ths, of any of three kinds (see Noise).
        noise_p: Probability of that.
        jpeg: Range of the JPEG quality that the hazy image is saved with.
        jpeg_p: Probability of that.

    Raises:
        OptionError: A range is not (smallest, largest) within its limits.
    """

    task = 'haze'
    uses_depth = True

    def __init__(
        self,
        beta: Span = (0.2, 1.9),
        near: Span = (0.0, 0.2),
        airlight: Span = (0.55, 0.95),
        tint: float = 0.12,
        jitter: float = 0.0,
        dim: Span = (0.2, 0.9),
        patchy: Span = (0.0, 0.4),
        linear: bool = True,
        stretch_depth: bool = False,
        gamma: Span = (1.5, 3.0),
        gamma_p: float = 0.0,
        noise: Span = (2, 25),
        noise_p: float = 0.0,
        jpeg: Span = (30, 95),
        jpeg_p: float = 0.0,
    ) -> None:
        self.beta = check_span(self, 'beta', beta, 0, 10)
        self.near = check_span(self, 'near', near, 0, 1)
        self.airlight = check_span(self, 'airlight', airlight, 0, 1)
        self.tint = check_span(self, 'tint', (0, tint), 0, 0.5)[1]
        self.jitter = check_span(self, 'jitter', (0, jitter), 0, 0.5)[1]
        self.dim = check_span(self, 'dim', dim, 0, 1)
        self.patchy = check_span(self, 'patchy', patchy, 0, 1)
        self.linear, self.stretch_depth = linear, stretch_depth
        self.gamma, self.gamma_p = check_span(self, 'gamma', gamma, 0.2, 5), check_chance(self, 'gamma_p', gamma_p)
        self.noise, self.noise_p = check_span(self, 'noise', noise, 0, 255), check_chance(self, 'noise_p', noise_p)
        self.jpeg, self.jpeg_p = check_span(self, 'jpeg', jpeg, 1, 100), check_chance(self, 'jpeg_p', jpeg_p)

    def __call__(self, image: np.ndarray, rng: np.random.Generator, depth: np.ndarray | None = None) -> np.ndarray:
        """Hazes an image.

        Args:
            image: (H,W,3) float32 RGB in [0,1].
            rng: Draws every parameter.
            depth: (H,W) float32 in [0,1], 1 is farthest; None draws a scene that suits the image.

        Returns:
            The same shape and range.

        Raises:
            DataError: The depth map is not of the image's size.
        """
        beta, near, dim, patchy = (draw(rng, s) for s in (self.beta, self.near, self.dim, self.patchy))
        colour = self._air(rng)
        scene = self._worn(image, rng)
        if beta > 0:
            thickness = beta * (near + (1 - near) * distance_map(self, image, rng, depth, self.stretch_depth))
            if patchy > 0:
                height, width = image.shape[:2]
                cell = max(height, width, VIEW) / 2
                thickness = thickness * (1 + patchy * (2 * clouds(rng, height, width, cell, octaves=3) - 1))
            scene = self._blend(scene, thickness, colour, dim)
        saved = self.jpeg_p > 0 and rng.random() < self.jpeg_p
        return jpeg(scene, rng.integers(round(self.jpeg[0]), round(self.jpeg[1]) + 1)) if saved else scene

    def _air(self, rng: np.random.Generator) -> np.ndarray:
        """Its colour, three display values."""
        air, warmth = draw(rng, self.airlight), self.tint * rng.uniform(-1, 1) ** 3
        jitter = rng.uniform(-self.jitter, self.jitter, 3)
        return np.clip(air + warmth * np.array([0.7, 0.15, -0.85]) + jitter, 0, 1).astype(np.float32)

    def _worn(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A copy of the scene, with the darkening and the noise that RIDCP gives it before the haze."""
        scene = image.copy()
        if self.gamma_p > 0 and rng.random() < self.gamma_p:
            scene = np.maximum(scene, 0) ** np.float32(draw(rng, self.gamma))
        if self.noise_p > 0 and rng.random() < self.noise_p:
            kind = NOISE_KINDS[rng.choice(3, p=(0.4, 0.4, 0.2))]
            scene = np.clip(scene + gaussian_noise(rng, scene.shape, draw(rng, self.noise) / 255, kind), 0, 1)
        return scene

    def _blend(self, scene: np.ndarray, thickness: np.ndarray, colour: np.ndarray, dim: float) -> np.ndarray:
        seen = three(cv2.exp(np.ascontiguousarray(-thickness, np.float32)).reshape(thickness.shape))
        if self.linear:
            light, air = to_linear(scene), to_linear(colour)
        else:
            light, air = scene, colour
        light *= np.float32(air.mean() ** dim)
        light -= air
        light *= seen
        light += air
        return to_srgb(light) if self.linear else np.clip(light, 0, 1)
