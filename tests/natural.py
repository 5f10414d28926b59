"""What the tests of NIQE, BRISQUE and PIQE share: golden/natural.json and the photographs it is about."""

import json
import zlib
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
GOLDEN = json.loads((ROOT / 'tests/golden/natural.json').read_text())
PHOTOS = sorted(GOLDEN['photos'])


@lru_cache(maxsize=8)
def photo(name):
    """8-bit BGR."""
    return cv2.imread(str(ROOT / 'datasets/sample' / name), cv2.IMREAD_COLOR)


def golden_photo(name):
    """The same with its golden values; skips where JPEG files are decoded to other pixels than when they were made."""
    pixels, golden = photo(name), GOLDEN['photos'][name]
    if zlib.crc32(pixels.tobytes()) != golden['crc32']:
        pytest.skip(f'this OpenCV decodes {name} to other pixels than the one that made the golden values')
    return pixels, golden


def as_tensor(pixels):
    """(1,3,H,W) RGB in [0,1] of 8-bit BGR."""
    return torch.from_numpy(np.ascontiguousarray(pixels[..., ::-1].transpose(2, 0, 1)))[None].float() / 255


def several():
    """Three images of one size and different content, (3,3,200,208)."""
    return torch.cat([as_tensor(photo(name)[:200, :208]) for name in PHOTOS[:3]])
