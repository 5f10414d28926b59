"""Writes metrics_fade.json: scores of FADE with its published parameters, as PyFADE computes them.

    python3.11 -m venv fade && fade/bin/pip install fade-python==1.0.0 opencv-python-headless torch
    fade/bin/python tests/golden/make_metrics_fade.py

The parameters inside that package may be used for research only; here are only the scores.
"""

import json
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
from pyfade import fade_array
from recipe import DISTORTIONS

HERE = Path(__file__).parent
PHOTOS = ('astronaut', 'chelsea', 'coffee', 'rocket')
SIZE = (203, 243)  # no multiples of 8


def haze(img):
    """A veil of grey that hides three fifths of the contrast."""
    return (img.astype(np.int64) * 2 // 5 + 130).astype(np.uint8)


def clipped(img):
    """Over-exposed: large parts of the image have one level."""
    return np.clip(img.astype(np.int64) * 3, 0, 255).astype(np.uint8)


CHANGES = {'clean': lambda img: img, 'haze': haze, 'clipped': clipped, **DISTORTIONS}


def main():
    rows = []
    for photo in PHOTOS:
        clean = cv2.imread(str(HERE.parent / 'assets' / f'{photo}.png'))[: SIZE[0], : SIZE[1]]
        for name, change in CHANGES.items():
            rows.append([photo, name, fade_array(np.ascontiguousarray(change(clean)[..., ::-1]))])
    text = json.dumps({'source': f'fade-python {version("fade-python")}', 'rows': rows}, separators=(',', ':'))
    (HERE / 'metrics_fade.json').write_text(text + '\n')


if __name__ == '__main__':
    main()
