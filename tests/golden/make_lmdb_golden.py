"""Writes lmdb_basicsr.lmdb: three small images in an LMDB that BasicSR 1.4.2 of PyPI makes.

    peer/bin/python tests/golden/make_lmdb_golden.py

Run by its path, in the environment that make_basicsr.py describes.
"""

import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np
from peers import import_torchvision
from recipe import uniform

import_torchvision()

from basicsr.utils.lmdb_util import make_lmdb_from_imgs  # noqa: E402

HERE = Path(__file__).parent
IMAGES = {'first': (40, 50, 3), 'sub/second image': (30, 9, 3), 'third': (11, 8)}


def main():
    out = HERE / 'lmdb_basicsr.lmdb'
    shutil.rmtree(out, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        for number, (key, shape) in enumerate(IMAGES.items()):
            file = Path(folder, f'{key}.png')
            file.parent.mkdir(exist_ok=True)
            pixels = np.floor((uniform(shape, number) + 0.5) * 256).astype(np.uint8)
            cv2.imwrite(str(file), pixels[..., ::-1] if pixels.ndim == 3 else pixels)
        make_lmdb_from_imgs(folder, str(out), [f'{key}.png' for key in IMAGES], list(IMAGES))
    (out / 'lock.mdb').unlink()


if __name__ == '__main__':
    main()
