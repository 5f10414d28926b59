"""Writes the quickstart's table into the README and its picture into docs/, from finished runs.

``python tools/update_quickstart_results.py experiments/quickstart_seed*``, after ``python basicsr/train.py -opt
options/quickstart.yml --force_yml name=quickstart_seed0 manual_seed=0`` and the same with 1 and 2.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__' and not __package__:  # run as a script: import from the checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import statistics
from typing import Any

from basicsr.cli import run_command
from basicsr.errors import OptionError

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = '<!-- quickstart: begin -->', '<!-- quickstart: end -->'
SHOWN = ('haze_goat', 'rain_great_wall', 'snow_lemurs', 'low_light_river_castle', 'underwater_aqueduct')
TILE = (256, 176)  # width and height of a photograph in the picture


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description='Write the quickstart table of the README and its picture.')
    parser.add_argument('runs', nargs='+', type=Path, help='folders of finished runs, one for each seed')
    parser.add_argument('--remark', default='', help='a sentence to end the note with')
    return parser.parse_args(arguments)


def update(args: argparse.Namespace) -> int:
    """Writes table and picture. Returns the exit code."""
    from basicsr.files import write_text
    from basicsr.history import History

    histories = [History.read(run / 'history.jsonl') for run in args.runs]
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    if BEGIN not in readme or END not in readme:
        raise OptionError(f'README.md has no lines {BEGIN} and {END}.')
    head, _, rest = readme.partition(BEGIN)
    write_text(ROOT / 'README.md', f'{head}{BEGIN}\n{table(histories)} {args.remark}\n{END}{rest.partition(END)[2]}')
    write_picture(args.runs[0], histories[0])
    return 0


def table(histories: list[list[dict[str, Any]]]) -> str:
    """The table in Markdown: every task before and after, mean and standard deviation over the runs."""
    last = [[r for r in h if r['kind'] == 'val'][-1] for h in histories]
    tasks = {t: [v['per_task'][t] for v in last] for t in last[0]['per_task']}
    lines = ['| task | PSNR before, dB | after | SSIM before | after |', '| --- | --- | --- | --- | --- |']
    lines += [_row(t.replace('_', ' '), runs) for t, runs in tasks.items()] + [_row('**all**', last)]
    facts = next(r for r in histories[0] if r['kind'] == 'run')['facts']
    minutes = [_minutes(h) for h in histories]
    seeds = ', '.join(str(r['facts']['seed']) for h in histories for r in h if r['kind'] == 'run')
    pictures = len(last[0]['images'])
    note = (
        f'Mean ± standard deviation over {len(histories)} runs (seeds {seeds}); {pictures} pictures: '
        f'{pictures // len(tasks)} photographs under each degradation; {last[0]["protocol"]}. '
        f'{facts["network"]} with {facts["parameters"]:,} parameters, {last[0]["iter"]} iterations, '
        f'{min(minutes):.1f} to {max(minutes):.1f} minutes on {facts["machine"]}, {facts["versions"]}.'
    )
    return '\n'.join([*lines, '', note])


def _row(name: str, runs: list[dict[str, Any]]) -> str:
    cells = []
    for metric, digits in (('psnr', 2), ('ssim', 3)):
        before, after = ([r[kind][metric] for r in runs] for kind in ('input_metrics', 'metrics'))
        spread = f' ± {statistics.stdev(after):.{digits}f}' if len(after) > 1 else ''
        cells += [f'{statistics.mean(before):.{digits}f}', f'{statistics.mean(after):.{digits}f}{spread}']
    return f'| {name} | {" | ".join(cells)} |'


def _minutes(history: list[dict[str, Any]]) -> float:
    start = next(r['time'] for r in history if r['kind'] == 'run')
    return (history[-1]['time'] - start) / 60


def write_picture(run: Path, history: list[dict[str, Any]]) -> None:
    """docs/quickstart.jpg: one photograph of each task, before, after and clean, one below the other."""
    import cv2
    import numpy as np

    from basicsr.image_io import read_image, to_uint8, write_image

    last = [r for r in history if r['kind'] == 'val'][-1]
    folder = run / 'visualization' / last['dataset']
    columns = []
    for key in SHOWN:
        images = [read_image(folder / f'{key}_{part}.png') for part in ('lq', last['iter'], 'gt')]
        columns.append(np.concatenate([cv2.resize(i, TILE, interpolation=cv2.INTER_AREA) for i in images], axis=0))
    write_image(ROOT / 'docs/quickstart.jpg', to_uint8(np.concatenate(columns, axis=1)))


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parse_arguments(arguments)
    return run_command(lambda: update(args))


if __name__ == '__main__':
    sys.exit(main())
