"""PIQE: how much of an image's lively parts is distorted, judged block by block, without any training."""

from __future__ import annotations

import torch
from torch import Tensor

from basicsr.metrics import metric
from basicsr.metrics.images import Image, Order, answer, levels
from basicsr.metrics.natural_statistics import local_contrast, portions, require_shape, require_size
from basicsr.registry import METRIC_REGISTRY

BLOCK = 16  # side of a block in pixels
SEGMENT = 6  # pixels of a block's edge that are looked at together
ACTIVE = 0.1  # variance of a block that counts
IMPAIRED = 0.1  # deviation of a segment below which the block is impaired


@METRIC_REGISTRY.register()
@metric(higher_better=False, needs=('img',))
def calculate_piqe(img: Image, crop_border: int = 0, input_order: Order = 'HWC') -> Tensor | float:
    """PIQE (Venkatanath et al.: Blind image quality evaluation using perception based features, NCC 2015).

    From 0 for an undistorted image to 100; lower is better. An image of one colour has 100. The numbers are those of
    MATLAB's piqe and of the Python package pypiqe; pyiqa extends images whose sides are no multiples of 16 otherwise.

    Args:
        img: A tensor (N, C, H, W) or (C, H, W), RGB or grey in [0, 1], or a numpy array in [0, 255], BGR or grey.
        crop_border: Pixels left out at each edge.
        input_order: Order of a numpy array; tensors are always CHW.

    Returns:
        For tensors a float64 tensor (N,) on their device, for numpy arrays a float.

    Raises:
        DataError: An image that cannot be used, or smaller than 16 x 16 pixels inside the border.
    """
    x = levels('calculate_piqe', img, crop_border, input_order)
    require_size('calculate_piqe', x, BLOCK)
    return answer(_scores(x), img)


def piqe(images: Tensor) -> Tensor:
    """PIQE of a batch, without gradient, since it counts blocks; see :func:`calculate_piqe`.

    Args:
        images: (N,3,H,W) RGB or (N,1,H,W) grey, in [0,1]. Grey is rounded to whole levels, as published.

    Returns:
        (N,), of the images' number format.

    Raises:
        DataError: Images of a shape that cannot be used, or smaller than 16 x 16 pixels.
    """
    require_shape('piqe', images)
    require_size('piqe', images, BLOCK)
    images = images.cpu() if images.device.type == 'mps' else images  # MPS has no float64
    return _scores((images.detach() * 255).double()).to(images.dtype)


@torch.no_grad()
def _scores(x: Tensor) -> Tensor:
    """PIQE of levels (N,C,H,W)."""
    return torch.cat([_scores_of_portion(part) for part in portions(_whole_grey(x))])


def _scores_of_portion(x: Tensor) -> Tensor:
    brightest = x.amax(dim=(1, 2), keepdim=True).clamp_min(1)
    contrast = local_contrast((255 * x / brightest).round(), 'edge', single='nothing')
    rows, columns = (n // BLOCK for n in contrast.shape[-2:])
    blocks = (
        contrast.view(-1, rows, BLOCK, columns, BLOCK).transpose(2, 3).reshape(len(x), rows * columns, BLOCK, BLOCK)
    )
    variance = blocks.var(dim=(2, 3))
    active = variance > ACTIVE
    harm = _impaired(blocks) * (1 - variance) + _noisy(blocks, variance) * variance
    return 100 * ((harm * active).sum(dim=1) + 1) / (active.sum(dim=1) + 1)


def _whole_grey(x: Tensor) -> Tensor:
    """Grey in whole levels as OpenCV computes it (weights in 15 bits), mirrored up to whole blocks: (N,H,W)."""
    if x.shape[1] == 3:
        red, green, blue = x.unbind(1)
        x = ((9798 * red + 19235 * green + 3735 * blue) / 32768 + 0.5).floor()
    else:
        x = x[:, 0].round()
    below, right = (-n % BLOCK for n in x.shape[-2:])
    x = torch.cat((x, x[:, x.shape[1] - below :].flip(1)), dim=1)
    return torch.cat((x, x[:, :, x.shape[2] - right :].flip(2)), dim=2)


def _impaired(blocks: Tensor) -> Tensor:
    """Whether some segment of an edge of a block (N,B,16,16) is nearly even: blocking, ringing: (N,B)."""
    edges = torch.stack((blocks[..., 0, :], blocks[..., -1, :], blocks[..., 0], blocks[..., -1]), dim=2)
    return (edges.unfold(-1, SEGMENT, 1).var(dim=-1) < IMPAIRED**2).any(dim=-1).any(dim=-1)


def _noisy(blocks: Tensor, variance: Tensor) -> Tensor:
    """Whether the two middle columns of a block vary about as the others do, as in noise: (N,B).

    Of the surround, columns 8 and 10 (from 1) are left out rather than 8 and 9, as in the published program.
    """
    middle = BLOCK // 2
    others = [i for i in range(BLOCK) if i not in (middle - 1, middle + 1)]
    centre = blocks[..., middle - 1 : middle + 1].var(dim=(2, 3)).sqrt()
    surround = blocks[..., others].var(dim=(2, 3)).sqrt()
    ratio = torch.where(surround > 0, centre / surround, 0)
    deviation = variance.sqrt()
    return deviation > 2 * (deviation - ratio).abs() / torch.maximum(deviation, ratio)
