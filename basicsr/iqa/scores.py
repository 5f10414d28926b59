"""What ``tools/score_dataset.py`` leaves for others to read: scores of images, and statistics of a data set."""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from basicsr.errors import DataError
from basicsr.image_io import EXTENSIONS

PERCENTILES = (0.1, 1.0, 5.0, 25.0, 50.0, 75.0, 95.0, 99.0, 99.9)
NAME_COLUMN, SCORE_COLUMN = 'imagename', 'score'
Stats = dict[str, dict[str, Any]]


def read_scores(path: str | Path, column: str = SCORE_COLUMN) -> dict[str, float]:
    """Scores by the name of the image.

    Args:
        path: A CSV with the columns ``imagename`` and ``column``; others are passed over.
        column: Which score to read: ``score``, or a member of the ensemble.

    Returns:
        Scores by path below the root, without ending, as a data set names its images.

    Raises:
        DataError: The file cannot be read, a column is missing, a name is there twice, or a value is no number; the
            text names file, line and column.
    """
    path = Path(path)
    try:
        with path.open(encoding='utf-8-sig', newline='') as file:
            return _read_rows(path, csv.reader(file), column)
    except OSError as error:
        raise DataError(f"The scores '{path}' cannot be read: {error.strerror or error}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"'{path}' is no CSV file in UTF-8: {error}.") from error


def read_stats(path: str | Path) -> Stats:
    """Statistics of the raw scores of a data set, by member.

    Returns:
        For each member ``min``, ``max``, ``mean``, ``percentiles`` (numbers by their text, ``'0.1'``), ``count`` and
        ``version``.

    Raises:
        DataError: The file cannot be read or holds something else; the text names file and key.
    """
    path = Path(path)
    try:
        members = json.loads(path.read_text(encoding='utf-8'))['members']
        found = {str(name): dict(member) for name, member in members.items()}
    except OSError as error:
        raise DataError(f"The statistics '{path}' cannot be read: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"'{path}' holds no statistics of tools/score_dataset.py ({error!r}).") from error
    for name, member in found.items():
        _check_member(path, name, member)
    return found


def quantile(scores: Collection[float], share: float) -> float:
    """The score below which a share of the images lies, 0 to 1: with 0.85, IQPIR's ``tau`` for the best 15 %."""
    return float(np.quantile(np.fromiter(scores, np.float64, len(scores)), share))


def quantile_edges(scores: Collection[float], bins: int = 10) -> list[float]:
    """Edges between bins that hold equally many images, for ``edges`` of a score condition.

    Returns:
        ``bins - 1`` increasing numbers between 0 and 1, of 4 digits.

    Raises:
        DataError: Scores are so much alike that two edges coincide, or are not within [0,1].
    """
    values = np.fromiter(scores, np.float64, len(scores))
    edges = [round(float(edge), 4) for edge in np.quantile(values, np.arange(1, bins) / bins)]
    if any(low >= high for low, high in itertools.pairwise((0.0, *edges, 1.0))):
        raise DataError(f'The scores cannot be sorted into {bins} bins of equally many images within 0 and 1: {edges}.')
    return edges


def key_of_image(name: str) -> str:
    """The name of an image without the ending of an image file, with forward slashes."""
    name = name.replace('\\', '/')
    stem, dot, ending = name.rpartition('.')
    return stem if dot and f'.{ending.lower()}' in EXTENSIONS else name


def _read_rows(path: Path, rows: Any, column: str) -> dict[str, float]:
    header = next(rows, [])
    missing = [name for name in (NAME_COLUMN, column) if name not in header]
    if missing:
        raise DataError(f"'{path}', line 1: there is no column '{missing[0]}', only: {', '.join(header) or 'nothing'}.")
    names, values = header.index(NAME_COLUMN), header.index(column)
    found: dict[str, float] = {}
    for row in rows:
        where = f"'{path}', line {rows.line_num}"
        if not row:
            continue
        if len(row) != len(header):
            raise DataError(f'{where}: {len(row)} columns, where line 1 has {len(header)}.')
        key = key_of_image(row[names])
        if key in found:
            raise DataError(f"{where}: the image '{key}' is there twice.")
        found[key] = _number(row[values], f"{where}, column '{column}'")
    if not found:
        raise DataError(f"'{path}' has no line beyond the first: it holds no score.")
    return found


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: '{text}' is not a finite number.")
    return value


def _check_member(path: Path, name: str, member: dict[str, Any]) -> None:
    percentiles = member.get('percentiles')
    numbers = {'min': member.get('min'), 'max': member.get('max')}
    numbers |= percentiles if isinstance(percentiles, dict) else {'percentiles': None}
    for key, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise DataError(f"'{path}', member '{name}': '{key}' is {value!r}, not a finite number.")
