"""Which photographs the study of QualiTeacher adapts to and tests on; reduced once and kept beside the runs."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from filelock import FileLock

from basicsr.errors import DataError
from basicsr.files import write_text
from basicsr.image_io import list_images, read_image, to_uint8, write_image

SIDE = 384  # longest side of every photograph, in pixels
ALIKE = 0.95  # correlation of two thumbnails above which they count as one photograph
THUMBNAIL = 16  # its side
WINDOW = 112  # side of what is adapted to: a few windows of each photograph, the same in every epoch
WINDOWS = 3


@dataclass(frozen=True)
class Task:
    """Folders of one degradation below the data's root, and how many photographs of each are kept for testing.

    Attributes:
        degradation: Type of the degradation that makes the synthetic pairs.
        real: Folder of real photographs without clean partners.
        real_test: How many of them are tested on; the others are adapted to.
        degraded: Folder of the degraded sides of pairs.
        clean: Folder of their clean sides.
        pairs_test: How many pairs are tested on, the degraded sides of the others being adapted to; None: all.
    """

    degradation: str
    real: str
    real_test: int
    degraded: str
    clean: str
    pairs_test: int | None = None


TASKS: dict[str, Task] = {
    'haze': Task('Haze', 'real/haze', 10, 'SOTS/indoor/hazy', 'SOTS/indoor/gt'),
    'low_light': Task('LowLight', 'real/lowlight', 18, 'LOLv1/our485/low', 'LOLv1/our485/high', 10),
    'underwater': Task('Underwater', 'real/underwater/U45', 8, 'LSUI/input', 'LSUI/GT', 24),
    'rain': Task('Rain', 'real/rain', 23, 'Rain100L/train/small/rain', 'Rain100L/train/small/norain'),
}


@dataclass(frozen=True)
class Photos:
    """The photographs of a task, reduced, as PNG files.

    Attributes:
        adapt: Folder of those to adapt to.
        real: Files of the real ones to test on, by key.
        pairs: Files of degraded and clean sides to test on, by key.
        lists: Which original is in which part, and which were left out for being doubles.
        digest: Changes with the contents and the names of all of them.
    """

    adapt: Path
    real: dict[str, Path]
    pairs: dict[str, tuple[Path, Path]]
    lists: dict[str, list[str]]
    digest: str


def photos_of(task: str, data: Path, work: Path) -> Photos:
    """The photographs of a task; they are reduced at the first call.

    Raises:
        DataError: A folder is missing, or an image cannot be read.
    """
    root = work / 'data' / task
    stored = root / 'split.json'
    if not stored.is_file():
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / '.lock'):  # another process may be at it
            if not stored.is_file():
                _prepare(TASKS[task], data, root)
    lists = json.loads(stored.read_text(encoding='utf-8'))
    keys = {part: [key_of(name) for name in lists[part]] for part in ('real', 'pairs')}
    pairs = {k: (root / 'lq' / f'{k}.png', root / 'gt' / f'{k}.png') for k in keys['pairs']}
    real = {k: root / 'real' / f'{k}.png' for k in keys['real']}
    return Photos(root / 'adapt', real, pairs, lists, _digest(root, lists))


def _prepare(task: Task, data: Path, root: Path) -> None:
    """Writes every reduced photograph, and the list of them last."""
    lists, files = split(task, data)
    for name in lists['adapt']:
        for number, window in enumerate(windows_of(reduced(files[name]), key_of(name))):
            write_image(root / 'adapt' / f'{key_of(name)}_{number}.png', window)
    for part, folder in (('real', 'real'), ('pairs', 'lq')):
        for name in lists[part]:
            write_image(root / folder / f'{key_of(name)}.png', reduced(files[name]))
    partners = partners_of(task, data)
    for name in lists['pairs']:
        write_image(root / 'gt' / f'{key_of(name)}.png', reduced(partners[name]))
    write_text(root / 'split.json', json.dumps(lists, indent=1) + '\n')


def split(task: Task, data: Path) -> tuple[dict[str, list[str]], dict[str, Path]]:
    """Which photograph goes where, and the file of each.

    Photographs are sorted by name, doubles after the first are left out. Of real photographs every so-maniest is tested
    on. Of pairs that are shared between adapting and testing the last ones are: neighbours are frames of one scene.

    Returns:
        Names below the data's root by part (``adapt``, ``real``, ``pairs``, ``left_out``), and files by name.

    Raises:
        DataError: A folder is missing.
    """
    real, doubles = _distinct(data, task.real)
    chosen = spread_out(len(real), task.real_test)
    lists = {
        'adapt': [n for i, n in enumerate(real) if i not in chosen],
        'real': [n for i, n in enumerate(real) if i in chosen],
        'pairs': _names(data, task.degraded),
        'left_out': doubles,
    }
    if task.pairs_test is not None:
        names, doubles = _distinct(data, task.degraded)
        first = len(names) - task.pairs_test
        lists['adapt'] += names[:first]
        lists['pairs'] = names[first:]
        lists['left_out'] += doubles
    every = [n for names in lists.values() for n in names]
    return lists, {n: data / n for n in every}


def partners_of(task: Task, data: Path) -> dict[str, Path]:
    """The clean image of every degraded one; several may share it (SOTS: 1401_1.png belongs to 1401.png).

    Raises:
        DataError: A degraded image has none.
    """
    clean = {f.stem: f for f in list_images(data / task.clean)}
    found = {}
    for name in _names(data, task.degraded):
        stem = Path(name).stem
        partner = clean.get(stem) or clean.get(stem.split('_')[0])
        if partner is None:
            raise DataError(f"'{name}' has no clean image in '{data / task.clean}'.")
        found[name] = partner
    return found


def spread_out(count: int, chosen: int) -> set[int]:
    """``chosen`` of ``count`` places, evenly spread.

    Raises:
        DataError: There are not so many.
    """
    if chosen > count:
        raise DataError(f'{chosen} photographs were to be tested on, but there are only {count}.')
    return {i for i in range(count) if i * chosen // count != (i + 1) * chosen // count}


def reduced(file: Path, side: int = SIDE) -> np.ndarray:
    """A photograph as (H,W,3) uint8, at most ``side`` pixels wide or high, by the area filter.

    Raises:
        DataError: It cannot be read.
    """
    image = read_image(file)
    factor = side / max(image.shape[:2])
    if factor < 1:
        height, width = (max(1, round(n * factor)) for n in image.shape[:2])
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return to_uint8(image)


def windows_of(image: np.ndarray, key: str) -> list[np.ndarray]:
    """Windows of a photograph that do not overlap, at most :data:`WINDOWS`, drawn by its key.

    Raises:
        DataError: It is smaller than one.
    """
    height, width = image.shape[:2]
    if min(height, width) < WINDOW:
        raise DataError(f"'{key}' is {width} x {height} pixels; a window of {WINDOW} does not fit.")
    corners = [(top, left) for top in _starts(height) for left in _starts(width)]
    order = np.random.default_rng(zlib.crc32(key.encode())).permutation(len(corners))[:WINDOWS]
    places = [corners[i] for i in sorted(order)]
    return [np.ascontiguousarray(image[top : top + WINDOW, left : left + WINDOW]) for top, left in places]


def _starts(length: int) -> list[int]:
    """Where windows begin that fill a side as well as they can without overlapping."""
    count = length // WINDOW
    return [round(i * (length - WINDOW) / max(count - 1, 1)) for i in range(count)]


def key_of(name: str) -> str:
    """A file name that says where the photograph is from."""
    return Path(name).with_suffix('').as_posix().replace('/', '_')


def _names(data: Path, folder: str) -> list[str]:
    return [f.relative_to(data).as_posix() for f in list_images(data / folder)]


def _distinct(data: Path, folder: str) -> tuple[list[str], list[str]]:
    return without_doubles(data, _names(data, folder))


def without_doubles(data: Path, names: list[str]) -> tuple[list[str], list[str]]:
    """Names of photographs below ``data`` without doubles of earlier ones, and the doubles."""
    kept: list[str] = []
    doubles: list[str] = []
    thumbnails: list[np.ndarray] = []
    for name in names:
        thumbnail = _thumbnail(data / name)
        if any(float((thumbnail * other).sum()) > ALIKE for other in thumbnails):
            doubles.append(name)
        else:
            kept.append(name)
            thumbnails.append(thumbnail)
    return kept, doubles


def _thumbnail(file: Path) -> np.ndarray:
    """A tiny grey image without its mean, of length 1."""
    grey = cv2.cvtColor(read_image(file), cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).astype(np.float64)
    small -= small.mean()
    return small / max(float(np.linalg.norm(small)), 1e-9)


def _digest(root: Path, lists: dict[str, Any]) -> str:
    found = hashlib.sha256(json.dumps(lists).encode())
    for file in sorted(root.glob('*/*.png')):
        found.update(file.name.encode() + file.read_bytes())
    return found.hexdigest()[:12]
