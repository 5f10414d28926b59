"""Writes the report of a run again: ``python tools/make_report.py experiments/<name>``."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__' and not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse

from basicsr.errors import QualIRError
from basicsr.report import write_report


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = argparse.ArgumentParser(description='Write the report of a training run: one HTML file, readable offline.')
    parser.add_argument('run', type=Path, help='folder of the run, such as experiments/quickstart')
    parser.add_argument('--out', type=Path, help='file to write (default: report.html in that folder)')
    parser.add_argument(
        '--max-examples', type=int, default=20, metavar='N', help='show at most N photographs (default: 20)'
    )
    options = parser.parse_args(arguments)
    if options.max_examples < 0:
        parser.error('--max-examples must not be negative')
    try:
        out = write_report(options.run, options.out, options.max_examples)
    except QualIRError as error:
        sys.stderr.write(f'{error}\n')
        return error.exit_code
    sys.stdout.write(f'{out}\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
