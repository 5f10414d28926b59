"""Where the images of a WebDataset tar file lie: found by reading its headers once, kept beside it, mapped into memory.

A member ``a/b.gt.png`` belongs to sample ``a/b``, whose field ``gt`` it is; ``a/b.png`` is its only image. As in
WebDataset, the name of a sample ends at the first dot of the file name. Names that hold dots of their own are therefore
written with ``%2E`` for a dot and ``%25`` for a percent sign, and read back.

An index file holds a magic word, the length of its header, the header in JSON, one array each of offsets, lengths, ends
of keys, CRC-32 of keys and numbers of suffixes, then the keys. All processes of a machine share its pages.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import struct
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from basicsr.errors import DataError
from basicsr.image_io import EXTENSIONS

MAGIC = b'QSHARD01'
BLOCK = tarfile.BLOCKSIZE
LAYOUT = (('offset', '<i8'), ('length', '<i8'), ('key_end', '<i8'), ('crc', '<u4'), ('suffix', '<u4'))


class Member(NamedTuple):
    """One image in a tar file.

    Attributes:
        key: Its sample.
        suffix: What follows the key's dot, in lower case, such as ``gt.png``.
        offset: Where its bytes begin.
        length: How many there are.
    """

    key: str
    suffix: str
    offset: int
    length: int


class ShardIndex:
    """The images of one tar file, in its order.

    Args:
        content: What :func:`pack` made: bytes, or a mapped file.

    Raises:
        ValueError: This is no index, or not a whole one.

    Attributes:
        header: ``size`` of the tar file, ``suffixes``, ``guard`` (place and CRC-32 of its last header), and what the
            writer noted: ``sha256`` and ``skipped``.
        offset: (n,) where each image begins, int64.
        length: (n,) its bytes, int64.
        guard: ``guard`` of the header as a tuple; empty where there is no image.
        crc: (n,) CRC-32 of its key, uint32.
        suffix: (n,) number of its suffix, uint32.
    """

    offset: np.ndarray
    length: np.ndarray
    key_end: np.ndarray
    crc: np.ndarray
    suffix: np.ndarray

    def __init__(self, content: bytes | mmap.mmap) -> None:
        if content[: len(MAGIC)] != MAGIC:
            raise ValueError('no index')
        try:
            (size,) = struct.unpack_from('<Q', content, len(MAGIC))
            start = len(MAGIC) + 8
            self.header: dict[str, Any] = json.loads(content[start : start + size])
            position = start + size
            for name, kind in LAYOUT:
                array = np.frombuffer(content, kind, self.header['members'], position)
                setattr(self, name, array)
                position += array.nbytes
        except struct.error as error:
            raise ValueError('cut short') from error
        self.guard = tuple(self.header['guard'] or ())
        self._keys = np.frombuffer(content, np.uint8, offset=position) if position < len(content) else np.empty(0, 'u1')
        if len(self._keys) != (self.key_end[-1] if len(self) else 0):
            raise ValueError('cut short')

    def __len__(self) -> int:
        return self.header['members']

    def key(self, number: int) -> bytes:
        """The key of image ``number`` in UTF-8."""
        start = self.key_end[number - 1] if number else 0
        return self._keys[start : self.key_end[number]].tobytes()

    def keys(self) -> Iterator[bytes]:
        """All keys."""
        blob, start = self._keys.tobytes(), 0
        for end in self.key_end.tolist():
            yield blob[start:end]
            start = end


def pack(tar: Path, members: list[Member], **notes: Any) -> bytes:
    """The content of an index file.

    Args:
        tar: The whole tar file.
        members: Its images in their order.
        notes: Anything else to keep in the header.
    """
    suffixes = sorted({m.suffix for m in members})
    number = {s: i for i, s in enumerate(suffixes)}
    keys = [encode_key(m.key) for m in members]
    arrays = {
        'offset': [m.offset for m in members],
        'length': [m.length for m in members],
        'key_end': np.cumsum([len(k) for k in keys], dtype=np.int64),
        'crc': [zlib.crc32(k) for k in keys],
        'suffix': [number[m.suffix] for m in members],
    }
    with tar.open('rb') as file:
        size = os.fstat(file.fileno()).st_size
        guard = guard_of(file.fileno(), max(m.offset for m in members)) if members else None
    header = {'members': len(members), 'size': size, 'suffixes': suffixes, 'guard': guard, **notes}
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    blocks = [np.asarray(arrays[name], kind).tobytes() for name, kind in LAYOUT]
    return b''.join([MAGIC, struct.pack('<Q', len(text)), text, *blocks, *keys])


def guard_of(descriptor: int, offset: int) -> list[int]:
    """Place and CRC-32 of the header before the data at ``offset``: another tar file of the same size has another."""
    return [offset, zlib.crc32(os.pread(descriptor, BLOCK, offset - BLOCK))]


def index_path(tar: Path) -> Path:
    """The index file of a tar file."""
    return tar.with_name(tar.name + '.index')


def read_index(tar: Path) -> ShardIndex | None:
    """The index beside a tar file, mapped into memory; None if there is none, or the tar's size has changed since."""
    try:
        with index_path(tar).open('rb') as file:
            index = ShardIndex(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError):
        return None
    return index if index.header['size'] == tar.stat().st_size else None


def scan(tar: Path) -> list[Member]:
    """Finds the images of a tar file by reading its headers.

    Args:
        tar: An uncompressed tar file in any of the usual forms (ustar, GNU, PAX).

    Returns:
        The members that are images; others are passed over.

    Raises:
        DataError: It is not a tar file, is cut short or damaged, or holds an image as a link or sparse file; the text
            names the tar file and a member.
    """
    found: list[Member] = []
    places: dict[str, tuple[int, int]] = {}
    last = 'its beginning'
    try:
        with tar.open('rb', buffering=0) as file, tarfile.open(fileobj=file, mode='r:') as archive:
            size = os.fstat(file.fileno()).st_size
            while (entry := archive.next()) is not None:
                archive.members = []  # or it would keep every entry
                last = f"member '{entry.name}'"
                _check_whole(tar, entry, size)
                places[entry.name] = (entry.offset_data, entry.size)
                if (member := _image(tar, entry, places)) is not None:
                    found.append(member)
            _check_end(tar, file.fileno(), archive.offset, last)
    except tarfile.TarError as error:
        if last == 'its beginning':
            raise DataError(f"Shard '{tar}' is not an uncompressed tar file: {error}.") from error
        raise DataError(f"Shard '{tar}' is damaged or cut short after {last}: {error}.") from error
    except OSError as error:
        raise DataError(f"Shard '{tar}' cannot be read: {error.strerror or error}.") from error
    return found


def _image(tar: Path, entry: tarfile.TarInfo, places: dict[str, tuple[int, int]]) -> Member | None:
    """The entry as an image of a sample, or None if it is something else."""
    split = split_name(entry.name)
    if split is None or entry.isdir():
        return None
    place = places.get(entry.linkname) if entry.islnk() else (entry.offset_data, entry.size)
    if entry.issym() or entry.issparse() or place is None or not (entry.isreg() or entry.islnk()):
        raise DataError(
            f"Shard '{tar}' holds member '{entry.name}' as a link or a sparse file, not as plain bytes; write it again "
            'with tar --dereference --hard-dereference, without --sparse.'
        )
    places[entry.name] = place
    return Member(*split, *place)


def _check_whole(tar: Path, entry: tarfile.TarInfo, size: int) -> None:
    end = entry.offset_data + (entry.size if entry.isreg() else 0)
    if entry.size < 0 or end > size:
        raise DataError(
            f"Shard '{tar}' is cut short in member '{entry.name}': it ends at byte {size}, the member at byte {end}."
        )


def _check_end(tar: Path, descriptor: int, offset: int, last: str) -> None:
    """What tarfile takes for the end must be one: a tar file ends with blocks of zeros."""
    block = os.pread(descriptor, BLOCK, offset)
    if len(block) < BLOCK:
        raise DataError(f"Shard '{tar}' is cut short after {last}: it lacks the zeros that end a tar file.")
    if any(block):
        raise DataError(f"Shard '{tar}' is damaged after {last}: there is no tar header at byte {offset}.")


def split_name(name: str) -> tuple[str, str] | None:
    """A member's name as (key, suffix); None if it is not an image of a sample."""
    name = re.sub(r'^(\.?/)+', '', name)
    folder, slash, base = name.rpartition('/')
    stem, _, suffix = base.partition('.')
    suffix = suffix.lower()
    if not stem or not f'.{suffix}'.endswith(EXTENSIONS) or re.match(r'__[^/]*__(/|$)', name):
        return None
    return folder + slash + _unescape(stem), suffix


def member_key(stem: str) -> str:
    """A stem as WebDataset can hold it: without dots after the last slash."""
    folder, slash, base = stem.rpartition('/')
    return folder + slash + base.replace('%', '%25').replace('.', '%2E')


def _unescape(text: str) -> str:
    return re.sub('%(25|2E)', lambda m: '%' if m[1] == '25' else '.', text) if '%' in text else text


def encode_key(key: str) -> bytes:
    """A key as it stands in an index; bytes of a name that are not UTF-8 survive."""
    return key.encode('utf-8', 'surrogateescape')


def decode_key(key: bytes) -> str:
    """The inverse of :func:`encode_key`."""
    return key.decode('utf-8', 'surrogateescape')


def field_of(suffix: str) -> str:
    """The field of a suffix: ``gt`` of ``gt.png``, nothing of ``png``."""
    return suffix.rpartition('.')[0]
