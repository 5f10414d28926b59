"""Reads LMDBs of images in BasicSR's layout.

``X.lmdb/`` holds data.mdb, whose values are encoded image files; meta_info.txt, a line ``name.png (h,w,c) level`` for
each of them, stored under the name without ending; and, if :mod:`basicsr.lmdb_make` made it, checksums.txt.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from basicsr.errors import DataError
from basicsr.lmdb_pages import DamagedError, Database

DATA, LOCK, META_INFO, CHECKSUMS = 'data.mdb', 'lock.mdb', 'meta_info.txt', 'checksums.txt'
JOURNAL = 'meta_info.partial'  # there while the LMDB is being made
_LINE = re.compile(r'(.+) \((\d+),(\d+),(\d+)\) (\d+)')


class MetaLine(NamedTuple):
    """One line of meta_info.txt."""

    name: str
    size: tuple[int, int, int]  # height, width, channels
    level: int  # of PNG compression; 0 where the file's bytes were kept

    @property
    def key(self) -> str:
        """What the image is stored under."""
        return key_of(self.name)

    def __str__(self) -> str:
        height, width, channels = self.size
        return f'{self.name} ({height},{width},{channels}) {self.level}'


class Checksum(NamedTuple):
    """What checksums.txt says of one value."""

    crc32: int
    size: int  # bytes


class LmdbReader:
    """The encoded images of one LMDB, not copied.

    It may be pickled, used after a fork, in any number of processes and threads, and several times in one process.

    Args:
        root: Folder of the LMDB.

    Attributes:
        root: As given.
        keys: All images, in the order of meta_info.txt.
        names: Name with ending by key.
        sizes: (height, width, channels) by key, as meta_info.txt has them.
        parts: All images are in one file.

    Raises:
        DataError: The folder is not a finished LMDB of images, or its data.mdb is cut short or lacks an image.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = str(root)
        lines = read_meta_info(root)
        self.keys = [line.key for line in lines]
        self.names = {line.key: line.name for line in lines}
        self.sizes = {line.key: line.size for line in lines}
        self.parts = [len(lines)]
        self._database: Database | None = self._opened()
        if self._database.header.entries < len(self.keys):
            self._refuse_missing(self._database)

    def get(self, key: str) -> memoryview:
        """The file of an image, as a view that stays valid as long as it is held.

        Raises:
            DataError: There is no such image, or data.mdb is damaged.
        """
        if key not in self.names:
            raise DataError(f"LMDB '{self.root}' holds no image '{key}'.")
        if self._database is None:
            self._database = self._opened()
        try:
            value = self._database.find(key.encode())
        except DamagedError as error:
            raise DataError(f"Image '{key}' of LMDB '{self.root}' cannot be read: {DATA}: {error}.") from error
        if value is None:
            raise DataError(f"LMDB '{self.root}' lacks the image '{key}' that its {META_INFO} lists.")
        return value

    def path(self, key: str) -> str:
        """Where an image is, for messages."""
        return f'{self.root}/{self.names.get(key, key)}'

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_database': None}

    def _opened(self) -> Database:
        database = Database(Path(self.root) / DATA)
        database.check_length()
        return database

    def _refuse_missing(self, database: Database) -> None:
        found = {record.key for record in database.records([])}
        missing = [key for key in self.keys if key.encode() not in found]
        raise DataError(
            f"LMDB '{self.root}' lacks {len(missing)} of the {len(self.keys)} images that its {META_INFO} lists; the "
            f"first is '{missing[0]}'."
        )


def key_of(name: str) -> str:
    """The key of an image: its name without ending."""
    head, dot, tail = name.rpartition('.')
    return head if dot and '/' not in tail else name


def read_meta_info(root: str | Path, problems: list[str] | None = None) -> list[MetaLine]:
    """The lines of an LMDB's meta_info.txt.

    Args:
        root: Folder of the LMDB.
        problems: Takes a sentence for each line that is malformed or repeats a key; such lines are left out.

    Raises:
        DataError: There is no such LMDB, or it is not finished, or lists no image; or, without ``problems``, a line is
            malformed or repeats a key.
    """
    file = Path(root) / META_INFO
    lines, first = [], {}
    for number, text in numbered_lines(root, META_INFO):
        found = _LINE.fullmatch(text)
        if found is None:
            _report(problems, f"{file}:{number}: '{text}' is not of the form 'name.png (h,w,c) level'.")
            continue
        line = MetaLine(found[1], (int(found[2]), int(found[3]), int(found[4])), int(found[5]))
        earlier = first.setdefault(line.key, number)
        if earlier != number:
            _report(problems, f"{file}:{number}: image '{line.key}' is listed already in line {earlier}.")
            continue
        lines.append(line)
    if not lines and not problems:
        raise DataError(f"'{file}' lists no image.")
    return lines


def read_checksums(root: str | Path, problems: list[str] | None = None) -> dict[str, Checksum] | None:
    """The content of checksums.txt by key; None if the LMDB has none, as those of BasicSR.

    Args:
        root: Folder of the LMDB.
        problems: Takes a sentence for each malformed line, which is left out.

    Raises:
        DataError: The file cannot be read; or, without ``problems``, a line is malformed.
    """
    file = Path(root) / CHECKSUMS
    if not file.exists():
        return None
    found = {}
    for number, text in numbered_lines(root, CHECKSUMS):
        match = re.fullmatch(r'([^\t]+)\t([0-9a-f]{8})\t(\d+)', text)
        if match is None:
            _report(problems, f"{file}:{number}: '{text}' is not of the form 'key<TAB>crc32<TAB>bytes'.")
            continue
        found[match[1]] = Checksum(int(match[2], 16), int(match[3]))
    return found


def numbered_lines(root: str | Path, name: str) -> list[tuple[int, str]]:
    """The lines of a text file of an LMDB that are not blank, with their numbers from 1.

    Raises:
        DataError: The file is missing or cannot be read.
    """
    file = Path(root) / name
    try:
        text = file.read_bytes().decode('utf-8')
    except (FileNotFoundError, NotADirectoryError):
        raise _missing(Path(root)) from None
    except OSError as error:
        raise DataError(f"'{file}' cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"'{file}' is not a text in UTF-8: {error.reason} at byte {error.start}.") from error
    lines = (line.removesuffix('\r') for line in text.split('\n'))
    return [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def _missing(root: Path) -> DataError:
    """Why there is no meta_info.txt."""
    if not root.exists():
        return DataError(f"There is no LMDB '{root}' (looked for at '{root.absolute()}').")
    if not root.is_dir():
        return DataError(f"'{root}' is a file; an LMDB of images is a folder that holds {DATA} and {META_INFO}.")
    if (root / JOURNAL).exists():
        return DataError(
            f"LMDB '{root}' is not finished: the command that made it was stopped. Run the same command again, it goes "
            'on where it stopped.'
        )
    return DataError(f"'{root}' holds no {META_INFO}; an LMDB of images in BasicSR's layout has one beside {DATA}.")


def _report(problems: list[str] | None, text: str) -> None:
    if problems is None:
        raise DataError(text)
    problems.append(text)
