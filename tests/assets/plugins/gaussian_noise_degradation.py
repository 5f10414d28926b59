"""A degradation of one's own: white Gaussian noise."""

import numpy as np

from basicsr.registry import DEGRADATION_REGISTRY


@DEGRADATION_REGISTRY.register()
class GaussianNoise:
    """White Gaussian noise.

    Args:
        sigma: Standard deviation, in levels of 0 to 255.
    """

    task = 'noise'

    def __init__(self, sigma: float = 25.0):
        self.sigma = sigma / 255

    def __call__(self, image, rng):
        return np.clip(image + np.float32(self.sigma) * rng.standard_normal(image.shape, np.float32), 0, 1)
