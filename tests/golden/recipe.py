"""Inputs for golden values, from whole numbers alone: every machine and library version makes the same ones.

Read both by the scripts that write golden values, in the environment of another toolbox, and by the tests.
"""

import zlib

import numpy as np
import torch


def uniform(shape, seed):
    """Numbers spread evenly over [-0.5, 0.5), float64, from a multiplicative hash of their index."""
    index = np.arange(int(np.prod(shape)), dtype=np.int64)
    return ((index * 48271 + seed % 65521 * 7919 + 1) * 69621 % 65521 / 65521 - 0.5).reshape(shape)


def image(shape, seed):
    """A float64 tensor in [0, 1)."""
    return torch.from_numpy(uniform(shape, seed) + 0.5)


def fill(module):
    """Gives every parameter of a module a value that depends on its name and shape only; signals stay near 1."""
    for name, p in module.state_dict().items():
        u = uniform(tuple(p.shape), zlib.crc32(name.encode()))
        if name.endswith(('beta', 'gamma')) or (p.dim() == 1 and name.endswith('weight')):
            u = 1 + 0.5 * u
        elif p.dim() > 1:
            u = u * np.sqrt(6 / np.prod(p.shape[1:]))
        p.copy_(torch.from_numpy(u))
    return module


def add_noise(img):
    """Adds whole levels from -20 to 20 to an 8-bit image."""
    noise = np.floor((uniform(img.shape, 5) + 0.5) * 41).astype(np.int64) - 20
    return np.clip(img.astype(np.int64) + noise, 0, 255).astype(np.uint8)


def box_blur(img):
    """Means over 5 x 5 pixels of an 8-bit image (H, W, C), rounded down; edges are repeated."""
    padded = np.pad(img.astype(np.int64), ((2, 2), (2, 2), (0, 0)), mode='edge')
    h, w = img.shape[:2]
    return (sum(padded[y : y + h, x : x + w] for y in range(5) for x in range(5)) // 25).astype(np.uint8)


DISTORTIONS = {'noise': add_noise, 'blur': box_blur}  # beside 'jpeg', which stands as a file in tests/assets
