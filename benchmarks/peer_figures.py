"""Published networks through the project's evaluation: restores the real pairs, scores them by the task's protocol.

    python benchmarks/peer_figures.py --weights DIR [--data DIR] [--restored results/peers] [--processes 2]
    python benchmarks/peer_figures.py --table                              the table again, from the JSON

Resumable: a restored image that is there is not made again. The figures go to ``docs/results/peers.json``, the table to
``docs/quality.md``, beside what was published for the whole test set. The real data hold other images than those test
sets, so a figure here is not expected to equal the published one; what can be compared is how much each gains.
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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from basicsr.checkpoint import sha256
from basicsr.cli import run_command
from basicsr.errors import OptionError
from basicsr.evaluation import Measurement
from basicsr.files import write_text
from basicsr.image_io import write_image
from basicsr.protocols import named
from benchmarks.peers.networks import PEERS, peers_for, restore
from benchmarks.quality_ladders import PAIRS, file_tensor, pair_files
from benchmarks.quality_page import between, table
from benchmarks.quality_parts import rounded, save, shared

ROOT = Path(__file__).resolve().parents[1]
PROTOCOLS = {'Rain100L': 'derain-y', 'SOTS': 'dehaze-sots', 'LOL': 'lol', 'LSUI': 'lsui'}
HERE = {
    'Rain100L': 'Rain100L, training side',
    'SOTS': 'SOTS indoor, 3 scenes',
    'LOL': 'LOL v1, training side',
    'LSUI': 'LSUI test, the half at hand',
}
TRAINED = ('prenet', 'iat')  # networks whose weights were trained on the very images that are at hand
MARK = 'weights.sha256'  # file beside the restored images: which weights made them


@dataclass(frozen=True)
class Published:
    """A figure of others for the same weights.

    Attributes:
        psnr: In dB, on the whole test set.
        degraded: PSNR of the degraded images of that set, where it is known.
        where: Images and source.
    """

    psnr: float
    degraded: float | None
    where: str


PUBLISHED: dict[str, Published] = {
    'prenet': Published(37.48, 26.90, 'Rain100L, 100 test images: authors, README (Y not rounded)'),
    'gcanet_dehaze': Published(30.23, 11.97, 'SOTS indoor, 500 images: authors, WACV 2019'),
    'aodnet': Published(19.06, 11.97, 'SOTS indoor, 500 images: RESIDE, TIP 2019'),
    'zero_dce': Published(14.86, 7.77, 'LOL eval15: as later papers report'),
    'iat': Published(23.38, 7.77, 'LOL eval15: authors, BMVC 2022'),
}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Published networks through the project's evaluation.")
    parser.add_argument('--weights', type=Path, help='folder of published weights')
    parser.add_argument('--data', type=Path, default=os.environ.get('QUALIR_DATA'), help='default: QUALIR_DATA')
    parser.add_argument('--restored', type=Path, default=ROOT / 'results/peers', help='where restored images go')
    parser.add_argument('--sets', nargs='+', choices=list(PAIRS), default=list(PAIRS), help='default: all')
    parser.add_argument('--processes', type=int, default=min(os.cpu_count() or 1, 8), help='that share the work')
    parser.add_argument('--json', type=Path, default=ROOT / 'docs/results/peers.json', help='where the figures go')
    parser.add_argument('--page', type=Path, default=ROOT / 'docs/quality.md', help='page that the table goes into')
    parser.add_argument('--table', action='store_true', help='only write the table, from the JSON')
    return parser.parse_args(arguments)


def figures(args: argparse.Namespace) -> int:
    """Restores, scores, writes. Returns the exit code."""
    if not args.table:
        if args.weights is None or args.data is None:
            raise OptionError('Give --weights, and --data or the environment variable QUALIR_DATA.')
        torch.set_num_threads(1)
        for name in args.sets:
            for peer in peers_for(PAIRS[name][0]):
                restore_set(name, peer, Path(args.data), args.weights, args.restored, args.processes)
                print(f'{name}: {PEERS[peer].network} restored', flush=True)
            found = json.loads(args.json.read_text(encoding='utf-8')) if args.json.is_file() else {}
            found[name] = score_set(name, Path(args.data), args.weights, args.restored, args.processes)
            save(args.json, json.dumps(found, indent=1) + '\n')
    found = json.loads(args.json.read_text(encoding='utf-8'))
    write_text(args.page, between(args.page.read_text(encoding='utf-8'), 'peers:', page_table(found)))
    return 0


def restore_set(name: str, peer: str, data: Path, weights: Path, restored: Path, processes: int) -> None:
    """Makes what is missing of one network's results on one set.

    Args:
        name: The set.
        peer: The network.
        data: Root of the real data.
        weights: Folder of published weights.
        restored: Folder of results: ``restored/set/peer/image.png``.
        processes: How many share the work.
    """
    folder = restored / name / peer
    digest, mark = sha256(weights / PEERS[peer].file), folder / MARK
    if not mark.is_file() or mark.read_text(encoding='utf-8').strip() != digest:
        for stale in folder.glob('*.png'):
            stale.unlink()
        save(mark, digest + '\n')  # first, so that what is made before a kill counts
    files = [f for f, _ in pair_files(data, name)]
    missing = [f for f in files if not (folder / f'{f.stem}.png').is_file()]

    def one(number: int) -> None:
        result = restore(peer, file_tensor(missing[number])[None], weights)
        write_image(folder / f'{missing[number].stem}.png', result[0])

    shared(one, len(missing), processes)


def score_set(name: str, data: Path, weights: Path, restored: Path, processes: int) -> dict[str, Any]:
    """Means of the protocol's metrics over a set, for the degraded images and for each network."""
    measurement, pairs = Measurement(named(PROTOCOLS[name])), pair_files(data, name)
    peers = peers_for(PAIRS[name][0])

    def one(number: int) -> list[dict[str, float]]:
        degraded, clean = (file_tensor(f)[None] for f in pairs[number])
        results = [file_tensor(restored / name / p / f'{pairs[number][0].stem}.png')[None] for p in peers]
        return [measurement.scores(image, clean, degraded) for image in (degraded, *results)]

    scored = shared(one, len(pairs), processes)
    means = [_means([image[i] for image in scored]) for i in range(1 + len(peers))]
    return {
        'protocol': PROTOCOLS[name],
        'digest': measurement.protocol.digest,
        'images': len(pairs),
        'degraded': means[0],
        'restored': dict(zip(peers, means[1:])),
        'weights': {p: sha256(weights / PEERS[p].file)[:12] for p in peers},
    }


def page_table(found: dict[str, Any]) -> str:
    """The figures beside the published ones, in Markdown."""
    lines = []
    for name, part in found.items():
        psnr, ssim = (next(k for k in part['degraded'] if k.startswith(kind)) for kind in ('psnr', 'ssim'))
        for peer, means in part['restored'].items():
            before, after, known = part['degraded'], means, PUBLISHED.get(peer)
            seen = ', trained on' if peer in TRAINED else ''
            lines.append([
                PEERS[peer].network, f'{HERE[name]} ({part["images"]}{seen})', part['protocol'],
                f'{before[psnr]:.2f} → {after[psnr]:.2f}', f'{before[ssim]:.3f} → {after[ssim]:.3f}',
                _published(known), known.where if known else '-',
            ])  # fmt: skip
    return table(['network', 'images here', 'protocol', 'PSNR here', 'SSIM here', 'PSNR published', 'on'], lines)


def _published(known: Published | None) -> str:
    if known is None:
        return '-'
    before = '' if known.degraded is None else f'{known.degraded:.2f} → '
    return f'{before}{known.psnr:.2f}'


def _means(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    return {label: rounded(statistics.mean(s[label] for s in scores)) for label in scores[0]}


def main(arguments: list[str] | None = None) -> int:
    """Runs the command. Returns the exit code."""
    args = parse_arguments(arguments)
    return run_command(lambda: figures(args))


if __name__ == '__main__':
    sys.exit(main())
