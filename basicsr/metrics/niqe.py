"""NIQE: how far the local contrast of an image's blocks is from that of good photographs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from basicsr.errors import CheckpointError, MissingWeightsError, OptionError
from basicsr.metrics import metric
from basicsr.metrics.images import Image, Order, answer, levels
from basicsr.metrics.natural_statistics import (
    WORST,
    Single,
    fit,
    grey,
    half_size,
    local_contrast,
    luma_of_images,
    pair_sums,
    portions,
    ratio_of_gammas,
    require_size,
)
from basicsr.registry import METRIC_REGISTRY

BLOCK = 96  # side of a block in pixels
FEATURES = 36

Convention = Literal['matlab', 'basicsr']


@dataclass(frozen=True)
class Pristine:
    """What good photographs are like: mean (36,) and covariance (36, 36) of their blocks' features."""

    mean: Tensor
    covariance: Tensor


@METRIC_REGISTRY.register()
@metric(higher_better=False, needs=('img',))
def calculate_niqe(
    img: Image,
    crop_border: int = 0,
    input_order: Order = 'HWC',
    convention: Convention = 'matlab',
    parameters: str | None = None,
) -> Tensor | float:
    """NIQE (Mittal, Soundararajan, Bovik: Making a "completely blind" image quality analyzer, IEEE SPL 2013).

    From about 2 for a good photograph upward; lower is better. Only whole blocks of 96 x 96 pixels count, from the top
    left. Blocks without texture are left out; an image of nothing else gets 100.

    There are two conventions in use, whose numbers differ by up to 0.3 in 36 photographs. ``matlab``: luma is
    0.299 R + 0.587 G + 0.114 B in [0, 255], as in the authors' program and in pyiqa. ``basicsr``: luma is the Y of
    YCbCr in [16, 235], and even areas count neither as below nor as above their mean, as in BasicSR. Resizing and
    covariance are the same.

    Args:
        img: A tensor (N, C, H, W) or (C, H, W), RGB or grey in [0, 1], or a numpy array in [0, 255], BGR or grey.
        crop_border: Pixels left out at each edge.
        input_order: Order of a numpy array; tensors are always CHW.
        convention: Whose numbers these are: ``matlab`` or ``basicsr``.
        parameters: Path of another pristine model, see :func:`load_pristine`; by default the published one.

    Returns:
        For tensors a float64 tensor (N,) on their device, for numpy arrays a float.

    Raises:
        DataError: An image that cannot be used, or smaller than 96 x 96 pixels inside the border.
        OptionError: An unknown ``convention``.
        CheckpointError: ``parameters`` cannot be read; MissingWeightsError where it does not exist.
    """
    if convention not in ('matlab', 'basicsr'):
        raise OptionError(f"calculate_niqe: convention '{convention}' is not known; allowed are matlab and basicsr.")
    x = levels('calculate_niqe', img, crop_border, input_order)
    require_size('calculate_niqe', x, BLOCK)
    plane = grey(x) if convention == 'matlab' else _luma_of_basicsr(x)
    single = 'weights' if convention == 'matlab' else 'sums'
    pristine = load_pristine(parameters)
    return answer(_scores(plane.round(), pristine, BLOCK, True, single), img)


def niqe(
    images: Tensor,
    parameters: Pristine | str | Path | None = None,
    table: bool = True,
    block_size: int = BLOCK,
) -> Tensor:
    """NIQE of a batch by the convention ``matlab``, differentiable; see :func:`calculate_niqe`.

    Args:
        images: (N,3,H,W) RGB or (N,1,H,W) grey, in [0,1].
        parameters: The pristine model or its path, see :func:`load_pristine`; by default the published one.
        table: True gives the published value: luma is rounded to whole levels, and shapes are the nearest of a table.
            The gradient passes through both as if they were exact. False leaves luma as it is and inverts exactly, so
            that the value is smooth; in 36 photographs it was off by 0.02 in the median, by 0.27 at most,
            nearly all because luma is not rounded: by the table alone it is 0.001 and 0.02.
        block_size: Side of a block in pixels, even; the pristine model was made with 96.

    Returns:
        (N,), of the images' number format. An image without texture has 100, without gradient.

    Raises:
        DataError: Images of a shape that cannot be used, or smaller than a block.
    """
    x = luma_of_images('niqe', images, block_size, rounded=table)
    pristine = parameters if isinstance(parameters, Pristine) else load_pristine(parameters)
    return _scores(x, pristine, block_size, table, 'weights').to(images.dtype)


def load_pristine(path: str | Path | None = None) -> Pristine:
    """Reads a pristine model for NIQE.

    Args:
        path: An ``.npz`` with ``mu_pris_param`` and ``cov_pris_param``, as BasicSR's, or a ``.mat`` with
            ``mu_prisparam`` and ``cov_prisparam``, as the authors'. None is the one that ships.

    Raises:
        CheckpointError: The file is not one of these.
        MissingWeightsError: It is not there.
    """
    return _shipped() if path is None else _read(Path(path))


def _luma_of_basicsr(x: Tensor) -> Tensor:
    """Y of levels (N,C,H,W) with BasicSR's steps in single precision, which decide how halves are rounded: (N,H,W)."""
    if x.shape[1] == 1:
        return x[:, 0]
    red, green, blue = (x.float() / 255).double().unbind(1)
    return (((65.481 * red + 128.553 * green + 24.966 * blue + 16) / 255).float() * 255).double()


def _scores(x: Tensor, pristine: Pristine, block: int, table: bool, single: Single) -> Tensor:
    """NIQE of luma (N,H,W) in levels."""
    height, width = (n // block * block for n in x.shape[-2:])
    x = x[:, :height, :width]
    parts = [_features(part, block, table, single) for part in portions(x)]
    features, known = (torch.cat(t) for t in zip(*parts))
    return _distance(features, known, pristine)


def _features(x: Tensor, block: int, table: bool, single: Single) -> tuple[Tensor, Tensor]:
    """Features of each block at both sizes (N,B,36), and which of them are known."""
    scales = []
    for plane, side in ((x, block), (half_size(x), block // 2)):
        contrast = local_contrast(plane, 'edge', single)
        rows, columns = (n // side for n in contrast.shape[-2:])
        cut = contrast.view(-1, rows, side, columns, side).transpose(2, 3)
        parts = [_features_of_blocks(part, table) for part in portions(cut.reshape(-1, side, side))]
        scales.append([torch.cat(t) for t in zip(*parts)])
    features, known = (torch.cat(t, dim=1).view(len(x), -1, FEATURES) for t in zip(*scales))
    return features, known


def _features_of_blocks(blocks: Tensor, table: bool) -> tuple[Tensor, Tensor]:
    """18 features of each block (B, 18): shape and mean scale of local contrast; of its pairs shape, mean, scales."""
    found = fit(pair_sums(blocks), table)
    unit = ratio_of_gammas(found.shape, 1, 3).sqrt()
    left, right, both = found.left * unit, found.right * unit, found.left_known & found.right_known
    always = torch.ones_like(both)
    pairs = torch.stack([f[:, 1:] for f in (found.shape, found.mean, left, right)], dim=2).flatten(1)
    known = [k[:, 1:] for k in (always, both, found.left_known, found.right_known)]
    single = torch.stack((found.shape[:, 0], (left + right)[:, 0] / 2), dim=1)
    known_single = torch.stack((always[:, 0], both[:, 0]), dim=1)
    return torch.cat((single, pairs), dim=1), torch.cat((known_single, torch.stack(known, dim=2).flatten(1)), dim=1)


def _distance(features: Tensor, known: Tensor, pristine: Pristine) -> Tensor:
    """Distance of two Gaussians (the paper's equation 10), of the blocks' features (N,B,36) and the pristine one: (N,).

    The mean takes in every known feature; the covariance, of which one block has none, only blocks that have all.
    """
    features = torch.where(known, features, 0)
    mean = features.sum(dim=1) / known.sum(dim=1).clamp_min(1)
    whole = known.all(dim=2)
    count = whole.sum(dim=1).view(-1, 1, 1)
    weight = whole.unsqueeze(2).to(features.dtype)
    centred = (features - (features * weight).sum(dim=1, keepdim=True) / count.clamp_min(1)) * weight
    covariance = centred.transpose(1, 2) @ centred / (count - 1).clamp_min(1)
    away = (mean - pristine.mean.to(mean.device)).unsqueeze(2)
    joint = (covariance + pristine.covariance.to(mean.device)) / 2
    square = (away.transpose(1, 2) @ torch.linalg.solve(joint, away)).flatten()
    return torch.where(count.flatten() > 0, square.clamp_min(1e-30).sqrt(), WORST)


@lru_cache(maxsize=1)
def _shipped() -> Pristine:
    return _read(Path(__file__).parent / 'parameters' / 'niqe_pris_params.npz')


def _read(path: Path) -> Pristine:
    if not path.is_file():
        raise MissingWeightsError(f'NIQE: there is no file {path}; it must hold the pristine model to be used.')
    try:
        arrays = _arrays(path)
        mean, covariance = (torch.from_numpy(np.array(a, dtype=np.float64)) for a in arrays)
    except Exception as error:  # whatever a damaged file makes of its reader
        reason = f'{type(error).__name__}: {error}'
        raise CheckpointError(f'NIQE: {path} does not hold a pristine model ({reason}).') from error
    if mean.numel() != FEATURES or covariance.shape != (FEATURES, FEATURES):
        shapes = f'{tuple(mean.shape)} and {tuple(covariance.shape)}'
        raise CheckpointError(f'NIQE: in {path}, mean and covariance must be of 36 and 36 x 36 numbers, not {shapes}.')
    return Pristine(mean.flatten(), covariance)


def _arrays(path: Path) -> tuple[Any, Any]:
    if path.suffix == '.mat':
        from scipy.io import loadmat  # only here: it takes longer to import than the rest of the file

        file = loadmat(path)
        return file['mu_prisparam'], file['cov_prisparam']
    with np.load(path, allow_pickle=False) as file:
        return file['mu_pris_param'], file['cov_pris_param']
