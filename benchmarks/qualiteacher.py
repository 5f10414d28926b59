"""QualiTeacher beside other mean teachers: synthetic pairs first, then real photographs, judged by held-out scores.

    python benchmarks/qualiteacher.py pretrain --seeds 0 1 2
    python benchmarks/qualiteacher.py run haze qualiteacher --seed 0
    python benchmarks/qualiteacher.py run --all [--tasks haze ...] [--variants mean_teacher ...] [--seeds 0 1 2]
    python benchmarks/qualiteacher.py sweep [--tasks ...] [--variants qualiteacher] [--seeds ...]
    python benchmarks/qualiteacher.py table
    python benchmarks/qualiteacher.py pictures

``--data`` (or QUALIR_DATA) holds the real photographs, ``--work`` the runs. Each finished run leaves a file in
``docs/results/qualiteacher``; what is there is not made again, what was interrupted goes on, and several such commands
may be at work side by side.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__' and not __package__:  # run as a script: import from the checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from filelock import FileLock

from basicsr.cli import run_command
from basicsr.errors import EXIT_FAILED, OptionError, QualIRError
from basicsr.utils.misc import processor_name
from benchmarks import qualiteacher_page, qualiteacher_pictures, qualiteacher_runs
from benchmarks.qualiteacher_data import TASKS, photos_of
from benchmarks.qualiteacher_runs import PLAIN, RESULTS, ROOT, VARIANTS, Run, facts_of, save
from benchmarks.qualiteacher_scores import HELD_OUT, Judges, Network, measure, measure_clean, sweep

PAGE = ROOT / 'docs/results/qualiteacher.md'
USUAL = ('haze', 'low_light', 'underwater')
SEEDS = (0, 1, 2)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description='QualiTeacher beside other mean teachers, on real photographs.')
    commands = parser.add_subparsers(dest='command', required=True)
    pretrain = _command(commands, 'pretrain', 'train the networks that all runs begin with')
    pretrain.add_argument('--seeds', type=int, nargs='+', default=list(SEEDS))
    run = _command(commands, 'run', 'train and measure')
    run.add_argument('task', nargs='?', choices=list(TASKS), help='one task')
    run.add_argument('variant', nargs='?', choices=list(VARIANTS), help='one variant')
    run.add_argument('--all', action='store_true', help='all tasks, variants and seeds, or those named')
    _choices(run, list(VARIANTS))
    run.add_argument('--seed', type=int, default=0, help='of one run')
    run.add_argument('--iterations', type=int, help='length of the trainings, for trials')
    knob = _command(commands, 'sweep', 'measure finished runs at every level of the knob')
    _choices(knob, ['qualiteacher'])
    table = _command(commands, 'table', 'write the tables into the documentation')
    table.add_argument('--page', type=Path, default=PAGE)
    pictures = _command(commands, 'pictures', 'draw the sheets')
    pictures.add_argument('--tasks', nargs='+', choices=list(TASKS), default=list(USUAL))
    pictures.add_argument('--seed', type=int, default=0)
    pictures.add_argument('--output', type=Path, default=ROOT / 'docs', help='folder of the sheets that may be shown')
    return parser.parse_args(arguments)


def _command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text)
    parser.add_argument('--data', type=Path, default=os.environ.get('QUALIR_DATA'), help='folder of real photographs')
    parser.add_argument('--work', type=Path, default=Path('experiments/qualiteacher'), help='folder of the runs')
    parser.add_argument('--weights', type=Path, default=os.environ.get('QUALIR_WEIGHTS'), help='weights, for CNNIQA')
    parser.add_argument('--results', type=Path, default=RESULTS, help='folder of the result files')
    return parser


def _choices(parser: argparse.ArgumentParser, variants: list[str]) -> None:
    parser.add_argument('--tasks', nargs='+', choices=list(TASKS), default=list(USUAL))
    parser.add_argument('--variants', nargs='+', choices=list(VARIANTS), default=variants)
    parser.add_argument('--seeds', type=int, nargs='+', default=list(SEEDS))


def pretrain(args: argparse.Namespace) -> int:
    """Trains the networks that are missing. Returns the exit code."""
    for seed in args.seeds:
        qualiteacher_runs.pretrain(args.work, seed)
    return 0


def run(args: argparse.Namespace) -> int:
    """Makes the results that are missing. Returns the exit code."""
    if args.all == (args.task is not None) or (args.variant is None and not args.all):
        raise OptionError('Name a task and a variant, or give --all.')
    if not args.all:
        args.tasks, args.variants, args.seeds = [args.task], [args.variant], [args.seed]
    wanted = list(_runs(args))
    for task in args.tasks:
        _reference(args, task)
    return _each(wanted, lambda one: args.results / f'{one.name}.json', lambda one, file: _finish(args, one, file))


def measure_knob(args: argparse.Namespace) -> int:
    """Makes the sweeps that are missing. Returns the exit code."""
    args.iterations = None
    wanted = [one for one in _runs(args) if one.variant not in PLAIN]
    if not wanted:
        raise OptionError(f'None of {", ".join(args.variants)} has a knob.')
    return _each(wanted, lambda one: args.results / f'sweep_{one.name}.json', lambda one, file: _turn(args, one, file))


def _runs(args: argparse.Namespace) -> Iterator[Run]:
    """Seed by seed, so that a study that is stopped early has every variant."""
    _need_data(args)
    for seed in args.seeds:
        for task in args.tasks:
            for variant in args.variants:
                yield Run(task, variant, seed, args.work, args.iterations)


def _each(runs: Iterable[Run], target: Callable[[Run], Path], work: Callable[[Run, Path], None]) -> int:
    """Does what is missing and what no other process is doing; a failure is told and the next run is made."""
    failed, others = [], []
    for one in runs:
        file = target(one)
        if file.is_file():
            continue
        lock = one.claimed()
        if lock is None:
            others.append(one.name)
            continue
        try:
            if not file.is_file():
                work(one, file)
                print(f'{file.stem}: done.', flush=True)
        except QualIRError as error:
            failed.append(one.name)
            print(f'{file.stem}: {error}', file=sys.stderr, flush=True)
        finally:
            lock.release()
    if others:
        print(f'Left to other processes: {", ".join(others)}.')
    return EXIT_FAILED if failed else 0


def _finish(args: argparse.Namespace, one: Run, file: Path) -> None:
    photos = photos_of(one.task, args.data, args.work)
    if one.variant != 'pretrained':
        qualiteacher_runs.train(one, photos)
    judges = Judges(HELD_OUT[one.task], args.weights)
    found = measure(Network(one.weights), photos, judges)
    save(file, {'kind': 'run', **facts_of(one, photos), **_told(photos, judges), **found})


def _turn(args: argparse.Namespace, one: Run, file: Path) -> None:
    photos, judges = photos_of(one.task, args.data, args.work), Judges(HELD_OUT[one.task], args.weights)
    facts = facts_of(one, photos)
    del facts['signals']
    found = sweep(Network(one.weights), photos, judges)
    save(file, {'kind': 'sweep', **facts, **_told(photos, judges), **found})


def _reference(args: argparse.Namespace, task: str) -> None:
    """Scores of the photographs themselves, degraded and clean."""
    file = args.results / f'{task}_reference.json'
    photos_of(task, args.data, args.work)
    with FileLock(args.work / 'data' / task / '.reference.lock'):
        if file.is_file():
            return
        photos, judges = photos_of(task, args.data, args.work), Judges(HELD_OUT[task], args.weights)
        found = {**measure(None, photos, judges), 'clean': measure_clean(photos, judges)}
        told = {'task': task, 'photos': photos.digest, 'lists': photos.lists, **_told(photos, judges)}
        save(file, {'kind': 'reference', **told, **found})


def _told(photos: Any, judges: Judges) -> dict[str, Any]:
    machine = {'processor': processor_name(), 'torch': str(torch.__version__)}
    return {'machine': machine, **judges.facts, 'names': {'real': list(photos.real), 'pairs': list(photos.pairs)}}


def _need_data(args: argparse.Namespace) -> None:
    if args.data is None:
        raise OptionError('Name the folder of real photographs by --data, or by the variable QUALIR_DATA.')


def write_tables(args: argparse.Namespace) -> int:
    """Writes the tables of all results into the page. Returns the exit code."""
    qualiteacher_page.write_page(args.page, qualiteacher_page.read_study(args.results))
    return 0


def draw(args: argparse.Namespace) -> int:
    """Draws the sheets of all tasks, and the strip of the knob. Returns the exit code."""
    for task in args.tasks:
        qualiteacher_pictures.sample_sheet(args.output / f'qualiteacher_{task}.jpg', task, args.seed, args.work)
        if args.data is not None:
            photos = photos_of(task, args.data, args.work)
            qualiteacher_pictures.real_sheet(args.work / 'sheets' / f'{task}.png', task, args.seed, args.work, photos)
    qualiteacher_pictures.knob_strip(args.output / 'qualiteacher_knob.jpg', args.tasks, args.seed, args.work)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Runs the command. Returns the exit code."""
    torch.set_num_threads(1)
    args = parse_arguments(arguments)
    work = {'pretrain': pretrain, 'run': run, 'sweep': measure_knob, 'table': write_tables, 'pictures': draw}
    return run_command(lambda: work[args.command](args))


if __name__ == '__main__':
    sys.exit(main())
