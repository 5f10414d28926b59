"""Folders of photographs for ``tools/realism.py``: reading them, and degrading clean ones into a new one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from basicsr.errors import DataError, OptionError
from basicsr.files import write_text
from basicsr.image_io import list_images, read_image, to_uint8
from basicsr.tools.realism_render import reduced
from basicsr.tools.realism_score import Photographs, comparable

ROOT = Path(__file__).resolve().parents[1]
MANIFEST = 'render.json'
TYPES = {'haze': 'Haze', 'rain': 'Rain', 'snow': 'Snow', 'low_light': 'LowLight', 'underwater': 'Underwater'}
COPY = 0.97  # correlation of thumbnails above which two photographs are copies of one
SIZE_SEED = 20  # of the draw of sizes; the same for all, so that clean and degraded photographs get the same ones


@dataclass(frozen=True)
class Rendering:
    """What to degrade and how.

    Attributes:
        task: Which degradation.
        clean: Folders of clean photographs.
        like: Folders of real photographs whose sizes are drawn; None leaves the sizes as they are.
        degradations: YAML file of blocks; None takes the task's type as it is.
        checkout: Whose degradations are used.
        seed: Of the degradations.
        variants: Degraded copies of each photograph.
    """

    task: str
    clean: list[Path]
    like: list[Path] | None = None
    degradations: Path | None = None
    checkout: Path = ROOT
    seed: int = 0
    variants: int = 2


def render(job: Rendering, out: Path) -> dict[str, Any]:
    """Degrades clean photographs into ``out``; returns the manifest that is written beside them.

    Raises:
        DataError: A folder holds no photograph, or ``out`` holds other files.
        OptionError: The degradations cannot be built.
    """
    if job.variants < 1:
        raise OptionError(f'--variants is {job.variants}; it must be at least 1.')
    if out.is_dir() and any(out.iterdir()) and not (out / MANIFEST).is_file():
        raise DataError(f"Folder '{out}' is not empty and not of an older render; give a new one.")
    photos = _plan(job, out)
    blocks = _blocks(job)
    for old in out.glob('v*/*.png'):
        old.unlink()
    used = _run(job.checkout, {'task': job.task, 'blocks': blocks, 'photos': photos, 'seed': job.seed})
    about = {
        'task': job.task,
        'seed': job.seed,
        'version': version(job.checkout),
        'degradations': used,
        'photographs': {Path(p['out']).relative_to(out.resolve()).as_posix(): p['photograph'] for p in photos},
    }
    write_text(out / MANIFEST, json.dumps(about, indent=1) + '\n')
    return about


def _plan(job: Rendering, out: Path) -> list[dict[str, Any]]:
    """Every image to render: where it comes from, where it goes, and its size."""
    sizes = drawn_sizes(job.like)
    files = named_files(job.clean)
    return [
        {
            'file': str(file.resolve()),
            'out': str((out / f'v{variant}' / f'{name.replace("/", "__")}.png').resolve()),
            'photograph': name,
            'variant': variant,
            'long_side': sizes(i),
        }
        for variant in range(job.variants)
        for i, (name, file) in enumerate(files.items())
    ]


def _blocks(job: Rendering) -> list[dict[str, Any]]:
    """Blocks of the YAML file: a list, or a mapping with the key ``degradations``."""
    if job.degradations is None:
        return [{'type': TYPES[job.task]}]
    import yaml

    try:
        blocks = yaml.safe_load(job.degradations.read_text(encoding='utf-8'))
    except (OSError, yaml.YAMLError) as error:
        raise OptionError(f"'{job.degradations}' cannot be read: {error}") from error
    blocks = blocks.get('degradations') if isinstance(blocks, dict) else blocks
    if not isinstance(blocks, list) or not blocks or not all(isinstance(b, dict) and 'type' in b for b in blocks):
        raise OptionError(f"'{job.degradations}' must hold a list of blocks with a type, such as '- {{type: Rain}}'.")
    return blocks


def _run(checkout: Path, job: dict[str, Any]) -> list[dict[str, Any]]:
    """Renders in a process of its own, since only there another checkout can be imported."""
    if not (checkout / 'basicsr/registry.py').is_file():
        raise OptionError(f"'{checkout}' is no checkout of this project: it has no basicsr/registry.py.")
    command = [sys.executable, str(ROOT / 'tools/realism_render.py'), str(checkout.resolve())]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, cwd=checkout)
    if done.returncode:
        raise OptionError(f'The degradations of {checkout} failed: {done.stderr.strip()}')
    return json.loads(done.stdout)


def version(checkout: Path) -> str:
    """The commit of a checkout, and whether its degradations differ from it; 'unknown' outside Git."""

    def git(*words: str) -> str:
        return subprocess.run(['git', '-C', str(checkout), *words], capture_output=True, text=True, check=True).stdout

    try:
        changed = ' (modified)' if git('status', '--porcelain', '--', 'data').strip() else ''
        return git('rev-parse', '--short=7', 'HEAD').strip() + changed
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'


def drawn_sizes(like: list[Path] | None) -> Callable[[int], int]:
    """A function from the index of a photograph to the longest side it is reduced to."""
    if not like:
        return lambda index: 10**9
    found = [max(read_image(file).shape[:2]) for file in named_files(like).values()]
    order = np.random.default_rng(SIZE_SEED).permutation(len(found))
    return lambda index: found[order[index % len(found)]]


def named_files(folders: list[Path]) -> dict[str, Path]:
    """Photographs of folders by their path below the folder without ending; a name used before gets a number.

    Raises:
        DataError: A folder is missing or holds no photograph.
    """
    files: dict[str, Path] = {}
    for folder in folders:
        for file in list_images(folder):
            stem = name = file.relative_to(folder).with_suffix('').as_posix()
            number = 2
            while name in files:
                name, number = f'{stem}_{number}', number + 1
            files[name] = file
    return files


def manifest(folder: Path) -> dict[str, Any]:
    """What ``render`` left beside its photographs; empty for a folder that others made.

    Raises:
        DataError: The manifest is damaged.
    """
    file = folder / MANIFEST
    if not file.is_file():
        return {}
    try:
        return json.loads(file.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise DataError(f"'{file}' cannot be read: {error}") from error


def load_synthetic(folder: Path) -> Photographs:
    """Degraded photographs, the copies of one photograph together."""
    owners = manifest(folder).get('photographs', {})
    photos: Photographs = {}
    for name, file in named_files([folder]).items():
        photo = owners.get(file.relative_to(folder).as_posix(), name)
        photos.setdefault(photo, []).append(comparable(to_uint8(read_image(file))))
    return photos


def load(folders: list[Path], like: list[Path] | None = None) -> Photographs:
    """Photographs ready to be compared; with ``like`` first reduced to the sizes that ``render`` gives them."""
    sizes = drawn_sizes(like)
    return {
        name: [comparable(to_uint8(reduced(read_image(file), sizes(i))))]
        for i, (name, file) in enumerate(named_files(folders).items())
    }


def scenes(photos: Photographs) -> dict[str, str]:
    """Finds copies of one picture, as collections from the web hold: of each name, the name of its first copy.

    Two are copies if their grey thumbnails of 16x16 means correlate above :data:`COPY`.
    """
    found: dict[str, str] = {}
    kept: list[tuple[str, np.ndarray]] = []
    for name, images in photos.items():
        small = cv2.resize(cv2.cvtColor(images[0], cv2.COLOR_RGB2GRAY), (16, 16), interpolation=cv2.INTER_AREA)
        thumb = small.astype(np.float32).ravel() - small.mean()
        thumb /= max(float(np.linalg.norm(thumb)), 1e-6)
        found[name] = next((first for first, other in kept if float(thumb @ other) > COPY), name)
        if found[name] == name:
            kept.append((name, thumb))
    return found


def merged(photos: Photographs, scene_of: dict[str, str]) -> Photographs:
    """Photographs with the copies of one scene under one name, so that no copy is judged by what another taught."""
    together: Photographs = {}
    for name, images in photos.items():
        together.setdefault(scene_of.get(name, name), []).extend(images)
    return together
