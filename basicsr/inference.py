"""Restores photographs: ``python basicsr/inference.py -m net_g_latest.pth -i photo.jpg -o restored/``.

The weight file says which network it belongs to; one of another toolbox needs an option file with
that block (``-opt``). Results are PNG files of the depth of the photograph; grey stays grey, and alpha is kept.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__' and not __package__:  # run as a script: import from the checkout, not from basicsr/ itself
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
from typing import TYPE_CHECKING, Any

from basicsr.cli import run_command
from basicsr.errors import OptionError, QualIRError

if TYPE_CHECKING:
    import numpy as np

    from basicsr.sections import ValOptions
    from basicsr.tiling import Restorer

SAME_KEYS = (  # flags that are called, and mean, what the key of section val does
    'tile', 'tile_overlap', 'self_ensemble', 'tlc', 'guidance', 'fidelity', 'hq_weight', 'adain', 'refine', 'refeed',
    'refine_tol', 'refine_by',
)  # fmt: skip


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
    _add_restorer_arguments(parser.add_argument_group('how photographs go through the network'))
    _add_knobs(parser.add_argument_group('what is asked of networks that have a knob for it'))
    _add_search_arguments(parser.add_argument_group('searching for better codes, with networks of codes'))
    _add_face_arguments(parser.add_argument_group('networks of aligned faces'))
    return parser.parse_args(arguments)


def _add_restorer_arguments(group: Any) -> None:
    """The arguments that stand for keys of section ``val``."""
    group.add_argument(
        '--tile', type=_tile, default='auto', metavar='auto|none|N',
        help='side of the tiles in pixels; auto: whole where it surely fits into memory; none: whole (default: auto)',
    )  # fmt: skip
    group.add_argument(
        '--tile_overlap', type=int, metavar='N', help='pixels that tiles share (default: 2/5 of a tile, 256 at most)'
    )
    group.add_argument('--tile_batch', type=int, metavar='N', help='tiles at once through the network (default: 1)')
    group.add_argument('--self_ensemble', action='store_true', help='average over 8 turned and mirrored versions')
    group.add_argument('--tlc', type=_pixels, metavar='PX', help='statistics over a window instead of the whole image')
    half = group.add_mutually_exclusive_group()
    half.add_argument('--bf16', action='store_true', help='compute in bfloat16')
    half.add_argument('--fp16', action='store_true', help='compute in float16, on a GPU')


def _add_knobs(group: Any) -> None:
    """More arguments that stand for keys of section ``val``."""
    group.add_argument(
        '--score', type=float, metavar='S',
        help="quality asked for, 0 to 1, of a network with a quality condition (default: the network's own, the top)",
    )  # fmt: skip
    group.add_argument(
        '--guidance', type=float, default=1.0, metavar='G',
        help='how far that is exaggerated; 0: no quality asked for (default: 1, plain)',
    )  # fmt: skip
    group.add_argument(
        '-w', '--fidelity', type=float, metavar='W',
        help="how much of the photograph enters beside the codes, 0: none, 1: as trained (default: the network's own)",
    )  # fmt: skip
    group.add_argument(
        '-aw', '--hq_weight', type=float, metavar='L',
        help="weight of the high-quality book, lambda (default: the network's own)",
    )  # fmt: skip
    matched = group.add_mutually_exclusive_group()
    matched.add_argument(
        '--adain', action='store_const', const=True,
        help="match the statistics of the codes' features to those of the photograph (default: the network's own)",
    )  # fmt: skip
    matched.add_argument(
        '--no_adain', dest='adain', action='store_const', const=False, help='do not match them'
    )  # fmt: skip
    _add_refinement(group)


def _add_refinement(group: Any) -> None:
    """Knobs of networks that are handed features of their own output."""
    group.add_argument(
        '--refine', type=int, metavar='N',
        help="times that a network refines its own output, 0: none (default: the network's own)",
    )  # fmt: skip
    fed = group.add_mutually_exclusive_group()
    fed.add_argument(
        '--refeed', action='store_const', const=True,
        help="each time, take the output of the time before as the input (default: the network's own)",
    )  # fmt: skip
    fed.add_argument(
        '--no_refeed', dest='refeed', action='store_const', const=False, help='always take the photograph as the input'
    )
    group.add_argument(
        '--refine_tol', type=float, metavar='X', help='stop when an image changes by less, in the mean, from 0 to 1'
    )
    group.add_argument(
        '--refine_by', metavar='FILE_OR_TYPE', help='scorer, such as NIQE: stop when its score of an image falls'
    )


def _add_search_arguments(group: Any) -> None:
    group.add_argument(
        '--best_of', type=_count, metavar='N', help='draw codes, and keep the best of N images (N times as long)'
    )
    group.add_argument(
        '--best_by', default='options/iqa/offline.yml', metavar='FILE',
        help='ensemble of two judges or more that says which is best (default: options/iqa/offline.yml)',
    )  # fmt: skip
    group.add_argument(
        '--search_rounds', type=_count, default=1, metavar='R',
        help='rounds of N images, each drawn nearer to the best ones of the round before (default: 1)',
    )  # fmt: skip
    group.add_argument('--seed', type=int, default=0, help='of the draws (default: 0)')


def _add_face_arguments(group: Any) -> None:
    kind = group.add_mutually_exclusive_group()
    kind.add_argument('--aligned', action='store_true', help='every photograph is an aligned face: resize it to fit')
    kind.add_argument(
        '--faces', action='store_true', help='find the faces of a photograph, restore them alone, and put them back'
    )
    group.add_argument(
        '--face_weights', metavar='FILE', help='weights of the face finder (default: looked for where weights are kept)'
    )


def _tile(text: str) -> int | str | None:
    if text in ('auto', 'none'):
        return 'auto' if text == 'auto' else None
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not auto, none or a number of pixels")
    return int(text)


def _pixels(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of pixels")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of at least 1")
    return int(text)


def _val_options(args: argparse.Namespace) -> ValOptions:
    """The arguments as section ``val`` holds them."""
    from basicsr.evaluation import nearest_score
    from basicsr.sections import ValOptions

    score = None if args.score is None else nearest_score(args.score)
    batch = {} if args.tile_batch is None else {'tile_batch': args.tile_batch}
    precision = 'bf16' if args.bf16 else 'fp16' if args.fp16 else 'fp32'
    same = {key: getattr(args, key) for key in SAME_KEYS}
    return ValOptions(precision=precision, score=score, **batch, **same)


def restore(args: argparse.Namespace) -> int:
    """Restores every photograph. Returns the exit code: 0 only if all of them were restored."""
    from basicsr.evaluation import knob_text, knobs_of, open_restorer
    from basicsr.logger import get_root_logger

    logger = get_root_logger()
    jobs = _jobs(Path(args.input), Path(args.output), args.overwrite)
    device = choose_device(args.device)
    net = load_network(args.model, args.opt).to(device).eval()
    search, val, failed = _search(net, args, device), _val_options(args), 0
    asked = knobs_of(val)
    with open_restorer(net, device, val, asked) as restorer:
        restorer.net = search or net
        through = _through_faces(net, restorer, args, device)
        for source, target in jobs:
            try:
                _restore_one(through, source, target)
                logger.info(f'{source} -> {target}')
            except QualIRError as error:  # a bad photograph, or no memory for it
                failed += 1
                logger.error(str(error) if str(source) in str(error) else f"'{source}': {error}")
            except OSError as error:
                failed += 1
                logger.error(f"'{target}' cannot be written: {error.strerror or error}.")
    more = [f'TLC window {args.tlc} px' if args.tlc else '', knob_text(asked), search.describe() if search else '']
    more += [f'{through.found} faces'] if args.faces else []
    how = ', '.join([restorer.describe(), *filter(None, more)])
    logger.info(f'{len(jobs) - failed} of {len(jobs)} photographs restored ({how}).')
    return 1 if failed else 0


def _search(net: Any, args: argparse.Namespace, device: str) -> Any:
    """What searches for better codes of this network; None where that is not asked for.

    Raises:
        OptionError: The network has no codes, or the judges do not suffice.
        MissingWeightsError: Weights of a judge are not on this machine.
    """
    if args.best_of is None:
        return None
    from basicsr.code_search import CodeSearch, check_predictor
    from basicsr.iqa.loading import load_scorer

    check_predictor(net)
    return CodeSearch(net, load_scorer(args.best_by).to(device), args.best_of, args.search_rounds, args.seed).eval()


def _through_faces(net: Any, restorer: Restorer, args: argparse.Namespace, device: str) -> Any:
    """What photographs go through: the restorer, or for networks of aligned faces what brings faces to it.

    Raises:
        OptionError: The network is not one of aligned faces, or facexlib is not installed.
        MissingWeightsError: The weights of the finder are not on this machine.
    """
    from basicsr.face import AlignedFace, FaceFinder, FaceRestorer

    side = getattr(net, 'img_size', None)
    if not isinstance(side, int):
        if args.faces or args.aligned:
            flag = '--faces' if args.faces else '--aligned'
            raise OptionError(f'{flag}: {type(net).__name__} is no network of aligned faces, which have one img_size.')
        return restorer
    if args.faces:
        return FaceRestorer(restorer.pixels, FaceFinder(args.face_weights, device), side)
    return restorer if isinstance(args.tile, int) else AlignedFace(restorer.pixels, side, args.aligned)


def _restore_one(restorer: Any, source: Path, target: Path) -> None:
    """Restores one photograph at its own depth; grey is written as grey again, and alpha as it was.

    Args:
        restorer: What has a method ``pixels``, from (H,W,3) to the restored image.
        source: The photograph.
        target: The file to write.
    """
    from basicsr.image_io import read_pixels, write_image

    pixels = read_pixels(source, 'unchanged')
    write_image(target, _restored(restorer, pixels))


def _restored(restorer: Any, pixels: np.ndarray) -> np.ndarray:
    import cv2
    import numpy as np

    if pixels.ndim == 2:
        return cv2.cvtColor(restorer.pixels(cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)), cv2.COLOR_RGB2GRAY)
    if pixels.shape[2] == 3:
        return restorer.pixels(pixels)
    colours, alpha = restorer.pixels(np.ascontiguousarray(pixels[..., :3])), pixels[..., 3]
    if colours.shape[:2] != alpha.shape:
        alpha = cv2.resize(alpha, colours.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return np.dstack([colours, alpha])


def choose_device(name: str | None) -> str:
    """The device to use.

    Raises:
        OptionError: There is no such device.
    """
    import torch

    name = name or ('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:  # torch raises either, by what is wrong
        reason = (str(error).splitlines() or [''])[0].rstrip('.')
        raise OptionError(f'--device {name} cannot be used: {reason}.') from error
    return name


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


def load_network(model: str, option_file: str | None) -> Any:
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
