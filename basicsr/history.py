"""The history of a run: ``experiments/<name>/history.jsonl``, one JSON object per line, from which the report is made.

Three kinds of records are written; fields beyond these are kept as they are, and old files lack some::

    {"kind": "run",   "iter": 0, "facts": {"machine": "...", "parameters": 123, ...}}        at each start or resume
    {"kind": "train", "iter": 100, "epoch": 3, "losses": {...}, "signals": {...}, "lr": 1e-3, "images_per_s": 41.2,
     "data_share": 0.03}
    {"kind": "val",   "iter": 500, "dataset": "val", "seconds": 3.1, "metrics": {...}, "input_metrics": {...},
     "per_task": {...}, "images": [...], "protocol": "...", "higher_better": {...}}

``losses`` are numbers; ``signals``, what a method tells beside them, are numbers or lists of numbers (bins); both are
means over the iterations since the last record. Every record also holds ``time`` (Unix seconds). JSON has no NaN and no
infinity: they are written as the strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``, and :meth:`History.read` turns
them back into floats.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from basicsr.errors import DataError
from basicsr.files import write_text

FILE_NAME = 'history.jsonl'
_NON_FINITE = {'NaN': math.nan, 'Infinity': math.inf, '-Infinity': -math.inf}
_TEXT_FIELDS = frozenset({'kind', 'dataset', 'key', 'task', 'protocol', 'facts'})  # a picture may be called "NaN"
_NUMBER_FIELDS = frozenset({'losses', 'signals', 'metrics', 'input_metrics'})


class History:
    """Appends records to a history file.

    Args:
        path: The file; it and its folder are made by the first :meth:`append`.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._tail_checked = False

    def append(self, record: dict[str, Any]) -> None:
        """Writes one record and hands it to the operating system at once, so that a killed run loses at most this line.

        Args:
            record: Plain containers, numbers and NumPy or torch scalars, with ``kind`` and ``iter``; ``time`` is added.
        """
        _identity(record)
        line = json.dumps(_encode({'time': time.time(), **record}), allow_nan=False, separators=(',', ':'))
        if not self._tail_checked:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _mend_tail(self.path)
            self._tail_checked = True
        with self.path.open('a', encoding='utf-8', newline='\n') as file:
            file.write(line + '\n')

    def rewind(self, iteration: int) -> int:
        """Drops every record after ``iteration``, atomically: a resumed run writes them again.

        Returns:
            How many records were dropped.

        Raises:
            DataError: A line other than the last is not a record.
        """
        if not self.path.is_file():
            return 0
        records = self.read(self.path)
        kept = [r for r in records if r['iter'] <= iteration]
        lines = [json.dumps(_encode(r), allow_nan=False, separators=(',', ':')) + '\n' for r in kept]
        write_text(self.path, ''.join(lines))
        return len(records) - len(kept)

    @staticmethod
    def read(path: Path) -> list[dict[str, Any]]:
        """All records in the order of the file.

        A record replaces an earlier one of the same kind, iteration and dataset. A torn last line, as a killed run
        leaves it, is passed over.

        Raises:
            DataError: The file cannot be read, or a line other than the last is not a record.
        """
        try:
            lines = Path(path).read_bytes().splitlines()
        except OSError as error:
            raise DataError(f'The history {path} cannot be read: {error.strerror}.') from error
        records: dict[tuple[str, int, str], dict[str, Any]] = {}
        for number, line in enumerate(lines, start=1):
            record = _parse(line)
            if record is None and line.strip() and number < len(lines):
                raise DataError(f'{path}, line {number}: not a history record (a JSON object with "kind" and "iter").')
            if record is not None:
                records.pop(_identity(record), None)
                records[_identity(record)] = record
        return list(records.values())


def _identity(record: dict[str, Any]) -> tuple[str, int, str]:
    return str(record['kind']), int(record['iter']), str(record.get('dataset', ''))


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
        _identity(value)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return _decode(value)


def _mend_tail(path: Path) -> None:
    """Ends or removes an unfinished last line, so that the next record does not run into it."""
    if not path.is_file() or not path.stat().st_size:
        return
    with path.open('rb+') as file:
        content = file.read()
        if content.endswith(b'\n'):
            return
        start = content.rfind(b'\n') + 1
        if _parse(content[start:]) is None:
            file.truncate(start)
        else:
            file.write(b'\n')


def _encode(value: Any) -> Any:
    """Plain JSON values; a float that JSON does not have becomes a string."""
    if isinstance(value, dict):
        return {str(k): _encode(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return 'NaN' if math.isnan(value) else 'Infinity' if value > 0 else '-Infinity'
    if hasattr(value, 'item'):  # a NumPy or torch scalar
        return _encode(value.item())
    return str(value) if isinstance(value, Path) else value


def _decode(value: Any, numbers: bool = False) -> Any:
    """Undoes :func:`_encode`; ``numbers`` says that all values of a dict are numbers, whatever their names."""
    if isinstance(value, dict):
        return {
            k: v if k in _TEXT_FIELDS and not numbers else _decode(v, k in _NUMBER_FIELDS) for k, v in value.items()
        }
    if isinstance(value, list):
        return [_decode(v) for v in value]
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value
