"""Decoded images that all loader processes share: in memory, or in a file that later runs find again.

A 256-pixel crop of an 8-megapixel photograph costs the decoding of the whole photograph; from a cache it costs the copy
of the crop. Every image has its place from the start and is put there by whichever process decodes it first.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
import tempfile
import zlib
from contextlib import suppress
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from filelock import FileLock

from basicsr.appetite import free_memory
from basicsr.errors import DataError
from basicsr.files import write_text
from basicsr.image_io import ImageInfo
from basicsr.image_source import ImageSource

ALIGNMENT = 64  # bytes
FORMAT = 1
# state: 0 for an empty place, else 2^32 plus the CRC-32 of the pixels. A process checks it when it first reads the
# place, which finds one that another process is still filling, and one that a power failure left half-written.
RECORD = np.dtype([('offset', '<u8'), ('state', '<u8'), ('height', '<u4'), ('width', '<u4'), ('bytes', '<u4')])


class CachedSource(ImageSource):
    """A source whose decoded images are kept.

    Args:
        source: Where the images come from.
        cache: ``ram`` or ``memmap``.
        cache_dir: Folder for ``memmap``; None takes ``~/.cache/qualir``.

    Raises:
        DataError: An image cannot be measured, or memory or disk are too small for all of them.
    """

    def __init__(
        self, source: ImageSource, cache: Literal['ram', 'memmap'] = 'ram', cache_dir: str | None = None
    ) -> None:
        self.source, self.root, self.kind, self.mode = source, source.root, source.kind, source.mode
        self.stems, self.parts = source.stems, source.parts
        self._number = {stem: i for i, stem in enumerate(source.stems)}
        self._store = RamStore(source) if cache == 'ram' else FileStore(source, cache_dir)
        self._checked = bytearray(len(self.stems))

    def pixels(self, stem: str) -> np.ndarray:
        number = self._number.get(stem)
        if number is None:
            return self.source.pixels(stem)  # which says what is wrong
        place, record = self._store.place(number), self._store.records[number]
        if not self._checked[number]:
            if not record['state'] or int(record['state']) != _state(place):
                self._fill(number, stem, place)
            self._checked[number] = True
        view = place.view()
        view.flags.writeable = False
        return view

    def _fill(self, number: int, stem: str, place: np.ndarray) -> None:
        image = self.source.pixels(stem)
        if image.shape != place.shape or image.dtype != place.dtype:
            raise DataError(f"'{self.path(stem)}' has changed since its cache was laid out; start again.")
        place[...] = image
        self._store.records['state'][number] = _state(place)

    def __contains__(self, stem: str) -> bool:
        return stem in self._number

    def info(self, stem: str) -> ImageInfo:
        return self.source.info(stem)

    def path(self, stem: str) -> str:
        return self.source.path(stem)

    def fingerprint(self) -> list[str]:
        return self.source.fingerprint()


def _state(place: np.ndarray) -> int:
    return (1 << 32) | zlib.crc32(place.data)


class _Store:
    """Records and pixels in one shared piece of memory: ``records`` first, then every image at its offset."""

    _memory: mmap.mmap
    records: np.ndarray
    channels: int

    def _map(self, descriptor: int, count: int, channels: int) -> None:
        self._memory = mmap.mmap(descriptor, 0)
        self._bytes = np.frombuffer(self._memory, np.uint8)
        self.records = self._bytes[: count * RECORD.itemsize].view(RECORD)
        self.channels = channels

    def place(self, number: int) -> np.ndarray:
        """Where the pixels of an image are or will be."""
        record = self.records[number]
        height, width, size = int(record['height']), int(record['width']), int(record['bytes'])
        start, length = int(record['offset']), height * width * self.channels * size
        pixels = self._bytes[start : start + length].view(np.uint8 if size == 1 else np.dtype('<u2'))
        return pixels.reshape((height, width, 3) if self.channels == 3 else (height, width))


class RamStore(_Store):
    """A store in memory without a name, which goes with its last process.

    Raises:
        DataError: The images need more memory than there is.
    """

    def __init__(self, source: ImageSource) -> None:
        records, total, channels = _layout(source)
        free = free_memory(torch.device('cpu'))
        if free is not None and total > free:
            raise DataError(
                f"cache: ram needs {total / 1e9:.1f} GB for the {len(source)} images of '{source.root}', and "
                f'{free / 1e9:.1f} GB are free; write cache: memmap, or none.'
            )
        self._descriptor = _anonymous_file(total)
        self._map(self._descriptor, len(records), channels)
        self.records[...] = records

    def __getstate__(self) -> dict[str, Any]:
        """For a loader process: the same memory, by a descriptor of its own."""
        return {'descriptor': DupFd(self._descriptor), 'count': len(self.records), 'channels': self.channels}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._descriptor = state['descriptor'].detach()
        self._map(self._descriptor, state['count'], state['channels'])

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            os.close(self._descriptor)


class FileStore(_Store):
    """A store in ``<cache_dir>/<fingerprint>/cache.bin``, made once and found again while the images stay the same.

    Raises:
        DataError: The disk is too small, or the folder cannot be written to.
    """

    def __init__(self, source: ImageSource, cache_dir: str | None) -> None:
        folder = Path(cache_dir).expanduser() if cache_dir else Path.home() / '.cache' / 'qualir'
        digest = hashlib.sha256('\n'.join([str(FORMAT), *source.fingerprint()]).encode()).hexdigest()[:24]
        self._file = folder / digest / 'cache.bin'
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f'{self._file}.lock'):
                self._count, self._channels = self._found() or self._make(source)
        except OSError as error:
            raise DataError(f"The cache '{self._file}' cannot be made: {error.strerror or error}.") from error
        self._open()

    def _found(self) -> tuple[int, int] | None:
        about = self._file.with_suffix('.json')
        if not about.is_file() or not self._file.is_file():
            return None
        facts = json.loads(about.read_text(encoding='utf-8'))
        return facts['images'], facts['channels']

    def _make(self, source: ImageSource) -> tuple[int, int]:
        records, total, channels = _layout(source)
        free = shutil.disk_usage(self._file.parent).free
        if total > free:
            raise DataError(
                f"cache: memmap needs {total / 1e9:.1f} GB for the {len(source)} images of '{source.root}', and "
                f"{free / 1e9:.1f} GB are free below '{self._file.parent}'; name a cache_dir on a larger disk."
            )
        with self._file.open('wb') as file:
            _reserve(file.fileno(), total)
            file.write(records.tobytes())
            file.flush()
            os.fsync(file.fileno())
        facts = {'root': source.root, 'images': len(records), 'channels': channels, 'bytes': total}
        write_text(self._file.with_suffix('.json'), json.dumps(facts, indent=1) + '\n')  # last: without it, begin again
        return len(records), channels

    def _open(self) -> None:
        with self._file.open('r+b') as file:
            self._map(file.fileno(), self._count, self._channels)

    def __getstate__(self) -> dict[str, Any]:
        return {'_file': self._file, '_count': self._count, '_channels': self._channels}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


def _layout(source: ImageSource) -> tuple[np.ndarray, int, int]:
    """The records of all images, still empty, the bytes needed in all, and the channels of an image."""
    channels = 1 if source.mode == 'grey' else 3
    records = np.zeros(len(source), RECORD)
    for number, stem in enumerate(source.stems):
        info = source.info(stem)
        records[number] = (0, 0, info.height, info.width, 1 if info.bits <= 8 else 2)
    sizes = records['height'].astype(np.uint64) * records['width'] * records['bytes'] * np.uint64(channels)
    places = -(-sizes.astype(np.int64) // ALIGNMENT) * ALIGNMENT
    start = -(-records.nbytes // ALIGNMENT) * ALIGNMENT
    records['offset'] = start + np.cumsum(places) - places
    return records, start + int(places.sum()), channels


def _anonymous_file(size: int) -> int:
    """Descriptor of a file that only this process and its children see."""
    if hasattr(os, 'memfd_create'):
        descriptor = os.memfd_create('qualir-cache')  # not /dev/shm, which containers keep small
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


def _reserve(descriptor: int, size: int) -> None:
    """Takes the disk space at once: a full disk met later, when a place is filled, would kill the process."""
    if hasattr(os, 'posix_fallocate'):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)
