"""Pairs per second that training loaders deliver: this project beside BasicSR 1.4.2 of PyPI, and the limits of both.

    python benchmarks/loader.py --photos DIR [--peer PYTHON] [--workers 2] [--rounds 3]
    python benchmarks/loader.py --table

``PYTHON`` is the interpreter of an environment that holds ``basicsr==1.4.2``. Both loaders read the same LMDB of the
same photographs (1536x1024 PNG, degraded and clean), cut crops of the same size, mirror and turn them, and hand float32
batches to a process that does nothing else. Every setting runs in a process of its own, in turn; medians are written to
docs/results/loader.json, and from there into docs/data.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__' and not __package__:  # run as a script: import from the checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
HEIGHT, WIDTH, COUNT = 1024, 1536, 24  # of the photographs
CROP, BATCH = 256, 8
RESULTS, PAGE = ROOT / 'docs/results/loader.json', ROOT / 'docs/data.md'
BEGIN, END = '<!-- loader: begin -->', '<!-- loader: end -->'
SUB_IMAGES = {'crop_size': 480, 'step': 240, 'thresh_size': 0}  # BasicSR's usual windows
# name: (which LMDB, cache)
OURS = {
    'LMDB of whole photographs': ('full', 'none'),
    'LMDB of sub-images, PNG': ('sub', 'none'),
    'LMDB of sub-images, BMP': ('sub_bmp', 'none'),
    'whole photographs, cache: ram': ('full', 'ram'),
    'whole photographs, cache: memmap': ('full', 'memmap'),
}
LIMITS = ('cv2.imdecode alone', 'memory copy alone')


def prepare(photos: Path, work: Path) -> None:
    """Writes the photographs, degraded and clean, and their LMDBs."""
    from basicsr.image_io import list_images, read_pixels, write_image
    from basicsr.lmdb_make import create
    from basicsr.registry import DEGRADATION_REGISTRY, build

    haze = build(DEGRADATION_REGISTRY, {'type': 'Haze'})
    number = 0
    for file in list_images(photos):
        photo = read_pixels(file)
        if number == COUNT or photo.shape[0] < HEIGHT or photo.shape[1] < WIDTH or photo.dtype != np.uint8:
            continue
        clean = photo[:HEIGHT, :WIDTH].astype(np.float32) / np.float32(255)
        write_image(work / 'gt' / f'{number:04d}.png', clean)
        write_image(work / 'lq' / f'{number:04d}.png', haze(clean, np.random.default_rng(number)))
        number += 1
    if number < COUNT:
        raise SystemExit(f"'{photos}' holds {number} photographs of at least {WIDTH}x{HEIGHT}; {COUNT} are needed.")
    for side in ('gt', 'lq'):
        create(work / side, work / 'full' / f'{side}.lmdb')
        create(work / side, work / 'sub' / f'{side}.lmdb', image_format='png', **SUB_IMAGES)
        create(work / side, work / 'sub_bmp' / f'{side}.lmdb', image_format='bmp', **SUB_IMAGES)


def rate(feed: Callable[[], int], seconds: float) -> float:
    """Pairs per second of a source that delivers some pairs a call."""
    pairs, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        pairs += feed()
    return pairs / (time.perf_counter() - start)


def measure_ours(work: Path, name: str, workers: int, seconds: float) -> float:
    """This project's training loader."""
    from basicsr.data import build_dataset
    from basicsr.loader import SampleStream, batches, train_loader
    from basicsr.options import dataset_options

    folder, cache = OURS[name]
    block = {
        'type': 'PairedImageDataset',
        'dataroot_gt': str(work / folder / 'gt.lmdb'),
        'dataroot_lq': str(work / folder / 'lq.lmdb'),
        'gt_size': CROP,
        'cache': cache,
        'cache_dir': str(work / 'cache'),
        'batch_size_per_gpu': BATCH,
        'num_worker_per_gpu': workers,
    }
    options = dataset_options(block, 'train')
    dataset = build_dataset(options)
    stream = SampleStream(len(dataset), options.loader, seed=0)
    feed = batches(train_loader(dataset, options, stream, pin_memory=False))
    return _steady(feed, len(dataset) if cache != 'none' else 0, seconds)


def _steady(feed: Iterator[dict[str, Any]], first: int, seconds: float) -> float:
    """The rate after the start: once a cache of ``first`` images has been filled in every process, and after 2 s."""

    def take() -> int:
        return len(next(feed)['gt'])

    seen = 0
    while seen < 8 * first:
        seen += take()
    rate(take, 2.0)
    return rate(take, seconds)


def measure_limit(work: Path, name: str, workers: int, seconds: float) -> float:
    """What ``workers`` processes reach that do nothing but decode, or nothing but copy crops."""
    target = _decode_forever if name == LIMITS[0] else _copy_forever
    with multiprocessing.get_context('fork').Pool(workers) as pool:
        return sum(pool.starmap(target, [(str(work), seconds)] * workers))


def _decode_forever(work: str, seconds: float) -> float:
    cv2.setNumThreads(0)
    pairs = [[np.fromfile(Path(work) / side / f'{n:04d}.png', np.uint8) for side in ('gt', 'lq')] for n in range(COUNT)]
    feed = iter(int(n) for n in np.random.default_rng(os.getpid()).integers(COUNT, size=1_000_000))

    def take() -> int:
        for data in pairs[next(feed)]:
            cv2.imdecode(data, cv2.IMREAD_COLOR)
        return 1

    rate(take, 1.0)
    return rate(take, seconds)


def _copy_forever(work: str, seconds: float) -> float:
    """Copies random crops of decoded photographs into float32 batches."""
    photos = np.stack([cv2.imread(str(Path(work) / 'gt' / f'{n:04d}.png')) for n in range(COUNT)])
    rng, batch = np.random.default_rng(os.getpid()), np.empty((2, CROP, CROP, 3), np.float32)

    def take() -> int:
        number, top, left = rng.integers((COUNT, HEIGHT - CROP, WIDTH - CROP))
        for side in batch:
            side[...] = photos[number, top : top + CROP, left : left + CROP]
        return 1

    rate(take, 1.0)
    return rate(take, seconds)


def table(work: Path, peer: str | None, workers: int, rounds: int, seconds: float) -> dict[str, dict[str, float]]:
    """Every setting in turn, ``rounds`` times; medians, and ratios to BasicSR and to the decoding limit."""
    own = [sys.executable, __file__, '--work', str(work), '--measure']
    commands = {name: [*own, name] for name in (*LIMITS, *OURS)}
    if peer:
        script = ROOT / 'benchmarks/peers/basicsr_loader.py'
        commands['BasicSR 1.4.2, LMDB of whole photographs'] = [peer, str(script), '--work', str(work)]
    found: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            full = [*command, '--workers', str(workers), '--seconds', str(seconds)]
            result = subprocess.run(full, capture_output=True, text=True, check=True)
            found[name].append(float(result.stdout.split()[-1]))
    medians = {name: statistics.median(values) for name, values in found.items()}
    other = medians.get('BasicSR 1.4.2, LMDB of whole photographs')
    return {
        name: {
            'pairs_per_s': round(value, 1),
            'of_imdecode': round(value / medians[LIMITS[0]], 2),
            **({'of_basicsr': round(value / other, 2)} if other else {}),
        }
        for name, value in medians.items()
    }


def write_table() -> None:
    """Writes the stored results into the documentation."""
    from basicsr.files import write_text

    page = PAGE.read_text(encoding='utf-8')
    head, _, rest = page.partition(BEGIN)
    facts = json.loads(RESULTS.read_text(encoding='utf-8'))
    write_text(PAGE, f'{head}{BEGIN}\n{markdown(facts)}\n{END}{rest.partition(END)[2]}')


def markdown(facts: dict[str, Any]) -> str:
    """The results as a table."""
    lines = ['| source | pairs/s | of bare decoding | of BasicSR |', '| --- | --- | --- | --- |']
    for name, row in facts['results'].items():
        ratio = f'{row["of_basicsr"]:.2f}' if 'of_basicsr' in row else ''
        lines.append(f'| {name} | {row["pairs_per_s"]:.1f} | {row["of_imdecode"]:.2f} | {ratio} |')
    note = (
        f'{facts["photographs"]}, PNG; crops of {facts["crop"]}, batches of {facts["batch"]}, {facts["workers"]} '
        f'loader processes, {facts["cores"]} cores ({facts["processor"]}), OpenCV {facts["opencv"]}; median of '
        f'{facts["rounds"]} rounds in turn. `python benchmarks/loader.py --photos DIR --peer PYTHON`'
    )
    return '\n'.join([*lines, '', note])


def measure_all(args: argparse.Namespace) -> None:
    """Prepares the data, measures every setting and stores the results."""
    from basicsr.utils.misc import processor_name

    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        if not (work / 'sub_bmp').is_dir():
            prepare(args.photos, work)
        results = {
            'photographs': f'{COUNT} pairs of {WIDTH}x{HEIGHT}', 'crop': CROP, 'batch': BATCH, 'workers': args.workers,
            'rounds': args.rounds, 'cores': os.cpu_count(), 'processor': processor_name(), 'opencv': cv2.__version__,
            'results': table(work, args.peer, args.workers, args.rounds, args.seconds),
        }  # fmt: skip
    text = json.dumps(results, indent=1)
    print(text)
    args.results.parent.mkdir(parents=True, exist_ok=True)
    args.results.write_text(text + '\n', encoding='utf-8')


def main() -> None:
    """Measures, or writes the table."""
    parser = argparse.ArgumentParser(description='Speed of training loaders.')
    parser.add_argument('--photos', type=Path, help=f'folder of photographs of at least {WIDTH}x{HEIGHT}')
    parser.add_argument('--peer', help='python of an environment that holds basicsr==1.4.2')
    parser.add_argument('--workers', type=int, default=2)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--seconds', type=float, default=8.0, help='length of each measurement')
    parser.add_argument('--work', type=Path, help='folder for the LMDBs, kept; a temporary one by default')
    parser.add_argument('--results', type=Path, default=RESULTS, help='where to write the results')
    parser.add_argument('--table', action='store_true', help='write the stored results into docs/data.md, and stop')
    parser.add_argument('--measure', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure = measure_limit if args.measure in LIMITS else measure_ours
        print(measure(args.work, args.measure, args.workers, args.seconds))
    elif args.table:
        write_table()
    else:
        measure_all(args)


if __name__ == '__main__':
    main()
