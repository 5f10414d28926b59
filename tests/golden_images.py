"""Reads golden/images.npz, which golden/make_images.py wrote."""

import json
from functools import lru_cache
from pathlib import Path

import numpy as np


@lru_cache(maxsize=1)
def golden_images():
    """name -> (bytes of the file, its pixels as displayed; None for a file that is refused)."""
    with np.load(Path(__file__).parent / 'golden' / 'images.npz') as archive:
        index, blob = json.loads(str(archive['index'])), archive['blob'].tobytes()
    images, position = {}, 0
    for name, (size, shown, kind) in index.items():
        data, pixels = blob[position : position + size], blob[position + size : position + size + shown]
        images[name] = data, None if kind is None else np.frombuffer(pixels, kind[1]).reshape(kind[0])
        position += size + shown
    return images
