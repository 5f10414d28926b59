"""Writes images as WebDataset shards: ``python tools/create_shards.py PHOTOS -o OUT``.

Pairs: ``python tools/create_shards.py --field gt=CLEAN --field lq=DEGRADED -o OUT``. Started again after a stop, it
goes on with the first shard that is not finished. ``--index`` and ``--verify`` are for shards that are there already,
also those of other people. Exit codes: 0 done, 1 failed, 2 refused.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__' and not __package__:  # run as a script: import from the checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import re

from basicsr.cli import run_command
from basicsr.errors import EXIT_FAILED, OptionError, QualIRError

UNITS = {'': 1, 'K': 1 << 10, 'M': 1 << 20, 'G': 1 << 30}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description='Write images as WebDataset shards (tar files with an index).')
    parser.add_argument('inputs', nargs='*', type=Path, metavar='INPUT', help='folder of images, also in sub-folders')
    parser.add_argument('-o', '--out', type=Path, help='folder for the shards')
    parser.add_argument(
        '--field', action='append', default=[], metavar='NAME=DIR', help='images of one field, paired by their names'
    )
    parser.add_argument('--max_size', default='1G', help='most bytes in a shard, such as 512M (default: 1G)')
    parser.add_argument('--max_count', type=int, default=10_000, help='most samples in a shard (default: 10000)')
    parser.add_argument('--shuffle', type=int, metavar='SEED', help='deal the samples into shards in a random order')
    parser.add_argument('--skip_damaged', action='store_true', help='leave damaged images out, and list them')
    parser.add_argument('--index', action='store_true', help='only write the indexes that the shards in INPUT lack')
    parser.add_argument('--verify', action='store_true', help='only read the shards in INPUT, and tell what is wrong')
    return parser.parse_args(arguments)


def create(args: argparse.Namespace) -> int:
    """Does what was asked for. Returns the exit code."""
    from basicsr import shard_writer

    if args.index or args.verify:
        return _check(args)
    if args.out is None or bool(args.inputs) == bool(args.field):
        raise OptionError('Give -o OUT, and either folders of images or --field NAME=DIR for each field.')
    if args.max_count < 1:
        raise OptionError(f'--max_count is {args.max_count}; it must be at least 1.')
    fields = _fields(args.field) if args.field else {'': args.inputs}
    try:
        manifest = shard_writer.create(
            fields, args.out, parse_size(args.max_size), args.max_count, args.shuffle, args.skip_damaged,
            lambda done, total, name: _say(f'{done} of {total}: {name}'),
        )  # fmt: skip
    except OSError as error:
        raise QualIRError(
            f"'{args.out}' cannot be written to: {error.strerror or error}. Started again, the same command goes on "
            'with the first shard that is not finished.'
        ) from error
    for line in (line for shard in manifest['shards'] for line in shard.get('skipped', [])):
        _say(f'Left out: {line}')
    _say(f"{manifest['samples']} samples, {manifest['bytes']} bytes, {len(manifest['shards'])} shards in '{args.out}'.")
    return 0


def _check(args: argparse.Namespace) -> int:
    from basicsr import shard_writer

    if not args.inputs or args.field or args.out:
        raise OptionError('--index and --verify take the folders of the shards, nothing else.')
    problems = 0
    for root in args.inputs:
        if args.index:
            _say(f"{shard_writer.write_indexes(root)} indexes written in '{root}'.")
        for line in shard_writer.verify(root) if args.verify else ():
            problems += 1
            _say(line)
    if args.verify:
        _say(f'{problems} problems.')
    return EXIT_FAILED if problems else 0


def _fields(pairs: list[str]) -> dict[str, list[Path]]:
    fields: dict[str, list[Path]] = {}
    for pair in pairs:
        match = re.fullmatch(r'([A-Za-z0-9_-]+)=(.+)', pair)
        if match is None:
            raise OptionError(
                f"--field is '{pair}'; write NAME=DIR, the name of letters and digits, such as gt=photos."
            )
        fields.setdefault(match[1].lower(), []).append(Path(match[2]))
    return fields


def parse_size(text: str) -> int:
    """Bytes of a size such as ``512M``.

    Raises:
        OptionError: It is no size.
    """
    match = re.fullmatch(r'(\d+)\s*([KMG]?)B?', text.upper())
    if match is None or int(match[1]) == 0:
        raise OptionError(f"--max_size is '{text}'; write bytes, or a number with K, M or G.")
    return int(match[1]) * UNITS[match[2]]


def _say(line: str) -> None:
    sys.stdout.write(f'{line}\n')
    sys.stdout.flush()


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parse_arguments(arguments)
    return run_command(lambda: create(args))


if __name__ == '__main__':
    sys.exit(main())
