"""Fits FADE's models to photographs and the same under synthetic haze: ``python tools/fit_fade.py PHOTOS OUT.npz``.

The models of this project: ``fit_fade.py datasets/sample/train basicsr/metrics/parameters/fade_sample.npz``.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__' and not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import zlib

import numpy as np
import torch

from basicsr.cli import run_command
from basicsr.errors import DataError
from basicsr.image_io import read_image
from basicsr.metrics.fade import features
from basicsr.registry import DEGRADATION_REGISTRY, build

HAZE = {'type': 'Haze', 'beta': [0.8, 3.0]}
DRAWS = 2  # hazy versions of each photograph


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = argparse.ArgumentParser(description="Fit FADE's models of fog-free and foggy patches.")
    parser.add_argument('photos', type=Path, metavar='PHOTOS', help='folder of clear photographs')
    parser.add_argument('out', type=Path, metavar='OUT.npz', help='file to write')
    options = parser.parse_args(arguments)
    return run_command(lambda: fit(options.photos, options.out))


def fit(photos: Path, out: Path) -> int:
    """Writes the means and covariances of the features of clear and of hazy patches.

    Raises:
        DataError: The folder holds no photograph, or one cannot be read.
    """
    paths = (
        sorted(p for p in photos.iterdir() if p.suffix.lower() in ('.jpg', '.jpeg', '.png')) if photos.is_dir() else []
    )
    if not paths:
        raise DataError(f'{photos} holds no photographs (.jpg, .png).')
    haze = build(DEGRADATION_REGISTRY, HAZE)
    clear, foggy = [], []
    for path in paths:
        image = read_image(path)
        clear.append(_patches(image))
        for draw in range(DRAWS):
            rng = np.random.default_rng([zlib.crc32(path.stem.encode()), draw])
            foggy.append(_patches(np.rint(haze(image, rng) * 255) / 255))
    numbers = {**_gaussian('clear', clear), **_gaussian('foggy', foggy)}
    np.savez_compressed(out, **numbers)
    return 0


def _patches(image: np.ndarray) -> torch.Tensor:
    """Features of the patches that have all of them."""
    found = features(torch.from_numpy(image.transpose(2, 0, 1).copy())[None])[0]
    return found[found.isfinite().all(-1)]


def _gaussian(name: str, parts: list[torch.Tensor]) -> dict[str, np.ndarray]:
    found = torch.cat(parts)
    return {f'mean_{name}': found.mean(0).numpy(), f'cov_{name}': found.T.cov().numpy()}


if __name__ == '__main__':
    sys.exit(main())
