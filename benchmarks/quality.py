"""What each quality score sees and misses: the study behind docs/quality.md. Resumable; finished parts are kept.

    python benchmarks/quality.py [--weights DIR] [--data DIR --restored DIR] [--photos DIR] [--processes 2]
    python benchmarks/quality.py --only page                                the tables again, from the stored parts

Parts lie in ``docs/results/quality``, one JSON each. ``--weights`` adds CNNIQA, ``--data`` (default: QUALIR_DATA) the
real pairs, ``--restored`` what ``peer_figures.py`` made of them.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__' and not __package__:  # run as a script: import from the checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import json
import os
import statistics
import time
from collections.abc import Sequence

import numpy as np
import torch

from basicsr.cli import run_command
from basicsr.errors import OptionError
from basicsr.image_io import to_tensor
from basicsr.iqa import Scorer
from basicsr.utils.misc import processor_name
from benchmarks import quality_gaming, quality_ladders, quality_page
from benchmarks.peers.networks import peers_for
from benchmarks.quality_parts import fill, rounded, save
from benchmarks.quality_scores import TYPES, scorers

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / 'datasets/sample/val'
STEPS = ('ladders', 'pairs', 'gaming', 'speed', 'page')
SHOWN = 12  # images of each real set whose restored versions are scored
ROUNDS = 3  # of the clock


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description='What each quality score sees and misses.')
    parser.add_argument('--only', nargs='+', choices=STEPS, default=list(STEPS), help='steps to do; default: all')
    parser.add_argument(
        '--photos', type=Path, nargs='*', default=[], help='folders of clean photographs beside the sample'
    )
    parser.add_argument(
        '--data', type=Path, default=os.environ.get('QUALIR_DATA'), help='real data; default: QUALIR_DATA'
    )
    parser.add_argument('--restored', type=Path, help='images restored by peers: results/peers of peer_figures.py')
    parser.add_argument('--weights', type=Path, help='folder of published weights, for CNNIQA')
    parser.add_argument('--seeds', type=int, default=3, help='draws of each degradation, and crops to game')
    parser.add_argument(
        '--processes', type=int, default=min(os.cpu_count() or 1, 8), help='processes that share the work'
    )
    parser.add_argument('--output', type=Path, default=ROOT / 'docs/results/quality', help='where the parts lie')
    parser.add_argument('--page', type=Path, default=ROOT / 'docs/quality.md', help='page that the tables go into')
    parser.add_argument('--scratch', type=Path, default=ROOT / 'results/quality', help='where gamed images go')
    return parser.parse_args(arguments)  # fmt: skip


def study(args: argparse.Namespace) -> int:
    """Does the steps asked for. Returns the exit code."""
    if args.seeds < 1 or args.processes < 1:
        raise OptionError(f'--seeds is {args.seeds} and --processes is {args.processes}; both must be at least 1.')
    torch.set_num_threads(1)
    photos = quality_ladders.photographs([SAMPLE, *args.photos])
    if set(args.only) != {'page'}:
        judges, reasons = scorers([{'type': t} for t in TYPES], args.weights)
        print('\n'.join([f'Scores: {", ".join(s.name for s in judges)}.', *(f'Left out: {r}' for r in reasons)]))
        measure(args, judges, photos)
    if 'page' in args.only:
        show(args, photos)
    return 0


def measure(args: argparse.Namespace, judges: Sequence[Scorer], photos: dict[str, np.ndarray]) -> None:
    """Fills the parts of every step asked for but the page."""
    started = time.perf_counter()
    if 'ladders' in args.only:
        for name in quality_ladders.LADDERS:
            fill(quality_ladders.ladder_part(name, photos, args.seeds), judges, args.output, args.processes)
            _tell(f'ladder {name}', started)
    if 'pairs' in args.only and args.data is not None:
        for name, (task, *_) in quality_ladders.PAIRS.items():
            part = quality_ladders.pair_part(Path(args.data), name, args.restored, peers_for(task), SHOWN)
            fill(part, judges, args.output, args.processes)
            _tell(f'pairs {name}', started)
    if 'gaming' in args.only:
        quality_gaming.play(judges, photos, args.seeds, args.output, args.scratch, args.processes)
        _tell('gaming', started)
    if 'speed' in args.only:
        clock(judges, photos, args.output / 'speed.json')
        _tell('speed', started)


def show(args: argparse.Namespace, photos: dict[str, np.ndarray]) -> None:
    """Writes tables and pictures of the page."""
    found = quality_page.records(args.output)
    print(f'{args.page}: {", ".join(quality_page.write_page(args.page, found)) or "no table"}.')
    quality_page.ladder_picture(photos, args.page.with_name('quality_ladders.jpg'))
    games = quality_page.ordered(n.removeprefix('gaming_') for n in found if n.startswith('gaming_'))
    quality_page.gaming_picture(args.scratch, games, args.page.with_name('quality_gaming.jpg'))


def clock(judges: Sequence[Scorer], photos: dict[str, np.ndarray], file: Path) -> None:
    """Median seconds a megapixel of each scorer on one thread, without gradients, the photographs one by one."""
    images = [to_tensor(p)[None] for p in photos.values()]
    megapixels = sum(i.shape[-2] * i.shape[-1] for i in images) / 1e6
    settings = {'machine': f'{processor_name()}, 1 thread', 'megapixels': rounded(megapixels)}
    versions = {s.name: s.version for s in judges}
    stored = json.loads(file.read_text(encoding='utf-8')) if file.is_file() else {}
    if stored.get('settings') == settings and stored.get('versions') == versions:
        return
    found = {s.name: rounded(_seconds(s, images) / megapixels) for s in judges}
    save(file, json.dumps({'settings': settings, 'versions': versions, 'scores': found}, indent=1) + '\n')


@torch.no_grad()
def _seconds(scorer: Scorer, images: Sequence[torch.Tensor]) -> float:
    scorer(images[0])  # what is done once is not timed
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for image in images:
            scorer(image)
        rounds.append(time.perf_counter() - start)
    return statistics.median(rounds)


def _tell(done: str, started: float) -> None:
    print(f'{done} ({time.perf_counter() - started:.0f} s)', flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command. Returns the exit code."""
    args = parse_arguments(arguments)
    return run_command(lambda: study(args))


if __name__ == '__main__':
    sys.exit(main())
