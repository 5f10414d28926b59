"""Codes of a data set: ``python tools/export_latents.py -m net_g_latest.pth -i FFHQ -o codes.safetensors``.

Every image and its mirror image go through an autoencoder of codes (IQPIR's stage I); the predictor of stage II learns
these codes (``codes`` of QualityPriorDataset). All books are asked for every image, however good it is, as in IQPIR's
release. Killed at any moment, the same command goes on where it stopped.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__' and not __package__:  # run as a script: import from the checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from basicsr.cli import run_command
from basicsr.errors import DataError, OptionError

if TYPE_CHECKING:
    from torch import Tensor

    from basicsr.image_source import ImageSource

Codes = dict[str, dict[str, 'Tensor']]
PART = 512  # images in a file of its own until all are done
READERS = 4


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description='Codes of every image of a folder and of its mirror image.')
    add = parser.add_argument
    add('-m', '--model', required=True, metavar='FILE', help='weight file of an autoencoder of codes')
    add('-i', '--input', type=Path, required=True, metavar='PATH', help='folder of images of one size, LMDB, or shards')
    add('-o', '--output', type=Path, required=True, metavar='OUT.safetensors', help='the file to write')
    add('-opt', '--opt', metavar='FILE', help='option file whose network_g describes the weights')
    add('--device', default=None, help='cpu, cuda, cuda:1, ... (default: a GPU if there is one)')
    add('--batch', type=int, default=8, metavar='N', help='images that go through the network at once (default: 8)')
    add('--overwrite', action='store_true', help='replace files that are there, and begin anew')
    return parser.parse_args(arguments)


def export(args: argparse.Namespace) -> int:
    """Writes the file. Returns the exit code."""
    from basicsr.code_file import write_codes
    from basicsr.files import lock_folder
    from basicsr.image_source import open_source
    from basicsr.inference import choose_device, load_network

    _check(args)
    device = choose_device(args.device)
    net = load_network(args.model, args.opt).to(device).eval()
    source = open_source(args.input, 'gt')
    info = _plan(net, args.model, source)
    folder = args.output.with_name(f'{args.output.name}.partial')
    lock = lock_folder(folder, 'export is working in', 'The codes')
    try:
        if args.overwrite:
            shutil.rmtree(folder, ignore_errors=True)
        codes, resumed = _all_parts(net, device, source, args.batch, info, folder)
        write_codes(args.output, codes, info)
        shutil.rmtree(folder)
    finally:
        lock.release()
    before = f' ({resumed} had been done before)' if resumed else ''
    print(f"'{args.output}': codes of {len(source)} images and their mirror images{before}.")
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.output.suffix != '.safetensors':
        raise OptionError(f'{args.output}: the name must end in .safetensors.')
    if args.output.exists() and not args.overwrite:
        raise OptionError(f'{args.output} exists already; give --overwrite to replace it.')
    if args.batch < 1:
        raise OptionError(f'--batch {args.batch}: at least one image goes through the network at once.')


def _plan(net: Any, model: str, source: ImageSource) -> dict[str, Any]:
    """What the codes depend on; written into the file, and compared before an export goes on.

    Raises:
        OptionError: The network makes no codes of images.
        DataError: The first image is of a size that the network would pad.
    """
    from basicsr import checkpoint
    from basicsr.iqa.score_table import digest_of
    from basicsr.network import facts_of

    if not (hasattr(net, 'latent') and hasattr(net, 'coded') and getattr(net, 'book_sizes', ())):
        raise OptionError(f'{model}: {type(net).__name__} is no autoencoder of codes.')
    first = source.info(source.stems[0])
    multiple = facts_of(net).multiple_of
    if first.height % multiple or first.width % multiple:
        raise DataError(
            f"'{source.path(source.stems[0])}' is {first.width}x{first.height}; {type(net).__name__} codes whole "
            f'images whose sides are multiples of {multiple}.'
        )
    return {
        'image_size': [first.height, first.width],
        'book_sizes': list(net.book_sizes),
        'network': type(net).__name__,
        'weights': checkpoint.sha256(model),
        'images': digest_of(source.stems),
        'count': len(source),
    }


def _all_parts(
    net: Any, device: str, source: ImageSource, batch: int, info: dict[str, Any], folder: Path
) -> tuple[Codes, int]:
    """Codes of all images, by view and name; each part is written as soon as it is done. And how many were there."""
    from basicsr.code_file import VIEWS, write_codes
    from basicsr.lmdb_workers import progress_bar

    folder.mkdir(parents=True, exist_ok=True)
    codes: Codes = {view: {} for view in VIEWS}
    resumed = 0
    with progress_bar('images', len(source), True) as advance:
        for first in range(0, len(source), PART):
            stems = source.stems[first : first + PART]
            file = folder / f'{first:08d}.safetensors'
            part = _finished(file, stems, info)
            resumed += 0 if part is None else len(stems)
            if part is None:
                part = _codes_of(net, device, source, stems, batch, info)
                write_codes(file, part, info)
            for view in VIEWS:
                codes[view].update(part[view])
            advance(len(stems))
    return codes, resumed


def _finished(file: Path, stems: Sequence[str], info: dict[str, Any]) -> Codes | None:
    """A part that an earlier command left.

    Raises:
        OptionError: It is of other images or weights.
    """
    from basicsr.code_file import VIEWS, CodeFile

    if not file.is_file():
        return None
    found = CodeFile(file)
    told = {**found.info, 'image_size': list(found.info['image_size']), 'book_sizes': list(found.info['book_sizes'])}
    if told != info or set(found.names) != set(stems):
        raise OptionError(f"'{file.parent}' was begun with other images or weights; give --overwrite to begin anew.")
    return {view: {stem: found.get(stem, view == VIEWS[1]) for stem in stems} for view in VIEWS}


def _codes_of(
    net: Any, device: str, source: ImageSource, stems: Sequence[str], batch: int, info: dict[str, Any]
) -> Codes:
    """Codes of some images, by view and name."""
    import torch

    from basicsr.code_file import VIEWS
    from basicsr.image_io import to_tensor

    def read(stem: str) -> Tensor:
        image = to_tensor(source.pixels(stem))
        if list(image.shape[-2:]) != info['image_size']:
            height, width = info['image_size']
            size = f'{image.shape[-1]}x{image.shape[-2]}'
            raise DataError(f"'{source.path(stem)}' is {size} pixels, and the first image {width}x{height}.")
        return image

    codes: Codes = {view: {} for view in VIEWS}
    with ThreadPoolExecutor(READERS) as pool, torch.inference_mode():
        for first in range(0, len(stems), batch):
            names = stems[first : first + batch]
            images = torch.stack(list(pool.map(read, names))).to(device)
            for view, seen in zip(VIEWS, (images, images.flip(-1))):
                found = net.coded(net.latent(seen)).codes.cpu()
                codes[view].update(zip(names, found.unbind()))
    return codes


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parse_arguments(arguments)
    return run_command(lambda: export(args))


if __name__ == '__main__':
    sys.exit(main())
