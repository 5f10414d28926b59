"""Measures the calibrations that ship, ``basicsr/iqa/calibration/*.json``, on the sample photographs.

``python tools/calibrate_scorers.py NIQE BRISQUE ...`` scores each photograph as it is and under each degradation
of the project. The worst 5 % of the degraded images count as 0, the best 5 % of the photographs as 1.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__' and not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import json
import zlib
from typing import Any

import numpy as np
import torch

from basicsr import __version__
from basicsr.cli import run_command
from basicsr.files import write_text
from basicsr.image_io import list_images, read_image, to_tensor
from basicsr.iqa.calibrations import FOLDER
from basicsr.iqa.score_table import digest_of, statistics
from basicsr.iqa.scorer import Scorer, build_scorer
from basicsr.options import find_file
from basicsr.registry import DEGRADATION_REGISTRY, METRIC_REGISTRY, build

KINDS = ('Haze', 'Rain', 'Snow', 'LowLight', 'Underwater', 'Noise', 'Blur', 'JPEG')
SEED = 0
TAIL = 5  # percent


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = argparse.ArgumentParser(description='Measure the calibrations that ship with the scorers.')
    parser.add_argument('types', nargs='+', metavar='TYPE', help='scorers, such as NIQE')
    parser.add_argument('-i', '--input', default='datasets/sample', help='the photographs (default: datasets/sample)')
    options = parser.parse_args(arguments)
    return run_command(lambda: _calibrate(options))


def _calibrate(options: argparse.Namespace) -> int:
    folder = find_file(options.input)
    scorers = {kind: build_scorer({'type': kind, 'low': 0.0, 'high': 1.0}) for kind in options.types}
    lower_better = {kind: _lower_better(kind) for kind in scorers}
    files = list_images(folder)
    raw: dict[str, dict[str, list[float]]] = {kind: {} for kind in scorers}
    degradations = {kind: build(DEGRADATION_REGISTRY, {'type': kind}) for kind in KINDS}
    for file in files:
        for version, image in _versions(read_image(file), file.stem, degradations):
            for kind, scorer in scorers.items():
                raw[kind].setdefault(version, []).append(_score(scorer, image))
    names = [file.relative_to(folder).as_posix() for file in files]
    for kind, scorer in scorers.items():
        found = _calibration(raw[kind], lower_better[kind], names, scorer.version)
        write_text(FOLDER / f'{kind.lower()}.json', json.dumps(found, indent=1) + '\n')
        sys.stdout.write(f'{kind}: 0 at {found["low"]}, 1 at {found["high"]}.\n')
    return 0


def _versions(image: np.ndarray, name: str, degradations: dict[str, Any]) -> list[tuple[str, np.ndarray]]:
    """A photograph as it is and under each degradation, (H,W,3) in [0,1]."""
    found = [('clean', image)]
    for kind, degrade in degradations.items():
        rng = np.random.default_rng([SEED, zlib.crc32(f'{kind} {name}'.encode())])
        found.append((kind, np.clip(degrade(image, rng), 0, 1)))
    return found


def _score(scorer: Scorer, image: np.ndarray) -> float:
    """The raw score of what an 8-bit file would hold."""
    levels = np.rint(image * 255).astype(np.uint8)
    with torch.no_grad():
        return float(scorer.raw(to_tensor(levels).unsqueeze(0)))


def _lower_better(kind: str) -> bool:
    """As the metric of the same name says; a scorer that is no metric counts as better when higher."""
    metric = f'calculate_{kind.lower()}'
    return metric in METRIC_REGISTRY and not METRIC_REGISTRY.get(metric).higher_better


def _calibration(raw: dict[str, list[float]], lower_better: bool, names: list[str], version: str) -> dict[str, Any]:
    clean = np.array(raw['clean'])
    degraded = np.array([value for kind, values in raw.items() if kind != 'clean' for value in values])
    tails = (100 - TAIL, TAIL) if lower_better else (TAIL, 100 - TAIL)
    low, high = np.percentile(degraded, tails[0]), np.percentile(clean, tails[1])
    return {
        'low': float(f'{low:.3g}'),
        'high': float(f'{high:.3g}'),
        'source': (
            f'{len(clean)} sample photographs: 0 is percentile {tails[0]} of {len(degraded)} degraded images, '
            f'1 is percentile {tails[1]} of the photographs'
        ),
        'lower_is_better': lower_better,
        'images': len(names),
        'names': digest_of(names),
        'degradations': list(KINDS),
        'seed': SEED,
        'raw': {kind: statistics(np.array(values)) for kind, values in raw.items()},
        'versions': {'scorer': version, 'qualir': __version__, 'torch': torch.__version__.partition('+')[0]},
    }


if __name__ == '__main__':
    sys.exit(main())
