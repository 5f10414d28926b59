"""Makes ladders of restored images, best to worst, for training a judge of restorations (data set RankedFolderDataset).

    python tools/restoration_ladders.py --runs experiments/small_0 --photos datasets/sample/train -o datasets/ladders

Photographs are degraded and restored by every checkpoint of the named runs (the early ones are under-trained), and by
the last one several times over (over-processed). A ladder is the longest chain of these in which PSNR and SSIM to the
clean photograph both fall: where the two disagree, nobody is asked to learn from it.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__' and not __package__:  # run as a script: import from the checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import json
import re
from typing import Any

import numpy as np

from basicsr.cli import run_command
from basicsr.errors import DataError, OptionError

TASKS = ('Haze', 'Rain', 'Snow', 'LowLight', 'Underwater')
REPEATS = (2, 4, 8)  # how often the last checkpoint is applied to its own output
STEP_PSNR, STEP_SSIM = 0.7, 0.01  # least difference between neighbours of a chain
Rung = tuple[str, Any, float, float]  # origin, image, PSNR, SSIM


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description='Ladders of restored images, best to worst.')
    parser.add_argument(
        '--runs', type=Path, nargs='+', required=True, help='folders of training runs that kept checkpoints'
    )
    parser.add_argument('--photos', type=Path, required=True, help='folder of clean photographs')
    parser.add_argument('-o', '--output', type=Path, required=True, help='folder of the ladders; must not exist')
    parser.add_argument(
        '--checkpoints', type=int, default=6, help='checkpoints of each run, evenly spaced by logarithm'
    )
    parser.add_argument('--rungs', type=int, default=4, help='images of a ladder; photos that give fewer are left out')
    parser.add_argument('--size', type=int, default=256, help='side of the window of a photograph, in pixels')
    parser.add_argument('--seed', type=int, default=0, help='of windows and degradations')
    return parser.parse_args(arguments)


def make(args: argparse.Namespace) -> int:
    """Makes the ladders. Returns the exit code."""
    from tqdm import tqdm

    from basicsr.image_source import open_source

    if args.output.exists():
        raise OptionError(f'{args.output} exists already; name a folder that does not.')
    networks = [_networks(run, args.checkpoints) for run in args.runs]
    source = open_source(args.photos, 'gt')
    record: dict[str, Any] = {}
    jobs = [(stem, task) for stem in source.stems for task in TASKS]
    for number, (stem, task) in enumerate(tqdm(jobs, desc='ladders', unit='ladder')):
        rng = np.random.default_rng((args.seed, number))
        clean = _window(source.pixels(stem), args.size, rng, source.path(stem))
        chain = _chain(clean, _versions(clean, task, rng, networks[number % len(networks)]), args.rungs)
        if chain:
            record[f'{stem.replace("/", "_")}_{task}'] = _write(args.output, f'{stem.replace("/", "_")}_{task}', chain)
    if not record:
        raise DataError(f'No photograph of {args.photos} gave a ladder of {args.rungs} images.')
    from basicsr.files import write_text

    write_text(args.output / 'ladders.json', json.dumps(record, indent=1) + '\n')
    print(f'{len(record)} ladders of {len(jobs)} in {args.output}')
    return 0


def _networks(run: Path, count: int) -> list[tuple[str, Any]]:
    """Some checkpoints of a run, earliest first, by their iteration.

    Raises:
        OptionError: The folder is no run.
        CheckpointError: A checkpoint cannot be loaded.
    """
    from basicsr import checkpoint
    from basicsr.archs import build_network
    from basicsr.options import load

    files = {int(m[1]): f for f in run.glob('models/net_g_*.pth') if (m := re.fullmatch(r'net_g_(\d+)', f.stem))}
    option_files = sorted(run.glob('*.yml'))
    if not files or not option_files:
        raise OptionError(f'{run} is no run with checkpoints: it needs an option file and models/net_g_<iter>.pth.')
    block = load(str(option_files[0]), None, []).networks['g']
    wanted = np.geomspace(min(files), max(files), count)
    iterations = sorted({min(files, key=lambda i: abs(np.log(i / w))) for w in wanted})
    found = []
    for iteration in iterations:
        net = build_network(block).eval()
        checkpoint.load_weights(net, files[iteration])
        found.append((f'{run.name} {iteration}', net))
    return found


def _window(pixels: np.ndarray, size: int, rng: np.random.Generator, name: str) -> np.ndarray:
    """A square window, float32 in [0,1]."""
    room = [n - size for n in pixels.shape[:2]]
    if min(room) < 0:
        raise DataError(f"'{name}' is {pixels.shape[1]}x{pixels.shape[0]} pixels and has no window of {size}.")
    top, left = (int(rng.integers(r + 1)) for r in room)
    return pixels[top : top + size, left : left + size].astype(np.float32) / np.iinfo(pixels.dtype).max


def _versions(
    clean: np.ndarray, task: str, rng: np.random.Generator, networks: list[tuple[str, Any]]
) -> list[tuple[str, Any]]:
    """The degraded view and what the networks make of it, as 8-bit tensors (1,3,H,W) in [0,1] with their origin."""
    import torch

    from basicsr.image_io import to_tensor, to_uint8
    from basicsr.registry import DEGRADATION_REGISTRY, build

    def rounded(image: Any) -> Any:
        return image.clamp(0, 1).mul(255).round().div(255)

    degraded = to_tensor(to_uint8(build(DEGRADATION_REGISTRY, {'type': task})(clean, rng))).unsqueeze(0)
    found = [('degraded', degraded)]
    with torch.inference_mode():
        found += [(name, rounded(net(degraded))) for name, net in networks]
        name, net = networks[-1]
        image = found[-1][1]
        for repeat in range(2, max(REPEATS) + 1):
            image = rounded(net(image))
            if repeat in REPEATS:
                found.append((f'{name} x{repeat}', image))
    return found


def _chain(
    clean: np.ndarray, versions: list[tuple[str, Any]], rungs: int
) -> list[tuple[str, Any, float, float]] | None:
    """The longest chain in which PSNR and SSIM both fall, cut to ``rungs`` evenly, the clean view first."""
    from basicsr.image_io import to_tensor
    from basicsr.metrics import calculate_psnr, calculate_ssim

    gt = to_tensor(clean).unsqueeze(0)
    scored = [(n, v, float(calculate_psnr(v, gt)), float(calculate_ssim(v, gt))) for n, v in versions]
    scored.sort(key=lambda s: -s[2])
    best: list[list[Any]] = []
    for i, item in enumerate(scored):
        before = [best[j] for j in range(i) if _worse(item, scored[j])]
        best.append([*max(before, key=len, default=[]), item])
    chain = max(best, key=len)
    if len(chain) + 1 < rungs:
        return None
    chosen = np.linspace(0, len(chain) - 1, rungs - 1).round().astype(int)
    return [('clean', gt, float('inf'), 1.0), *(chain[i] for i in chosen)]


def _worse(item: tuple, than: tuple) -> bool:
    return item[2] <= than[2] - STEP_PSNR and item[3] <= than[3] - STEP_SSIM


def _write(folder: Path, name: str, chain: list[Rung]) -> list[dict[str, Any]]:
    from basicsr.image_io import to_uint8, write_image

    for rung, (_, image, _, _) in enumerate(chain):
        write_image(folder / name / f'{rung}.png', to_uint8(image[0]))
    return [
        {'from': n, 'psnr': None if p == float('inf') else round(p, 2), 'ssim': round(s, 4)} for n, _, p, s in chain
    ]


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parse_arguments(arguments)
    return run_command(lambda: make(args))


if __name__ == '__main__':
    sys.exit(main())
