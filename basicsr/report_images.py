"""The pictures of a report: finds what validation saved, chooses without looking, embeds within a size budget."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from basicsr.report_figures import gain_of, primary_metric, shared_metric

if TYPE_CHECKING:
    import numpy as np

Record = dict[str, Any]

BUDGET = 4_100_000  # bytes of all pictures; base64 makes a third more of it
# Longest side in pixels and WebP quality, tried in this order. All pictures of a page share one step, so that no
# difference that is seen comes from compression.
_STEPS = (
    (1280, 90),
    (1024, 88),
    (896, 86),
    (768, 84),
    (640, 82),
    (512, 80),
    (448, 76),
    (384, 72),
    (320, 66),
    (256, 60),
    (192, 50),
)
_FILE = re.compile(r'(?P<key>.+)_(?P<what>lq|gt|\d+)\.png')


@dataclass
class Example:
    """One picture of a validation.

    Attributes:
        dataset: Name of the data set, a folder under ``visualization``.
        task: Its task, such as ``haze``; empty where the history names none.
        key: Its name.
        iteration: Iteration of the network that restored it.
        files: Before, after and clean; None for what was not saved.
        record: The validation whose output this is; empty if the history has none.
        entry: Its own part of that validation, with ``metrics`` and ``input_metrics``; empty if there is none.
    """

    dataset: str
    task: str
    key: str
    iteration: int
    files: tuple[Path | None, Path, Path | None]
    record: Record = field(default_factory=dict)
    entry: Record = field(default_factory=dict)

    @property
    def gain(self) -> float | None:
        """How much better it became; see :func:`basicsr.report_figures.gain_of`."""
        return gain_of(self.entry, self.record)


def find_examples(folder: Path, validations: dict[str, list[Record]]) -> list[Example]:
    """Every validated picture that was saved with its input or its clean image, by data set, task and name.

    Args:
        folder: The ``visualization`` folder with ``<dataset>/<key>_lq.png``, ``<key>_gt.png``, ``<key>_<iter>.png``.
        validations: The history's validations of each data set.
    """
    examples = []
    for place in sorted(p for p in folder.glob('*') if p.is_dir()):
        records = {r['iter']: r for r in validations.get(place.name, [])}
        saved: dict[str, dict[str, Path]] = {}
        for file in place.rglob('*.png'):
            match = _FILE.fullmatch(file.relative_to(place).as_posix())
            if match:
                saved.setdefault(match['key'], {})[match['what']] = file
        found = (_example(place.name, key, files, records) for key, files in saved.items())
        examples += [e for e in found if e is not None]
    return sorted(examples, key=lambda e: (natural_key(e.dataset), natural_key(e.task), natural_key(e.key)))


def _example(dataset: str, key: str, files: dict[str, Path], records: dict[int, Record]) -> Example | None:
    outputs = {int(what): file for what, file in files.items() if what.isdigit()}
    before, clean = files.get('lq'), files.get('gt')
    if not outputs or (before is None and clean is None):
        return None
    # A picture newer than the history is left from before the run was set back; its numbers are gone.
    iteration = max([i for i in outputs if i in records] or outputs)
    record = records.get(iteration, {})
    entry = next((e for e in record.get('images', []) if str(e.get('key')) == key), {})
    files_shown = (before, outputs[iteration], clean)
    return Example(dataset, str(entry.get('task') or ''), key, iteration, files_shown, record, entry)


def choose(examples: list[Example], limit: int) -> list[Example]:
    """At most ``limit`` of them: the first of each task by name, in turns, and always the one that gained least.

    Sets may have unlike metrics; the least gain is looked for where :func:`shared_metric` was measured.
    """
    if len(examples) <= limit:
        return examples
    rated = [e for e in examples if e.gain is not None]
    metric = shared_metric(e.entry for e in rated)
    compared = [e for e in rated if primary_metric(e.entry['metrics']) == metric]
    weakest = min(compared, key=lambda e: e.gain or 0.0) if compared and limit > 0 else None
    groups: dict[tuple[str, str], list[int]] = {}
    for index, example in enumerate(examples):
        if example is not weakest:
            groups.setdefault((example.dataset, example.task), []).append(index)
    turns = [i for turn in zip_longest(*groups.values()) for i in turn if i is not None]
    taken = set(turns[: limit - (weakest is not None)])
    return [e for i, e in enumerate(examples) if i in taken or e is weakest]


def natural_key(text: str) -> list[tuple[int, int, str]]:
    """Sorts ``photo2`` before ``photo10``."""
    parts = re.findall(r'\d+|\D+', text)
    return [(0, int(p), '') if p.isdecimal() else (1, 0, p.lower()) for p in parts]


class Embedded(NamedTuple):
    """Examples with their pictures as ``data:`` addresses, and what must be said about them."""

    examples: list[Example]
    urls: list[list[str | None]]  # of each example: before, after, clean
    unreadable: list[str]  # names of the files that could not be decoded
    note: str


def embed(examples: list[Example], budget: int = BUDGET) -> Embedded:
    """Encodes the pictures of all examples as WebP at one size and quality: the best that fits ``budget`` bytes."""
    kept, images, unreadable, longest = [], [], [], 0
    for example in examples:
        decoded = [None if f is None else _read(f) for f in example.files]
        broken = [f.name for f, image in zip(example.files, decoded) if f is not None and image is None]
        unreadable += broken
        if not broken:
            kept.append(example)
            images.append([None if d is None else d[0] for d in decoded])
            longest = max([longest, *(d[1] for d in decoded if d is not None)])
    coded, side, quality = _encode_all(images, budget)
    urls = [
        [None if c is None else f'data:image/webp;base64,{base64.b64encode(c).decode()}' for c in row] for row in coded
    ]
    size = f'reduced to at most {side} pixels a side' if longest > side else 'in full size'
    note = (
        f'Pictures are embedded {size} as WebP of quality {quality}; the numbers are those of the originals.'
        if kept
        else ''
    )
    return Embedded(kept, urls, unreadable, note)


def _read(file: Path) -> tuple[np.ndarray, int] | None:
    """A picture as (H,W,3) uint8 BGR, no larger than can be embedded, and its longer side; None if it is no picture."""
    import cv2
    import numpy as np

    try:
        content = np.fromfile(file, dtype=np.uint8)  # cv2.imread cannot open every path on Windows
        image = cv2.imdecode(content, cv2.IMREAD_COLOR) if content.size else None
    except (OSError, cv2.error):
        return None
    return None if image is None else (_reduce(image, _STEPS[0][0]), max(image.shape[:2]))


def _reduce(image: np.ndarray, side: int) -> np.ndarray:
    import cv2

    height, width = image.shape[:2]
    ratio = side / max(height, width)
    if ratio >= 1:
        return image
    return cv2.resize(
        image, (max(round(width * ratio), 1), max(round(height * ratio), 1)), interpolation=cv2.INTER_AREA
    )


def _encode_all(images: list[list[np.ndarray | None]], budget: int) -> tuple[list[list[bytes | None]], int, int]:
    for side, quality in _STEPS:
        coded: list[list[bytes | None]] = []
        total = 0
        for row in images:
            coded.append([None if image is None else _encode(image, side, quality) for image in row])
            total += sum(len(c) for c in coded[-1] if c is not None)
            if total > budget and (side, quality) != _STEPS[-1]:
                break
        else:
            break
    return coded, side, quality


def _encode(image: np.ndarray, side: int, quality: int) -> bytes:
    import cv2

    done, coded = cv2.imencode('.webp', _reduce(image, side), [cv2.IMWRITE_WEBP_QUALITY, quality])
    assert done, 'OpenCV encodes every 8-bit image of this size'
    return coded.tobytes()
