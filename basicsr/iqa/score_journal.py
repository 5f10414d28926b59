"""What the scoring of a data set began with and what of it is done, in files that survive a kill at any moment.

Beside the CSV lies, while it is made, a folder ``<name>.csv.partial``: ``plan.json`` says what is scored and how, and
each process of a launch appends a line of JSON to its own ``rank<N>.jsonl`` for each chunk of images that is done.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from basicsr.errors import DataError, OptionError
from basicsr.files import remove_leftovers, write_text

PLAN, LOCK = 'plan.json', 'running.lock'


class Row(NamedTuple):
    """The outcome for one image.

    Attributes:
        name: The image.
        raw: Raw scores of the members, in their order; empty if it cannot be scored.
        reason: Why it cannot be scored, or ''.
    """

    name: str
    raw: list[float]
    reason: str = ''


class ScoreJournal:
    """The journal of one CSV; goes on with the one that a stopped command left, or begins it.

    Args:
        out: The CSV.
        plan: All that the scores depend on, as JSON holds it.
        rank: Number of this process in a launch; 0 begins the journal, and is there first.

    Attributes:
        done: Rows by the number of their chunk.

    Raises:
        DataError: The journal was begun with another plan, or is damaged.
        OptionError: Another process is at work, or the disk cannot be written to.
    """

    def __init__(self, out: Path, plan: dict[str, Any], rank: int = 0) -> None:
        self.folder = partial_folder(out)
        self._lock: FileLock | None = None
        try:
            if rank == 0:
                self._begin(plan)
            self.done = self._read()
            self._file = _open_mended(self.folder / f'rank{rank}.jsonl')
        except OSError as error:
            raise OptionError(f"'{self.folder}' cannot be written to: {error.strerror or error}.") from error

    def add(self, chunk: int, rows: list[Row]) -> None:
        """Notes that a chunk is done, for good."""
        self.done[chunk] = rows
        self._file.write(json.dumps([chunk, rows], separators=(',', ':')).encode() + b'\n')
        self._file.flush()
        os.fsync(self._file.fileno())

    def read_all(self) -> None:
        """Takes in what the other processes have done."""
        self.done = self._read()

    def close(self, remove: bool = False) -> None:
        """Closes the journal, and removes it when the CSV is there."""
        self._file.close()
        if self._lock is not None:
            self._lock.release()
        if remove:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _begin(self, plan: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.folder / LOCK)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise OptionError(f"Another command is scoring into '{self.folder}' at this moment.") from None
        remove_leftovers(self.folder)
        path = self.folder / PLAN
        if not path.exists():
            write_text(path, json.dumps(plan, indent=1) + '\n')
            return
        try:
            before = json.loads(path.read_text(encoding='utf-8'))
        except ValueError as error:
            raise DataError(f"'{path}' is damaged ({error}); add --overwrite to begin anew.") from None
        if before != plan:
            raise DataError(
                f"'{self.folder}' was begun with something else ({difference(before, plan)}): give the same again to "
                'go on, or add --overwrite to begin anew.'
            )

    def _read(self) -> dict[int, list[Row]]:
        """All rows; a last line that was cut off by a kill is left out."""
        found: dict[int, list[Row]] = {}
        for file in sorted(self.folder.glob('rank*.jsonl')):
            *lines, _ = file.read_bytes().split(b'\n')
            for line in lines:
                try:
                    chunk, rows = json.loads(line)
                    found[chunk] = [Row(*row) for row in rows]
                except (ValueError, TypeError) as error:
                    raise DataError(f"'{file}' is damaged ({error}); add --overwrite to begin anew.") from None
        return found


def partial_folder(out: Path) -> Path:
    """Where the journal of a CSV lies."""
    return out.with_name(f'{out.name}.partial')


def difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The keys of two plans that differ, with their values where these are short."""
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return ', '.join(
        f'{key} was {before.get(key)}, is {now.get(key)}'
        if len(f'{before.get(key)}{now.get(key)}') < 80
        else f'other {key}'
        for key in keys
    )


def _open_mended(path: Path) -> Any:
    """Opens a file for lines to be added, after its last whole line."""
    content = path.read_bytes() if path.exists() else b''
    file = path.open('ab')
    file.truncate(content.rfind(b'\n') + 1)
    return file
