"""Seams, deviation from the whole image, memory and time of tiled restoration, on real photographs.

``python benchmarks/tiling.py --photos DIR --model net_g_latest.pth --json docs/results/tiling.json`` measures;
``--table docs/results/tiling.json`` prints the tables of docs/tiling.md from such a file. Run
again, the command goes on with its file.

The seam is the largest step between two neighbouring pixels that the blending adds. A blended pixel is the sum of the
tiles' outputs, each times its share; from one pixel to the next the sum changes because the outputs do, which is the
picture, and because the shares do, which is the seam: the sum over the tiles of (change of share) x (mean of the two
pixels). It is computed from the tiles' own outputs, before clipping, in both directions, for every pixel and channel.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__' and not __package__:  # run as a script: import from the checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import json
import math
import resource
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from basicsr import checkpoint
from basicsr.archs import build_network
from basicsr.files import write_text
from basicsr.image_io import list_images, probe_file, read_pixels, write_image
from basicsr.network import RestorationNetwork, Visit, keep
from basicsr.tile_plan import Span
from basicsr.tiling import Restorer, Tiling, _PixelSource
from basicsr.utils.misc import processor_name

LARGE = (5792, 8688)  # 50.3 megapixels


class LocalNetwork(RestorationNetwork):
    """Convolutions at two scales, of random weights, which declare how far they see."""

    multiple_of, halo = 4, 24

    def __init__(self) -> None:
        super().__init__()
        self.intro, self.ending = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.down, self.up = nn.Conv2d(8, 8, 4, 4), nn.ConvTranspose2d(8, 8, 4, 4)
        self.middle = nn.Conv2d(8, 8, 3, padding=1)

    def encode(self, x: Tensor, visit: Visit = keep) -> list[Tensor]:
        """Features at both scales."""
        first = self.intro(x).relu()
        return [first, self.middle(self.down(first)).relu()]

    def decode(self, x: Tensor, features: list[Tensor], visit: Visit = keep) -> Tensor:
        """The image, changed by both scales."""
        return x + self.ending(self.up(features[1]) + features[0])


def load(model: str) -> nn.Module:
    """A network by its weight file, which names it; ``local`` is the local one of this file."""
    torch.manual_seed(0)
    if model == 'local':
        return LocalNetwork().eval()
    net = build_network(checkpoint.read(model)['network_g'])
    checkpoint.load_network(net, model)
    return net.eval().to(memory_format=torch.channels_last)


# ---- seams


def outputs(
    restorer: Restorer, source: Any, rows: list[Span], columns: list[Span]
) -> Iterator[tuple[Span, Span, Tensor]]:
    """Every tile's place and output (C,h,w)."""
    for row in rows:
        for column in columns:
            yield row, column, restorer._tiles(source, row, [column])[0][0]


def shares(span: Span, length: int) -> tuple[int, Tensor]:
    """A tile's shares with a zero on either side, where the tile and the image go on, and where they begin."""
    before = span.left > max(span.start, 0)
    after = span.right < min(span.stop, length)
    return span.left - before, torch.tensor([0.0] * before + span.weights() + [0.0] * after)


def add_seams(tile: tuple[Span, Span, Tensor], seams: list[Tensor], blended: Tensor) -> None:
    """Adds one tile's part in the picture and in the steps to the right and down."""
    row, column, output = tile
    height, width = blended.shape[-2:]
    (top, down), (left, across) = shares(row, height), shares(column, width)
    part = output[
        :, top - row.start : top - row.start + len(down), left - column.start : left - column.start + len(across)
    ]
    place = (slice(None), slice(top, top + len(down)), slice(left, left + len(across)))
    blended[place] += part * down[:, None] * across
    right, below = (part[..., 1:] + part[..., :-1]) / 2, (part[:, 1:] + part[:, :-1]) / 2
    seams[0][:, place[1], left : left + len(across) - 1] += right * down[:, None] * across.diff()
    seams[1][:, top : top + len(down) - 1, place[2]] += below * down.diff()[:, None] * across


def measure_seam(net: nn.Module, pixels: np.ndarray, tiling: Tiling, whole: Tensor | None) -> dict[str, Any]:
    """One photograph in one tiling: the seam, and how far it is from the whole image."""
    restorer, source = Restorer(net, 'cpu', tiling), _PixelSource(pixels, torch.device('cpu'))
    rows, columns = restorer._plan(source)
    shape = (3, source.height, source.width)
    seams, blended = [torch.zeros(shape), torch.zeros(shape)], torch.zeros(shape)
    start = time.perf_counter()
    with torch.inference_mode():
        for tile in outputs(restorer, source, rows, columns):
            add_seams(tile, seams, blended)
    seconds = time.perf_counter() - start
    result = {
        'tiles': len(rows) * len(columns),
        'tile': [rows[0].stop - rows[0].start, columns[0].stop - columns[0].start],
        'ramp': min(span.falling for span in (*rows[:-1], *columns[:-1])),
        'seam': max(float(s.abs().max()) for s in seams),
        'seconds': seconds,
    }
    if whole is not None:
        gap = (blended - whole).abs()
        psnr = -10 * math.log10(max(float(gap.double().square().mean()), 1e-20))
        result |= {'largest': float(gap.max()), 'mean': float(gap.mean()), 'psnr': psnr}
    return result


def photographs(folder: str, megapixels: float, count: int) -> list[Path]:
    """The largest photographs of a folder, of at least so many megapixels."""
    sizes = {path: probe_file(path) for path in list_images(folder)}
    large = [p for p, i in sizes.items() if i.width * i.height >= megapixels * 1e6]
    return sorted(large, key=lambda p: sizes[p].width * sizes[p].height)[:count]


def measure_seams(args: argparse.Namespace, results: Results) -> None:
    """Every network on every photograph in every tiling that is not measured yet."""
    photos = photographs(args.photos, args.megapixels, args.number)
    for model in ['local', *args.model]:
        for window in [None, args.tlc] if args.tlc and model != 'local' else [None]:
            net = load(model)
            if window is not None:
                net.localize(window)
            for photo in photos:
                facts = {'network': name_of(net, model), 'tlc': window, 'photo': photo.name}
                tilings = [{**facts, 'size': s, 'overlap': o} for s in args.sizes for o in args.overlaps]
                missing = [t for t in tilings if not results.has('seams', t)]
                if not missing:
                    continue
                pixels = read_pixels(photo)
                whole = None if args.no_whole else run_whole(net, pixels)
                for tiling in missing:
                    measured = measure_seam(net, pixels, Tiling(tiling['size'], tiling['overlap']), whole)
                    results.add('seams', tiling | {'megapixels': pixels.size / 3e6} | measured)


def run_whole(net: nn.Module, pixels: np.ndarray) -> Tensor:
    """The restored photograph (C,H,W), in one piece."""
    with torch.inference_mode():
        source = _PixelSource(pixels, torch.device('cpu'))
        return Restorer(net, 'cpu')(source.cut(0, source.height, 0, source.width))[0]


def name_of(net: nn.Module, model: str) -> str:
    """A network in a word or two."""
    if model == 'local':
        return 'local, two scales'
    return f'{type(net).__name__}, {sum(p.numel() for p in net.parameters()):,} parameters'


class Results:
    """What has been measured, written after each measurement; a file that is there is gone on with.

    Args:
        file: Where it is kept, if anywhere.
    """

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.content: dict[str, Any] = {'machine': machine(), 'seams': [], 'large': []}
        if file is not None and file.exists():
            self.content |= json.loads(file.read_text(encoding='utf-8'))

    def has(self, part: str, facts: dict[str, Any]) -> bool:
        """Whether a measurement with these facts is there."""
        return any(facts.items() <= {k: v for k, v in r.items() if k in facts}.items() for r in self.content[part])

    def add(self, part: str, result: dict[str, Any]) -> None:
        """Keeps and shows one measurement."""
        self.content[part].append(result)
        print(json.dumps(result), file=sys.stderr, flush=True)
        if self.file is not None:
            write_text(self.file, json.dumps(self.content, indent=1) + '\n')


# ---- 50 megapixels


def enlarged(pixels: np.ndarray) -> np.ndarray:
    """A photograph of :data:`LARGE` from the real pixels of a smaller one, mirrored at its edges as often as needed."""
    mirrored = pixels
    for axis in (0, 1):
        places = np.pad(np.arange(pixels.shape[axis]), (0, max(LARGE[axis] - pixels.shape[axis], 0)), 'symmetric')
        mirrored = np.take(mirrored, places[: LARGE[axis]], axis)
    return np.ascontiguousarray(mirrored)


def measure_large(model: str, photo: str, size: str, picture: str | None) -> dict[str, Any]:
    """Seconds and peak memory of one photograph of 50 megapixels in this process."""
    pixels = enlarged(read_pixels(photo))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    restorer = Restorer(load(model), 'cpu', Tiling('auto' if size == 'auto' else int(size)))
    start = time.perf_counter()
    restored = restorer.pixels(pixels)
    seconds = time.perf_counter() - start
    if picture:
        write_image(picture, restored)
    return {
        'network': name_of(restorer.net, model), 'photo': Path(photo).name, 'megapixels': pixels.size / 3e6,
        'how': restorer.describe(), 'seconds': seconds, 'gigabytes_before': before * 1024 / 1e9,
        'gigabytes': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }  # fmt: skip


def large_in_processes(args: argparse.Namespace, results: Results) -> None:
    """:data:`LARGE` for each model and each of a few tile sizes, each in a fresh process."""
    photo = photographs(args.photos, args.megapixels, 1)[0]
    for model in args.model:
        for size in args.large:
            command = [sys.executable, __file__, '--one_large', model, str(photo), size]
            result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            results.add('large', json.loads(result.stdout))


# ---- the tables


def tables(results: dict[str, Any]) -> str:
    """Markdown from a result file."""
    where = results['machine']
    lines = [
        f'Measured by `benchmarks/tiling.py` on {where["processor"]}, threads: {where["threads"]}, '
        f'torch {where["torch"]}; differences and seams in 255ths.',
        '',
        '| network | photographs | tile | overlap | ramp | seam | largest difference | mean | PSNR to the whole |',
        '| --- | --- | --- | --- | --- | --- | --- | --- | --- |',
    ]
    for key, group in grouped(results['seams']).items():
        lines.append('| ' + ' | '.join([*key, *summary(group)]) + ' |')
    if results['large']:
        lines += [
            '',
            '| network | photograph | how | seconds | peak memory of the process |',
            '| --- | --- | --- | --- | --- |',
        ]
    for r in results['large']:
        cells = [r['network'], f'{r["megapixels"]:.1f} MP', r['how'], f'{r["seconds"]:.0f}', f'{r["gigabytes"]:.2f} GB']
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def grouped(seams: list[dict[str, Any]]) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    """The photographs' results by network and tiling."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for r in seams:
        network = r['network'] + (f', TLC {r["tlc"]} px' if r['tlc'] else '')
        alike = [s for s in seams if all(s[k] == r[k] for k in ('network', 'tlc', 'size', 'overlap'))]
        key = (network, str(len(alike)), str(r['size']), str(r['overlap']), str(min(s['ramp'] for s in alike)))
        groups[key] = alike
    return groups


def summary(group: list[dict[str, Any]]) -> list[str]:
    """Worst seam and difference, mean of the means, worst PSNR."""
    cells = [f'{255 * max(r["seam"] for r in group):.3f}']
    if any('psnr' not in r for r in group):
        return [*cells, 'not measured', 'not measured', 'not measured']
    cells.append(f'{255 * max(r["largest"] for r in group):.3f}')
    cells.append(f'{255 * sum(r["mean"] for r in group) / len(group):.4f}')
    return [*cells, f'{min(r["psnr"] for r in group):.1f} dB']


def machine() -> dict[str, Any]:
    """What it was measured on."""
    return {'processor': processor_name(), 'threads': torch.get_num_threads(), 'torch': torch.__version__}


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--photos', metavar='DIR', help='folder of photographs')
    parser.add_argument('--model', nargs='*', default=[], metavar='FILE', help='weight files that name their network')
    parser.add_argument('--megapixels', type=float, default=12, help='smallest photograph taken (default: 12)')
    parser.add_argument('--number', type=int, default=4, help='how many, from the smallest (default: 4)')
    parser.add_argument('--sizes', nargs='+', type=int, default=[512, 1024], help='tiles in pixels')
    parser.add_argument('--overlaps', nargs='+', type=int, default=[32, 64, 128], help='overlaps in pixels')
    parser.add_argument('--tlc', type=int, metavar='WINDOW', help='also with statistics of a window of so many pixels')
    parser.add_argument('--no_whole', action='store_true', help='leave the whole image out, which takes gigabytes')
    parser.add_argument(
        '--large', nargs='*', default=['auto', '512'], help="tiles of the 50-megapixel photo, or 'auto'"
    )
    parser.add_argument('--json', metavar='FILE', help='where results go')
    parser.add_argument('--table', metavar='FILE', help='only print the tables of such a file')
    parser.add_argument('--picture', metavar='FILE', help='with --one_large: keep the picture')
    parser.add_argument('--one_large', nargs=3, metavar=('MODEL', 'PHOTO', 'TILE'), help='one photo, in this process')
    args = parser.parse_args()
    if not (args.photos or args.table or args.one_large):
        parser.error('give --photos or --table')
    return args


def main() -> None:
    """Entry point."""
    args = parse_arguments()
    if args.one_large:
        print(json.dumps(measure_large(*args.one_large, args.picture)))
        return
    if args.table:
        print(tables(json.loads(Path(args.table).read_text(encoding='utf-8'))))
        return
    results = Results(Path(args.json) if args.json else None)
    measure_seams(args, results)
    large_in_processes(args, results)
    print(tables(results.content))


if __name__ == '__main__':
    main()
