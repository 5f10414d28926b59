"""Parts of the study of scores: groups of images of one size, each scored by every scorer, kept as one JSON a part.

A part that is there already is not computed again, but for scorers that it lacks or that have changed since.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from basicsr.errors import QualIRError
from basicsr.files import write_text
from basicsr.iqa import Scorer

DIGITS = 6  # significant ones that are kept
Scores = list[list[float]]


@dataclass(frozen=True)
class Part:
    """Groups of images to score.

    Attributes:
        name: Name of its file, such as ``ladder_haze``.
        settings: What the images depend on; a stored part with others is computed anew. In plain JSON types.
        groups: How many groups there are.
        images: The images of one group, (N,3,H,W) RGB in [0,1], by its number.
        reference: Which image of a group is the clean one that PSNR compares with; None for no PSNR.
    """

    name: str
    settings: dict[str, Any]
    groups: int
    images: Callable[[int], Tensor] = field(repr=False)
    reference: int | None = None


def fill(part: Part, scorers: Sequence[Scorer], folder: Path, processes: int) -> dict[str, Any]:
    """Scores what is missing of a part, and writes it.

    Args:
        part: The part.
        scorers: The scorers; raw scores are kept.
        folder: Where the JSON of each part lies.
        processes: How many share the groups.

    Returns:
        The part as stored: ``settings``, ``versions``, ``better`` (1 where a higher raw score is better, else -1),
        ``scores`` (a list of raw scores a group, by scorer) and, with a reference, ``psnr``.
    """
    file = folder / f'{part.name}.json'
    stored = _stored(file, part)
    missing = [s for s in scorers if stored['versions'].get(s.name) != s.version]
    wants_psnr = part.reference is not None and 'psnr' not in stored
    if not missing and not wants_psnr:
        return stored
    found = shared(lambda number: _scored(part, number, missing), part.groups, processes)
    for scorer in missing:
        stored['versions'][scorer.name] = scorer.version
        stored['better'][scorer.name] = better(scorer)
        stored['scores'][scorer.name] = [group[scorer.name] for group in found]
    if wants_psnr:
        stored['psnr'] = [group['psnr'] for group in found]
    save(file, compact(stored))
    return stored


def save(file: Path, text: str) -> None:
    """Writes a text, and makes the folders that it needs."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, text)


def better(scorer: Scorer) -> int:
    """1 where a higher raw score is better, else -1."""
    return 1 if scorer.calibration.high > scorer.calibration.low else -1


def shared(work: Callable[[int], Any], count: int, processes: int) -> list[Any]:
    """``work(0)`` to ``work(count - 1)``, shared out to processes that inherit everything, networks too.

    Raises:
        QualIRError: A process failed; the text is that of the first.
    """
    if processes < 2 or count < 2:
        return [work(number) for number in range(count)]
    context = multiprocessing.get_context('fork')
    results, found = context.Queue(), {}
    children = [context.Process(target=_share, args=(work, count, i, processes, results)) for i in range(processes)]
    for child in children:
        child.start()
    for _ in range(count):
        number, value = results.get()
        if number < 0:
            for child in children:
                child.terminate()
            raise QualIRError(f'A process of the study failed: {value}')
        found[number] = value
    for child in children:
        child.join()
    return [found[number] for number in range(count)]


def compact(stored: dict[str, Any]) -> str:
    """JSON with one line for each scorer."""
    scores = ',\n'.join(f'  {json.dumps(k)}: {json.dumps(v)}' for k, v in stored['scores'].items())
    rest = {k: v for k, v in stored.items() if k != 'scores'}
    head = ',\n'.join(f' {json.dumps(k)}: {json.dumps(v)}' for k, v in rest.items())
    return f'{{\n{head},\n "scores": {{\n{scores}\n }}\n}}\n'


def rounded(value: float) -> float:
    """A number with as many digits as are kept."""
    return float(f'{value:.{DIGITS}g}')


def _stored(file: Path, part: Part) -> dict[str, Any]:
    """What the file holds, if its images are those of the part."""
    settings = {**part.settings, 'groups': part.groups}
    if file.is_file():
        stored = json.loads(file.read_text(encoding='utf-8'))
        if stored['settings'] == settings:
            return stored
    return {'settings': settings, 'versions': {}, 'better': {}, 'scores': {}}


def _scored(part: Part, number: int, scorers: Sequence[Scorer]) -> dict[str, list[float]]:
    """Raw scores of one group, and PSNR to its clean image (None for that one itself)."""
    images = part.images(number)
    with torch.no_grad():
        found = {s.name: [rounded(v) for v in s.raw(images).tolist()] for s in scorers}
    if part.reference is not None:
        found['psnr'] = psnr_to(images, images[part.reference])
    return found


def psnr_to(images: Tensor, clean: Tensor) -> list[float | None]:
    """PSNR in dB of each image, rounded as files are; None where it is the clean one."""
    from basicsr.metrics.psnr_ssim import calculate_psnr

    values = calculate_psnr(images, clean.expand_as(images)).tolist()
    return [None if v == float('inf') else rounded(v) for v in values]


def _share(work: Callable[[int], Any], count: int, first: int, step: int, results: Any) -> None:
    torch.set_num_threads(1)
    try:
        for number in range(first, count, step):
            results.put((number, work(number)))
    except Exception as error:
        results.put((-1, f'{type(error).__name__}: {error}'))
