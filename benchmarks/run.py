"""Measures this project beside BasicSR 1.4.2 of PyPI and the published networks, and the limits of the machine.

    python benchmarks/run.py --peer PYTHON [--photos DIR] [--only training,startup] [--rounds 3]

``PYTHON`` is the interpreter of an environment that holds ``basicsr==1.4.2`` and ``spandrel``; docs/benchmarks.md says
how to make one. Every measurement is a process of its own, all settings in turn, round after round, on the same inputs,
initial weights and number of threads. Results go to docs/results/benchmarks.json part by part, so that an interrupted
run keeps what it has, and from there into docs/benchmarks.md. Exit codes: 0 all was measured that could be, 1 a
measurement failed or the losses differ, 2 refused before any work.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__' and not __package__:  # run as a script: import from the checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import datetime
import json
import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from basicsr.cli import run_command
from basicsr.errors import EXIT_FAILED, OptionError
from basicsr.files import write_text
from benchmarks import _tables
from benchmarks._plan import (
    BASICSR,
    FULL,
    OURS,
    PARTS,
    QUICK,
    Job,
    inference_jobs,
    setting,
    start_options,
    training_jobs,
)

HERE = Path(__file__).resolve().parent
PEER_VERSION = '1.4.2'
MARK = 'first training step begins'  # what benchmarks/peers/first_step_arch.py prints
NO_PEER = 'no --peer was given'


class MeasurementError(Exception):
    """A measuring process failed; the text is the last thing it said."""


@dataclass
class Bench:
    """What all parts need.

    Attributes:
        args: The command line.
        work: Folder of weights, images and option files, gone after the run.
        peer: What the peer environment answered about itself, or None without one.
        prepared: Machine, versions and networks of this project.
        failures: Sentences about what went wrong.
    """

    args: argparse.Namespace
    work: Path
    peer: dict[str, Any] | None = None
    prepared: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """Of every measuring process: the number of threads, and a compiler's cache that begins empty."""
        threads = str(self.args.threads)
        names = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS')
        cache = {'TORCHINDUCTOR_CACHE_DIR': str(self.work / 'compiled')}
        return {**os.environ, **dict.fromkeys(names, threads), **cache}

    def ask(self, command: list[str]) -> dict[str, Any]:
        """Runs a measuring process and returns its answer, the last line it printed.

        Raises:
            MeasurementError: It failed.
        """
        result = subprocess.run(command, capture_output=True, text=True, env=self.environment)
        lines = result.stdout.splitlines()
        if result.returncode or not lines:
            said = [line for line in result.stderr.splitlines() if line.strip()]
            raise MeasurementError(said[-1].strip() if said else f'exit code {result.returncode}')
        return json.loads(lines[-1])

    def measure(self, job: Job) -> dict[str, Any]:
        """Runs one job of this project or of the peer."""
        text = json.dumps({**job, 'work': str(self.work)})
        if job.get('side', OURS) == OURS:
            script = 'measure_limits.py' if job['kind'] == 'limits' else 'measure_steps.py'
            return self.ask([sys.executable, str(HERE / script), text])
        return self.ask([*peer_command(self.args), '--job', text])

    def missing(self, job: Job) -> str | None:
        """Why a job cannot be measured here, or None."""
        here = self.prepared['networks'].get(job['name'], {}).get('reason')
        if here or job['side'] == OURS:
            return here
        return NO_PEER if self.peer is None else self.peer['networks'][job['name']]

    def failed(self, what: str, reason: str) -> None:
        """Takes note of a failure and says it."""
        self.failures.append(f'{what}: {reason}')
        say(f'  FAILED: {reason}')


def say(text: str) -> None:
    """Progress goes to the standard error: the tables alone go to the standard output."""
    print(text, file=sys.stderr, flush=True)


def peer_command(args: argparse.Namespace) -> list[str]:
    """The script of the peer's environment."""
    file = ['--restormer', str(args.restormer.resolve())] if args.restormer else []
    return [args.peer, str(HERE / 'peers/basicsr_steps.py'), *file]


# ---- parts ---------------------------------------------------------------------------------------------------------


def measure_rates(bench: Bench, jobs: list[Job], part: str) -> dict[str, Any]:
    """Training steps or inference: every job in turn, round after round."""
    results: list[list[dict[str, Any]]] = [[] for _ in jobs]
    reasons = [bench.missing(job) for job in jobs]
    for number in range(bench.args.rounds):
        for n, job in enumerate(jobs):
            if reasons[n] is not None:
                continue
            title = f'{job["name"]}, {job["side"]}, {setting(job)}'
            say(f'round {number + 1}: {title}')
            try:
                results[n].append(bench.measure(job))
            except MeasurementError as error:
                reasons[n] = str(error)
                bench.failed(title, str(error))
    rows = [_tables.row_of(*found) for found in zip(jobs, results, reasons, strict=True)]
    _tables.compare(part, rows)
    for fault in _tables.curve_faults(rows) if part == 'training' else []:
        bench.failed('losses', fault)
    sizes = {job['name']: {k: job[k] for k in ('batch', 'crop', 'warm', 'steps', 'image')} for job in jobs}
    return {'rows': rows, 'sizes': sizes, 'networks': bench.prepared['networks']}


def training(bench: Bench) -> dict[str, Any]:
    """Images a second and peak memory of training steps, and the losses."""
    gpu, compiled = bench.prepared['machine']['gpu'] is not None, not (bench.args.quick or bench.args.no_compile)
    return measure_rates(bench, training_jobs(sizes(bench.args), gpu, compiled), 'training')


def inference(bench: Bench) -> dict[str, Any]:
    """Megapixels a second and peak memory of one image restored."""
    return measure_rates(bench, inference_jobs(sizes(bench.args)), 'inference')


def loader(bench: Bench) -> dict[str, Any]:
    """Pairs a second, by benchmarks/loader.py."""
    args, target = bench.args, bench.work / 'loader.json'
    if args.photos is None:
        return {'reason': 'no --photos was given'}
    peer = ['--peer', args.peer] if args.peer else []
    command = [
        sys.executable, str(HERE / 'loader.py'), '--photos', str(args.photos), *peer, '--rounds', str(args.rounds),
        '--results', str(target), '--workers', str(args.threads), '--seconds', '1' if args.quick else '4',
    ]  # fmt: skip
    say('benchmarks/loader.py')
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        reason = ([line for line in result.stderr.splitlines() if line.strip()] or ['no word'])[-1]
        bench.failed('loader', reason)
        return {'reason': reason}
    return {'found': json.loads(target.read_text(encoding='utf-8'))}


def limits(bench: Bench) -> dict[str, Any]:
    """FLOP/s of large products and convolutions, bytes a second of large copies."""
    found = []
    for number in range(bench.args.rounds):
        say(f'round {number + 1}: limits')
        try:
            found.append(bench.measure({'kind': 'limits', 'quick': bench.args.quick}))
        except MeasurementError as error:
            bench.failed('limits', str(error))
            return {'reason': str(error)}
    values = {key: [one[key] for one in found] for key in found[0]}
    return {'values': values, 'median': {key: statistics.median(v) for key, v in values.items()}}


def startup(bench: Bench) -> dict[str, Any]:
    """Seconds until a training run begins its first step, and of imports alone; one start of each is not counted."""
    starts: list[tuple[str, str, list[str]]] = [
        ('import torch', OURS, [sys.executable, '-c', 'import torch']),
        ('import basicsr', OURS, [sys.executable, '-c', f'import sys; sys.path.insert(0, {str(HERE.parent)!r}); '
                                  'import basicsr.start, basicsr.trainer']),
        ('start to first step', OURS, [sys.executable, str(HERE.parent / 'basicsr/train.py'), '-opt']),
    ]  # fmt: skip
    if bench.peer is not None:
        alias = f'import sys; sys.path.append({str(HERE.parent / "tests/golden")!r}); import peers; '
        alias += 'peers.import_torchvision(); import basicsr'
        script = str(HERE / 'peers/basicsr_train.py')
        starts += [
            ('import basicsr', BASICSR, [bench.args.peer, '-c', alias]),
            ('start to first step', BASICSR, [bench.args.peer, script, str(bench.work), '-opt']),
        ]
    shutil.copy(HERE / 'peers/first_step_arch.py', bench.work)
    found: list[list[float]] = [[] for _ in starts]
    reasons: list[str | None] = [None for _ in starts]
    for number in range(1 + bench.args.rounds):
        for n, (what, side, command) in enumerate(starts):
            if reasons[n] is not None:
                continue
            say(f'round {number}: {what}, {side}')
            try:
                found[n].append(_one_start(bench, command, side, number))
            except MeasurementError as error:
                reasons[n] = str(error)
                bench.failed(f'{what}, {side}', str(error))
    rows = [_start_row(*one) for one in zip(starts, found, reasons, strict=True)]
    if bench.peer is None:
        rows += [
            {'what': what, 'side': BASICSR, 'reason': NO_PEER} for what in ('import basicsr', 'start to first step')
        ]
    return {'rows': _with_ratios(rows)}


def _one_start(bench: Bench, command: list[str], side: str, number: int) -> float:
    if command[-1] != '-opt':
        return seconds_until(command, None, bench.environment)
    ours, peer = start_options(str(bench.work), f'start{number}', 1000)
    file = bench.work / f'start_{"ours" if side == OURS else "peer"}{number}.yml'
    file.write_text(json.dumps(ours if side == OURS else peer), encoding='utf-8')  # JSON is YAML
    return seconds_until([*command, str(file)], MARK, bench.environment)


def seconds_until(command: list[str], mark: str | None, environment: dict[str, str]) -> float:
    """Seconds from the start of a process until it prints a line, or until its end; then it is ended.

    Args:
        command: The process.
        mark: The line; None waits for the end.
        environment: Of the process.

    Raises:
        MeasurementError: It ended without printing the line, or with an error.
    """
    with tempfile.TemporaryFile('w+', encoding='utf-8') as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, start_new_session=True
        )
        assert process.stdout is not None
        try:
            seen = any(line.strip() == mark for line in process.stdout)
            seconds = time.perf_counter() - start
            if mark is None and process.wait() == 0:
                seconds = time.perf_counter() - start
            elif not seen:
                errors.seek(0)
                said = [line for line in errors.read().splitlines() if line.strip()]
                raise MeasurementError(said[-1].strip() if said else f'it never printed {mark!r}')
        finally:
            _end(process)
    return seconds


def _end(process: subprocess.Popen[str]) -> None:
    """Ends a process and the loader processes that it has started."""
    with suppress(ProcessLookupError):  # it has ended by itself
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _start_row(start: tuple[str, str, list[str]], found: list[float], reason: str | None) -> dict[str, Any]:
    row: dict[str, Any] = {'what': start[0], 'side': start[1]}
    if reason is not None:
        return {**row, 'reason': reason}
    return {**row, 'values': found[1:], 'median': statistics.median(found[1:])}


def _with_ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds to our rows what part of the peer's time they take."""
    peers = {row['what']: row['median'] for row in rows if row['side'] == BASICSR and 'median' in row}
    for row in rows:
        if row['side'] == OURS and row['what'] in peers and 'median' in row:
            row['of_peer'] = row['median'] / peers[row['what']]
    return rows


MEASURES = {'training': training, 'inference': inference, 'loader': loader, 'startup': startup, 'limits': limits}


# ---- the command ---------------------------------------------------------------------------------------------------


def sizes(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What is measured, by network."""
    return QUICK if args.quick else FULL


def probe(args: argparse.Namespace) -> dict[str, Any] | None:
    """What the peer's environment holds, or None without one.

    Raises:
        OptionError: It cannot be used.
    """
    if args.peer is None:
        return None
    try:
        result = subprocess.run(peer_command(args), capture_output=True, text=True)
    except OSError as error:
        raise OptionError(f"--peer '{args.peer}' cannot be started: {error.strerror}.") from error
    if result.returncode:
        said = [line for line in result.stderr.splitlines() if line.strip()] or ['no word']
        raise OptionError(f"--peer '{args.peer}' cannot import basicsr: {said[-1].strip()}")
    found = json.loads(result.stdout.splitlines()[-1])
    if found['versions']['basicsr'] != PEER_VERSION:
        raise OptionError(f"--peer '{args.peer}' holds basicsr {found['versions']['basicsr']}, not {PEER_VERSION}.")
    return found


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description='Measure this project beside BasicSR 1.4.2.')
    parser.add_argument('--peer', metavar='PYTHON', help='interpreter of an environment with basicsr==1.4.2, spandrel')
    parser.add_argument(
        '--restormer', type=Path, metavar='FILE', help='published restormer_arch.py, where spandrel_extra_arches is not'
    )
    parser.add_argument('--photos', type=Path, metavar='DIR', help='photographs for the loader')
    parser.add_argument('--only', default=','.join(PARTS), metavar='PART,...', help=f'of {", ".join(PARTS)}')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--threads', type=int, default=_cores(), help='of every process; all cores by default')
    parser.add_argument('--no-compile', action='store_true', help='leave out the settings that compile')
    parser.add_argument('--quick', action='store_true', help='tiny networks, to see that everything runs; needs --out')
    parser.add_argument('--out', type=Path, default=HERE.parent / 'docs', metavar='DIR', help='for the page, results/')
    return parser.parse_args(arguments)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def check(args: argparse.Namespace) -> list[str]:
    """The parts to measure, in their order.

    Raises:
        OptionError: The command line cannot be used.
    """
    asked = args.only.split(',')
    unknown = [name for name in asked if name not in PARTS]
    if unknown:
        raise OptionError(f'--only: there is no part {unknown[0]!r}; the parts are {", ".join(PARTS)}.')
    if args.rounds < 1 or args.threads < 1:
        raise OptionError('--rounds and --threads must be 1 or more.')
    if args.quick and args.out.resolve() == HERE.parent / 'docs':
        raise OptionError('--quick measures nothing of worth; give --out another folder than docs.')
    for name in ('restormer', 'photos'):
        path = getattr(args, name)
        if path is not None and not path.exists():
            raise OptionError(f"--{name}: '{path}' is not there.")
    return [name for name in PARTS if name in asked]


def store(bench: Bench, name: str, part: dict[str, Any], began: float) -> dict[str, Any]:
    """Puts a finished part among the others, into the file and onto the page; returns all."""
    args = bench.args
    file = args.out / 'results/benchmarks.json'
    results = json.loads(file.read_text(encoding='utf-8')) if file.exists() else {'format': 1, 'parts': {}}
    results['parts'][name] = {
        'date': datetime.datetime.now(datetime.timezone.utc).date().isoformat(), 'quick': args.quick,
        'threads': args.threads, 'rounds': args.rounds, 'took_s': round(time.perf_counter() - began),
        'machine': bench.prepared['machine'], 'versions': bench.prepared['versions'],
        'peer_versions': bench.peer['versions'] if bench.peer else None, **part,
    }  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(results, indent=1) + '\n')
    _tables.write_tables(results, args.out / 'benchmarks.md')
    return results


def run(args: argparse.Namespace) -> int:
    """Measures the parts asked for; returns the exit code."""
    names, results = check(args), {}
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(args, Path(work), probe(args))
        try:
            bench.prepared = bench.measure({'kind': 'prepare', 'sizes': sizes(args)})
        except MeasurementError as error:
            raise OptionError(f'This project cannot be measured: {error}') from error
        for name in names:
            began = time.perf_counter()
            results = store(bench, name, MEASURES[name](bench), began)
    print(_tables.markdown({**results, 'parts': {name: results['parts'][name] for name in names}}))
    for text in bench.failures:
        say(f'Failed: {text}')
    return EXIT_FAILED if bench.failures else 0


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parse_arguments(arguments)
    return run_command(lambda: run(args))


if __name__ == '__main__':
    sys.exit(main())
