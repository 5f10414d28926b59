"""What cameras, files and resizing do to a picture: blur, noise, JPEG, loss of resolution.

Each is a task of its own (``blur``, ``noise``, ``jpeg``, ``resize``) and a step of Compose.
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np

from basicsr.errors import OptionError
from basicsr.registry import DEGRADATION_REGISTRY

from . import _camera
from ._camera import SAMPLING, Sampling
from ._fields import Span, check_span, draw, to_linear, to_srgb

BlurKind = Literal['gaussian', 'anisotropic', 'motion', 'defocus']
NoiseKind = Literal['colour', 'grey', 'correlated', 'poisson']
Interpolation = Literal['nearest', 'linear', 'cubic', 'area', 'lanczos']

# Standard deviations that a Gaussian kernel reaches on each side.
REACH = 4.0
INTERPOLATION = {
    'nearest': cv2.INTER_NEAREST,
    'linear': cv2.INTER_LINEAR,
    'cubic': cv2.INTER_CUBIC,
    'area': cv2.INTER_AREA,
    'lanczos': cv2.INTER_LANCZOS4,
}


def _check_choices(owner: object, name: str, given: list[str], known: tuple[str, ...]) -> list[str]:
    """Refuses a list that is empty or names something unknown.

    Raises:
        OptionError: It is; the text names the parameter.
    """
    if not given or not set(given) <= set(known):
        raise OptionError(f'{type(owner).__name__}: {name} is {list(given)}; it must list some of {", ".join(known)}.')
    return list(given)


def _choose(rng: np.random.Generator, choices: list[str]) -> str:
    return choices[int(rng.integers(len(choices)))]


@DEGRADATION_REGISTRY.register()
class Blur:
    """Blur: Gaussian alike in all directions or not, the straight path of a moving camera, or the disc of defocus.

    Args:
        kinds: Kinds to draw from: gaussian, anisotropic, motion, defocus.
        sigma: Range of the standard deviation in pixels (gaussian; the longer axis of anisotropic); 0 is no blur.
        ratio: Range of the shorter axis as a part of the longer (anisotropic).
        length: Range of the length of the path in pixels (motion); 0 is no blur.
        radius: Range of the radius of the disc in pixels (defocus); 0 is no blur.
        angle: Range of the direction in degrees (motion, anisotropic), from the row towards the column.
        linear: Whether light is blurred, as a lens does it, or display values, as most papers do.

    Raises:
        OptionError: A range is not (smallest, largest) within its limits, or a kind is not known.
    """

    task = 'blur'

    def __init__(
        self,
        kinds: tuple[BlurKind, ...] = ('gaussian', 'anisotropic', 'motion', 'defocus'),
        sigma: Span = (0.4, 4.0),
        ratio: Span = (0.3, 0.9),
        length: Span = (3, 30),
        radius: Span = (1, 7),
        angle: Span = (0, 180),
        linear: bool = False,
    ) -> None:
        self.kinds = _check_choices(self, 'kinds', list(kinds), ('gaussian', 'anisotropic', 'motion', 'defocus'))
        self.sigma = check_span(self, 'sigma', sigma, 0, 50)
        self.ratio = check_span(self, 'ratio', ratio, 0.01, 1)
        self.length = check_span(self, 'length', length, 0, 300)
        self.radius = check_span(self, 'radius', radius, 0, 100)
        self.angle = check_span(self, 'angle', angle, -360, 360)
        self.linear = linear

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Blurs an image, mirrored beyond its edges.

        Args:
            image: (H,W,3) float32 RGB in [0,1].
            rng: Draws kind and parameters.

        Returns:
            The same shape and range.
        """
        kind = _choose(rng, self.kinds)
        spans = (self.sigma, self.ratio, self.length, self.radius, self.angle)
        sigma, ratio, length, radius, angle = (draw(rng, s) for s in spans)
        if {'gaussian': sigma, 'anisotropic': sigma, 'motion': length, 'defocus': radius}[kind] < 1e-3:
            return image.copy()
        light = to_linear(image) if self.linear else image
        if kind == 'gaussian':
            side = 2 * int(np.ceil(REACH * sigma)) + 1
            blurred = cv2.GaussianBlur(light, (side, side), sigma, borderType=cv2.BORDER_REFLECT)
        else:
            makers = {'anisotropic': (anisotropic_kernel, (sigma, sigma * ratio, angle)),
                      'motion': (motion_kernel, (length, angle)), 'defocus': (disc_kernel, (radius,))}  # fmt: skip
            maker, arguments = makers[kind]
            blurred = cv2.filter2D(light, -1, maker(*arguments), borderType=cv2.BORDER_REFLECT)
        return to_srgb(blurred) if self.linear else np.clip(blurred, 0, 1)


def anisotropic_kernel(sigma_x: float, sigma_y: float, angle: float) -> np.ndarray:
    """A Gaussian kernel of two standard deviations in pixels, the first along ``angle`` degrees; its sum is 1."""
    reach = int(np.ceil(REACH * max(sigma_x, sigma_y)))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    cosine, sine = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    along, across = (cosine * x + sine * y) / sigma_x, (cosine * y - sine * x) / max(sigma_y, 0.1)
    return _normalised(np.exp(-0.5 * (along**2 + across**2)))


def motion_kernel(length: float, angle: float) -> np.ndarray:
    """The straight path of a point that moves ``length`` pixels at even speed along ``angle`` degrees; its sum is 1."""
    reach = int(np.ceil(length / 2)) + 1
    steps = np.linspace(-0.5, 0.5, 8 * reach + 1) * length
    x, y = (reach + steps * f(np.deg2rad(angle)) for f in (np.cos, np.sin))
    kernel = np.zeros((2 * reach + 2, 2 * reach + 2))
    left, top = x.astype(int), y.astype(int)
    for right, below in ((0, 0), (0, 1), (1, 0), (1, 1)):  # each point is shared by the four pixels around it
        share = np.abs(1 - right - (x - left)) * np.abs(1 - below - (y - top))
        np.add.at(kernel, (top + below, left + right), share)
    return _normalised(kernel[:-1, :-1])


def disc_kernel(radius: float) -> np.ndarray:
    """An evenly bright disc of ``radius`` pixels with a smooth edge; its sum is 1."""
    reach = int(np.ceil(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return _normalised(np.clip(radius + 0.5 - np.hypot(x, y), 0, 1))


def _normalised(kernel: np.ndarray) -> np.ndarray:
    return (kernel / kernel.sum()).astype(np.float32)


@DEGRADATION_REGISTRY.register()
class Noise:
    """Noise: Gaussian, of one standard deviation for all pixels, or growing with the light as a sensor's does.

    Args:
        sigma: Range of the standard deviation in 255ths, as denoising papers give it: [25, 25] is sigma 25 exactly.
        kinds: Kinds to draw from: colour (each channel by itself), grey (all channels alike), correlated (a random mix
            of the channels; sigma is its largest deviation), poisson (colour noise of variance sigma^2 + shot x).
        shot: Range of the variance per unit of the image's value x, times 255^2 (poisson).
        clip: Whether the result is cut to [0,1], as a file is; denoising papers mostly cut only when they save.
        truncate: Whether it is then cut down to whole 255ths, as PromptIR's conversion to uint8 does; half a level
            darker than rounding.

    Raises:
        OptionError: A range is not (smallest, largest) within its limits, or a kind is not known.
    """

    task = 'noise'

    def __init__(
        self,
        sigma: Span = (5, 50),
        kinds: tuple[NoiseKind, ...] = ('colour',),
        shot: Span = (50, 1500),
        clip: bool = True,
        truncate: bool = False,
    ) -> None:
        self.sigma = check_span(self, 'sigma', sigma, 0, 255)
        self.kinds = _check_choices(self, 'kinds', list(kinds), ('colour', 'grey', 'correlated', 'poisson'))
        self.shot = check_span(self, 'shot', shot, 0, 255**2)
        self.clip, self.truncate = clip, truncate
        if truncate and not clip:
            raise OptionError('Noise: truncate needs clip: true, since 8 bits hold no values outside [0,1].')

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Adds noise to an image.

        Args:
            image: (H,W,3) float32 RGB in [0,1].
            rng: Draws kind, parameters and noise.

        Returns:
            The same shape, and range if ``clip``.
        """
        kind, sigma, shot = _choose(rng, self.kinds), draw(rng, self.sigma), draw(rng, self.shot)
        if kind == 'poisson':
            deviation = np.sqrt((sigma**2 + shot * np.maximum(image, 0)) / 255**2).astype(np.float32)
            noisy = image + deviation * rng.standard_normal(image.shape, np.float32)
        else:
            noisy = image + _camera.gaussian_noise(rng, image.shape, sigma / 255, kind)
        noisy = np.clip(noisy, 0, 1) if self.clip else noisy
        # The small term keeps k / 255 at k where float32 makes 255 times it a little less.
        return np.floor(noisy * np.float32(255) + np.float32(1e-3)) / np.float32(255) if self.truncate else noisy


@DEGRADATION_REGISTRY.register()
class JPEG:
    """JPEG: the image is rounded to 8 bits, saved as JPEG in memory and read again.

    Args:
        quality: Range of the quality, whole numbers from 1 to 100, as libjpeg counts it.
        sampling: Samplings of the colours to draw from: 444 keeps all, 422 halves them sideways, 420 both ways.

    Raises:
        OptionError: The range is not (smallest, largest) within its limits, or a sampling is not known.
    """

    task = 'jpeg'

    def __init__(self, quality: Span = (20, 90), sampling: tuple[Sampling, ...] = ('420',)) -> None:
        self.quality = check_span(self, 'quality', quality, 1, 100)
        self.sampling = _check_choices(self, 'sampling', list(sampling), tuple(SAMPLING))

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Saves and reads an image.

        Args:
            image: (H,W,3) float32 RGB in [0,1].
            rng: Draws quality and sampling.

        Returns:
            The same shape and range.
        """
        quality = int(rng.integers(round(self.quality[0]), round(self.quality[1]) + 1))
        return _camera.jpeg(image, quality, _choose(rng, self.sampling))


@DEGRADATION_REGISTRY.register()
class Resize:
    """Resize: the image is made smaller and brought back to its size, each way with an interpolation drawn anew.

    Args:
        factor: Range of the size of the smaller image, as a part of the whole; 1 leaves the image as it is.
        down: Interpolations to draw from when it is made smaller: nearest, linear, cubic, area, lanczos.
        up: Interpolations to draw from on the way back.

    Raises:
        OptionError: The range is not (smallest, largest) within its limits, or an interpolation is not known.
    """

    task = 'resize'

    def __init__(
        self,
        factor: Span = (0.25, 0.9),
        down: tuple[Interpolation, ...] = ('linear', 'cubic', 'area'),
        up: tuple[Interpolation, ...] = ('linear', 'cubic'),
    ) -> None:
        self.factor = check_span(self, 'factor', factor, 0.01, 1)
        self.down = _check_choices(self, 'down', list(down), tuple(INTERPOLATION))
        self.up = _check_choices(self, 'up', list(up), tuple(INTERPOLATION))

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Makes an image smaller and large again.

        Args:
            image: (H,W,3) float32 RGB in [0,1].
            rng: Draws factor and interpolations.

        Returns:
            The same shape and range.
        """
        factor, down, up = draw(rng, self.factor), _choose(rng, self.down), _choose(rng, self.up)
        height, width = image.shape[:2]
        size = max(1, round(width * factor)), max(1, round(height * factor))
        if size == (width, height):
            return image.copy()
        small = cv2.resize(image, size, interpolation=INTERPOLATION[down])
        large = cv2.resize(small, (width, height), interpolation=INTERPOLATION[up])
        return np.clip(large, 0, 1).reshape(image.shape)
