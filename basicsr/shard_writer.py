"""Writes images into WebDataset tar files, so that a stop costs at most one of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any, BinaryIO, NamedTuple

from filelock import FileLock, Timeout

from basicsr.errors import DataError, OptionError
from basicsr.files import remove_leftovers, state_of, write_atomically, write_text
from basicsr.image_io import list_images, probe_image
from basicsr.image_source import stem_of
from basicsr.shard_index import index_path, member_key, pack, read_index, scan, split_name
from basicsr.shards import MANIFEST, UNFINISHED, find_shards, read_manifest

FORMAT = 1
SHOWN = 3  # names in a message

Report = Callable[[int, int, str], None]  # shards done, shards in all, name


class Sample(NamedTuple):
    """What becomes one sample.

    Attributes:
        key: Its name, the files' common stem.
        files: Suffix (``gt.png``) and file of each field.
        state: Size and time of the files, by which a later run knows them again.
        size: Their bytes.
    """

    key: str
    files: tuple[tuple[str, Path], ...]
    state: str
    size: int


def create(
    fields: Mapping[str, list[Path]],
    out: Path,
    max_size: int = 1 << 30,
    max_count: int = 10_000,
    shuffle: int | None = None,
    skip_damaged: bool = False,
    report: Report | None = None,
) -> dict[str, Any]:
    """Writes the images of some folders as shards; goes on where an earlier run was stopped.

    Every shard is written under a temporary name, and renamed when it is whole and its index agrees with it. Then the
    list ``shards.json`` is written; until then a marker keeps readers away.

    Args:
        fields: Folders of each field, whose images are paired by their stems; a single field may be called ``''``.
        out: Folder to write to; made if need be.
        max_size: Most bytes of images in a shard.
        max_count: Most samples in a shard.
        shuffle: Seed of a random order; None keeps the natural order of the names.
        skip_damaged: Whether to leave out samples with a damaged image, and list them, instead of stopping.
        report: Told of every finished shard.

    Returns:
        The content of ``shards.json``.

    Raises:
        DataError: An image is damaged or has no partner, or ``out`` holds something else.
        OptionError: The package webdataset is missing, or another run is writing there.
        OSError: The disk is full, or ``out`` cannot be written to.
    """
    _webdataset()
    plan = split(collect(fields), max_size, max_count, shuffle)
    mark = {'format': FORMAT, 'plan': _fingerprint(plan, skip_damaged)}
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / '.create.lock')
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise OptionError(f"Another process is writing shards to '{out}'.") from None
    try:
        manifest = read_manifest(out)
        _check_out(out, mark, manifest)
        if manifest and all(_has_size(out / s['name'], s['bytes']) for s in manifest['shards']):
            return manifest
        return _write_all(plan, out, mark, sorted(fields), skip_damaged, report)
    finally:
        lock.release()


def _has_size(tar: Path, size: int) -> bool:
    return tar.is_file() and tar.stat().st_size == size


def _write_all(
    plan: list[list[Sample]], out: Path, mark: dict[str, Any], fields: list[str], skip_damaged: bool,
    report: Report | None,
) -> dict[str, Any]:  # fmt: skip
    remove_leftovers(out)
    write_text(out / UNFINISHED, json.dumps(mark))
    shards = []
    for number, samples in enumerate(plan):
        tar = out / f'shard-{number:06d}.tar'
        index = read_index(tar) if tar.exists() else None
        if index is None or 'sha256' not in index.header:
            write_shard(tar, samples, skip_damaged)
            index = read_index(tar)
        assert index is not None
        header, count = index.header, len(index) // len(fields)
        shards.append({'name': tar.name, 'samples': count, 'bytes': header['size'], 'sha256': header['sha256']})
        shards[-1].update({'skipped': header['skipped']} if header['skipped'] else {})
        if report is not None:
            report(number + 1, len(plan), tar.name)
    totals = {'samples': sum(s['samples'] for s in shards), 'bytes': sum(s['bytes'] for s in shards)}
    manifest = {**mark, 'fields': fields, **totals, 'shards': shards}
    write_text(out / MANIFEST, json.dumps(manifest, indent=1) + '\n')
    (out / UNFINISHED).unlink()
    return manifest


def write_shard(tar: Path, samples: list[Sample], skip_damaged: bool) -> None:
    """Writes one tar file with the package webdataset, checks it against the samples, then writes its index.

    Raises:
        DataError: An image is damaged, unless they are skipped.
        OSError: The disk is full.
    """
    digest, skipped, lengths = hashlib.sha256(), [], []

    def write(file: BinaryIO) -> None:
        stream = Hashed(file, digest)
        with _webdataset().TarWriter(stream, encoder=False, mtime=0, user='', group='') as writer:
            for sample in samples:
                try:
                    record = {suffix: _read(path) for suffix, path in sample.files}
                except DataError as error:
                    if not skip_damaged:
                        raise
                    skipped.append(str(error))
                    continue
                writer.write({'__key__': member_key(sample.key), **record})
                lengths.extend((sample.key, suffix, len(record[suffix])) for suffix in sorted(record))

    write_atomically(tar, write)
    members = scan(tar)
    if [(m.key, m.suffix, m.length) for m in members] != lengths:
        raise DataError(f"Shard '{tar}' does not hold what was written to it; is the disk sound?")
    content = pack(tar, members, sha256=digest.hexdigest(), skipped=skipped)
    write_atomically(index_path(tar), lambda file: file.write(content))


class Hashed:
    """A file to write to, whose content is hashed on its way.

    Args:
        file: Where it goes.
        digest: A hash of hashlib.
    """

    def __init__(self, file: BinaryIO, digest: Any) -> None:
        self.file, self.digest = file, digest

    def write(self, data: bytes) -> int:
        """Writes and hashes."""
        self.digest.update(data)
        return self.file.write(data)


def _read(path: Path) -> bytes:
    """The bytes of an image whose header is sound."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    probe_image(data, str(path))
    return data


def collect(fields: Mapping[str, list[Path]]) -> list[Sample]:
    """Pairs the images of all fields by their stems, in natural order.

    Raises:
        DataError: A folder is missing or empty, a stem is there twice in a field, or lacks one of the fields.
    """
    found = {field: _by_stem(field, folders) for field, folders in fields.items()}
    everywhere = set.intersection(*(set(f) for f in found.values()))
    lost = {field: [stem for stem in files if stem not in everywhere] for field, files in found.items()}
    if any(lost.values()):
        sides = [f'{f} {", ".join(map(repr, stems[:SHOWN]))} ({len(stems)})' for f, stems in lost.items() if stems]
        raise DataError(f'Not every sample has all fields ({", ".join(fields)}); alone are: {"; ".join(sides)}.')
    return [_sample(stem, found) for stem in next(iter(found.values()))]


def _sample(stem: str, found: Mapping[str, dict[str, Path]]) -> Sample:
    files = tuple((f'{field}.' * bool(field) + found[field][stem].suffix[1:].lower(), found[field][stem])
                  for field in sorted(found))  # fmt: skip
    if split_name(f'{member_key(stem)}.{files[0][0]}') != (stem, files[0][0]):
        raise DataError(f"'{files[0][1]}' cannot be a member of a WebDataset shard under its name; rename it.")
    return Sample(stem, files, ' '.join(state_of(file) for _, file in files), sum(f.stat().st_size for _, f in files))


def _by_stem(field: str, folders: list[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in folders:
        for file in list_images(folder):
            other = found.setdefault(stem_of(file, folder), file)
            if other is not file:
                kind = f" of field '{field}'" if field else ''
                raise DataError(f"'{other}' and '{file}'{kind} would be one sample, '{stem_of(file, folder)}'.")
    return found


def split(samples: list[Sample], max_size: int, max_count: int, shuffle: int | None) -> list[list[Sample]]:
    """Deals samples into shards; a sample larger than ``max_size`` gets a shard of its own."""
    if shuffle is not None:
        Random(shuffle).shuffle(samples)
    plan: list[list[Sample]] = []
    room = 0
    for sample in samples:
        if not plan or sample.size > room or len(plan[-1]) >= max_count:
            plan.append([])
            room = max_size
        plan[-1].append(sample)
        room -= sample.size
    return plan


def _fingerprint(plan: list[list[Sample]], skip_damaged: bool) -> str:
    """Changes with the files, their order, and how they are dealt into shards."""
    digest = hashlib.sha256(f'{FORMAT} {skip_damaged}'.encode())
    for samples in plan:
        digest.update(b'\nshard\n')
        for sample in samples:
            suffixes = ' '.join(suffix for suffix, _ in sample.files)
            digest.update(f'{sample.key} {suffixes} {sample.state}\n'.encode('utf-8', 'surrogateescape'))
    return digest.hexdigest()


def _check_out(out: Path, mark: dict[str, Any], manifest: dict[str, Any]) -> None:
    """What is in the folder must be of the same files and settings, or nothing."""
    unfinished = out / UNFINISHED
    before = manifest or (json.loads(unfinished.read_text()) if unfinished.exists() else {})
    others = any(out.glob('*.tar')) and not before
    if others or (before and before.get('plan') != mark['plan']):
        raise DataError(
            f"'{out}' holds shards of other images or other settings (a file that has changed counts too); "
            'give an empty folder, or delete them.'
        )


def write_indexes(root: Path) -> int:
    """Writes the index of every shard that lacks one; returns how many there were to write.

    Raises:
        DataError: There are no shards, or one is damaged.
        OSError: The folder cannot be written to.
    """
    lacking = [tar for tar in find_shards(root) if read_index(tar) is None]
    for tar in lacking:
        content = pack(tar, scan(tar))
        write_atomically(index_path(tar), lambda file, content=content: file.write(content))
    return len(lacking)


def verify(root: Path) -> Iterator[str]:
    """Reads every byte of a set of shards, and tells what is wrong with it.

    Args:
        root: A folder of shards; those without a list are checked for wholeness and for sound image headers only.

    Yields:
        A sentence for each problem.

    Raises:
        DataError: There are no shards, or they are unfinished.
    """
    listed = {s['name']: s for s in read_manifest(root).get('shards', [])}
    for tar in find_shards(root):
        try:
            members = scan(tar)
            with tar.open('rb') as file:
                for member in members:
                    file.seek(member.offset)
                    yield from _problems(file.read(member.length), f'{tar}/{member.key}.{member.suffix}')
                entry = listed.get(tar.name)
                if entry and _sha256(file) != entry['sha256']:
                    yield f"Shard '{tar}' has changed since it was written: its SHA-256 is another."
        except DataError as error:
            yield str(error)


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    while data := file.read(1 << 20):
        digest.update(data)
    return digest.hexdigest()


def _problems(data: bytes, name: str) -> Iterator[str]:
    try:
        probe_image(data, name)
    except DataError as error:
        yield str(error)


def _webdataset() -> Any:
    """The package that writes; reading needs none.

    Raises:
        OptionError: It is not installed.
    """
    try:
        import webdataset
    except ImportError as error:
        raise OptionError(f'Writing shards needs the package webdataset: pip install webdataset ({error}).') from error
    return webdataset
