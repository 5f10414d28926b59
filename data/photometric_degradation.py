"""Strong augmentations of mean-teacher methods: they change colours and sharpness, and move nothing.

Each operation follows Pillow's definition (ImageEnhance, ImageOps, ImageFilter) on float values, without its rounding
to 8 bits after every step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import cv2
import numpy as np

from basicsr.registry import DEGRADATION_REGISTRY
from basicsr.schema import Range

from ._fields import Span, check_span, draw

Probability = Annotated[float, Range(0, 1)]

# Both releases draw int(4.95 u), u in [0,1), and add 1 to an even number.
SIZES = (1, 3, 5)
SIZE_SHARES = tuple(n / 4.95 for n in (2, 2, 0.95))


@DEGRADATION_REGISTRY.register()
class ColabatorAugment:
    """Strong view of Colabator and QualiTeacher: random operations that darken, flatten or blur.

    The operations: contrast, brightness, contrast in a second range, posterise, soften, Gaussian blur of radius 1, 3 or
    5. All are equally likely and the same one may come twice.

    Args:
        number: How many operations are applied, one after another.
        contrast: Range of the first contrast factor; 1 leaves the image as it is, 0 gives flat grey.
        brightness: Range of the brightness factor; 0 gives black.
        contrast_2: Range of the second contrast factor.
        bits: Range of the bits that posterise keeps, cut to a whole number: 8 itself does not occur.
        sharpness: Range of the sharpness factor; 0 gives the image under a 3x3 smoothing filter.

    Raises:
        OptionError: A range is not [smallest, largest] within its limits.

    Source: C. Fang et al., "Real-world image dehazing with coherence-based pseudo labeling and cooperative unfolding
    network", NeurIPS 2024; its release's RandAugment(2, 10), which QualiTeacher uses unchanged. There the radius of the
    blur is drawn as 1, 3 or 5 with probabilities 2/4.95, 2/4.95 and 0.95/4.95, and Pillow takes it for sigma.
    """

    task = 'photometric'

    def __init__(
        self,
        number: Annotated[int, Range(1)] = 2,
        contrast: Span = (0.05, 0.95),
        brightness: Span = (0.05, 0.95),
        contrast_2: Span = (0.25, 0.95),
        bits: Span = (4, 8),
        sharpness: Span = (0.05, 0.95),
    ) -> None:
        self.number = number
        spans = {'contrast': contrast, 'brightness': brightness, 'contrast_2': contrast_2, 'sharpness': sharpness}
        checked = {name: check_span(self, name, span, 0, 2) for name, span in spans.items()}
        self.operations: list[tuple[Callable[..., np.ndarray], Span | None]] = [
            (adjust_contrast, checked['contrast']),
            (adjust_brightness, checked['brightness']),
            (adjust_contrast, checked['contrast_2']),
            (posterise, check_span(self, 'bits', bits, 1, 8)),
            (adjust_sharpness, checked['sharpness']),
            (box_blur, None),
        ]

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Augments an image.

        Args:
            image: (H,W,3) float32 RGB in [0,1].
            rng: Draws the operations and their strengths.

        Returns:
            The same shape and range.
        """
        for which in rng.integers(len(self.operations), size=self.number):
            operation, span = self.operations[which]
            strength = float(rng.choice(SIZES, p=SIZE_SHARES)) if span is None else draw(rng, span)
            image = operation(image, strength)
        return image


@DEGRADATION_REGISTRY.register()
class SemiUIRAugment:
    """Strong view of Semi-UIR: colour jitter, grey and blur, each with its probability.

    Jitter changes brightness, contrast, saturation and hue in random order. The blur is a Gaussian cut off to 1, 3 or 5
    pixels; one pixel leaves the image as it is.

    Args:
        brightness: Largest change of the brightness factor from 1, up or down.
        contrast: Largest change of the contrast factor from 1.
        saturation: Largest change of the saturation factor from 1.
        hue: Largest shift of the hue, as a part of the whole circle.
        p_jitter: Probability of the jitter.
        p_grey: Probability that the image becomes grey.
        p_blur: Probability of the blur.
        sigma: Range of the blur's standard deviation in pixels.

    Raises:
        OptionError: A range is not [smallest, largest] within its limits.

    Source: S. Huang et al., "Contrastive semi-supervised learning for underwater image restoration via reliable bank",
    CVPR 2023; its release's ColorJitter(0.5, 0.5, 0.5, 0.25), RandomGrayscale and GaussianBlur of torchvision. The
    width of the blur is drawn as 1, 3 or 5 with probabilities 2/4.95, 2/4.95 and 0.95/4.95.
    """

    task = 'photometric'

    def __init__(
        self,
        brightness: Probability = 0.5,
        contrast: Probability = 0.5,
        saturation: Probability = 0.5,
        hue: Annotated[float, Range(0, 0.5)] = 0.25,
        p_jitter: Probability = 0.8,
        p_grey: Probability = 0.2,
        p_blur: Probability = 0.5,
        sigma: Span = (0.1, 2.0),
    ) -> None:
        self.jitter: list[tuple[Callable[..., np.ndarray], Span]] = [
            (adjust_brightness, (1 - brightness, 1 + brightness)),
            (adjust_contrast, (1 - contrast, 1 + contrast)),
            (adjust_saturation, (1 - saturation, 1 + saturation)),
            (shift_hue, (-hue, hue)),
        ]
        self.p_jitter, self.p_grey, self.p_blur = p_jitter, p_grey, p_blur
        self.sigma = check_span(self, 'sigma', sigma, 0.01, 100)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Augments an image.

        Args:
            image: (H,W,3) float32 RGB in [0,1].
            rng: Draws what is done and how strongly.

        Returns:
            The same shape and range.
        """
        if rng.random() < self.p_jitter:
            for which in rng.permutation(len(self.jitter)):
                operation, span = self.jitter[which]
                image = operation(image, draw(rng, span))
        if rng.random() < self.p_grey:
            image = np.repeat(luma(image), 3, axis=2)
        if rng.random() < self.p_blur:
            image = gaussian_blur(image, int(rng.choice(SIZES, p=SIZE_SHARES)), draw(rng, self.sigma))
        return image


def luma(image: np.ndarray) -> np.ndarray:
    """Brightness by ITU-R BT.601, (H,W,1), as Pillow's mode L."""
    return image @ np.array([[0.299], [0.587], [0.114]], np.float32)


def adjust_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """ImageEnhance.Brightness: a blend with black."""
    return _blend(np.float32(0), image, factor)


def adjust_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """ImageEnhance.Contrast: a blend with the mean brightness of the whole image."""
    return _blend(luma(image).mean(dtype=np.float64).astype(np.float32), image, factor)


def adjust_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """ImageEnhance.Color: a blend with the grey image."""
    return _blend(luma(image), image, factor)


def adjust_sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """ImageEnhance.Sharpness: a blend with the image under ImageFilter.SMOOTH, which leaves the outermost pixels."""
    kernel = np.ones((3, 3), np.float32)
    kernel[1, 1] = 5
    smooth = image.copy()
    smooth[1:-1, 1:-1] = cv2.filter2D(image, -1, kernel / 13)[1:-1, 1:-1]
    return _blend(smooth, image, factor)


def posterise(image: np.ndarray, bits: float) -> np.ndarray:
    """ImageOps.posterize: of every 8-bit value only the highest bits stay.

    Args:
        image: (H,W,3) float32 in [0,1].
        bits: How many, from 1 to 8; cut to a whole number.
    """
    step = 2 ** (8 - int(bits))
    values = np.rint(image * 255)
    return (np.floor(values / step) * np.float32(step / 255)).astype(np.float32, copy=False)


def shift_hue(image: np.ndarray, part: float) -> np.ndarray:
    """Turns the hue of every pixel by a part of the circle, in HSV."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)  # hue in degrees
    hsv[..., 0] = np.mod(hsv[..., 0] + np.float32(360 * part), np.float32(360))
    return np.clip(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), 0, 1)


def box_blur(image: np.ndarray, radius: float) -> np.ndarray:
    """ImageFilter.GaussianBlur: three box filters of fractional width that together have the variance of a Gaussian.

    P. Gwosdek et al., "Theoretical foundations of Gaussian convolution by extended box filtering", SSVM 2011.

    Args:
        image: (H,W,3) float32 in [0,1].
        radius: Standard deviation of the Gaussian in pixels, at least 0.6.
    """
    kernel = extended_box(radius**2 / 3)
    for _ in range(3):
        image = cv2.sepFilter2D(image, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE)
    return np.clip(image, 0, 1)


def extended_box(variance: float) -> np.ndarray:
    """A box filter with a fraction of a pixel at either end, of this variance."""
    half = int((np.sqrt(12 * variance + 1) - 1) / 2)
    whole = 2 * half + 1
    # Variance of half+1 with ends of weight w: (sum of k^2 for |k| <= half, and 2 w (half+1)^2) / (whole + 2 w).
    squares = half * (half + 1) * whole / 3
    end = (variance * whole - squares) / (2 * ((half + 1) ** 2 - variance))
    kernel = np.array([end, *[1.0] * whole, end])
    return kernel / kernel.sum()


def gaussian_blur(image: np.ndarray, size: int, sigma: float) -> np.ndarray:
    """A Gaussian cut off to ``size`` pixels, the image being mirrored at its borders, as in torchvision."""
    return np.clip(cv2.GaussianBlur(image, (size, size), sigma, borderType=cv2.BORDER_REFLECT_101), 0, 1)


def _blend(grey: np.ndarray | np.floating, image: np.ndarray, factor: float) -> np.ndarray:
    """``grey + factor (image - grey)``, clipped to [0,1]."""
    return np.clip(grey + np.float32(factor) * (image - grey), 0, 1)
