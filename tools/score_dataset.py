"""Scores a data set: ``python tools/score_dataset.py -i IMAGES --scorer options/iqa/offline.yml -o X.csv``."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__' and not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import shlex

from basicsr.cli import run_command
from basicsr.errors import EXIT_FAILED, DataError


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code: 1 if an image could not be scored."""
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(given)
    return run_command(lambda: _score(options, shlex.join(['score_dataset.py', *given])))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description='Score every image of a folder or an LMDB. Killed at any moment, the same command goes on where it '
        'stopped. Also under torchrun.'
    )
    add = parser.add_argument
    add('-i', '--input', type=Path, required=True, metavar='PATH', help='folder of images, LMDB, or shards')
    add('--scorer', required=True, metavar='FILE', help='YAML file of a scorer or an ensemble, or a type such as NIQE')
    add('-o', '--out', type=Path, required=True, metavar='OUT.csv', help='the table to write')
    add('--stats', type=Path, metavar='FILE', help='the statistics to write (default: OUT.json)')
    add('--device', default='auto', metavar='D', help='cpu, cuda, cuda:1, ... (default: a GPU if there is one)')
    add('--num_worker', type=int, metavar='N', help='processes on the CPU (default: one for each core, at most 16)')
    add('--batch', type=int, default=4, metavar='N', help='images of one size scored together (default: 4)')
    add('--overwrite', action='store_true', help='replace files that are there, and begin anew')
    add('--import', dest='plugins', action='append', default=[], metavar='MODULE', help='module or .py file to import')
    return parser


def _score(options: argparse.Namespace, command: str) -> int:
    from basicsr.iqa.scoring import score_dataset  # imports torch, which --help does without

    done = score_dataset(
        options.input,
        options.scorer,
        options.out,
        options.stats,
        device=options.device,
        batch=options.batch,
        workers=options.num_worker,
        overwrite=options.overwrite,
        imports=options.plugins,
        command=command,
        show_progress=True,
    )
    if done is None:  # not the first process of a launch
        return 0
    if done.finished_before:
        lines = [f"'{done.out}' is finished already, with the same images and scorer.", *_quantiles(done.out)]
        sys.stdout.write(''.join(f'{line}\n' for line in lines))
        return 0
    lines = [f"'{done.out}': {done.count} images scored; statistics in '{done.stats}'."]
    if done.resumed:
        lines.append(f'{done.resumed} had been done before.')
    if done.bad:
        lines += [f'{len(done.bad)} could not be scored:', *(f'  {reason}' for reason in done.bad.values())]
    sys.stdout.write(''.join(f'{line}\n' for line in (*lines, *_quantiles(done.out))))
    return EXIT_FAILED if done.bad else 0


def _quantiles(out: Path) -> list[str]:
    """What an option file of an image quality prior may take from the table: edges of bins, and thresholds."""
    from basicsr.iqa.scores import quantile, quantile_edges, read_scores

    scores = read_scores(out).values()
    best = (30, 15, 5)
    taus = ', '.join(f'{quantile(scores, 1 - percent / 100):.4g} ({percent} %)' for percent in best)
    lines = [f'tau, above which the best images lie: {taus}.']
    try:
        return [*lines, f'edges of 10 bins with equally many images: {quantile_edges(scores)}']
    except DataError as error:
        return [*lines, str(error)]


if __name__ == '__main__':
    sys.exit(main())
