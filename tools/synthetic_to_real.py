"""Trains small networks on synthetic degradations only, and measures them on published pairs that they never see.

    python tools/synthetic_to_real.py run rain --seeds 0 1 2 --data DIR
    python tools/synthetic_to_real.py table

``DIR`` (or the variable QUALIR_DATA) holds the published folders. Every finished run is a small file in docs/results/,
so several sittings can add to one table; a run that is there is not made again.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__' and not __package__:  # run as a script: import from the checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import tempfile
from typing import Any

from basicsr.cli import run_command
from basicsr.errors import DataError, OptionError

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / 'docs/results/synthetic_to_real'
PAGE = ROOT / 'docs/synthetic_to_real.md'
BEGIN, END = '<!-- table: begin -->', '<!-- table: end -->'
# task: (clean images, degraded images)
PAIRS = {
    'rain': ('Rain100L/train/small/norain', 'Rain100L/train/small/rain'),
    'low_light': ('LOLv1/our485/high', 'LOLv1/our485/low'),
    'underwater': ('LSUI/GT', 'LSUI/input'),
    'haze': ('SOTS/indoor/gt', 'SOTS/indoor/hazy'),
}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description='From synthetic degradations to published pairs.')
    commands = parser.add_subparsers(dest='command', required=True)
    run = commands.add_parser('run', help='train and measure')
    run.add_argument('task', choices=PAIRS)
    run.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    run.add_argument('--data', type=Path, default=os.environ.get('QUALIR_DATA'), help='folder of the published pairs')
    run.add_argument('--work', type=Path, default=Path('experiments'), help='folder of the runs')
    run.add_argument('--force_yml', nargs='+', default=[], help='changes of the option file, for trials')
    run.add_argument('--results', type=Path, default=RESULTS, help='folder of the result files')
    table = commands.add_parser('table', help='write the table into the documentation')
    table.add_argument('--results', type=Path, default=RESULTS)
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> int:
    """Trains the runs that are missing. Returns the exit code."""
    if args.data is None:
        raise OptionError('Name the folder of the published pairs by --data, or by the variable QUALIR_DATA.')
    clean, degraded = (Path(args.data) / p for p in PAIRS[args.task])
    for folder in (clean, degraded):
        if not folder.is_dir():
            raise DataError(f"There is no folder '{folder}'.")
    for seed in args.seeds:
        target = args.results / f'{args.task}_seed{seed}.json'
        if not target.is_file():
            _train(args, seed, clean.resolve(), degraded.resolve(), target)
    return 0


def _train(args: argparse.Namespace, seed: int, clean: Path, degraded: Path, target: Path) -> None:
    from basicsr.files import write_text
    from basicsr.history import History

    name = f'synthetic_{args.task}_seed{seed}'
    with tempfile.TemporaryDirectory() as temporary:
        pairs = _pair_list(clean, degraded, Path(temporary) / 'pairs.txt')
        command = [
            sys.executable, str(ROOT / 'basicsr/train.py'), '-opt', f'options/train/synthetic/{args.task}.yml',
            '--auto_resume', '--force_yml', f'name={name}', f'manual_seed={seed}',
            f'path:experiments_root={args.work.resolve()}', f'datasets:val:dataroot_gt={clean}',
            f'datasets:val:dataroot_lq={degraded}', f'datasets:val:meta_info_file={pairs}', *args.force_yml,
        ]  # fmt: skip
        if subprocess.run(command, cwd=ROOT).returncode:
            raise DataError(f"The training '{name}' failed; its messages are above.")
    records = History.read(args.work / name / 'history.jsonl')
    last = [r for r in records if r['kind'] == 'val'][-1]
    facts = [r for r in records if r['kind'] == 'run'][-1]['facts']
    kept = {k: last[k] for k in ('iter', 'dataset', 'metrics', 'input_metrics', 'protocol')}
    result = {'task': args.task, 'seed': seed, 'n': len(last['images']), **kept, 'facts': facts}
    result['code'] = code_hash(args.task)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, json.dumps(result, indent=1) + '\n')


def _pair_list(clean: Path, degraded: Path, file: Path) -> Path:
    """A list of the pairs; several degraded images may share a clean one (SOTS: 1401_1.png belongs to 1401.png)."""
    from basicsr.image_io import list_images

    names = {f.stem: f.name for f in list_images(clean)}
    lines = []
    for image in list_images(degraded):
        partner = names.get(image.stem) or names.get(image.stem.split('_')[0])
        if partner is None:
            raise DataError(f"'{image}' has no clean image in '{clean}'.")
        lines.append(f'{partner}\t{image.name}\n')
    file.write_text(''.join(lines), encoding='utf-8')
    return file


def code_hash(task: str) -> str:
    """A few characters that change with the degradation's code, so that runs of unlike code are not averaged."""
    own = {'rain': ('_particles',), 'low_light': ('_camera',), 'underwater': ('_depth', '_water', '_camera'),
           'haze': ('_depth', '_camera')}  # fmt: skip
    files = [ROOT / 'data' / f'{name}.py' for name in (f'{task}_degradation', '_fields', *own[task])]
    return hashlib.sha256(b''.join(f.read_bytes() for f in files)).hexdigest()[:12]


def write_table(args: argparse.Namespace) -> int:
    """Writes the table of all runs into the page. Returns the exit code."""
    from basicsr.files import write_text

    results = [json.loads(f.read_text(encoding='utf-8')) for f in sorted(args.results.glob('*.json'))]
    if not results:
        raise DataError(f"There is no result in '{args.results}'; make some with: synthetic_to_real.py run TASK")
    page = PAGE.read_text(encoding='utf-8')
    head, _, rest = page.partition(BEGIN)
    write_text(PAGE, f'{head}{BEGIN}\n{table(results)}\n{END}{rest.partition(END)[2]}')
    return 0


def table(results: list[dict[str, Any]]) -> str:
    """The table in Markdown: every set before and after, mean and standard deviation over the seeds.

    Raises:
        DataError: Runs of one task differ in their data, protocol, length or in the code of the degradations.
    """
    lines = ['| trained on synthetic | tested on | pairs | metric | input | restored | seeds |', '|' + ' --- |' * 7]
    for task in [t for t in PAIRS if any(r['task'] == t for r in results)]:
        runs = [r for r in results if r['task'] == task]
        _check_alike(task, runs)
        for metric in runs[0]['metrics']:
            after = [r['metrics'][metric] for r in runs]
            spread = f' ± {_rounded(statistics.stdev(after), metric)}' if len(after) > 1 else ''
            lines.append(
                f'| {task.replace("_", " ")} | {runs[0]["dataset"]} | {runs[0]["n"]} | {metric} '
                f'| {_rounded(runs[0]["input_metrics"][metric], metric)} '
                f'| {_rounded(statistics.mean(after), metric)}{spread} | {", ".join(str(r["seed"]) for r in runs)} |'
            )
    facts = results[0]['facts']
    note = (
        f'{results[0]["iter"]} iterations each; mean ± standard deviation over the seeds; {results[0]["protocol"]}. '
        f'{facts["network"]} with {facts["parameters"]:,} parameters, {facts["machine"]}, {facts["versions"]}.'
    )
    return '\n'.join([*lines, '', note])


def _check_alike(task: str, runs: list[dict[str, Any]]) -> None:
    for key in ('dataset', 'n', 'protocol', 'iter', 'code'):
        if len({str(r[key]) for r in runs}) > 1:
            raise DataError(f"The runs of '{task}' differ in '{key}'; remove the older result files.")


def _rounded(value: float, metric: str) -> str:
    return f'{value:.2f}' if metric.startswith('psnr') else f'{value:.3f}'


def main(arguments: list[str] | None = None) -> int:
    """Runs the command. Returns the exit code."""
    args = parse_arguments(arguments)
    return run_command(lambda: run(args) if args.command == 'run' else write_table(args))


if __name__ == '__main__':
    sys.exit(main())
