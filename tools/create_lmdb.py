"""Makes and checks LMDBs of images in BasicSR's layout: ``python tools/create_lmdb.py create INPUT -o OUT.lmdb``."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__' and not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
from collections import Counter

from basicsr.cli import run_command
from basicsr.errors import EXIT_FAILED, OptionError
from basicsr.image_lists import read_list
from basicsr.lmdb_check import Info, info, verify
from basicsr.lmdb_make import Created, create

SHOWN = 3  # keys that a warning names


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: options.run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Make and check LMDBs of images in BasicSR's layout.")
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    _add_create(commands.add_parser('create', help='make an LMDB of a folder of images'))
    checking = commands.add_parser('verify', help='find every bad record of an LMDB')
    checking.set_defaults(run=_verify)
    checking.add_argument('path', type=Path, metavar='PATH', help='the LMDB')
    checking.add_argument('--quick', action='store_true', help='check sums and headers, do not decode the images')
    _add_workers(checking)
    telling = commands.add_parser('info', help='say what is in an LMDB')
    telling.set_defaults(run=_info)
    telling.add_argument('path', type=Path, metavar='PATH', help='the LMDB')
    return parser


def _add_create(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_create)
    parser.description = (
        'Make an LMDB of a folder of images. Killed at any moment, the same command goes on where it stopped.'
    )
    parser.add_argument('input', type=Path, metavar='INPUT', help='folder of images, searched with its sub-folders')
    parser.add_argument('-o', '--out', type=Path, required=True, metavar='OUT.lmdb', help='folder to make')
    parser.add_argument('--list', type=Path, metavar='FILE', help='take the images that FILE names, one a line')
    parser.add_argument(
        '--format',
        choices=('keep', 'png', 'bmp'),
        help="keep the files' bytes (default), or encode as png (default for sub-images) or bmp (large, quick to read)",
    )
    parser.add_argument('--compress_level', type=int, metavar='N', help='of PNG, 0 to 9 (default: 1)')
    parser.add_argument('--crop_size', type=int, metavar='N', help='cut square sub-images with sides of N pixels')
    parser.add_argument('--step', type=int, metavar='N', help='pixels from one sub-image to the next')
    parser.add_argument(
        '--thresh_size',
        type=int,
        default=0,
        metavar='N',
        help='leave out a rest of at most N pixels at the border (default: 0)',
    )
    parser.add_argument(
        '--overwrite', action='store_true', help='replace an LMDB that exists, once the new one is whole'
    )
    parser.add_argument('--skip_bad', action='store_true', help='leave out images that cannot be read')
    _add_workers(parser)


def _add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--workers', type=int, metavar='N', help='processes (default: one for each core, at most 16)')


def _create(options: argparse.Namespace) -> int:
    if options.compress_level is not None and options.format != 'png' and (options.format or not options.crop_size):
        raise OptionError('--compress_level goes with --format png.')
    made = create(
        options.input,
        options.out,
        options.format,
        compress_level=1 if options.compress_level is None else options.compress_level,
        crop_size=options.crop_size,
        step=options.step,
        thresh_size=options.thresh_size,
        names=None if options.list is None else [name for (name,) in read_list(options.list)],
        workers=options.workers,
        overwrite=options.overwrite,
        skip_bad=options.skip_bad,
        show_progress=True,
    )
    sys.stdout.write(_created_text(made))
    return 0


def _verify(options: argparse.Namespace) -> int:
    problems = verify(options.path, options.workers, not options.quick, show_progress=True)
    sys.stdout.writelines(f'{problem}\n' for problem in problems)
    found = info(options.path) if not problems else None
    if found is not None:
        sums = 'checksums' if found.checksums else 'no checksums to compare with'
        sys.stdout.write(f'{found.images} images, {_bytes(found.size)}: all whole ({sums}).\n')
        return 0
    kinds = Counter(problem.kind for problem in problems)
    sys.stdout.write(f'{len(problems)} problems: {", ".join(f"{n} {kind}" for kind, n in kinds.most_common())}.\n')
    return EXIT_FAILED


def _info(options: argparse.Namespace) -> int:
    sys.stdout.write(_info_text(info(options.path)))
    return 0


def _created_text(made: Created) -> str:
    cut = f' cut from {made.sources}' if made.records != made.sources else ''
    lines = [f"'{made.root}': {made.records} images{cut}, {_bytes(made.size)}."]
    if made.resumed:
        lines.append(f'{made.resumed} of {made.sources} files had been done before.')
    if made.bad:
        lines += [f'Left out {len(made.bad)}:', *(f'  {reason}' for reason in made.bad.values())]
    if made.foreign:
        shown = ', '.join(f"'{key}'" for key in made.foreign[:SHOWN]) + (', ...' if len(made.foreign) > SHOWN else '')
        lines.append(
            f'Warning: {len(made.foreign)} names hold a dot or a letter beyond ASCII ({shown}). They work here; '
            'BasicSR 1.4.2 would not find them.'
        )
    return ''.join(f'{line}\n' for line in lines)


def _info_text(found: Info) -> str:
    low, middle, high = (found.dimensions[i] for i in (0, len(found.dimensions) // 2, -1))
    header = found.header
    pages = header.branch_pages + header.leaf_pages + header.overflow_pages
    rows = {
        'images': found.images,
        'bytes': f'{found.size} ({found.size / found.images:.0f} an image)',
        'sizes (h,w,c)': f'from {low} over {middle} (median) to {high}, {len(set(found.dimensions))} different',
        'formats': _counts(found.formats),
        'PNG compression': _counts(found.levels),
        'sub-images': 'no' if found.photographs is None else f'yes, of {found.photographs} images',
        'checksums': 'yes' if found.checksums else 'no',
        'data.mdb': f'{found.file_size} bytes, map of {header.map_size} bytes',
        'pages': f'{pages} of {header.page_size} bytes in use, {header.last_page + 1} taken, depth {header.depth}',
    }
    return ''.join(f'{label + ":":17}{value}\n' for label, value in rows.items())


def _counts(counter: Counter) -> str:
    return ', '.join(f'{value}: {count}' for value, count in sorted(counter.items()))


def _bytes(size: int) -> str:
    return f'{size / 1e6:.1f} MB' if size >= 1e6 else f'{size} bytes'


if __name__ == '__main__':
    sys.exit(main())
