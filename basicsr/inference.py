"""Restores photographs: ``python basicsr/inference.py -m net_g_latest.pth -i photo.jpg -o restored/``.

The weight file says which network it belongs to; one of another toolbox needs an option file with
that block (``-opt``).
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__' and not __package__:  # run as a script: import from the checkout, not from basicsr/ itself
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
from typing import Any

from basicsr.cli import run_command
from basicsr.errors import DataError, OptionError


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description='Restore photographs with a trained network.')
    parser.add_argument('-m', '--model', required=True, metavar='FILE', help='weight file, such as net_g_latest.pth')
    parser.add_argument('-i', '--input', required=True, metavar='PATH', help='photograph, or a folder of them')
    parser.add_argument(
        '-o', '--output', default='results', metavar='FOLDER', help='where results go (default: results)'
    )
    parser.add_argument('-opt', '--opt', metavar='FILE', help='option file whose network_g describes the weights')
    parser.add_argument('--device', default=None, help='cpu, cuda, cuda:1, ... (default: a GPU if there is one)')
    parser.add_argument('--overwrite', action='store_true', help='replace results that are already there')
    return parser.parse_args(arguments)


def restore(args: argparse.Namespace) -> int:
    """Restores every photograph. Returns the exit code: 0 only if all of them were restored."""
    import torch

    from basicsr.logger import get_root_logger

    logger = get_root_logger()
    jobs = _jobs(Path(args.input), Path(args.output), args.overwrite)
    device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    net = _load_network(args.model, args.opt).to(device).eval()
    failed = 0
    for source, target in jobs:
        try:
            _restore_one(net, source, target, device)
            logger.info(f'{source} -> {target}')
        except DataError as error:
            failed += 1
            logger.error(str(error))
    logger.info(f'{len(jobs) - failed} of {len(jobs)} photographs restored.')
    return 1 if failed else 0


def _restore_one(net: Any, source: Path, target: Path, device: str) -> None:
    import torch

    from basicsr.image_io import read_image, to_tensor, to_uint8, write_image

    image = to_tensor(read_image(source))[None].to(device)
    with torch.inference_mode():
        write_image(target, to_uint8(net(image)[0].float().cpu()))


def _jobs(source: Path, folder: Path, overwrite: bool) -> list[tuple[Path, Path]]:
    """Inputs and where each result goes; sub-folders are mirrored.

    Raises:
        DataError: There is no input.
        OptionError: A result exists, or two inputs would share one.
    """
    from basicsr.image_io import list_images

    files = list_images(source) if source.is_dir() else [source]
    root = source if source.is_dir() else source.parent
    jobs = [(f, folder / f.relative_to(root).with_suffix('.png')) for f in files]
    targets = [t for _, t in jobs]
    for file, target in jobs:
        if targets.count(target) > 1:
            raise OptionError(f'{file} and another input would both become {target}; rename one of them.')
        if target.exists() and not overwrite:
            raise OptionError(f'{target} exists already; give --overwrite to replace it, or another -o.')
    return jobs


def _load_network(model: str, option_file: str | None) -> Any:
    """Builds the network that a weight file names and loads it.

    Raises:
        OptionError: Neither the file nor an option file says which network it is.
    """
    from basicsr import checkpoint
    from basicsr.archs import build_network
    from basicsr.options import load

    content = checkpoint.read(model)
    block = load(option_file).networks['g'] if option_file else content.get('network_g')
    if not isinstance(block, dict):
        raise OptionError(
            f'{model} does not say which network it is; give an option file with its network_g: -opt FILE.'
        )
    net = build_network(block)
    checkpoint.load_network(net, model)
    return net


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parse_arguments(arguments)
    return run_command(lambda: restore(args))


if __name__ == '__main__':
    sys.exit(main())
