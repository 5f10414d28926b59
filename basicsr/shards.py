"""Reads images from WebDataset tar files at random, for any number of processes at once."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, overload

import numpy as np

from basicsr.errors import DataError
from basicsr.files import write_atomically
from basicsr.image_io import natural_key
from basicsr.shard_index import (
    ShardIndex,
    decode_key,
    encode_key,
    field_of,
    guard_of,
    index_path,
    pack,
    read_index,
    scan,
)  # fmt: skip

MANIFEST = 'shards.json'  # written last, when all shards are whole
UNFINISHED = 'shards.unfinished.json'  # there while shards are being written
MOST_OPEN = 128  # tar files that a process holds open
MOST_MAPPED = 4096  # indexes that a process holds mapped


class ShardReader:
    """The images of one field in a set of shards.

    It may be pickled, and used after a fork: tar files are read by ``pread``, which moves no shared file position.

    Args:
        root: A folder with tar files in it or below it, or one tar file.
        field: Which image of each sample, ``gt`` of ``a.gt.png``; a whole suffix such as ``jpg`` serves too. None takes
            ``a.png``, or the only field that there is. Shards that hold one plain image a sample need no field.

    Raises:
        DataError: There are no shards, one is damaged or missing, the field is not there, or a key is there twice.

    Attributes:
        keys: The samples' names in the order of the shards, read on demand.
        names: Name with ending of each key, such as ``a.gt.png``.
        parts: Number of samples in each tar file, in the order of ``keys``.
    """

    def __init__(self, root: str | Path, field: str | None = None) -> None:
        self.root, self.field = Path(root), field
        self.tars = find_shards(self.root)
        self._loose: dict[int, bytes] = {}  # indexes that could not be written beside their tar file
        self._reset()
        suffixes = [self._first_index(i).header['suffixes'] for i in range(len(self.tars))]
        chosen = choose({s for found in suffixes for s in found}, field, self.root)
        self._rows = [_rows(self._index(i), found, chosen) for i, found in enumerate(suffixes)]
        crcs = [np.array(self._index(i).crc[... if rows is None else rows]) for i, rows in enumerate(self._rows)]
        self.parts = [len(c) for c in crcs]
        self._ends = np.cumsum(self.parts)
        crc = np.concatenate(crcs)
        self._order = np.argsort(crc, kind='stable').astype(np.uint32)
        self._crc = crc[self._order]
        self._refuse_twins()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __contains__(self, key: str) -> bool:
        return self._find(key) is not None

    @property
    def keys(self) -> Sequence[str]:
        """All keys; what it takes in memory does not grow with their number."""
        return Keys(self)

    @property
    def names(self) -> Mapping[str, str]:
        """Name with ending of each key."""
        return Names(self)

    def get(self, key: str) -> bytes:
        """The bytes of an image file.

        Raises:
            DataError: There is no such image, or its tar file has changed or cannot be read.
        """
        shard, number = self._place(key)
        index, tar = self._index(shard), self.tars[shard]
        length, offset = int(index.length[number]), int(index.offset[number])
        try:
            data = self._tar(shard, index.guard).read(length, offset)
        except OSError as error:
            raise DataError(f"Shard '{tar}' cannot be read: {error.strerror or error}.") from error
        if len(data) < length:
            raise DataError(
                f"Shard '{tar}' is cut short: member '{self._name(shard, number)}' ends at byte {offset + length}, "
                'after the end of the file.'
            )
        return data

    def path(self, key: str) -> str:
        """Where an image is, for messages: the tar file and the member."""
        shard, number = self._place(key)
        return self._path(shard, number)

    def _path(self, shard: int, number: int) -> str:
        return f'{self.tars[shard]}/{self._name(shard, number)}'

    def name(self, key: str) -> str:
        """Name with ending of a key, such as ``a.gt.png``."""
        return self._name(*self._place(key))

    def all_keys(self) -> Iterator[str]:
        """Every key in order; faster than asking for one after the other."""
        for number, rows in enumerate(self._rows):
            keys = list(self._index(number).keys())
            yield from map(decode_key, keys if rows is None else (keys[i] for i in rows.tolist()))

    def key_at(self, row: int) -> str:
        """Key number ``row``."""
        shard, number = self._member(row)
        return decode_key(self._index(shard).key(number))

    def _place(self, key: str) -> tuple[int, int]:
        found = self._find(key)
        if found is None:
            kind = f" with field '{self.field}'" if self.field else ''
            raise DataError(f"The shards in '{self.root}' hold no image '{key}'{kind}.")
        return found

    def _find(self, key: str) -> tuple[int, int] | None:
        """Shard and member of a key: a few candidates of the same CRC-32, then the key itself."""
        wanted = encode_key(key)
        crc = zlib.crc32(wanted)
        at = int(np.searchsorted(self._crc, np.uint32(crc)))
        while at < len(self._crc) and self._crc[at] == crc:
            shard, number = self._member(int(self._order[at]))
            if self._index(shard).key(number) == wanted:
                return shard, number
            at += 1
        return None

    def _member(self, row: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self._ends, row, side='right'))
        row -= int(self._ends[shard - 1]) if shard else 0
        rows = self._rows[shard]
        return shard, row if rows is None else int(rows[row])

    def _name(self, shard: int, number: int) -> str:
        index = self._index(shard)
        return f'{decode_key(index.key(number))}.{index.header["suffixes"][index.suffix[number]]}'

    def _refuse_twins(self) -> None:
        """Each key may be there once: only keys of the same CRC-32 need to be compared."""
        seen: dict[str, int] = {}
        current = -1
        for at in np.flatnonzero(self._crc[1:] == self._crc[:-1]).tolist():
            first, second = self._order[at : at + 2].tolist()
            if self._crc[at] != current:
                seen, current = {self.key_at(first): first}, self._crc[at]
            key = self.key_at(second)
            if key in seen:
                places = ' and in '.join(f"'{self._path(*self._member(row))}'" for row in (seen[key], second))
                raise DataError(f"Image '{key}' is twice in the shards, in {places}; each may be there once.")
            seen[key] = second

    def _first_index(self, number: int) -> ShardIndex:
        """The index of a tar file; made, and written beside it if that is allowed, where there is none."""
        tar = self.tars[number]
        index = read_index(tar)
        if index is not None:
            return index
        content = pack(tar, scan(tar))
        try:
            write_atomically(index_path(tar), lambda file: file.write(content))
        except OSError:  # a folder of somebody else: this process and its loader processes keep it
            self._loose[number] = content
        return ShardIndex(content)

    def _reset(self) -> None:
        """What belongs to one process: open files and mapped indexes."""
        self._tar = lru_cache(MOST_OPEN)(partial(_open_tar, self.tars))
        self._index = lru_cache(MOST_MAPPED)(partial(_map_index, self.tars, self._loose))

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ('_tar', '_index')}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()


class Keys(Sequence[str]):
    """The keys of a reader, decoded when asked for: ten million Python strings would fill every loader process.

    Args:
        reader: The shards.
    """

    def __init__(self, reader: ShardReader) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return len(self.reader)

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> list[str]: ...

    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self.reader.key_at(i) for i in range(*row.indices(len(self)))]
        if not -len(self) <= row < len(self):
            raise IndexError(f'key {row} of {len(self)}')
        return self.reader.key_at(row % len(self))

    def __iter__(self) -> Iterator[str]:
        return self.reader.all_keys()

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key in self.reader

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(other) == len(self) and all(a == b for a, b in zip(self, other))

    __hash__ = None  # type: ignore[assignment]


class Names(Mapping[str, str]):
    """Names with ending by key, made when asked for.

    Args:
        reader: The shards.
    """

    def __init__(self, reader: ShardReader) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return len(self.reader)

    def __iter__(self) -> Iterator[str]:
        return self.reader.all_keys()

    def __getitem__(self, key: str) -> str:
        try:
            return self.reader.name(key)
        except DataError:
            raise KeyError(key) from None


class OpenTar:
    """An open tar file.

    Args:
        tar: The file.
        guard: Place and CRC-32 of a header in it, from its index.

    Raises:
        DataError: It is not the file that its index was made from.
        OSError: It cannot be read.
    """

    def __init__(self, tar: Path, guard: tuple[int, ...]) -> None:
        self.descriptor = os.open(tar, os.O_RDONLY | getattr(os, 'O_CLOEXEC', 0))
        if guard and tuple(guard_of(self.descriptor, guard[0])) != guard:
            raise DataError(
                f"Shard '{tar}' is not the file that '{index_path(tar).name}' was made from: delete that index, or put "
                'the right tar file back.'
            )

    def read(self, length: int, offset: int) -> bytes:
        """Bytes at an offset; fewer where the file ends."""
        data = os.pread(self.descriptor, length, offset)
        while 0 < len(data) < length and (more := os.pread(self.descriptor, length - len(data), offset + len(data))):
            data += more  # the system gives at most 2 GB at once
        return data

    def __del__(self) -> None:
        if hasattr(self, 'descriptor'):
            os.close(self.descriptor)


def _open_tar(tars: list[Path], number: int, guard: tuple[int, ...]) -> OpenTar:
    return OpenTar(tars[number], guard)


def _map_index(tars: list[Path], loose: dict[int, bytes], number: int) -> ShardIndex:
    index = ShardIndex(loose[number]) if number in loose else read_index(tars[number])
    if index is None:
        raise DataError(f"Shard '{tars[number]}' has changed, or lost its index, since it was opened: start again.")
    return index


def _rows(index: ShardIndex, suffixes: list[str], chosen: set[str]) -> np.ndarray | None:
    """Numbers of the images with a chosen suffix; None for all."""
    if set(suffixes) <= chosen:
        return None
    return np.flatnonzero(np.isin(index.suffix, [i for i, s in enumerate(suffixes) if s in chosen])).astype(np.uint32)


def choose(suffixes: set[str], field: str | None, root: Path) -> set[str]:
    """The suffixes that are read, of all that there are.

    Raises:
        DataError: There is no image, or none of this field, or no field was named and there are several.
    """
    if not suffixes:
        raise DataError(f"The shards in '{root}' hold no image.")
    fields = {field_of(s) for s in suffixes}
    if field in suffixes:
        return {field}
    if '' in fields and (field is None or len(fields) == 1):
        field = ''
    elif field is None and len(fields) == 1:
        (field,) = fields
    if field not in fields:
        there = ', '.join(sorted(f or 'a plain image' for f in fields)[:8])
        asked = f"no field '{field}'; they hold" if field else 'several fields, of which one must be named:'
        raise DataError(
            f"The shards in '{root}' hold {asked} {there} (what follows the first dot of a file name is its field)."
        )
    return {s for s in suffixes if field_of(s) == field}


def find_shards(root: Path) -> list[Path]:
    """The tar files at a root, in natural order (2 before 10).

    Raises:
        DataError: There are none, one that the list of shards names is missing, or they are not finished.
    """
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise DataError(f"There are no shards at '{root}': it is neither a folder nor a tar file.")
    if (root / UNFINISHED).exists():
        raise DataError(f"The shards in '{root}' are not finished: run the same tools/create_shards.py command again.")
    found = [f for f in root.rglob('*.tar') if not f.name.startswith('.')]
    if not found:
        packed = next((f.name for f in root.rglob('*.tar.*') if f.suffix in ('.gz', '.zst', '.xz', '.bz2')), None)
        hint = f'; {packed} and its like must be unpacked to .tar first' if packed else ''
        raise DataError(f"Folder '{root}' holds no shard (*.tar){hint}.")
    lost = [s['name'] for s in read_manifest(root).get('shards', []) if not (root / s['name']).is_file()]
    if lost:
        raise DataError(f"'{root}' lacks {len(lost)} of the shards that its {MANIFEST} lists, such as '{lost[0]}'.")
    return sorted(found, key=lambda f: natural_key(f.relative_to(root).as_posix()))


def read_manifest(root: Path) -> dict[str, Any]:
    """The list of shards that their writer left; empty for shards of other people.

    Raises:
        DataError: It cannot be read.
    """
    try:
        return json.loads((root / MANIFEST).read_text(encoding='utf-8'))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"'{root / MANIFEST}' cannot be read: {error}.") from error
