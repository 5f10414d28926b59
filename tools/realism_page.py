"""Pictures and the table of docs/realism.md, for ``tools/realism.py``."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from basicsr.errors import DataError, OptionError
from basicsr.image_io import read_image, to_uint8
from basicsr.tools.realism_folders import manifest, named_files

TILE = (300, 225)  # width and height of a photograph on a sheet
EDGE = 22  # of the strip on the left that names the row, in pixels
ORDER = ('haze', 'rain', 'snow', 'low_light', 'underwater')
LABELS = ('before', 'after')


def sheet(synthetic: Path, real: list[Path] | None, columns: int, rows: int, seed: int) -> np.ndarray:
    """Rows of degraded photographs, each followed by one of real ones while they last; drawn, none twice.

    Args:
        synthetic: Folder of degraded photographs.
        real: Folders of real ones, or None.
        columns: Photographs in a row.
        rows: Rows of each kind.
        seed: Of the choice.

    Returns:
        (H,W,3) RGB uint8.

    Raises:
        DataError: A folder holds too few photographs.
        OptionError: Columns or rows are less than 1.
    """
    if columns < 1 or rows < 1:
        raise OptionError(f'--columns is {columns} and --rows is {rows}; both must be at least 1.')
    kinds = {'synthetic': _different(synthetic, seed), 'real': list(named_files(real).values()) if real else []}
    drawn = [(kind, _draw(files, columns, rows, seed)) for kind, files in kinds.items()]
    strips = []
    for row in range(rows):
        for kind, files in drawn:
            tiles = [tile(to_uint8(read_image(f))) for f in files[row * columns : (row + 1) * columns]]
            strips += [np.concatenate([_edge(kind), *tiles], axis=1)] if tiles else []
    return np.concatenate(strips, axis=0)


def _different(folder: Path, seed: int) -> list[Path]:
    """One degraded copy of each photograph."""
    owners = manifest(folder).get('photographs', {})
    copies: dict[str, list[Path]] = {}
    for name, file in named_files([folder]).items():
        copies.setdefault(owners.get(file.relative_to(folder).as_posix(), name), []).append(file)
    rng = np.random.default_rng([seed, 2])
    return [files[int(rng.integers(len(files)))] for files in copies.values()]


def _draw(files: list[Path], columns: int, rows: int, seed: int) -> list[Path]:
    """A random choice for whole rows, none twice; a row that cannot be filled is left out.

    Raises:
        DataError: The files do not fill one row.
    """
    if files and len(files) < columns:
        raise DataError(f"'{files[0].parent}' holds {len(files)} photographs, too few for a row of {columns}.")
    chosen = np.random.default_rng(seed).permutation(len(files))[: columns * min(rows, len(files) // columns)]
    return [files[i] for i in chosen]


def tile(image: np.ndarray) -> np.ndarray:
    """An (H,W,3) uint8 image, cut to the shape of a tile around its middle and scaled to it."""
    width, height = TILE
    scale = max(width / image.shape[1], height / image.shape[0])
    size = max(width, round(image.shape[1] * scale)), max(height, round(image.shape[0] * scale))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def _edge(label: str) -> np.ndarray:
    """The strip that names a row, read from below."""
    strip = np.full((EDGE, TILE[1], 3), 255, np.uint8)
    cv2.putText(strip, label, (8, EDGE - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40, 40, 40), 1, cv2.LINE_AA)
    return np.ascontiguousarray(np.rot90(strip))


def encoded(image: np.ndarray, largest: int = 400_000) -> bytes:
    """A sheet as JPEG, of the best quality that stays below ``largest`` bytes.

    Raises:
        DataError: The sheet is too large at any quality worth looking at.
    """
    for quality in range(92, 50, -4):
        _, data = cv2.imencode('.jpg', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
        if data.size < largest:
            return data.tobytes()
    raise DataError(
        f'The sheet of {image.shape[1]}x{image.shape[0]} pixels needs more than {largest} bytes; take fewer.'
    )


def table(records: list[dict[str, Any]]) -> str:
    """The stored results in Markdown: how often told from real, and how well learned from.

    Args:
        records: As ``score`` stores them.

    Returns:
        Two tables and a note.
    """
    groups: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for record in sorted(records, key=lambda r: ORDER.index(r['task'])):
        groups.setdefault((record['task'], record['of']), {})[record['label']] = record
    rows = [(group, view) for group in groups.values() for view in next(iter(group.values()))['views']]
    told = [
        'Told from real photographs, balanced accuracy in % (AUC); lower is better, 50 is guessing:',
        '',
        '| weather | real photographs | view | before tuning | after tuning | clean, no weather | real against real |',
        '| --- | --- | --- | --- | --- | --- | --- |',
        *(_told_row(group, view) for group, view in rows),
    ]
    learned = [
        'Learned from degraded photographs alone: AUC of the weather found in real (degraded) ones; higher is better:',
        '',
        '| weather | real photographs | view | before tuning | after tuning |',
        '| --- | --- | --- | --- | --- |',
        *(_learned_row(group, view) for group, view in rows),
    ]
    return '\n'.join([*told, '', *learned, '', _note(records)])


def _head(group: dict[str, dict[str, Any]], view: str) -> list[str]:
    record = next(iter(group.values()))
    return [record['task'].replace('_', ' '), f'{record["of"]} ({record["photographs"]["real"]})', view]


def _told_row(group: dict[str, dict[str, Any]], view: str) -> str:
    """Degraded photographs of each label, and the controls of the newest result that has them."""
    cells = [_accuracy(group.get(label), view, 'synthetic') for label in LABELS]
    # The controls do not depend on the degradations: a later --no-controls leaves those of an earlier run valid.
    controls = [
        next((c for label in reversed(LABELS) if (c := _accuracy(group.get(label), view, kind))), '')
        for kind in ('clean', 'real')
    ]
    return _row([*_head(group, view), *cells, *controls])


def _learned_row(group: dict[str, dict[str, Any]], view: str) -> str:
    cells = []
    for label in LABELS:
        found = group.get(label, {}).get('views', {}).get(view, {}).get('recognised')
        own = f' ({statistics.mean(found["synthetic"]):.2f})' if found else ''
        cells.append(f'{_spread(found["real"], 2)}{own}' if found else '')
    return _row([*_head(group, view), *cells])


def _row(cells: list[str]) -> str:
    return f'| {" | ".join(cells)} |'


def _accuracy(record: dict[str, Any] | None, view: str, kind: str) -> str:
    found = record['views'].get(view, {}).get(kind) if record else None
    if not found:
        return ''
    return f'{_spread([100 * a for a in found["accuracy"]], 0)} ({statistics.mean(found["auc"]):.2f})'


def _spread(values: list[float], digits: int) -> str:
    spread = f' ± {statistics.stdev(values):.{digits}f}' if len(values) > 1 else ''
    return f'{statistics.mean(values):.{digits}f}{spread}'


def _note(records: list[dict[str, Any]]) -> str:
    """Seeds, and which degradations each label stands for."""
    versions = {label: sorted({r['version'] for r in records if r['label'] == label}) for label in LABELS}
    named = '; '.join(f'{label}: commit {", ".join(found)}' for label, found in versions.items() if found)
    seeds = max(len(r['seeds']) for r in records) if records else 0
    return f'Mean ± standard deviation over {seeds} seeds; in brackets after a set, its number of photographs. {named}.'
