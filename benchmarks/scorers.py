"""Speed of NIQE and BRISQUE against pyiqa's, on the same images in the same process, and that the numbers agree.

    python benchmarks/scorers.py --folder datasets/sample --output docs/results/scorers_speed.json

Needs an interpreter with pyiqa. Images of one size are scored in batches. The two sides take turns, and change who
begins, for ``--repeats`` rounds; a round is the whole folder. Both get the same float32 tensors and the same
parameters, those that ship here. pyiqa knows only the feature ranges of another regression for BRISQUE; they are
replaced.

The numbers are compared with pyiqa in double precision, the default being single. How far that moves pyiqa is in the
table too: its BRISQUE by up to 1 (see basicsr/metrics/natural_statistics.py).
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__' and not __package__:  # run as a script: import from the checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import importlib
import importlib.metadata
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator
from datetime import date
from typing import Any

import torch
from torch import Tensor

from basicsr.files import write_text
from basicsr.image_io import list_images, read_image, to_tensor
from basicsr.metrics.brisque import Regression, brisque, load_regression
from basicsr.metrics.natural_statistics import WORST
from basicsr.metrics.niqe import Pristine, load_pristine, niqe
from basicsr.utils.misc import processor_name
from benchmarks._common import seconds_each
from tests.golden.peers import import_torchvision

ALLOWED = 1e-3  # difference of a score
Side = Callable[[Tensor], Tensor]


def batches(folder: str, size: int) -> list[Tensor]:
    """All images of a folder, (N,3,H,W) float32, N at most ``size``, each of one height and width."""
    images: dict[tuple[int, ...], list[Tensor]] = {}
    for path in list_images(folder):
        image = to_tensor(read_image(path))
        images.setdefault(tuple(image.shape), []).append(image)
    return [torch.stack(same[i : i + size]) for same in images.values() for i in range(0, len(same), size)]


def niqe_of_pyiqa(pristine: Pristine) -> Side:
    """pyiqa's NIQE with our parameters."""
    import pyiqa
    from scipy.io import savemat

    with tempfile.TemporaryDirectory() as folder:
        arrays = {'mu_prisparam': pristine.mean[None].numpy(), 'cov_prisparam': pristine.covariance.numpy()}
        savemat(f'{folder}/niqe.mat', arrays)
        return pyiqa.create_metric('niqe', device='cpu', pretrained_model_path=f'{folder}/niqe.mat').net


def brisque_of_pyiqa(regression: Regression) -> Side:
    """pyiqa's BRISQUE with our parameters."""
    import pyiqa

    with tempfile.TemporaryDirectory() as folder:
        torch.save((regression.coefficients, regression.vectors), f'{folder}/brisque.pth')
        net = pyiqa.create_metric('brisque', device='cpu', pretrained_model_path=f'{folder}/brisque.pth').net
    net.rho, net.gamma = regression.offset, regression.gamma
    low, high = regression.low, regression.high
    module = importlib.import_module('pyiqa.archs.brisque_arch')
    module.scale_features = lambda f: 2 * (f - low.to(f)) / (high - low).to(f) - 1
    return net


def scores(side: Side, images: list[Tensor], dtype: torch.dtype = torch.float32) -> Tensor:
    """What one side says of all images, double precision."""
    return torch.cat([side(batch.to(dtype)).double().reshape(-1) for batch in images])


def compare(ours: Side, theirs: Side, images: list[Tensor]) -> dict[str, float]:
    """Largest differences of the scores: ours from pyiqa in double precision, and pyiqa's own in single."""
    reference = scores(theirs, images, torch.float64)
    found = scores(ours, images)
    counted = found != WORST  # of an image of one colour pyiqa says whatever its rounding makes of it
    return {
        'difference': (found - reference)[counted].abs().max().item(),
        'of_pyiqa_in_single': (scores(theirs, images) - reference)[counted].abs().max().item(),
    }


def rounds(ours: Side, theirs: Side, images: list[Tensor], repeats: int) -> Iterator[tuple[float, float]]:
    """Seconds of each side for the whole folder, in turn, after one round that is not counted."""
    sides = (ours, theirs)
    for number in range(-1, repeats):
        order = (0, 1) if number % 2 else (1, 0)
        seconds = [0.0, 0.0]
        for i in order:
            seconds[i] = sum(seconds_each(lambda k, side=sides[i]: side(images[k]), len(images)))
        if number >= 0:
            yield seconds[0], seconds[1]


@torch.no_grad()
def measure(name: str, ours: Side, theirs: Side, images: list[Tensor], repeats: int) -> dict[str, Any]:
    """One row of the table."""
    found = compare(ours, theirs, images)
    if found['difference'] > ALLOWED:
        raise SystemExit(f'{name}: the scores differ by {found["difference"]:.2g}, more than {ALLOWED}; nothing timed.')
    pairs = list(rounds(ours, theirs, images, repeats))
    ratios = [theirs / ours for ours, theirs in pairs]
    count = sum(len(batch) for batch in images)
    return {
        'metric': name,
        **found,
        'ms_per_image': 1e3 * statistics.median(p[0] for p in pairs) / count,
        'pyiqa_ms_per_image': 1e3 * statistics.median(p[1] for p in pairs) / count,
        'ratio': statistics.median(ratios),
        'ratios': [min(ratios), max(ratios)],
    }


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        f'{result["images"]} images, {result["megapixels"]:.1f} MP, batches of {result["batch"]}, '
        f'{result["threads"]} threads, {result["repeats"]} rounds, {result["processor"]}, torch {result["torch"]}, '
        f'pyiqa {result["pyiqa"]}',
        '',
        '| metric | ms per image | pyiqa | times as fast (rounds) | largest difference | pyiqa single from double |',
        '| --- | --- | --- | --- | --- | --- |',
    ]
    for row in result['rows']:
        low, high = row['ratios']
        lines.append(
            f'| {row["metric"]} | {row["ms_per_image"]:.1f} | {row["pyiqa_ms_per_image"]:.1f} | {row["ratio"]:.1f} '
            f'({low:.1f} to {high:.1f}) | {row["difference"]:.1g} | {row["of_pyiqa_in_single"]:.1g} |'
        )
    return '\n'.join(lines)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--folder', required=True, metavar='DIR', help='images, searched with its subfolders')
    parser.add_argument('--repeats', type=int, default=5, help='rounds (default: 5)')
    parser.add_argument('--batch', type=int, default=8, help='images of a batch at most (default: 8)')
    parser.add_argument('--threads', type=int, default=2, help='default: 2')
    parser.add_argument('--output', metavar='FILE', help='JSON file for the result')
    return parser.parse_args()


def main() -> None:
    """Entry point."""
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    import_torchvision()
    images = batches(args.folder, args.batch)
    if not images:
        raise SystemExit(f'There is no image in {args.folder}.')
    pristine, regression = load_pristine(), load_regression()
    sides = {
        'NIQE': (lambda x: niqe(x, pristine), niqe_of_pyiqa(pristine)),
        'BRISQUE': (lambda x: brisque(x, regression), brisque_of_pyiqa(regression)),
    }
    result = {
        'date': date.today().isoformat(),
        'processor': processor_name(),
        'threads': args.threads,
        'torch': torch.__version__,
        'pyiqa': importlib.metadata.version('pyiqa'),
        'images': sum(len(b) for b in images),
        'megapixels': sum(b[:, 0].numel() for b in images) / 1e6,
        'batch': args.batch,
        'repeats': args.repeats,
        'rows': [measure(name, *pair, images, args.repeats) for name, pair in sides.items()],
    }
    print(table(result))
    if args.output:
        write_text(Path(args.output), json.dumps(result, indent=1) + '\n')


if __name__ == '__main__':
    main()
