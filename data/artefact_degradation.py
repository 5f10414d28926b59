"""What restoration does to a picture when it goes wrong: too sharp, too smooth, in wrong colours, with patterns.

Each is a task of its own. They are the artefacts that a judge of restored images has to know, in the spirit of the
enhancement artefacts that DR-IQA data sets collect from the outputs of restoration methods (J. Gu et al., "PIPAL: a
large-scale image quality assessment dataset for perceptual image restoration", ECCV 2020).
"""

from __future__ import annotations

from typing import Literal, get_args

import cv2
import numpy as np

from basicsr.errors import OptionError
from basicsr.registry import DEGRADATION_REGISTRY

from ._fields import Span, check_span, draw
from .photometric_degradation import adjust_contrast, adjust_saturation

Smoother = Literal['bilateral', 'median', 'guided']
Pattern = Literal['checkerboard', 'seams']
GUIDE_RADIUS = 8  # pixels, of the guided filter's box


@DEGRADATION_REGISTRY.register()
class OverSharpen:
    """Over-sharpening: an unsharp mask that is too strong, with halos and amplified noise.

    Args:
        amount: Range of the part of the high frequencies that is added; 0 leaves the image as it is.
        radius: Range of the standard deviation of the mask's blur in pixels.

    Raises:
        OptionError: A range is not (smallest, largest) within its limits.
    """

    task = 'oversharpen'

    def __init__(self, amount: Span = (0.5, 6.0), radius: Span = (0.7, 2.5)) -> None:
        self.amount = check_span(self, 'amount', amount, 0, 50)
        self.radius = check_span(self, 'radius', radius, 0.1, 50)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Sharpens (H,W,3) float32 RGB in [0,1]; the same shape and range come back."""
        amount, radius = draw(rng, self.amount), draw(rng, self.radius)
        detail = image - cv2.GaussianBlur(image, (0, 0), radius)
        return np.clip(image + np.float32(amount) * detail, 0, 1)


@DEGRADATION_REGISTRY.register()
class OverSmooth:
    """Over-smoothing: edges stay and texture goes, as after too much denoising.

    Args:
        amount: Range of the strength, in 255ths: the difference in value up to which pixels are averaged.
        kinds: Filters to draw from: bilateral, median (repeated), guided (He et al., "Guided image filtering", TPAMI
            2013).

    Raises:
        OptionError: A range is not (smallest, largest) within its limits, or no kind is given.
    """

    task = 'oversmooth'

    def __init__(self, amount: Span = (8, 90), kinds: tuple[Smoother, ...] = ('bilateral', 'median', 'guided')) -> None:
        self.amount = check_span(self, 'amount', amount, 0, 255)
        self.kinds = _listed(self, kinds, get_args(Smoother))

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Smooths (H,W,3) float32 RGB in [0,1]; the same shape and range come back."""
        kind, amount = self.kinds[int(rng.integers(len(self.kinds)))], draw(rng, self.amount)
        if amount == 0:
            return image
        if kind == 'bilateral':
            return np.clip(cv2.bilateralFilter(image, -1, amount / 255, 3.0), 0, 1)
        return _guided(image, amount / 255) if kind == 'guided' else _median(image, amount)


@DEGRADATION_REGISTRY.register()
class ColourShift:
    """A colour shift: each channel is scaled and moved by itself, as by a wrong white balance.

    Args:
        amount: Range of the size of the shift: the standard deviation of a channel's gain from 1, in octaves.

    Raises:
        OptionError: A range is not (smallest, largest) within its limits.
    """

    task = 'colour_shift'

    def __init__(self, amount: Span = (0.05, 0.6)) -> None:
        self.amount = check_span(self, 'amount', amount, 0, 4)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Shifts the colours of (H,W,3) float32 RGB in [0,1]; the same shape and range come back."""
        amount, gains = draw(rng, self.amount), rng.standard_normal(3)
        gains -= gains.mean()  # brightness is not colour
        gains /= max(float(np.sqrt(np.mean(gains**2))), 1e-6)
        return np.clip(image * np.exp2(amount * gains).astype(np.float32), 0, 1)


@DEGRADATION_REGISTRY.register()
class OverEnhance:
    """Over-enhancement: contrast and saturation are driven up until tones clip, as by a too eager dehazing.

    Args:
        amount: Range of the part that is added to contrast and saturation; 0 leaves the image as it is.
        exposure: Range of the change of brightness that goes with amount 1, in octaves.

    Raises:
        OptionError: A range is not (smallest, largest) within its limits.
    """

    task = 'overenhance'

    def __init__(self, amount: Span = (0.2, 2.0), exposure: Span = (-0.6, 0.6)) -> None:
        self.amount = check_span(self, 'amount', amount, 0, 20)
        self.exposure = check_span(self, 'exposure', exposure, -5, 5)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Enhances (H,W,3) float32 RGB in [0,1] too much; the same shape and range come back."""
        amount, exposure = draw(rng, self.amount), draw(rng, self.exposure)
        split = float(rng.uniform(0.3, 1.0)), float(rng.uniform(0.3, 1.0))  # of contrast and of saturation
        image = np.clip(image * np.float32(2 ** (exposure * amount)), 0, 1)
        image = adjust_contrast(image, 1 + amount * split[0])
        return adjust_saturation(image, 1 + amount * split[1])


@DEGRADATION_REGISTRY.register()
class Ringing:
    """Ringing: high frequencies are cut off sharply, and edges get echoes, as after a bad deconvolution.

    Args:
        amount: Range of the part of the frequencies, out to the highest, that is cut off.

    Raises:
        OptionError: A range is not (smallest, largest) within its limits.
    """

    task = 'ringing'

    def __init__(self, amount: Span = (0.3, 0.9)) -> None:
        self.amount = check_span(self, 'amount', amount, 0, 0.99)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Rings (H,W,3) float32 RGB in [0,1]; the same shape and range come back."""
        kept = 0.5 * (1 - draw(rng, self.amount))  # cycles a pixel
        height, width = image.shape[:2]
        padded = np.pad(image, ((0, height), (0, width), (0, 0)), mode='symmetric')
        rows, columns = np.fft.fftfreq(2 * height)[:, None], np.fft.rfftfreq(2 * width)[None]
        spectrum = np.fft.rfft2(padded, axes=(0, 1))
        spectrum *= ((np.abs(rows) <= kept) & (columns <= kept))[..., None]
        cut = np.fft.irfft2(spectrum, s=padded.shape[:2], axes=(0, 1))[:height, :width]
        return np.clip(cut, 0, 1).astype(np.float32)


@DEGRADATION_REGISTRY.register()
class NetworkPattern:
    """Patterns that networks leave: the checkerboard of strided transposed convolutions, the seams of tiles.

    Args:
        amount: Range of the height of the pattern, in 255ths.
        kinds: Patterns to draw from: checkerboard, seams.

    Raises:
        OptionError: A range is not (smallest, largest) within its limits, or no kind is given.

    Source: A. Odena et al., "Deconvolution and checkerboard artifacts", Distill 2016.
    """

    task = 'network_pattern'

    def __init__(self, amount: Span = (2, 40), kinds: tuple[Pattern, ...] = ('checkerboard', 'seams')) -> None:
        self.amount = check_span(self, 'amount', amount, 0, 255)
        self.kinds = _listed(self, kinds, get_args(Pattern))

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Puts a pattern on (H,W,3) float32 RGB in [0,1]; the same shape and range come back."""
        kind, amount = self.kinds[int(rng.integers(len(self.kinds)))], draw(rng, self.amount) / 255
        height, width = image.shape[:2]
        if kind == 'checkerboard':
            period = int(rng.choice([2, 4, 8]))
            cell = rng.standard_normal((period, period, 3))
            cell /= max(float(np.abs(cell).max()), 1e-6)
            field = np.tile(cell, (-(-height // period), -(-width // period), 1))[:height, :width]
            local = np.abs(image - cv2.blur(image, (9, 9))) * 4 + 0.25  # stronger where there is texture
            pattern = field * local
        else:
            side = int(rng.choice([32, 64, 96]))
            shifts = rng.standard_normal((-(-height // side), -(-width // side), 3))
            pattern = np.kron(shifts, np.ones((side, side, 1)))[:height, :width]
        return np.clip(image + amount * pattern, 0, 1).astype(np.float32)


def _listed(owner: object, kinds: tuple[str, ...], known: tuple[str, ...]) -> list[str]:
    if not kinds or not set(kinds) <= set(known):
        raise OptionError(f'{type(owner).__name__}: kinds is {list(kinds)}; it must list some of {", ".join(known)}.')
    return list(kinds)


def _median(image: np.ndarray, amount: float) -> np.ndarray:
    """Medians over 3x3, one for each 12 levels of the strength; the last counts by the rest."""
    whole, rest = divmod(amount / 12, 1)
    for _ in range(int(whole)):
        image = cv2.medianBlur(image, 3)
    return image + np.float32(rest) * (cv2.medianBlur(image, 3) - image)


def _guided(image: np.ndarray, strength: float) -> np.ndarray:
    """The guided filter, each channel guided by itself."""
    window = (2 * GUIDE_RADIUS + 1,) * 2
    mean = cv2.blur(image, window)
    variance = cv2.blur(image * image, window) - mean * mean
    slope = variance / (variance + np.float32(strength**2))
    return np.clip(cv2.blur(slope, window) * image + cv2.blur(mean - slope * mean, window), 0, 1)
