"""What photographs of faces go through on the web: blur, loss of resolution, noise and JPEG, and back to full size.

Compose cannot say this: its Resize comes back at once, whereas here noise and JPEG act on the small image.
"""

from __future__ import annotations

import cv2
import numpy as np

from basicsr.errors import OptionError
from basicsr.registry import DEGRADATION_REGISTRY

from . import _camera
from ._fields import Span, check_chance, check_span, draw


@DEGRADATION_REGISTRY.register()
class FaceDegradation:
    """Blind degradation of faces, ``y = {[(x * k_sigma) down r + n_delta] JPEG q} up r``.

    The order of GFPGAN (Wang et al., CVPR 2021), with the ranges of CodeFormer (Zhou et al., NeurIPS 2022) and IQPIR
    (arXiv:2603.29773). The defaults are the strong degradation, by which codes are learned (stage II). The mild one of
    stage III is ``sigma: [0.1, 10], factor: [1, 12], noise: [0, 15], quality: [60, 100]``. The fixed test sets have
    ``factor: [8, 8]`` or ``[16, 16]``.

    Args:
        sigma: Range of the standard deviation of the blur in pixels; both axes draw from it where they differ.
        factor: Range of how many times smaller the image is made (linear interpolation).
        noise: Range of the standard deviation of the noise in 255ths, which is added to the small image.
        quality: Range of the JPEG quality, whole numbers from 1 to 100, of the small image; null saves none.
        kernel_size: Side of the blur kernel in pixels, odd; a wider Gaussian is cut off there, as published.
        isotropic: Probability that the blur is alike in all directions.
        task: What the samples are called.

    Raises:
        OptionError: A range is not (smallest, largest) within its limits, or the kernel has no centre.
    """

    def __init__(
        self,
        sigma: Span = (1, 15),
        factor: Span = (4, 30),
        noise: Span = (0, 20),
        quality: Span | None = (30, 80),
        kernel_size: int = 41,
        isotropic: float = 0.5,
        task: str = 'face',
    ) -> None:
        self.sigma = check_span(self, 'sigma', sigma, 0.05, 50)
        self.factor = check_span(self, 'factor', factor, 1, 100)
        self.noise = check_span(self, 'noise', noise, 0, 255)
        self.quality = None if quality is None else check_span(self, 'quality', quality, 1, 100)
        self.isotropic = check_chance(self, 'isotropic', isotropic)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise OptionError(f'FaceDegradation: kernel_size is {kernel_size}; it must be an odd number of pixels.')
        self.kernel_size, self.task = kernel_size, task

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Degrades an image.

        Args:
            image: (H,W,3) float32 RGB in [0,1].
            rng: Draws the parameters and the noise.

        Returns:
            The same shape and range.
        """
        height, width = image.shape[:2]
        blurred = cv2.filter2D(image, -1, self._kernel(rng), borderType=cv2.BORDER_REFLECT_101)
        factor = draw(rng, self.factor)
        small = max(1, int(width // factor)), max(1, int(height // factor))
        result = cv2.resize(blurred, small, interpolation=cv2.INTER_LINEAR).reshape(small[1], small[0], 3)
        result = result + _camera.gaussian_noise(rng, result.shape, draw(rng, self.noise) / 255, 'colour')
        if self.quality is not None:
            low, high = (round(end) for end in self.quality)
            result = _camera.jpeg(result, int(rng.integers(low, high + 1)))
        result = cv2.resize(result, (width, height), interpolation=cv2.INTER_LINEAR)
        return np.clip(result, 0, 1).astype(np.float32, copy=False).reshape(image.shape)

    def _kernel(self, rng: np.random.Generator) -> np.ndarray:
        """A Gaussian kernel, (kernel_size, kernel_size) float32, whose sum is 1."""
        first, second = draw(rng, self.sigma), draw(rng, self.sigma)
        angle = draw(rng, (-np.pi, np.pi))
        return gaussian_kernel(self.kernel_size, first, first if rng.random() < self.isotropic else second, angle)


def gaussian_kernel(size: int, sigma_x: float, sigma_y: float, angle: float) -> np.ndarray:
    """A Gaussian kernel of two standard deviations in pixels, the first along ``angle`` radians; its sum is 1.

    Args:
        size: Rows and columns, odd; what lies beyond is cut off.
        sigma_x: Standard deviation along the angle.
        sigma_y: Standard deviation across it.
        angle: From the row towards the column.
    """
    y, x = np.mgrid[:size, :size] - size // 2
    cosine, sine = np.cos(angle), np.sin(angle)
    along, across = (cosine * x + sine * y) / sigma_x, (cosine * y - sine * x) / sigma_y
    kernel = np.exp(-0.5 * (along**2 + across**2))
    return (kernel / kernel.sum()).astype(np.float32)
