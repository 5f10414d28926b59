"""SIPL on photographs: three backbones alone, with privileged skips and with Proxy Fusion, ablations, iterations, cost.

    python benchmarks/sipl.py run nafnet_alone nafnet_sipl [--seeds 0 1 2] [--iterations N]
    python benchmarks/sipl.py steps nafnet_skips nafnet_sipl [--seeds 0 1 2]
    python benchmarks/sipl.py reference
    python benchmarks/sipl.py cost [--rounds 3]
    python benchmarks/sipl.py table
    python benchmarks/sipl.py pictures [nafnet_sipl] [--seeds 0]

``--photos`` (or QUALIR_PHOTOS) holds clean photographs with their ``manifest.tsv``, ``--data`` (or QUALIR_DATA) the
real pairs, ``--work`` the runs. Each finished measurement leaves a file in ``docs/results/sipl``; what is there is not
made again, what was interrupted goes on.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__' and not __package__:  # run as a script: import from the checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import os
from collections.abc import Callable
from typing import Any

import torch

from basicsr.cli import run_command
from basicsr.errors import OptionError
from benchmarks import sipl_cost, sipl_page, sipl_pictures, sipl_scores
from benchmarks._common import device
from benchmarks.qualiteacher_runs import save
from benchmarks.sipl_data import Clean, clean_photos
from benchmarks.sipl_runs import BACKBONES, ROOT, VARIANTS, Run, facts_of, train
from benchmarks.study_runs import data_folder, machine, photos_folder

RESULTS = ROOT / 'docs/results/sipl'
PAGE = ROOT / 'docs/results/sipl.md'
SHEETS = ROOT / 'docs'


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description='SIPL on photographs.')
    parser.add_argument('command', choices=list(COMMANDS), help='what to do')
    parser.add_argument('variants', nargs='*', metavar='VARIANT', help=f'{", ".join(VARIANTS)}')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--iterations', type=int, help='length of the trainings, for trials')
    parser.add_argument('--rounds', type=int, default=3, help='how often the cost is timed (default: 3)')
    parser.add_argument('--photos', type=Path, default=os.environ.get('QUALIR_PHOTOS'), help='clean photographs')
    parser.add_argument('--data', type=Path, default=os.environ.get('QUALIR_DATA'), help='real pairs')
    parser.add_argument('--work', type=Path, default=Path('experiments/sipl'), help='folder of the runs')
    parser.add_argument('--results', type=Path, default=RESULTS, help='folder of the result files')
    parser.add_argument('--page', type=Path, default=PAGE, help='page that the tables go into')
    parser.add_argument('--sheets', type=Path, default=SHEETS, help='folder that the pictures go into')
    args = parser.parse_args(arguments)
    if unknown := [v for v in args.variants if v not in VARIANTS]:
        parser.error(f'there is no variant {unknown[0]}; there are {", ".join(VARIANTS)}')
    for name in ('iterations', 'rounds'):
        if (value := getattr(args, name)) is not None and value < 1:
            parser.error(f'--{name}: at least 1')
    return args


def run(args: argparse.Namespace) -> int:
    """Trains and measures what is missing. Returns the exit code."""
    photos, data = _photos(args), data_folder(args)
    for one in _runs(args):
        file = args.results / f'{one.name}.json'
        if not file.is_file():
            train(one, photos)
            measured = sipl_scores.measure(one.weights, photos, data, args.work)
            _finish(file, 'run', facts_of(one), {'moved': sipl_scores.moves(one), 'measured': measured})
    return 0


def steps(args: argparse.Namespace) -> int:
    """Measures finished runs after every iteration of self-refinement. Returns the exit code."""
    photos, data = _photos(args), data_folder(args)
    for one in _runs(args):
        file = args.results / f'steps_{one.name}.json'
        if not one.refines:
            raise OptionError(f'{one.variant} does not improve on its own output.')
        if not file.is_file():
            found = sipl_scores.measure_steps(one.weights, photos, data, args.work)
            _finish(file, 'steps', {'variant': one.variant, 'seed': one.seed}, {'measured': found})
    return 0


def reference(args: argparse.Namespace) -> int:
    """Measures the degraded photographs themselves. Returns the exit code."""
    file = args.results / 'reference.json'
    if not file.is_file():
        found = sipl_scores.measure(None, _photos(args), data_folder(args), args.work)
        _finish(file, 'reference', {}, {'measured': found})
    return 0


def cost(args: argparse.Namespace) -> int:
    """Measures what the published networks and a training step of the study cost. Returns the exit code."""
    where = device()
    jobs: dict[str, tuple[str, dict[str, Any], Callable[[], dict[str, Any]]]] = {}
    for name in sipl_cost.NETWORKS:
        told = {'network': name, 'device': where.type, 'size': sipl_cost.SIZE, 'rounds': args.rounds}
        jobs[f'cost_{name.lower()}_{where.type}'] = (
            'cost', told, lambda name=name: sipl_cost.measure(name, sipl_cost.SIZE, args.rounds, where)
        )  # fmt: skip
    for name in BACKBONES:
        told = {'backbone': name, 'rounds': args.rounds}
        jobs[f'training_{name}'] = ('training', told, lambda name=name: sipl_cost.training(name, args.rounds))
    for stem, (kind, told, measure) in jobs.items():
        if not (file := args.results / f'{stem}.json').is_file():
            _finish(file, kind, told, measure())
    return 0


def table(args: argparse.Namespace) -> int:
    """Writes the tables of all results into the page. Returns the exit code."""
    sipl_page.write_page(args.page, args.results, args.sheets)
    return 0


def pictures(args: argparse.Namespace) -> int:
    """Draws the sheets of a run in Proxy Fusion. Returns the exit code."""
    variant = args.variants[0] if args.variants else sipl_pictures.SHOWN
    sipl_pictures.draw(args.sheets, Run(variant, args.seeds[0], args.work))
    return 0


COMMANDS = {
    'run': run, 'steps': steps, 'reference': reference, 'cost': cost, 'table': table, 'pictures': pictures,
}  # fmt: skip


def _runs(args: argparse.Namespace) -> list[Run]:
    """Seed by seed, so that a study that is stopped early has every variant."""
    if not args.variants:
        raise OptionError(f'Name variants: {", ".join(VARIANTS)}.')
    return [Run(variant, seed, args.work, args.iterations) for seed in args.seeds for variant in args.variants]


def _photos(args: argparse.Namespace) -> Clean:
    return clean_photos(photos_folder(args), args.work)


def _finish(file: Path, kind: str, told: dict[str, Any], found: dict[str, Any]) -> None:
    save(file, {'kind': kind, **told, **machine(), **found})
    print(f'{file.stem}: done.', flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command. Returns the exit code."""
    torch.set_num_threads(1)
    args = parse_arguments(arguments)
    return run_command(lambda: COMMANDS[args.command](args))


if __name__ == '__main__':
    sys.exit(main())
