"""Low light: too little exposure, and the noise of the sensor that it uncovers.

The noise is the signal-dependent Gaussian model of A. Foi et al., "Practical Poissonian-Gaussian noise modeling and
fitting for single-image raw-data", IEEE TIP 17(10), 2008: variance ``shot * x + read^2`` of linear light ``x``.
"""

from __future__ import annotations

import numpy as np

from basicsr.registry import DEGRADATION_REGISTRY

from ._fields import Span, check_span, draw, to_linear, to_srgb


@DEGRADATION_REGISTRY.register()
class LowLight:
    """Low light: a short exposure in linear light, shot and read noise, a colour cast and a tone curve.

    Args:
        exposure: Range of the light that is left, 1 leaves all of it; drawn so that each halving is equally likely.
        shot: Range of the variance of the noise per unit of linear light.
        read: Range of the standard deviation of the noise in the dark, of linear light.
        cast: Largest deviation of the white balance of red and blue, up or down, as a part of 1.
        gamma: Range of the exponent of the tone curve on display values; above 1 darkens the shadows further.

    Raises:
        OptionError: A range is not (smallest, largest) within its limits.
    """

    task = 'low_light'

    def __init__(
        self,
        exposure: Span = (0.05, 0.35),
        shot: Span = (0.0001, 0.0006),
        read: Span = (0.0003, 0.002),
        cast: float = 0.12,
        gamma: Span = (0.9, 1.15),
    ) -> None:
        self.exposure = check_span(self, 'exposure', exposure, 1e-4, 1)
        self.shot = check_span(self, 'shot', shot, 0, 1)
        self.read = check_span(self, 'read', read, 0, 1)
        self.cast = check_span(self, 'cast', (-cast, cast), -0.9, 0.9)
        self.gamma = check_span(self, 'gamma', gamma, 0.2, 5)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Darkens an image.

        Args:
            image: (H,W,3) float32 RGB in [0,1].
            rng: Draws every parameter and the noise.

        Returns:
            The same shape and range.
        """
        exposure = float(np.exp(rng.uniform(*np.log(self.exposure))))
        shot, read, gamma = (draw(rng, s) for s in (self.shot, self.read, self.gamma))
        balance = np.array([1 + draw(rng, self.cast), 1, 1 + draw(rng, self.cast)], np.float32)
        light = to_linear(image) * (balance * np.float32(exposure))
        noise = rng.standard_normal(image.shape, np.float32) * np.sqrt(shot * light + read**2)
        return to_srgb(light + noise) ** np.float32(gamma)
