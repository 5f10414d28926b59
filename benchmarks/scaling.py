"""What ten million photographs and 64 GPUs need of disks, processors and memory, from figures measured here.

    python benchmarks/scaling.py --photos DIR [--megabytes 256] [--keys 500000]     measure, write JSON and the tables
    python benchmarks/scaling.py --table [--images_per_s 40] [--gpus 64]            the tables again, from the JSON

The JSON is ``docs/results/scaling.json``, the tables stand in ``docs/scaling.md``. One thread in each process.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__' and not __package__:  # run as a script: import from the checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import gc
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

from basicsr.utils.misc import processor_name
from benchmarks.scaling_tables import write_tables

ROOT = Path(__file__).resolve().parents[1]
JSON = ROOT / 'docs/results/scaling.json'
MEGA = 1e6
FORMATS = ('png', 'jpg', 'webp', 'bmp', 'tif')
PHOTOS = 16  # photographs per format
SUB_IMAGE, STEP = 480, 240
BATCH = 32
SECONDS = 1.5  # least time of a measurement
PROCESSES = (1, 2, 4)
WHOLE, SHARD, GPUS, WINDOW = 10_000_000, 1000, 64, 8
PLAN = {  # name: (value, what it is)
    'photographs': (WHOLE, 'photographs to plan for'),
    'gpus': (GPUS, 'GPUs to plan for'),
    'images_per_s': (40.0, 'samples that one GPU trains on in a second'),
    'images_per_sample': (2, 'images read per sample: 2 for pairs'),
}


def timed(call: Callable[[int], object], count: int, least: float = SECONDS) -> float:
    """Calls a second, each with the next of ``count`` numbers, over whole rounds that take ``least`` seconds."""
    done, start = 0, time.perf_counter()
    while done == 0 or time.perf_counter() - start < least:
        for number in range(count):
            call(number)
        done += count
    return done / (time.perf_counter() - start)


def in_child(work: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function in a process of its own, so that nothing stays open or mapped."""
    with multiprocessing.get_context('fork').Pool(1) as pool:
        return pool.apply(work, arguments)


# ---- formats ------------------------------------------------------------------------------------------------------


def formats(photos: Sequence[np.ndarray]) -> dict[str, dict[str, float]]:
    """Bytes and decoding rate of each format, whole photographs and sub-images."""
    from basicsr.image_io import encode_image

    pixels = statistics.mean(p.shape[0] * p.shape[1] for p in photos)
    found = {}
    for ending in FORMATS:
        found[ending] = _format([encode_image(p, f'.{ending}') for p in photos], pixels)
    subs = [s for p in photos for s in sub_images(p)]
    number = len(subs) / len(photos)
    chosen = subs[:: max(1, len(subs) // PHOTOS)]
    for ending in ('png', 'jpg', 'bmp'):
        entry = _format([encode_image(s, f'.{ending}') for s in chosen], SUB_IMAGE**2)
        found[f'{ending}, sub-images'] = {**entry, 'per_photo': number}
    found['raw pixels'] = {'bytes': pixels * 3, 'bytes_per_pixel': 3.0, **_raw(photos, pixels)}
    return {name: {k: round(v, 3) for k, v in entry.items()} for name, entry in found.items()}


def _format(files: list[bytes], pixels: float) -> dict[str, float]:
    from basicsr.image_io import decode_image

    size = statistics.mean(map(len, files))
    rate = timed(lambda n: decode_image(files[n], 'photo'), len(files))
    return {'bytes': size, 'bytes_per_pixel': size / pixels, 'per_s': rate, 'megapixels_per_s': rate * pixels / MEGA}


def _raw(photos: Sequence[np.ndarray], pixels: float) -> dict[str, float]:
    rate = timed(lambda n: photos[n].copy(), len(photos), 0.3)
    return {'per_s': rate, 'megapixels_per_s': rate * pixels / MEGA}


def sub_images(photo: np.ndarray) -> list[np.ndarray]:
    """BasicSR's overlapping windows, the last of each row and column moved to the edge."""
    tops, lefts = ([*range(0, max(1, n - SUB_IMAGE), STEP), max(0, n - SUB_IMAGE)] for n in photo.shape[:2])
    windows = [photo[t : t + SUB_IMAGE, x : x + SUB_IMAGE] for t in dict.fromkeys(tops) for x in dict.fromkeys(lefts)]
    return [np.ascontiguousarray(w) for w in windows]


# ---- reading ------------------------------------------------------------------------------------------------------


def prepare(photos: Sequence[np.ndarray], work: Path, megabytes: int) -> int:
    """Writes shards and an LMDB of as many JPEG files as make that size; returns their number."""
    from basicsr.image_io import encode_image
    from basicsr.lmdb_make import create as create_lmdb
    from basicsr.shard_writer import create as create_shards

    files = [encode_image(p, '.jpg') for p in photos]
    count, size = 0, 0
    (work / 'in').mkdir()
    while size < megabytes * MEGA:
        (work / f'in/{count:06d}.jpg').write_bytes(files[count % len(files)])
        count, size = count + 1, size + len(files[count % len(files)])
    create_shards({'': [work / 'in']}, work / 'shards', max_size=megabytes * int(MEGA) // 8)
    create_lmdb(work / 'in', work / 'in.lmdb')
    return count


def reading(work: Path) -> dict[str, dict[str, float]]:
    """Images and megabytes a second: from disk and from memory, one process, bytes only."""
    found = {}
    for store in ('shards', 'lmdb'):
        for order in ('whole set', 'windows of 2 shards'):
            if store == 'lmdb' and order != 'whole set':
                continue
            forget(work)
            found[f'{store}, shuffled over the {order}, from disk'] = in_child(_read_once, work, store, order, False)
        found[f'{store}, shuffled over the whole set, from memory'] = in_child(
            _read_once, work, store, 'whole set', True
        )
    return found


def _read_once(work: Path, store: str, order: str, warm: bool) -> dict[str, float]:
    reader = _open(work, store)
    keys = list(reader.keys)
    numbers = _order(getattr(reader, 'parts', [len(keys)]), order)
    if warm:
        size = sum(len(bytes(reader.get(k))) for k in keys)
    size, start = 0, time.perf_counter()
    for number in numbers:
        size += len(bytes(reader.get(keys[number])))  # bytes(): an LMDB's pages are read when they are touched
    seconds = time.perf_counter() - start
    return {'per_s': round(len(keys) / seconds, 1), 'megabytes_per_s': round(size / MEGA / seconds, 1)}


def _order(parts: list[int], order: str) -> list[int]:
    from basicsr.sample_stream import ShardOrder

    total = sum(parts)
    if order == 'whole set':
        return np.random.default_rng(0).permutation(total).tolist()
    stream = ShardOrder(parts, total, 2, 0, 0, 1)
    return [stream.sample(0, p) for p in range(total)]


def _open(work: Path, store: str) -> Any:
    if store == 'shards':
        from basicsr.shards import ShardReader

        return ShardReader(work / 'shards')
    from basicsr.lmdb_io import LmdbReader

    return LmdbReader(work / 'in.lmdb')


def forget(work: Path) -> None:
    """Drops the files of both stores from the page cache; they must be on disk and mapped by nobody."""
    gc.collect()
    for file in (*(work / 'shards').iterdir(), *(work / 'in.lmdb').iterdir()):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def together(work: Path) -> dict[str, dict[str, float]]:
    """Several processes at once, each on shards of its own: bytes only, and decoded."""
    found = {}
    for decode in (False, True):
        for count in PROCESSES:
            with multiprocessing.get_context('fork').Pool(count) as pool:
                rates = pool.starmap(_read_own, [(work, rank, count, decode) for rank in range(count)], chunksize=1)
            name = f'{count} process{"es" * (count > 1)}, {"decoded" if decode else "bytes only"}'
            found[name] = {
                'per_s': round(sum(r[0] for r in rates), 1),
                'megabytes_per_s': round(sum(r[1] for r in rates), 1),
            }
    return found


def _read_own(work: Path, rank: int, world_size: int, decode: bool) -> tuple[float, float]:
    from basicsr.image_io import decode_image
    from basicsr.sample_stream import ShardOrder

    cv2.setNumThreads(0)
    reader = _open(work, 'shards')
    share = len(reader) // world_size
    order, keys = ShardOrder(reader.parts, share, 2, 0, rank, world_size), reader.keys
    size = 0

    def one(position: int) -> None:
        nonlocal size
        data = reader.get(keys[order.sample(0, position) % len(keys)])
        size += len(data)
        if decode:
            decode_image(data, 'photo')

    start = time.perf_counter()
    rate = timed(one, share)
    return rate, size / MEGA / (time.perf_counter() - start)


# ---- indexes, order, memory ---------------------------------------------------------------------------------------


def indexes(work: Path, count: int) -> dict[str, float]:
    """Shards that hold nothing but their index, with ``count`` keys: size, time to open, memory."""
    from basicsr.shard_index import Member, index_path, pack

    folder = work / 'index'
    folder.mkdir()
    size = 0
    for shard in range(count // SHARD):
        tar = folder / f'shard-{shard:06d}.tar'
        with tar.open('wb') as file:
            file.truncate(10240)
        members = [Member(f'folder/{shard:06d}/{i:08d}', 'jpg', 512 * (i % 18 + 1), 512) for i in range(SHARD)]
        index_path(tar).write_bytes(pack(tar, members))
        size += index_path(tar).stat().st_size
    found = {'keys': count, 'bytes_per_key': round(size / count, 1)}
    return {**found, **in_child(_open_index, folder), **in_child(_open_set, folder)}


def _open_index(folder: Path) -> dict[str, float]:
    from basicsr.shards import ShardReader

    gc.collect()
    before, start = private_bytes(), time.perf_counter()
    reader = ShardReader(folder)
    seconds, memory = time.perf_counter() - start, private_bytes() - before
    keys = [reader.keys[i] for i in np.random.default_rng(0).integers(len(reader), size=2000)]
    start = time.perf_counter()
    for key in keys:
        reader.get(key)
    per_get = (time.perf_counter() - start) / len(keys)
    millions = len(reader) / MEGA
    return {
        'open_s_per_million': round(seconds / millions, 2),
        'reader_megabytes_per_million': round(memory / MEGA / millions, 1),
        'get_microseconds': round(per_get * MEGA, 1),
    }


def _open_set(folder: Path) -> dict[str, float]:
    """The same keys as a data set of pairs; what it takes in memory and in time."""
    from basicsr.data import build_dataset

    gc.collect()
    before, start = private_bytes(), time.perf_counter()
    block = {'type': 'PairedImageDataset', 'dataroot_gt': str(folder), 'dataroot_lq': str(folder), 'gt_size': 256}
    dataset = build_dataset(block)
    millions = len(dataset) / MEGA  # type: ignore[arg-type]
    return {
        'dataset_s_per_million': round((time.perf_counter() - start) / millions, 2),
        'dataset_megabytes_per_million': round((private_bytes() - before) / MEGA / millions, 1),
    }


def private_bytes(pid: int | str = 'self') -> int:
    """Memory that a process shares with no other."""
    lines = Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith('Private_'))


def orders() -> dict[str, float]:
    """Time and memory of an epoch's order for ten million samples."""
    from basicsr.sample_stream import ShardOrder, WholeOrder

    whole = WholeOrder(WHOLE, 0, shuffle=True)
    own = ShardOrder([SHARD] * (WHOLE // SHARD), WHOLE // GPUS, WINDOW, 0, 1, GPUS)
    found: dict[str, float] = {'samples': WHOLE, 'whole_megabytes': WHOLE * 8 / MEGA}
    for name, order in (('whole', whole), ('shards', own)):
        start = time.perf_counter()
        order.sample(1, 0)
        found[f'{name}_epoch_s'] = round(time.perf_counter() - start, 5)
        found[f'{name}_sample_microseconds'] = round(MEGA / timed(lambda n, o=order: o.sample(1, n), 20_000, 0.3), 2)
    return found


def loaders(work: Path) -> dict[str, float]:
    """Private memory of a loader process after a while, by the way in which it was started."""
    return {method: in_daemonless_child(_loader_memory, work, method) for method in ('fork', 'forkserver')}


def in_daemonless_child(work: Callable[..., Any], *arguments: Any) -> Any:
    """Like :func:`in_child`, for work that starts processes itself, which those of a pool may not."""
    context = multiprocessing.get_context('fork')
    queue = context.SimpleQueue()
    process = context.Process(target=lambda: queue.put(work(*arguments)))
    process.start()
    found = queue.get()
    process.join()
    return found


def _loader_memory(work: Path, method: str) -> float:
    from basicsr.data import build_dataset
    from basicsr.loader import SampleStream, batches, train_loader
    from basicsr.options import dataset_options

    shards = str(work / 'shards')
    block = {'type': 'PairedImageDataset', 'dataroot_gt': shards, 'dataroot_lq': shards, 'gt_size': 256,
             'batch_size_per_gpu': 8, 'num_worker_per_gpu': 1, 'start_method': method}  # fmt: skip
    options = dataset_options(block, 'train')
    dataset = build_dataset(options)
    stream = SampleStream(len(dataset), options.loader, 0)
    feed = batches(train_loader(dataset, options, stream, pin_memory=False))
    for _ in range(12):
        next(feed)
    # multiprocessing's own helpers are children too; the loader process is the largest
    return round(max(private_bytes(c.pid) for c in multiprocessing.active_children()) / MEGA, 1)


# ---- the command --------------------------------------------------------------------------------------------------


def load_photos(folder: Path) -> list[np.ndarray]:
    """Some photographs of a folder, spread over it, 8 bit."""
    from basicsr.image_io import list_images, read_pixels

    files = list_images(folder)
    chosen = files[:: max(1, len(files) // PHOTOS)][:PHOTOS]
    photos = [p for p in map(read_pixels, chosen) if p.dtype == np.uint8 and min(p.shape[:2]) >= SUB_IMAGE // 2]
    if not photos:
        raise SystemExit(f"'{folder}' holds no 8-bit photograph of at least {SUB_IMAGE // 2} pixels.")
    return photos


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    photos = load_photos(args.photos)
    size = statistics.mean(p.shape[0] * p.shape[1] for p in photos)
    facts = {
        'processor': processor_name(), 'cores': os.cpu_count(), 'photographs': len(photos),
        'megapixels': round(size / MEGA, 3),
        'python': platform.python_version(), 'opencv': cv2.__version__, 'stored_megabytes': args.megabytes,
    }  # fmt: skip
    if args.work is not None:
        args.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.work) as temporary:
        work = Path(temporary)
        stored = prepare(photos, work, args.megabytes)
        return {
            'facts': {**facts, 'stored_images': stored},
            'formats': formats(photos),
            'reading': reading(work),
            'together': together(work),
            'index': indexes(work, args.keys),
            'order': orders(),
            'loader_megabytes': loaders(work),
        }


def main() -> None:
    """Measures, or writes the tables of what was measured."""
    parser = argparse.ArgumentParser(description='What large training sets need.')
    parser.add_argument('--photos', type=Path, default=ROOT / 'datasets/sample', help='folder of photographs')
    parser.add_argument('--megabytes', type=int, default=256, help='size of the shards and of the LMDB that are read')
    parser.add_argument('--keys', type=int, default=500_000, help='keys of the index that is opened')
    parser.add_argument('--work', type=Path, help='folder for temporary files, on the disk to measure')
    parser.add_argument('--json', type=Path, default=JSON, help='where the figures are kept')
    parser.add_argument('--page', type=Path, default=ROOT / 'docs/scaling.md', help='page that holds the tables')
    parser.add_argument('--table', action='store_true', help='only write the tables again')
    for name, (value, text) in PLAN.items():
        parser.add_argument(f'--{name}', type=type(value), help=f'{text} (default: {value}, or as last time)')
    args = parser.parse_args()
    before = json.loads(args.json.read_text(encoding='utf-8')) if args.json.exists() else {}
    results = before if args.table else measure(args)
    given = {name: getattr(args, name) for name in PLAN if getattr(args, name) is not None}
    defaults = {name: value for name, (value, _) in PLAN.items()}
    results['plan'] = {**defaults, **before.get('plan', {}), **given}
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(results, indent=1) + '\n', encoding='utf-8')
    write_tables(results, args.page)


if __name__ == '__main__':
    main()
