"""Checks every record of an LMDB of images, and says what is in one."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from basicsr.errors import DataError
from basicsr.image_io import decode_image, probe_image
from basicsr.lmdb_io import CHECKSUMS, DATA, META_INFO, Checksum, MetaLine, read_checksums, read_meta_info
from basicsr.lmdb_pages import Database, Header, Record
from basicsr.lmdb_workers import WORTH_WORKERS, default_workers, progress_bar, run_in_order

CHUNK = 1 << 22  # bytes that a worker process is given to check at a time
SUB_IMAGE = re.compile(r'(.+)_s\d{3,}')
Kind = Literal['database', 'list', 'missing', 'extra', 'checksum', 'undecodable', 'size']


class Problem(NamedTuple):
    """One thing that is wrong.

    Attributes:
        key: Of the image; or the file at fault: data.mdb, meta_info.txt or checksums.txt.
        kind: What sort of problem it is.
        reason: What is wrong, in words.
    """

    key: str
    kind: Kind
    reason: str

    def __str__(self) -> str:
        return f'{self.key}: {self.reason}'


class Info(NamedTuple):
    """What an LMDB holds.

    Attributes:
        root: Its folder.
        images: Lines of meta_info.txt.
        size: Bytes of all values.
        dimensions: (height, width, channels) of every image, the smallest first by area.
        formats: How many images have which ending.
        levels: How many images have which level of PNG compression.
        photographs: How many images they were cut from; None if they are not sub-images.
        checksums: Whether there is a checksums.txt.
        file_size: Bytes of data.mdb.
        header: What its first pages say.
    """

    root: Path
    images: int
    size: int
    dimensions: list[tuple[int, int, int]]
    formats: Counter[str]
    levels: Counter[int]
    photographs: int | None
    checksums: bool
    file_size: int
    header: Header


class _Item(NamedTuple):
    """A record to check."""

    key: str
    line: MetaLine
    offset: int
    size: int
    checksum: Checksum | None


class _Chunk(NamedTuple):
    path: Path
    items: list[_Item]
    decode: bool


def verify(
    root: str | Path, workers: int | None = 0, decode: bool = True, show_progress: bool = False
) -> list[Problem]:
    """Finds every bad record of an LMDB. Damage of any kind is reported, it never ends the process.

    A byte changed within JPEG data mostly decodes without complaint; only the checksum tells.

    Args:
        root: The LMDB.
        workers: Processes; below 2 none but this one, None chooses.
        decode: Decodes every image; otherwise only its header is read.
        show_progress: Draws a bar if the error stream is a terminal.

    Returns:
        What is wrong: first with the files, then in the order of the keys. At most one problem for each image.

    Raises:
        DataError: There is no such LMDB, it is not finished, or data.mdb is not one.
    """
    notes: dict[str, list[str]] = {META_INFO: [], CHECKSUMS: [], DATA: []}
    lines = {line.key: line for line in read_meta_info(root, notes[META_INFO])}
    checksums = read_checksums(root, notes[CHECKSUMS])
    database = Database(Path(root) / DATA)
    records = {record.key: record for record in database.records(notes[DATA])}
    problems = [Problem(name, 'database' if name == DATA else 'list', text) for name in notes for text in notes[name]]
    problems += _unlisted(lines, checksums)
    found = _absent(lines, records)
    items = _items(lines, records, checksums)
    if workers is None:
        workers = default_workers() if sum(item.size for item in items) >= WORTH_WORKERS else 0
    chunks = list(_chunks(database.path, items, decode))
    with progress_bar('images', len(items), show_progress) as advance:
        for chunk, bad in zip(chunks, run_in_order(_check, chunks, min(workers, len(chunks)))):
            found += bad
            advance(len(chunk.items))
    return problems + sorted(found)


def info(root: str | Path) -> Info:
    """What an LMDB holds, from its lists and pages; no image is read.

    Raises:
        DataError: There is no such LMDB, it is not finished, or damaged.
    """
    lines = read_meta_info(root)
    database = Database(Path(root) / DATA)
    database.check_length()
    dimensions = sorted((line.size for line in lines), key=lambda size: (size[0] * size[1], size))
    cut = [SUB_IMAGE.fullmatch(line.key) for line in lines]
    return Info(
        root=Path(root),
        images=len(lines),
        size=sum(record.size for record in database.records([])),
        dimensions=dimensions,
        formats=Counter(PurePosixPath(line.name).suffix.lower().lstrip('.') for line in lines),
        levels=Counter(line.level for line in lines),
        photographs=len({match[1] for match in cut if match}) if all(cut) else None,
        checksums=(Path(root) / CHECKSUMS).exists(),
        file_size=database.size,
        header=database.header,
    )


def _unlisted(lines: dict[str, MetaLine], checksums: dict[str, Checksum] | None) -> list[Problem]:
    """Where checksums.txt and meta_info.txt differ."""
    if checksums is None:
        return []
    lacks = [
        Problem(CHECKSUMS, 'list', f"it lacks '{key}', which {META_INFO} lists.") for key in lines.keys() - checksums
    ]
    more = [
        Problem(CHECKSUMS, 'list', f"it lists '{key}', which {META_INFO} lacks.") for key in checksums.keys() - lines
    ]
    return sorted(lacks + more)


def _absent(lines: dict[str, MetaLine], records: dict[bytes, Record]) -> list[Problem]:
    listed = {key.encode() for key in lines}
    missing = [
        Problem(key, 'missing', f'{META_INFO} lists it, {DATA} lacks it.')
        for key in lines
        if key.encode() not in records
    ]
    extra = [
        Problem(key.decode(errors='backslashreplace'), 'extra', f'{DATA} holds it, {META_INFO} does not list it.')
        for key in records
        if key not in listed
    ]
    return missing + extra


def _items(
    lines: dict[str, MetaLine], records: dict[bytes, Record], checksums: dict[str, Checksum] | None
) -> list[_Item]:
    """What is both listed and stored, in the order of the file."""
    items = []
    for key, line in lines.items():
        record = records.get(key.encode())
        if record is not None:
            items.append(_Item(key, line, record.offset, record.size, (checksums or {}).get(key)))
    return sorted(items, key=lambda item: item.offset)


def _chunks(path: Path, items: Sequence[_Item], decode: bool) -> Iterator[_Chunk]:
    chunk: list[_Item] = []
    size = 0
    for item in items:
        chunk.append(item)
        size += item.size
        if size >= CHUNK:
            yield _Chunk(path, chunk, decode)
            chunk, size = [], 0
    if chunk:
        yield _Chunk(path, chunk, decode)


def _check(chunk: _Chunk) -> list[Problem]:
    """The problems of some records; runs in a worker process."""
    found = []
    with chunk.path.open('rb') as file:
        for item in chunk.items:
            try:
                file.seek(item.offset)
                data = file.read(item.size)
            except OSError as error:
                found.append(Problem(item.key, 'database', f'it cannot be read: {error.strerror or error}.'))
                continue
            problem = _problem(item, data, chunk.decode)
            if problem is not None:
                found.append(problem)
    return found


def _problem(item: _Item, data: bytes, decode: bool) -> Problem | None:
    wanted = item.checksum
    if wanted is not None and len(data) != wanted.size:
        return Problem(item.key, 'checksum', f'it has {len(data)} bytes, {CHECKSUMS} says {wanted.size}.')
    if wanted is not None and zlib.crc32(data) != wanted.crc32:
        return Problem(item.key, 'checksum', f'its checksum is {zlib.crc32(data):08x}, not {wanted.crc32:08x}.')
    try:
        header = probe_image(data, item.key)
        if decode:
            decode_image(data, item.key, 'unchanged')
    except DataError as error:
        return Problem(item.key, 'undecodable', str(error))
    size = (header.height, header.width, header.channels)
    if size != item.line.size:
        return Problem(item.key, 'size', f'it is {_text(size)}, {META_INFO} says {_text(item.line.size)}.')
    return None


def _text(size: tuple[int, int, int]) -> str:
    return f'({size[0]},{size[1]},{size[2]})'
