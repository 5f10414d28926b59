"""Photographs of the study of IQPIR: clean ones and poorer versions of them, each with its score; none is in two parts.

The image quality prior needs clean sides of unlike quality. A collection from the web has them; photographs chosen to
be clean have not. So every training photograph is kept as it is and in some poorer versions, such as an imperfect
restoration leaves: blurred, noisy, compressed, over-smoothed, hazy, dark, off in colour. All are scored alike.
"""

from __future__ import annotations

import csv
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

import basicsr.data  # noqa: F401  (registers degradations)
from basicsr.errors import DataError
from basicsr.files import write_text
from basicsr.image_io import list_images, to_uint8, write_image
from basicsr.iqa.scoring import score_dataset
from basicsr.registry import DEGRADATION_REGISTRY, build
from benchmarks.qualiteacher_data import reduced, spread_out, without_doubles
from benchmarks.qualiteacher_scores import TRAINED_ON

SIDE = 480  # longest side of a training photograph, in pixels
TEST_SIDE = 384
TESTED = 18  # photographs that no run sees
LEAST = 160  # shortest side of a photograph that is used
VERSIONS = 3  # poorer versions of each training photograph
POORER: tuple[dict[str, Any], ...] = (
    {'type': 'Blur', 'sigma': [0.5, 2.0], 'length': [3, 9], 'radius': [1, 3]},
    {'type': 'Noise', 'sigma': [4, 25]},
    {'type': 'JPEG', 'quality': [12, 60]},
    {'type': 'OverSmooth', 'amount': [10, 60]},
    {'type': 'Haze', 'beta': [0.2, 0.9]},
    {'type': 'LowLight', 'exposure': [0.25, 0.6]},
    {'type': 'ColourShift', 'amount': [0.1, 0.4]},
)


@dataclass(frozen=True)
class Collection:
    """Prepared photographs.

    Attributes:
        train: Folder of training photographs and their poorer versions.
        sources: Folder of the photographs as they are, under the names of all versions.
        test: Folder of photographs to test on.
        scores: Table of the scores of ``train``.
        count: Training photographs, without their versions.
    """

    train: Path
    sources: Path
    test: Path
    scores: Path
    count: int


def collection(photos: Path, work: Path) -> Collection:
    """The photographs of a folder, reduced, made poorer and scored; done once and kept in ``work/photos``.

    Args:
        photos: Folder with ``manifest.tsv`` (columns package, file, tag) and a sub-folder for each package.
        work: Folder of the study.

    Raises:
        DataError: The list or a photograph is missing.
    """
    root = work / 'photos'
    root.mkdir(parents=True, exist_ok=True)
    done = root / 'split.json'
    with FileLock(root / '.lock'):
        if not done.is_file():
            lists = split(photos)
            _write(photos, root, lists)
            write_text(done, json.dumps(lists, indent=1) + '\n')
        scores = root / 'scores.csv'
        score_dataset(root / 'train', TRAINED_ON, scores)
    count = len(json.loads(done.read_text(encoding='utf-8'))['train'])
    return Collection(root / 'train', root / 'sources', root / 'test', scores, count)


def split(photos: Path) -> dict[str, list[str]]:
    """Names below ``photos`` by part, ``train`` and ``test``, without doubles and those whose tag is not ``clean``.

    Raises:
        DataError: There is no list.
    """
    manifest = photos / 'manifest.tsv'
    if not manifest.is_file():
        raise DataError(f"'{manifest}' is missing; it must list package, file and tag of every photograph.")
    with open(manifest, encoding='utf-8', newline='') as file:
        rows = [r for r in csv.DictReader(file, delimiter='\t') if r['tag'] == 'clean']
    names = sorted(f'{r["package"]}/{r["file"]}' for r in rows)
    known = {f.relative_to(photos).as_posix() for f in list_images(photos)}
    if lost := [n for n in names if n not in known]:
        raise DataError(f"'{manifest}' lists '{lost[0]}', which is not there.")
    large, _ = without_doubles(photos, [n for n in names if min(reduced(photos / n, SIDE).shape[:2]) >= LEAST])
    chosen = spread_out(len(large), TESTED)
    return {
        'train': [n for i, n in enumerate(large) if i not in chosen],
        'test': [n for i, n in enumerate(large) if i in chosen],
    }


def _write(photos: Path, root: Path, lists: dict[str, list[str]]) -> None:
    kinds = [build(DEGRADATION_REGISTRY, block) for block in POORER]
    for name in lists['test']:
        write_image(root / 'test' / f'{_key(name)}.png', reduced(photos / name, TEST_SIDE))
    for name in lists['train']:
        photo = reduced(photos / name, SIDE)
        write_image(root / 'train' / f'{_key(name)}.png', photo)
        write_image(root / 'sources' / f'{_key(name)}.png', photo)
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        for number, kind in enumerate(rng.permutation(len(kinds))[:VERSIONS]):
            poorer = to_uint8(kinds[kind](photo.astype(np.float32) / 255, rng))
            write_image(root / 'train' / f'{_key(name)}__{number}.png', poorer)
            write_image(root / 'sources' / f'{_key(name)}__{number}.png', photo)


def _key(name: str) -> str:
    return Path(name).with_suffix('').as_posix().replace('/', '_')
