"""Random numbers of an image in an iteration."""

from __future__ import annotations

import zlib

import numpy as np


def draws(key: str, iteration: int) -> np.random.Generator:
    """Random numbers of one image in one iteration: the same whatever else is in the batch, or on which rank."""
    return np.random.default_rng([zlib.crc32(str(key).encode()), iteration])
