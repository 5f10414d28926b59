"""What cameras and files add to a picture: noise and JPEG."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np

NoiseKind = Literal['colour', 'grey', 'correlated']
Sampling = Literal['444', '422', '420']

# Values of cv2.IMWRITE_JPEG_SAMPLING_FACTOR, which cv2 names IMWRITE_JPEG_SAMPLING_FACTOR_444 and so on.
SAMPLING = {'444': 0x111111, '422': 0x211111, '420': 0x221111}


def gaussian_noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: float, kind: NoiseKind) -> np.ndarray:
    """Gaussian noise of standard deviation ``sigma`` in every channel.

    Args:
        rng: Draws the noise.
        shape: (H,W,3).
        sigma: Standard deviation, on the scale of the image.
        kind: ``colour`` draws each channel for itself, ``grey`` gives all the same noise, ``correlated`` a random mix
            of the three channels' noise (as BSRGAN and RIDCP have it, but with ``sigma`` as its largest deviation).

    Returns:
        ``shape`` float32.
    """
    if kind == 'grey':
        plane = rng.standard_normal(shape[:2], np.float32) * np.float32(sigma)
        return cv2.merge([plane] * 3).reshape(shape)
    noise = rng.standard_normal(shape, np.float32) * np.float32(sigma)
    return noise @ _mix(rng) if kind == 'correlated' else noise


def _mix(rng: np.random.Generator) -> np.ndarray:
    """A symmetric 3x3 matrix with random axes whose square is a covariance of eigenvalues within [0,1]."""
    axes, _ = np.linalg.qr(rng.random((3, 3)))
    return ((axes * np.sqrt(rng.random(3))) @ axes.T).astype(np.float32)


def jpeg(image: np.ndarray, quality: int, sampling: Sampling = '420') -> np.ndarray:
    """What is left of an image that was saved as JPEG (by OpenCV, libjpeg-turbo) and read again.

    Args:
        image: (H,W,3) float32 RGB in [0,1]; it is rounded to 8 bits, as the file is.
        quality: 1 to 100.
        sampling: Of the colours: ``444`` keeps all, ``422`` halves them sideways, ``420`` both ways.

    Returns:
        The same shape and range.
    """
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    options = [cv2.IMWRITE_JPEG_QUALITY, int(quality), cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLING[sampling]]
    _, data = cv2.imencode('.jpg', cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB).astype(np.float32) / np.float32(255)
