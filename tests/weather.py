"""Helpers of the tests of degradations."""

import numpy as np

from basicsr.registry import DEGRADATION_REGISTRY


def make(name, **arguments):
    """A degradation by its type."""
    return DEGRADATION_REGISTRY.get(name)(**arguments)


def rng(seed=0):
    """A generator."""
    return np.random.default_rng(seed)


def grey(value=0.4, height=96, width=128):
    """An even image."""
    return np.full((height, width, 3), value, np.float32)
