"""Makes LMDBs of images in BasicSR's layout: whole images or sub-images, in parallel, and going on after a kill.

The windows of sub-images are those of BasicSR 1.4.2 (scripts/data_preparation/extract_subimages.py).
"""

from __future__ import annotations

import errno
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, NamedTuple

import lmdb
import numpy as np
from filelock import FileLock, Timeout

from basicsr.errors import DataError, OptionError, QualIRError
from basicsr.files import TEMPORARY, write_text
from basicsr.image_io import decode_image, encode_image, probe_image
from basicsr.lmdb_io import CHECKSUMS, DATA, JOURNAL, LOCK, META_INFO, key_of
from basicsr.lmdb_journal import Entry, Journal, Plan, Source, find_sources
from basicsr.lmdb_pages import Database
from basicsr.lmdb_workers import WORTH_WORKERS, default_workers, progress_bar, run_in_order

RUNNING = 'creating.lock'  # held by the process that makes the LMDB
FILES = (DATA, LOCK, META_INFO, CHECKSUMS, JOURNAL, RUNNING)
LEAST_SPACE = 1 << 18  # bytes
LEAST_MAP = 1 << 24  # bytes
BATCH_IMAGES, BATCH_BYTES = 1000, 1 << 26  # a commit each, whichever is reached first


class Created(NamedTuple):
    """What :func:`create` did.

    Attributes:
        root: The LMDB.
        sources: Image files that are in it.
        records: Images in it: more than files if they were cut.
        size: Bytes of all values.
        resumed: Files of which an earlier, stopped command had stored the images.
        bad: Why a file was left out, by its name.
        foreign: Keys that BasicSR 1.4.2 would not find.
    """

    root: Path
    sources: int
    records: int
    size: int
    resumed: int
    bad: dict[str, str]
    foreign: list[str]


class _Task(NamedTuple):
    folder: str
    source: Source
    plan: Plan


class _Stored(NamedTuple):
    source: str
    records: list[tuple[Entry, bytes]]
    reason: str = ''  # why the source cannot be read


def create(
    folder: str | Path,
    out: str | Path,
    image_format: Literal['keep', 'png', 'bmp'] | None = None,
    *,
    compress_level: int = 1,
    crop_size: int | None = None,
    step: int | None = None,
    thresh_size: int = 0,
    names: Sequence[str] | None = None,
    workers: int | None = 0,
    overwrite: bool = False,
    skip_bad: bool = False,
    map_size: int | None = None,
    batch: int = BATCH_IMAGES,
    show_progress: bool = False,
) -> Created:
    """Makes an LMDB of the images of a folder. Every image is decoded, so that a damaged one is found now.

    Killed at any moment, the same call goes on where it stopped, and ends with the same content.

    Args:
        folder: The images, searched with its sub-folders.
        out: Folder of the LMDB; its name must end in ``.lmdb``, as BasicSR wants it.
        image_format: ``keep`` stores the bytes of the files; ``png`` and ``bmp`` encode anew, BMP being large and
            decoded at the speed of memory. None is ``keep`` for whole images and ``png`` for sub-images.
        compress_level: Of PNG, 0 to 9.
        crop_size: Side of square sub-images; None stores whole images. A smaller image stays whole.
        step: Pixels from one sub-image to the next.
        thresh_size: The rest beyond the last whole step gets one more sub-image, flush with the border, if it is larger
            than this.
        names: Files below the folder to take, in this order; None takes all.
        workers: Processes; below 2 none but this one, None chooses.
        overwrite: Replaces an LMDB at ``out``, which stays whole until the new one is.
        skip_bad: Leaves out images that cannot be read, instead of stopping without an LMDB.
        map_size: First size of the map in bytes, which grows as needed; None estimates it.
        batch: Images to commit at a time, at most.
        show_progress: Draws a bar if the error stream is a terminal.

    Raises:
        OptionError: The options do not go together, or there is something at ``out``.
        DataError: There are no images, or some cannot be read, or what was begun at ``out`` had other ones or options.
        QualIRError: The disk is full or cannot be written to; the same call goes on later.
    """
    plan = _plan(image_format, compress_level, crop_size, step, thresh_size)
    folder, out = Path(folder), Path(out)
    with _writing(out):
        place = _place(out, overwrite)
        sources = find_sources(folder, names)
        place.mkdir(parents=True, exist_ok=True)
        with _only_one(place):
            journal = _begin(place, folder, plan, sources, overwrite)
            try:
                with _Writer(journal, map_size, batch) as writer:
                    _fill(writer, folder, workers, show_progress)
                result = _finish(journal, folder, out, skip_bad)
            finally:
                journal.close()
        _put_in_place(place, out)
    return result


def windows(length: int, size: int, step: int, thresh: int) -> list[int]:
    """Where sub-images begin along one side of an image.

    Args:
        length: Of the side.
        size: Of a sub-image; if the side is shorter there is one that begins at 0.
        step: From one to the next.
        thresh: A rest larger than this gets one more, flush with the border.
    """
    starts = list(range(0, max(length - size, 0) + 1, step))
    if length - (starts[-1] + size) > thresh:
        starts.append(length - size)
    return starts


def _plan(image_format: str | None, level: int, crop: int | None, step: int | None, thresh: int) -> Plan:
    image_format = image_format or ('keep' if crop is None else 'png')
    if image_format not in ('keep', 'png', 'bmp'):
        raise OptionError(f"The format '{image_format}' is none of keep, png, bmp.")
    if crop is not None and image_format == 'keep':
        raise OptionError('Sub-images cannot keep the bytes of their file: crop_size goes with the format png or bmp.')
    if (crop is None) != (step is None) or (crop is None and thresh):
        raise OptionError('crop_size and step go together, and thresh_size goes with them.')
    if crop is not None and (crop < 1 or (step or 0) < 1 or thresh < 0):
        raise OptionError('crop_size and step must be at least 1, thresh_size at least 0.')
    if not 0 <= level <= 9:
        raise OptionError(f'compress_level is {level}; it must be from 0 to 9.')
    return Plan(image_format, level if image_format == 'png' else 0, crop, step, thresh)


def _fill(writer: _Writer, folder: Path, workers: int | None, show_progress: bool) -> None:
    """Stores all images that are not stored yet."""
    journal = writer.journal
    left = [source for source in journal.sources if source.name not in journal.done]
    if workers is None:  # starting processes takes seconds
        workers = default_workers() if sum(source.size for source in left) >= WORTH_WORKERS else 0
    tasks = (_Task(str(folder), source, journal.plan) for source in left)
    with progress_bar('images', len(journal.sources), show_progress) as advance:
        advance(len(journal.done))
        for stored in run_in_order(_store, tasks, min(workers, len(left))):
            writer.add(stored)
            advance(1)


def _store(task: _Task) -> _Stored:
    """What a source becomes; runs in a worker process."""
    source, plan = task.source, task.plan
    path = Path(task.folder, source.name)
    try:
        data = _read(path, source)
        pixels = decode_image(data, path, 'unchanged')
        if plan.image_format == 'keep':
            info = probe_image(data, path)
            records = [(_entry(source.name, info.height, info.width, info.channels, data), data)]
        else:
            records = list(_encoded(pixels, path, source.name, plan))
    except DataError as error:
        return _Stored(source.name, [], str(error))
    return _Stored(source.name, records)


def _read(path: Path, source: Source) -> bytes:
    try:
        with path.open('rb') as file:
            data, state = file.read(), os.fstat(file.fileno())
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    if (state.st_size, state.st_mtime_ns) != (source.size, source.mtime) or len(data) != source.size:
        raise DataError(f"'{path}' was changed while the LMDB was being made.")
    return data


def _encoded(pixels: np.ndarray, path: Path, name: str, plan: Plan) -> Iterator[tuple[Entry, bytes]]:
    ending = f'.{plan.image_format}'
    for key, piece in _pieces(pixels, key_of(name), plan):
        data = encode_image(piece, ending, path, compression=plan.compress_level)
        height, width = piece.shape[:2]
        yield _entry(f'{key}{ending}', height, width, 1 if piece.ndim == 2 else piece.shape[2], data), data


def _pieces(pixels: np.ndarray, key: str, plan: Plan) -> Iterator[tuple[str, np.ndarray]]:
    if plan.crop_size is None or plan.step is None:
        yield key, pixels
        return
    size, number = plan.crop_size, 0
    for top in windows(pixels.shape[0], size, plan.step, plan.thresh_size):
        for left in windows(pixels.shape[1], size, plan.step, plan.thresh_size):
            number += 1
            yield f'{key}_s{number:03d}', pixels[top : top + size, left : left + size]


def _entry(name: str, height: int, width: int, channels: int, data: bytes) -> Entry:
    return Entry(name, height, width, channels, zlib.crc32(data), len(data))


class _Writer:
    """Commits what is stored, in batches; makes the map larger when it is full.

    Args:
        journal: Gets a line for every source before it is committed.
        map_size: First size of the map in bytes; None takes twice that of the images.
        batch: Most records of a commit.
    """

    def __init__(self, journal: Journal, map_size: int | None, batch: int) -> None:
        self.journal, self.batch = journal, batch
        self._waiting: list[tuple[Entry, bytes]] = []
        self._bytes = 0
        _check_space(journal.place)
        map_size = map_size or LEAST_MAP + 2 * sum(source.size for source in journal.sources)
        self._env = lmdb.open(str(journal.place), map_size=map_size, readahead=False)
        Database(journal.place / DATA)  # refuses a format that others cannot read

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            self._env.close()

    def add(self, stored: _Stored) -> None:
        """Takes what a source became, and commits if it is enough."""
        if stored.reason:
            self.journal.add_bad(stored.source, stored.reason)
            return
        self.journal.add(stored.source, (entry for entry, _ in stored.records))
        self._waiting += stored.records
        self._bytes += sum(entry.size for entry, _ in stored.records)
        if len(self._waiting) >= self.batch or self._bytes >= BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Commits what waits."""
        self.journal.sync()
        while self._waiting:
            try:
                with self._env.begin(write=True) as transaction:
                    for entry, data in self._waiting:
                        transaction.put(entry.key.encode(), data)
                break
            except lmdb.MapFullError:
                self._env.set_mapsize(2 * self._env.info()['map_size'])
        self._waiting, self._bytes = [], 0


def _begin(place: Path, folder: Path, plan: Plan, sources: list[Source], overwrite: bool) -> Journal:
    """The journal, less what it says is done but was not committed."""
    try:
        journal = Journal(place, folder, plan, sources)
    except DataError:
        if not overwrite:
            raise
        for name in (DATA, LOCK, META_INFO, CHECKSUMS, JOURNAL):
            (place / name).unlink(missing_ok=True)
        journal = Journal(place, folder, plan, sources)
    if journal.done:
        _drop_uncommitted(journal)
    elif (place / DATA).exists():
        (place / DATA).unlink()  # nothing of it counts
    return journal


def _drop_uncommitted(journal: Journal) -> None:
    """Makes journal and database agree: what only one of them knows is done again."""
    sizes: dict[bytes, int] = {}
    if (journal.place / DATA).exists():
        database = Database(journal.place / DATA)
        database.check_length()
        sizes = {record.key: record.size for record in database.records([])}
    for name, entries in list(journal.done.items()):
        if any(sizes.get(entry.key.encode()) != entry.size for entry in entries):
            del journal.done[name]
    known = {entry.key.encode() for entries in journal.done.values() for entry in entries}
    unknown = sizes.keys() - known
    if unknown:
        _check_space(journal.place)
        with lmdb.open(str(journal.place)) as env, env.begin(write=True) as transaction:
            for key in unknown:
                transaction.delete(key)
    journal.resumed = len(journal.done)
    journal.rewrite()


def _check_bad(journal: Journal, folder: Path, out: Path, skip_bad: bool) -> None:
    if not journal.done:
        reason = next(iter(journal.bad.values()))
        raise DataError(f"None of the images in '{folder}' can be read; the first: {reason}")
    if journal.bad and not skip_bad:
        reasons = '\n'.join(f'  {name}: {reason}' for name, reason in journal.bad.items())
        raise DataError(
            f"{len(journal.bad)} of {len(journal.sources)} images in '{folder}' cannot be read:\n{reasons}\n"
            f"'{out}' is not finished. Mend or remove them and run the same command again, which goes on from here; or "
            'add --skip_bad to leave them out.'
        )


def _finish(journal: Journal, folder: Path, out: Path, skip_bad: bool) -> Created:
    """Writes the lists, meta_info.txt last."""
    _check_bad(journal, folder, out, skip_bad)
    place, level = journal.place, journal.plan.compress_level
    entries = [entry for source in journal.sources for entry in journal.done.get(source.name, ())]
    write_text(place / CHECKSUMS, ''.join(f'{entry.key}\t{entry.crc32:08x}\t{entry.size}\n' for entry in entries))
    write_text(place / META_INFO, ''.join(f'{entry.meta(level)}\n' for entry in entries))
    foreign = [entry.key for entry in entries if '.' in entry.key or not entry.key.isascii()]
    size = sum(entry.size for entry in entries)
    return Created(out, len(journal.done), len(entries), size, journal.resumed, dict(journal.bad), foreign)


def _place(out: Path, overwrite: bool) -> Path:
    """The folder to work in: ``out``, or one beside it if that is to be replaced.

    Raises:
        OptionError: There is something at ``out`` that is not to be replaced.
    """
    if out.suffix != '.lmdb':
        raise OptionError(f"The name of the LMDB, '{out}', must end in .lmdb.")
    if out.exists() and not out.is_dir():
        raise OptionError(f"'{out}' is a file; the folder of an LMDB cannot take its place.")
    content = {file.name for file in out.iterdir()} if out.exists() else set()
    strangers = sorted(name for name in content if name not in FILES and not Path(name).match(TEMPORARY))
    if strangers:
        raise OptionError(f"'{out}' holds '{strangers[0]}', which is not part of an LMDB; choose another name.")
    aside = _aside(out)
    if overwrite and (aside.exists() or (DATA in content and JOURNAL not in content)):
        return aside
    if content & {DATA, META_INFO} and JOURNAL not in content:
        raise OptionError(f"'{out}' exists; choose another name, or add --overwrite to replace it.")
    return out


def _aside(out: Path) -> Path:
    return out.with_name(f'.{out.name}.building')


def _put_in_place(place: Path, out: Path) -> None:
    """Swaps a new LMDB for the old one. The journal goes last: a kill in between is made good by the same command."""
    replaced = out.with_name(f'.{out.name}.replaced')
    if place != out:
        if out.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            out.rename(replaced)
        place.rename(out)
    shutil.rmtree(replaced, ignore_errors=True)
    (out / JOURNAL).unlink()


def _check_space(place: Path) -> None:
    """Lock.mdb is written through a mapping: where that finds no room, the process dies.

    Raises:
        OSError: The disk is full.
    """
    if shutil.disk_usage(place).free < LEAST_SPACE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def _only_one(place: Path) -> Iterator[None]:
    """Keeps a second command away from the same folder."""
    lock = FileLock(place / RUNNING, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise OptionError(f"Another command is making '{place}' at this moment.") from None
    try:
        yield
    finally:
        with suppress(OSError):
            (place / RUNNING).unlink(missing_ok=True)
        lock.release()


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Turns what the system says of a full disk or a missing right into a sentence."""
    try:
        yield
    except (lmdb.Error, OSError) as error:
        reason = getattr(error, 'strerror', None) or str(error)
        if os.strerror(errno.EIO) in reason:  # what LMDB makes of a write that was cut short
            reason += ' (perhaps the disk is full, or a quota or limit on the size of files is reached)'
        raise QualIRError(
            f"'{out}' could not be written: {reason}. What is committed is kept: the same command goes on from there."
        ) from error
