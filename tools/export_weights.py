"""Writes the weights of a checkpoint alone: ``python tools/export_weights.py IN.pth OUT.safetensors``.

The moving average is taken where there is one. What the file is of (entry, iteration, network) goes into its header.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__' and not __package__:  # run as a script: import from the checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import json

from basicsr.cli import run_command
from basicsr.errors import OptionError


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description='Weights of a checkpoint as a safetensors file.')
    parser.add_argument('checkpoint', type=Path, help='weight file (.pth or .safetensors)')
    parser.add_argument('output', type=Path, help='file to write, NAME.safetensors')
    parser.add_argument('--param_key', help='entry to take; default: params_ema, else params, else what is there')
    parser.add_argument('--overwrite', action='store_true', help='replace a file that is there')
    return parser.parse_args(arguments)


def export(args: argparse.Namespace) -> int:
    """Writes the file. Returns the exit code."""
    from safetensors.torch import save

    from basicsr import checkpoint
    from basicsr.files import write_atomically

    if args.output.suffix != '.safetensors':
        raise OptionError(f'{args.output}: the name must end in .safetensors.')
    if args.output.exists() and not args.overwrite:
        raise OptionError(f'{args.output} exists already; give --overwrite to replace it.')
    content = checkpoint.read(args.checkpoint)
    weights = checkpoint.find_weights(content, args.checkpoint, args.param_key)
    told = {'format': 'pt', 'entry': weights.entry or '', 'iter': str(content.get('iter', ''))}
    if isinstance(content.get('network_g'), dict):
        told['network_g'] = json.dumps(content['network_g'], default=str)
    data = save({k: v.contiguous() for k, v in weights.tensors.items()}, metadata=told)
    write_atomically(args.output, lambda file: file.write(data))
    print(f'{len(weights.tensors)} tensors, {len(data) / 1e6:.2f} MB: {args.output} ({weights})')
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parse_arguments(arguments)
    return run_command(lambda: export(args))


if __name__ == '__main__':
    sys.exit(main())
