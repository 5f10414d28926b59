"""Checks a public data set and prepares it: ``python tools/prepare_dataset.py SOTS --root /data/SOTS``.

It writes a list of each part and a block of options; see docs/datasets.md. Exit codes: 0 sound and whole, 1 part of it
is missing, 2 unpaired, damaged or not recognised.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__' and not __package__:  # run as a script: import from the checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse

from basicsr.cli import run_command
from basicsr.errors import EXIT_FAILED, EXIT_REFUSED, OptionError

ADVICE = {
    EXIT_FAILED: 'No list was written: the copy is not complete; --allow_partial lists what is there.',
    EXIT_REFUSED: 'No list was written: put the files right, or leave them out with --leave_out.',
}
DOCS = Path(__file__).resolve().parents[1] / 'docs/datasets.md'


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description='Check a public data set, and write lists and options for it.')
    parser.add_argument('name', nargs='?', metavar='NAME', help='data set, such as Rain100L; --list shows all')
    parser.add_argument('--root', type=Path, metavar='DIR', help='folder that holds it, or one level above')
    parser.add_argument('--output', type=Path, metavar='DIR', help='where to write (default: datasets/NAME)')
    parser.add_argument('--parts', nargs='+', metavar='PART', help='look at these parts only')
    parser.add_argument(
        '--check',
        choices=('all', 'sample', 'none'),
        default='sample',
        help='images to open (default: 2000 pairs a part)',
    )
    parser.add_argument('--allow_partial', action='store_true', help='write lists though published images are missing')
    parser.add_argument('--leave_out', action='store_true', help='leave out files that are unpaired or damaged')
    parser.add_argument('--lmdb', action='store_true', help='make LMDBs too')
    parser.add_argument('--overwrite', action='store_true', help='replace lists that are there with other content')
    parser.add_argument('--list', action='store_true', help='print the known data sets, and stop')
    parser.add_argument('--write-docs', action='store_true', help='write docs/datasets.md from the catalogue, and stop')
    return parser.parse_args(arguments)


def prepare(args: argparse.Namespace) -> int:
    """Does what was asked for. Returns the exit code."""
    from basicsr.public_datasets import find_entry
    from basicsr.public_datasets.check import check, describe
    from basicsr.public_datasets.output import refuse_inside, write_lists, write_problems

    if args.list or args.write_docs:
        return _show(args)
    if args.name is None or args.root is None:
        raise OptionError('Give the name of a data set and --root DIR, or --list.')
    entry = find_entry(args.name)
    output = args.output or Path('datasets', entry.name)
    refuse_inside(args.root, output)
    report = check(entry, args.root, args.check, args.parts)
    report.leave_out = args.leave_out
    _say(*describe(report, write_problems(report, output)))
    code = report.exit_code(args.allow_partial)
    if code == 0:
        _say('Written:', *map(str, write_lists(report, output, args.lmdb, args.overwrite)))
    else:
        _say(ADVICE[code])
    return code


def _show(args: argparse.Namespace) -> int:
    from basicsr.files import write_text
    from basicsr.public_datasets.page import docs_page, listing

    if args.list:
        _say(*listing())
    if args.write_docs:
        if not DOCS.parent.is_dir():
            raise OptionError(f"--write-docs is for a checkout; there is no folder '{DOCS.parent}'.")
        write_text(DOCS, docs_page())
        _say(str(DOCS))
    return 0


def _say(*lines: str) -> None:
    text = ''.join(f'{line}\n' for line in lines)
    encoding = sys.stdout.encoding or 'utf-8'
    sys.stdout.write(text.encode(encoding, 'backslashreplace').decode(encoding))  # names of files may be anything


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parse_arguments(arguments)
    return run_command(lambda: prepare(args))


if __name__ == '__main__':
    sys.exit(main())
