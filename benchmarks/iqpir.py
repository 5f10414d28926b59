"""IQPIR on photographs: stage I, stage II with and without a quality, optimisation over codes, the knob.

    python benchmarks/iqpir.py run stage1_dual stage2_film [--seeds 0] [--iterations N]
    python benchmarks/iqpir.py sweep stage2_film [--seeds 0]
    python benchmarks/iqpir.py uncoded reward_off reward_continuous [--seeds 0]
    python benchmarks/iqpir.py reference
    python benchmarks/iqpir.py table
    python benchmarks/iqpir.py pictures

``--photos`` (or QUALIR_PHOTOS) holds clean photographs with their ``manifest.tsv``, ``--data`` (or QUALIR_DATA) the
real ones, ``--work`` the runs. A run first makes those that it goes on from. Each finished one leaves a file in
``docs/results/iqpir``; what is there is not made again, what was interrupted goes on.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__' and not __package__:  # run as a script: import from the checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import os

import torch

from basicsr.cli import run_command
from basicsr.errors import OptionError
from benchmarks import iqpir_page, iqpir_pictures, iqpir_scores
from benchmarks.iqpir_data import Collection, collection
from benchmarks.iqpir_runs import ROOT, VARIANTS, Run, facts_of, train
from benchmarks.qualiteacher_runs import save
from benchmarks.study_runs import data_folder, machine, photos_folder

RESULTS = ROOT / 'docs/results/iqpir'
PAGE = ROOT / 'docs/results/iqpir.md'


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description='IQPIR on photographs.')
    parser.add_argument('command', choices=list(COMMANDS), help='what to do')
    parser.add_argument('variants', nargs='*', metavar='VARIANT', help=f'{", ".join(VARIANTS)}')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--iterations', type=int, help='length of the trainings, for trials')
    parser.add_argument('--photos', type=Path, default=os.environ.get('QUALIR_PHOTOS'), help='clean photographs')
    parser.add_argument('--data', type=Path, default=os.environ.get('QUALIR_DATA'), help='real photographs')
    parser.add_argument('--work', type=Path, default=Path('experiments/iqpir'), help='folder of the runs')
    parser.add_argument('--weights', type=Path, default=os.environ.get('QUALIR_WEIGHTS'), help='weights, for CNNIQA')
    parser.add_argument('--results', type=Path, default=RESULTS, help='folder of the result files')
    parser.add_argument('--page', type=Path, default=PAGE, help='page that the tables go into')
    args = parser.parse_args(arguments)
    if unknown := [v for v in args.variants if v not in VARIANTS]:
        parser.error(f'there is no variant {unknown[0]}; there are {", ".join(VARIANTS)}')
    return args


def run(args: argparse.Namespace) -> int:
    """Trains and measures what is missing. Returns the exit code."""
    photos = _photos(args)
    for one in _runs(args):
        file = args.results / f'{one.name}.json'
        if file.is_file():
            continue
        train(one, photos)
        if one.is_autoencoder:
            found = iqpir_scores.measure_autoencoder(one.weights, photos)
        else:
            found = iqpir_scores.measure_restoration(one.weights, photos, data_folder(args), args.work, args.weights)
        save(file, {'kind': 'run', **facts_of(one), **machine(), 'measured': found})
        print(f'{one.name}: done.', flush=True)
    return 0


def knob(args: argparse.Namespace) -> int:
    """Measures finished runs at every level of the knob. Returns the exit code."""
    for one in _runs(args):
        file = args.results / f'sweep_{one.name}.json'
        if not one.has_knob:
            raise OptionError(f'{one.variant} has no knob.')
        if not file.is_file():
            found = iqpir_scores.sweep(one.weights, data_folder(args), args.work, args.weights)
            save(file, {'kind': 'sweep', 'variant': one.variant, 'seed': one.seed, **machine(), **found})
            print(f'{file.stem}: done.', flush=True)
    return 0


def uncoded(args: argparse.Namespace) -> int:
    """Measures finished runs whose generator is shown features instead of codes. Returns the exit code."""
    for one in _runs(args):
        file = args.results / f'uncoded_{one.name}.json'
        if one.is_autoencoder:
            raise OptionError(f'{one.variant} predicts no codes.')
        if not file.is_file():
            given = _photos(args), data_folder(args), args.work, args.weights
            found = iqpir_scores.measure_restoration(one.weights, *given, uncoded=True)
            save(file, {'kind': 'uncoded', 'variant': one.variant, 'seed': one.seed, **machine(), 'measured': found})
            print(f'{file.stem}: done.', flush=True)
    return 0


def reference(args: argparse.Namespace) -> int:
    """Measures the degraded photographs themselves. Returns the exit code."""
    file = args.results / 'reference.json'
    if not file.is_file():
        found = iqpir_scores.measure_restoration(None, _photos(args), data_folder(args), args.work, args.weights)
        better = iqpir_scores.directions(args.weights)
        save(file, {'kind': 'reference', **machine(), 'better': better, 'measured': found})
    return 0


def table(args: argparse.Namespace) -> int:
    """Writes the tables of all results into the page. Returns the exit code."""
    iqpir_page.write_page(args.page, args.results)
    return 0


def pictures(args: argparse.Namespace) -> int:
    """Draws the sheets. Returns the exit code."""
    iqpir_pictures.draw(ROOT / 'docs', args.work, args.seeds[0])
    return 0


COMMANDS = {
    'run': run, 'sweep': knob, 'uncoded': uncoded, 'reference': reference, 'table': table, 'pictures': pictures,
}  # fmt: skip


def _runs(args: argparse.Namespace) -> list[Run]:
    """Seed by seed, so that a study that is stopped early has every variant."""
    if not args.variants:
        raise OptionError(f'Name variants: {", ".join(VARIANTS)}.')
    return [Run(variant, seed, args.work, args.iterations) for seed in args.seeds for variant in args.variants]


def _photos(args: argparse.Namespace) -> Collection:
    return collection(photos_folder(args), args.work)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command. Returns the exit code."""
    torch.set_num_threads(1)
    args = parse_arguments(arguments)
    return run_command(lambda: COMMANDS[args.command](args))


if __name__ == '__main__':
    sys.exit(main())
