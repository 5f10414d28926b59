"""What the study shows to the scores: photographs degraded more and more, and real pairs with restored images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from basicsr.errors import DataError
from basicsr.image_io import list_images, read_image, to_tensor, to_uint8
from basicsr.registry import DEGRADATION_REGISTRY, build
from benchmarks.quality_parts import Part

SIDE = 480  # longest side of a photograph of a ladder, in pixels


@dataclass(frozen=True)
class Ladder:
    """One degradation at five strengths.

    Attributes:
        title: What tables call it.
        kind: ``degradation`` or ``artefact`` of restoration.
        block: Its block of options, without the strength.
        strength: Values of the parameters that make it stronger, weakest first.
    """

    title: str
    kind: str
    block: dict[str, Any]
    strength: dict[str, tuple[float, ...]]

    def blocks(self) -> list[dict[str, Any]]:
        """A block for each strength; everything else is drawn alike from the same seed."""
        count = len(next(iter(self.strength.values())))
        return [{**self.block, **{k: [v[i], v[i]] for k, v in self.strength.items()}} for i in range(count)]


LADDERS: dict[str, Ladder] = {
    'haze': Ladder(
        'haze', 'degradation', {'type': 'Haze', 'near': [0.1, 0.1], 'patchy': [0.2, 0.2]},
        {'beta': (0.3, 0.7, 1.1, 1.5, 1.9)},
    ),
    'rain': Ladder('rain', 'degradation', {'type': 'Rain'}, {'amount': (0.3, 0.8, 1.5, 2.2, 3.0)}),
    'snow': Ladder('snow', 'degradation', {'type': 'Snow'}, {'amount': (0.3, 0.8, 1.5, 2.2, 3.0)}),
    'low_light': Ladder(
        'low light', 'degradation', {'type': 'LowLight'}, {'exposure': (0.5, 0.25, 0.12, 0.06, 0.03)}
    ),
    'underwater': Ladder(
        'under water', 'degradation', {'type': 'Underwater', 'water': ['III'], 'visibility': None},
        {'depth': (2, 4, 6, 8, 10), 'distance': (1, 2, 3.5, 5, 6.5)},
    ),
    'noise': Ladder('noise', 'degradation', {'type': 'Noise'}, {'sigma': (5, 10, 20, 35, 50)}),
    'blur': Ladder('blur', 'degradation', {'type': 'Blur', 'kinds': ['gaussian']}, {'sigma': (0.5, 1, 1.7, 2.6, 4)}),
    'jpeg': Ladder('JPEG', 'degradation', {'type': 'JPEG'}, {'quality': (80, 50, 30, 18, 10)}),
    'oversharpen': Ladder('over-sharpening', 'artefact', {'type': 'OverSharpen'}, {'amount': (0.5, 1, 2, 3.5, 6)}),
    'oversmooth': Ladder('over-smoothing', 'artefact', {'type': 'OverSmooth'}, {'amount': (8, 20, 40, 65, 90)}),
    'colour_shift': Ladder(
        'colour shift', 'artefact', {'type': 'ColourShift'}, {'amount': (0.05, 0.15, 0.3, 0.45, 0.6)}
    ),
    'overenhance': Ladder(
        'over-enhancement', 'artefact', {'type': 'OverEnhance'}, {'amount': (0.2, 0.6, 1.0, 1.5, 2.0)}
    ),
    'ringing': Ladder('ringing', 'artefact', {'type': 'Ringing'}, {'amount': (0.3, 0.45, 0.6, 0.75, 0.9)}),
    'network_pattern': Ladder(
        'network pattern', 'artefact', {'type': 'NetworkPattern'}, {'amount': (2, 8, 16, 26, 40)}
    ),
}  # fmt: skip

# Of the real data: degraded and clean folder below its root; the clean one's name ends where the mark begins.
PAIRS: dict[str, tuple[str, str, str, str]] = {
    'Rain100L': ('rain', 'Rain100L/train/small/rain', 'Rain100L/train/small/norain', ''),
    'LOL': ('low_light', 'LOLv1/our485/low', 'LOLv1/our485/high', ''),
    'SOTS': ('haze', 'SOTS/indoor/hazy', 'SOTS/indoor/gt', '_'),
    'LSUI': ('underwater', 'LSUI/input', 'LSUI/GT', ''),
}


def photographs(folders: Sequence[Path], side: int = SIDE) -> dict[str, np.ndarray]:
    """Photographs by name, (H,W,3) float32 RGB in [0,1], reduced to a longest side of ``side`` pixels.

    Raises:
        DataError: A folder holds none.
    """
    found = {}
    for folder in folders:
        files = list_images(folder)
        if not files:
            raise DataError(f"'{folder}' holds no image.")
        found.update({f.stem: _reduced(read_image(f), side) for f in files})
    return found


def ladder_part(name: str, photos: dict[str, np.ndarray], seeds: int) -> Part:
    """The part that shows each photograph under one degradation: clean first, then weakest to strongest."""
    ladder, names = LADDERS[name], list(photos)
    blocks = ladder.blocks()
    shapes = {n: list(photos[n].shape[:2]) for n in names}
    settings = {'blocks': blocks, 'photos': shapes, 'seeds': seeds}

    def images(number: int) -> Tensor:
        index, seed = divmod(number, seeds)
        return rungs(photos[names[index]], blocks, (seed, index))

    return Part(f'ladder_{name}', settings, len(names) * seeds, images)


def rungs(photo: np.ndarray, blocks: Sequence[dict[str, Any]], seed: tuple[int, ...]) -> Tensor:
    """A photograph as it is and under each block, every one from the same seed and as 8-bit files hold it."""
    made = [build(DEGRADATION_REGISTRY, b)(photo.copy(), np.random.default_rng(seed)) for b in blocks]
    return torch.stack([to_tensor(to_uint8(view)) for view in (photo, *made)])


def pair_files(data: Path, name: str) -> list[tuple[Path, Path]]:
    """Degraded and clean files of a set.

    Raises:
        DataError: The set is not there, or an image has no partner.
    """
    _, degraded, clean, mark = PAIRS[name]
    for folder in (data / degraded, data / clean):
        if not folder.is_dir():
            raise DataError(f"{name}: there is no folder '{folder}'.")
    cleans, files = {f.stem: f for f in list_images(data / clean)}, list_images(data / degraded)
    pairs = [(f, cleans.get(f.stem.split(mark)[0] if mark else f.stem)) for f in files]
    lonely = next((f for f, partner in pairs if partner is None), None)
    if lonely is not None:
        raise DataError(f"'{lonely}' has no clean image in '{data / clean}'.")
    return [(f, partner) for f, partner in pairs if partner is not None]


def restored_files(restored: Path | None, name: str, peers: Sequence[str], stem: str) -> list[Path]:
    """Where the peers' results of one image lie; none if one is missing."""
    files = [restored / name / peer / f'{stem}.png' for peer in peers] if restored is not None else []
    return files if all(f.is_file() for f in files) else []


def pair_part(data: Path, name: str, restored: Path | None, peers: Sequence[str], shown: int) -> Part:
    """The part of real pairs: degraded, clean, and for some images evenly spaced, what peers made of them.

    Args:
        data: Root of the real data.
        name: The set.
        restored: Folder of restored images, as peer_figures.py leaves them; None for none.
        peers: Restorers of the set's task.
        shown: Number of images whose results are scored.
    """
    pairs = pair_files(data, name)
    chosen = {round(i) for i in np.linspace(0, len(pairs) - 1, min(shown, len(pairs)))}
    results = [restored_files(restored, name, peers, a.stem) if i in chosen else [] for i, (a, _) in enumerate(pairs)]
    settings = {
        'images': [a.stem for a, _ in pairs],
        'peers': list(peers) if any(results) else [],
        'restored': [bool(r) for r in results],
    }

    def images(number: int) -> Tensor:
        return torch.stack([file_tensor(f) for f in (*pairs[number], *results[number])])

    return Part(f'pairs_{name.lower()}', settings, len(pairs), images, reference=1)


def file_tensor(file: Path) -> Tensor:
    """An image file as (3,H,W) RGB in [0,1]."""
    return to_tensor(read_image(file))


def _reduced(photo: np.ndarray, side: int) -> np.ndarray:
    factor = side / max(photo.shape[:2])
    if factor >= 1:
        return photo
    height, width = (round(n * factor) for n in photo.shape[:2])
    return to_uint8(cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA)).astype(np.float32) / 255
