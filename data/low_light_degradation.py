"""Low light: too little exposure, and what a camera makes of it.

The scene is taken back to linear light, lit unevenly, exposed too little and recorded by a sensor with the
signal-dependent noise of A. Foi et al., "Practical Poissonian-Gaussian noise modeling and fitting for single-image
raw-data", IEEE TIP 17(10), 2008: variance ``shot * x + read^2`` of the light ``x`` on the sensor. Sensors see less of
red and blue than of green; the white-balance gains that make up for it (ranges of T. Brooks et al., "Unprocessing
images for learned raw denoising", CVPR 2019, section 3.4) make those channels noisier. Default ranges are fitted to
pairs of LOL (C. Wei et al., "Deep Retinex decomposition for low-light enhancement", BMVC 2018).
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from basicsr.registry import DEGRADATION_REGISTRY

from ._camera import jpeg
from ._fields import VIEW, Span, check_chance, check_span, clouds, draw, three, to_linear, to_srgb

RED_GAIN: Span = (1.9, 2.4)  # white-balance gains over green, Brooks et al.
BLUE_GAIN: Span = (1.5, 1.9)
MEAN = np.full((3, 3), 1 / 3, np.float32)  # of white noise, the mean is uncorrelated with what differs from it


@DEGRADATION_REGISTRY.register()
class LowLight:
    """Low light: tone curve, uneven and short exposure, colour cast, sensor noise, black level, JPEG.

    Args:
        exposure: Range of the light that is left, 1 leaves all of it; equally likely per halving.
        gamma: Range of the exponent of the tone curve on display values before the exposure; above 1 darkens shadows.
        uneven: Range of how unevenly the scene is lit, in stops from the darkest to the lightest place.
        vignette: Range of the part of the light that the lens loses in the corners of the photograph.
        red: Range of the colour cast on red, as a factor on linear light.
        blue: Range of the colour cast on blue.
        shot: Range of the variance of the noise per unit of light on the sensor; equally likely per factor.
        read: Range of the standard deviation of the noise in the dark, light on the sensor; equally likely per factor.
        grain: Range of the size of the noise grains: standard deviation in pixels of the blur that correlates them.
        blotch: Range of the size of the colour blotches that a camera's smoothing of colour leaves, in pixels as grain.
        black: Range of the light that is taken for black and cut off, linear; below 0 lifts black to grey.
        bits: Fewest and most bits of the sensor's values; without noise they are not rounded.
        jpeg: Probability that the photo was stored as JPEG.
        quality: Range of the quality of that JPEG, 1 to 100.

    Raises:
        OptionError: A range is not (smallest, largest) within its limits.
    """

    task = 'low_light'

    def __init__(
        self,
        exposure: Span = (0.015, 0.5),
        gamma: Span = (0.8, 1.3),
        uneven: Span = (0.0, 3.0),
        vignette: Span = (0.0, 0.3),
        red: Span = (0.8, 1.25),
        blue: Span = (0.6, 1.2),
        shot: Span = (0.00002, 0.0004),
        read: Span = (0.00008, 0.0006),
        grain: Span = (0.0, 0.7),
        blotch: Span = (0.0, 1.5),
        black: Span = (-0.0003, 0.0006),
        bits: tuple[int, int] = (10, 14),
        jpeg: float = 0.3,
        quality: Span = (60, 95),
    ) -> None:
        self.exposure = check_span(self, 'exposure', exposure, 1e-4, 1)
        self.gamma = check_span(self, 'gamma', gamma, 0.2, 5)
        self.uneven = check_span(self, 'uneven', uneven, 0, 10)
        self.vignette = check_span(self, 'vignette', vignette, 0, 1)
        self.red = check_span(self, 'red', red, 0.1, 10)
        self.blue = check_span(self, 'blue', blue, 0.1, 10)
        self.shot = check_span(self, 'shot', shot, 0, 1)
        self.read = check_span(self, 'read', read, 0, 1)
        self.grain = check_span(self, 'grain', grain, 0, 10)
        self.blotch = check_span(self, 'blotch', blotch, 0, 10)
        self.black = check_span(self, 'black', black, -0.5, 0.5)
        self.bits = check_span(self, 'bits', bits, 2, 16)
        self.jpeg = check_chance(self, 'jpeg', jpeg)
        self.quality = check_span(self, 'quality', quality, 1, 100)

    @property
    def _neutral(self) -> bool:
        """Whether the options leave every photo as it is."""
        ones = (self.exposure, self.gamma, self.red, self.blue)
        zeros = (self.uneven, self.vignette, self.shot, self.read, self.black, (self.jpeg,))
        return all(set(s) == {1} for s in ones) and all(set(s) == {0} for s in zeros)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Darkens an image.

        Args:
            image: (H,W,3) float32 RGB in [0,1].
            rng: Draws every parameter and the noise.

        Returns:
            The same shape and range.
        """
        if self._neutral:
            return image.copy()
        gamma = draw(rng, self.gamma)
        light = to_linear(image if gamma == 1 else _power(image, gamma))
        light = self._expose(rng, light)
        result = to_srgb(self._record(rng, light))
        return jpeg(result, round(draw(rng, self.quality))) if rng.random() < self.jpeg else result

    def _expose(self, rng: np.random.Generator, light: np.ndarray) -> np.ndarray:
        """Linear light that reaches the sensor: less of it, of another colour, and less in places."""
        exposure = _draw_log(rng, self.exposure)
        cast = np.array([_draw_log(rng, self.red), 1, _draw_log(rng, self.blue)])
        light = cv2.transform(light, np.diag(exposure * cast).astype(np.float32))
        height, width = light.shape[:2]
        uneven, vignette = draw(rng, self.uneven), draw(rng, self.vignette)
        if uneven > 0:
            stops = np.float32(uneven) * (clouds(rng, height, width, VIEW / 2, octaves=1) - np.float32(0.5))
            light = light * three(np.exp2(stops))
        if vignette > 0:
            light = light * three(_fall_off(rng, height, width, vignette))
        return light

    def _record(self, rng: np.random.Generator, light: np.ndarray) -> np.ndarray:
        """What the camera makes of linear light: noise, rounding and black level."""
        gains = draw(rng, RED_GAIN), 1.0, draw(rng, BLUE_GAIN)
        shot, read = _draw_log(rng, self.shot), _draw_log(rng, self.read)
        grain, blotch, black = (draw(rng, s) for s in (self.grain, self.blotch, self.black))
        bits = int(rng.integers(int(self.bits[0]), int(self.bits[1]), endpoint=True))
        noise = _coloured_noise(rng, light.shape, grain, blotch) if shot > 0 or read > 0 else None
        planes = []
        for channel, gain in enumerate(gains):
            plane = np.ascontiguousarray(light[..., channel])
            if noise is not None:
                deviation = np.sqrt(np.float32(gain * shot) * plane + np.float32((gain * read) ** 2))
                plane = _rounded(plane + deviation * noise[..., channel], gain, bits)
            planes.append((plane - np.float32(black)) / np.float32(1 - black))
        return cv2.merge(planes).reshape(light.shape)


def _rounded(plane: np.ndarray, gain: float, bits: int) -> np.ndarray:
    """Light rounded to the steps of a sensor whose values of ``bits`` bits are then multiplied by ``gain``."""
    step = np.float32(gain / (2**bits - 1))
    return np.rint(plane / step) * step


def _power(image: np.ndarray, exponent: float) -> np.ndarray:
    return cv2.pow(np.ascontiguousarray(image), exponent).reshape(image.shape)


def _draw_log(rng: np.random.Generator, span: Span) -> float:
    """A number from a range, all factors equally likely; a range that begins at 0 is drawn evenly instead."""
    return math.exp(rng.uniform(math.log(span[0]), math.log(span[1]))) if span[0] > 0 else draw(rng, span)


def _coloured_noise(rng: np.random.Generator, shape: tuple[int, ...], grain: float, blotch: float) -> np.ndarray:
    """Noise of variance 1 in each channel, its brightness correlated over ``grain`` pixels, its colour over more."""
    noise = rng.standard_normal(shape, np.float32)
    if blotch == 0:
        return _correlate(noise, grain)
    bright = cv2.transform(noise, MEAN)
    return _correlate(bright, grain) + _correlate(noise - bright, math.hypot(grain, blotch))


def _correlate(noise: np.ndarray, sigma: float) -> np.ndarray:
    """Blurs white noise and gives it back the variance that this takes."""
    size = 2 * math.ceil(3 * sigma) + 1
    if size == 1:
        return noise
    kernel = cv2.getGaussianKernel(size, sigma, cv2.CV_32F)
    kernel /= np.float32(math.sqrt(float(np.sum(np.square(kernel)))))
    return cv2.sepFilter2D(noise, -1, kernel, kernel, borderType=cv2.BORDER_REFLECT_101)


def _fall_off(rng: np.random.Generator, height: int, width: int, loss: float) -> np.ndarray:
    """Light that a lens lets through: 1 in the middle of the photograph, ``1 - loss`` in its corners.

    An image smaller than a photograph is a window of one that lies anywhere in it.
    """
    tall, wide = max(height, VIEW), max(width, VIEW * 4 // 3)
    y = np.arange(height, dtype=np.float32) + np.float32(rng.uniform(0, tall - height) - tall / 2)
    x = np.arange(width, dtype=np.float32) + np.float32(rng.uniform(0, wide - width) - wide / 2)
    square = (np.square(y)[:, None] + np.square(x)[None]) / np.float32((tall**2 + wide**2) / 4)
    return 1 - np.float32(loss) * square * (2 - square)
