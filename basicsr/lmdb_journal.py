"""What the making of an LMDB began with and what of it is done, in a file that survives a kill at any moment.

meta_info.partial holds lines of JSON: first the options, then one line for each source image, then, as the work goes
on, one line for each image that is stored or cannot be read. Lines are on the disk before the images they speak of are
committed, so the file may run ahead of the database, never behind it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from basicsr.errors import DataError
from basicsr.files import remove_leftovers, write_text
from basicsr.image_io import EXTENSIONS, list_images
from basicsr.lmdb_io import JOURNAL, MetaLine, key_of

VERSION = 1
LONGEST_KEY = 511 - len('_s00000')  # bytes; LMDB takes 511, and sub-images have a number behind


@dataclass(frozen=True)
class Plan:
    """How images are stored.

    Attributes:
        image_format: ``keep`` the bytes of the files, or encode as ``png`` or ``bmp``.
        compress_level: Of PNG, 0 to 9.
        crop_size: Side of the sub-images; None stores whole images.
        step: Pixels from one sub-image to the next.
        thresh_size: A rest of an image, beyond its last whole step, is left out unless it is larger.
    """

    image_format: str
    compress_level: int
    crop_size: int | None
    step: int | None
    thresh_size: int


class Source(NamedTuple):
    """A file, as it was when the work was planned."""

    name: str  # below the folder, with forward slashes
    size: int
    mtime: int  # ns


class Entry(NamedTuple):
    """A stored value."""

    name: str  # with ending
    height: int
    width: int
    channels: int
    crc32: int
    size: int  # bytes

    @property
    def key(self) -> str:
        """What it is stored under."""
        return key_of(self.name)

    def meta(self, level: int) -> MetaLine:
        """Its line in meta_info.txt."""
        return MetaLine(self.name, (self.height, self.width, self.channels), level)


class Journal:
    """The journal of one LMDB; opens the one that a stopped command left, or begins it.

    Args:
        place: Folder of the LMDB.
        folder: Where the images are, for messages.
        plan: How they are stored.
        sources: All of them.

    Attributes:
        done: Entries by source, in no order.
        bad: Why a source cannot be read, by its name.
        resumed: How many sources an earlier command has done.

    Raises:
        DataError: The options or the images are not those that the work began with, or the journal is damaged.
    """

    def __init__(self, place: Path, folder: Path, plan: Plan, sources: Sequence[Source]) -> None:
        self.place, self.path, self.plan, self.sources = place, place / JOURNAL, plan, sources
        self.done: dict[str, list[Entry]] = {}
        self.bad: dict[str, str] = {}
        if self.path.exists():
            remove_leftovers(place)
            self._resume(folder)
        self.resumed = len(self.done)
        self.rewrite()

    def add(self, source: str, entries: Iterable[Entry]) -> None:
        """Notes that a source is about to be committed."""
        self.done[source] = list(entries)
        self.bad.pop(source, None)
        self._file.write(_line(['done', source, self.done[source]]))

    def add_bad(self, source: str, reason: str) -> None:
        """Notes that a source cannot be read."""
        self.bad[source] = reason
        self._file.write(_line(['bad', source, reason]))

    def sync(self) -> None:
        """Makes what was added durable."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def rewrite(self) -> None:
        """Writes the journal from what is known, which drops lines that hold no longer."""
        self.close()
        head = _line({'version': VERSION, 'plan': asdict(self.plan), 'sources': len(self.sources)})
        lines = [_line(source) for source in self.sources]
        lines += [_line(['done', name, entries]) for name, entries in self.done.items()]
        lines += [_line(['bad', name, reason]) for name, reason in self.bad.items()]
        write_text(self.path, ''.join([head, *lines]))
        self._file = self.path.open('a', encoding='utf-8')

    def close(self) -> None:
        """Closes the file; harmless when it is closed."""
        if hasattr(self, '_file'):
            self._file.close()

    def _resume(self, folder: Path) -> None:
        head, sources, events = _read(self.path)
        if head['plan'] != asdict(self.plan):
            raise DataError(
                f"'{self.place}' was begun with other options ({_differences(head['plan'], asdict(self.plan))}): give "
                'those again to go on, or add --overwrite to begin anew.'
            )
        for kind, name, content in events:
            if kind == 'done':
                self.done[name] = [Entry(*entry) for entry in content]
                self.bad.pop(name, None)
            else:
                self.bad[name] = content
        self._check_sources(folder, {source.name: source for source in sources})

    def _check_sources(self, folder: Path, earlier: dict[str, Source]) -> None:
        """The images must be the same, save those that could not be read: they may have been mended or removed."""
        now = {source.name: source for source in self.sources}
        changed = [name for name in {**earlier, **now} if earlier.get(name) != now.get(name) and name not in self.bad]
        if changed:
            first = changed[0]
            what = 'was added' if first not in earlier else 'is gone' if first not in now else 'has changed'
            raise DataError(
                f"'{self.place}' was begun with other images: '{first}' in '{folder}' {what} since"
                f'{f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""}. Add --overwrite to begin anew.'
            )
        self.bad = {name: reason for name, reason in self.bad.items() if earlier.get(name) == now.get(name)}


def find_sources(folder: Path, names: Sequence[str] | None) -> list[Source]:
    """The images of a folder, in the order in which meta_info.txt will list them.

    Args:
        folder: The folder, searched with its sub-folders.
        names: Files below it to take, in this order; None takes all images.

    Raises:
        DataError: The folder or a file is missing, a name cannot be a key, or two names differ only in their ending.
    """
    if names is None:
        names = [file.relative_to(folder).as_posix() for file in list_images(folder)]
    found: dict[str, str] = {}
    sources = []
    for name in names:
        _check_name(name)
        other = found.setdefault(key_of(name), name)
        if len(found) == len(sources):
            raise DataError(
                f"'{name}' is named twice."
                if name == other
                else f"'{other}' and '{name}' in '{folder}' differ only in their ending; one of them must go."
            )
        try:
            state = (folder / name).stat()
        except OSError as error:
            raise DataError(f"'{folder / name}' cannot be read: {error.strerror or error}.") from error
        sources.append(Source(name, state.st_size, state.st_mtime_ns))
    return sources


def _check_name(name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or '..' in path.parts or path.suffix.lower() not in EXTENSIONS:
        raise DataError(f"'{name}' does not name an image below the folder ({', '.join(EXTENSIONS)}).")
    if any(character in name for character in '\t\n\r'):
        raise DataError(f'{name!r} holds a tab or a line break, which the lists of an LMDB cannot hold; rename it.')
    try:
        size = len(key_of(name).encode())
    except UnicodeEncodeError:
        raise DataError(f'{name!r} is not a name in UTF-8; rename it.') from None
    if size > LONGEST_KEY:
        raise DataError(f"'{name}' is too long for a key: {size} bytes without its ending, at most {LONGEST_KEY} fit.")


def _read(path: Path) -> tuple[dict[str, Any], list[Source], list[list[Any]]]:
    """Options, sources and events of a journal; a last line that was cut off is left out, with all after it."""
    *lines, _ = path.read_bytes().split(b'\n')
    try:
        head = json.loads(lines[0])
        if head['version'] != VERSION:
            raise ValueError
        first = 1 + head['sources']
        sources = [Source(*json.loads(line)) for line in lines[1:first]]
    except (ValueError, KeyError, IndexError, TypeError):
        raise DataError(f"'{path}' is not a journal that can be gone on with; add --overwrite to begin anew.") from None
    events = []
    for line in lines[first:]:
        try:
            events.append(json.loads(line))
        except ValueError:
            break
    return head, sources, events


def _line(content: Any) -> str:
    return json.dumps(content, separators=(',', ':')) + '\n'


def _differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    return ', '.join(f'{k} was {before.get(k)}, is {now[k]}' for k in now if before.get(k) != now[k])
