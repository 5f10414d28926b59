"""Sheets of the study of QualiTeacher: sample photographs, which may be shown, and real ones, to look at only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from torch import Tensor

from basicsr.data import build_block
from basicsr.errors import DataError
from basicsr.files import write_atomically
from basicsr.image_io import encode_image, to_uint8
from benchmarks.qualiteacher_data import TASKS, Photos
from benchmarks.qualiteacher_runs import ROOT, Run
from benchmarks.qualiteacher_scores import Network, read

SHOWN = ('pretrained', 'mean_teacher', 'colabator', 'qualiteacher', 'qt_bold')
STRIP_OF = {'haze': 'qt_bold'}  # the setting that a task's option file has, where it is not the usual one
STRIP = (0.0, 0.2, 0.4, 0.6, 1.0)  # levels of the knob that are shown
TITLES = {'mean_teacher': 'mean teacher', 'colabator': 'Colabator', 'qualiteacher': 'QualiTeacher', 'qt_bold': 'bold'}
SAMPLE = ROOT / 'datasets/sample/val'
PHOTOS = ('aqueduct', 'great_wall', 'lemurs', 'river_castle')  # in the public domain: the sheets owe no credit
SIDE = 320  # longest side of a sample photograph
TILE, EDGE = 224, 20  # width of a tile and height of its caption, in pixels
QUALITY, LARGEST = 88, 300_000  # of a JPEG; bytes above which its quality is lowered


def sample_sheet(file: Path, task: str, seed: int, work: Path) -> None:
    """Sample photographs under synthetic degradation, and what the networks make of them.

    Raises:
        CheckpointError: A network of this task and seed is not there.
    """
    rows = [[image.unsqueeze(0) for image in (s['lq'], s['gt'])] for s in _samples(task)]
    _sheet(file, task, seed, work, [r[0] for r in rows], [r[1] for r in rows])


def real_sheet(file: Path, task: str, seed: int, work: Path, photos: Photos) -> None:
    """Real test photographs, and what the networks make of them.

    Raises:
        CheckpointError: A network of this task and seed is not there.
    """
    _sheet(file, task, seed, work, [read(f) for f in photos.real.values()])


def knob_strip(file: Path, tasks: Sequence[str], seed: int, work: Path) -> None:
    """One sample photograph of each task over the knob of QualiTeacher.

    Raises:
        CheckpointError: A network is not there.
    """
    tiles = []
    for number, task in enumerate(tasks):
        samples = _samples(task)
        image = samples[number % len(samples)]['lq'].unsqueeze(0)
        network = Network(Run(task, STRIP_OF.get(task, 'qualiteacher'), seed, work).weights)
        tiles.append(captioned(image, TASKS[task].degradation))
        for level in STRIP:
            network.set(level)
            tiles.append(captioned(network.restore([image])[0], f'asked for {level:g}'))
    write_sheet(file, tiles, len(STRIP) + 1)


def captioned(image: Tensor, text: str) -> np.ndarray:
    """A tile (H,W,3) uint8: the middle of an image (1,3,H,W) at the proportions 4:3, with a line of text below."""
    pixels = to_uint8(image[0])
    height, width = pixels.shape[:2]
    wide, high = (width, round(width * 3 / 4)) if width * 3 <= height * 4 else (round(height * 4 / 3), height)
    top, left = (height - high) // 2, (width - wide) // 2
    cut = np.ascontiguousarray(pixels[top : top + high, left : left + wide])
    tile = cv2.resize(cut, (TILE, TILE * 3 // 4), interpolation=cv2.INTER_AREA)
    strip = np.full((EDGE, TILE, 3), 255, np.uint8)
    cv2.putText(strip, text, (4, EDGE - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (40, 40, 40), 1, cv2.LINE_AA)
    return np.concatenate((tile, strip))


def write_sheet(file: Path, tiles: Sequence[np.ndarray], columns: int) -> None:
    """Tiles in rows as PNG or JPEG, a JPEG of at most :data:`LARGEST` bytes.

    Raises:
        DataError: The last row is not full.
    """
    if not tiles or len(tiles) % columns:
        raise DataError(f'{len(tiles)} tiles do not fill rows of {columns}.')
    rows = [np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles), columns)]
    sheet = np.concatenate(rows)
    for quality in range(QUALITY, 30, -6):
        data = encode_image(sheet, file.suffix, quality=quality)
        if len(data) < LARGEST or file.suffix != '.jpg':
            break
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, lambda stream: stream.write(data))


def _samples(task: str) -> list[dict[str, Tensor]]:
    """The photographs that are shown, under the task's degradation, the same at every call."""
    block = {
        'type': 'OnlineDegradationDataset', 'dataroot_gt': str(SAMPLE), 'val_size': SIDE,
        'degradations': [{'type': TASKS[task].degradation}],
    }  # fmt: skip
    dataset = build_block(block, 'val')
    samples = [dataset[i] for i in range(len(dataset))]
    return [s for s in samples if Path(s['gt_path']).stem in PHOTOS]


def _sheet(
    file: Path, task: str, seed: int, work: Path, inputs: Sequence[Tensor], clean: Sequence[Tensor] | None = None
) -> None:
    columns = [[captioned(image, 'degraded') for image in inputs]]
    for variant in SHOWN:
        network = Network(Run(task, variant, seed, work).weights)
        columns.append([captioned(image, TITLES.get(variant, variant)) for image in network.restore(inputs)])
    if clean is not None:
        columns.append([captioned(image, 'clean') for image in clean])
    write_sheet(file, [tile for row in zip(*columns) for tile in row], len(columns))
