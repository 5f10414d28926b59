"""Statistics of natural images, which NIQE, BRISQUE and PIQE rest on: local contrast, and fits of its distribution.

Everything is computed in double precision: a fit takes the nearest entry of a table, and the error of single precision
is large enough to change the entry (one step moves BRISQUE by up to 0.04).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from basicsr.errors import DataError

WORST = 100.0  # score of an image without any texture: the bad end of the published range
SIDE = 7  # of the Gaussian window, in pixels
SIGMA = 7 / 6
STEP = 0.001  # of the table of shapes
SHAPES = (0.2, 10.0)  # its ends
LEAST = 1e-60  # of a mean square: keeps divisions and roots finite where all is even
LEAST_VARIANCE = 1e-12  # in levels squared; keeps the gradient of the square root finite
HALF = tuple(w / 256 for w in (-3, -9, 29, 111, 111, 29, -9, -3))  # MATLAB's bicubic kernel, a = -0.5, at half size
CACHED = 1 << 17  # pixels that are worked on together on a processor, so that they stay in its cache
MOST = 1 << 24  # on other devices, to bound the memory

Padding = Literal['zero', 'edge']
Single = Literal['weights', 'sums', 'nothing']


def luma_of_images(name: str, images: Tensor, least: int, rounded: bool) -> Tensor:
    """Luma of images in double precision, in levels; differentiable.

    Args:
        name: What is computed, for messages.
        images: (N,3,H,W) RGB or (N,1,H,W) grey, in [0,1].
        least: Least height and width in pixels.
        rounded: Whether to whole levels; the gradient passes as if it were not.

    Returns:
        (N,H,W) in [0,255].

    Raises:
        DataError: Another shape or number format, or images that are too small.
    """
    require_shape(name, images)
    require_size(name, images, least)
    images = images.cpu() if images.device.type == 'mps' else images  # MPS has no float64
    x = grey((images * 255).double())  # in this order single precision gives 8-bit levels exactly
    if rounded and x.requires_grad:
        return x + (x.round() - x).detach()
    return x.round() if rounded else x


def require_shape(name: str, images: Tensor) -> None:
    """Refuses what is not a batch of images, RGB or grey.

    Raises:
        DataError: So it is.
    """
    if images.dim() != 4 or images.shape[1] not in (1, 3) or not images.is_floating_point():
        raise DataError(f'{name}: images must be floating-point (N,3,H,W), not {images.dtype} {tuple(images.shape)}.')


def require_size(name: str, x: Tensor, least: int) -> None:
    """Refuses images whose height or width is below ``least``.

    Raises:
        DataError: So they are.
    """
    height, width = x.shape[-2:]
    if min(height, width) < least:
        raise DataError(f'{name}: needs at least {least} x {least} pixels, got {height} x {width}.')


def grey(x: Tensor) -> Tensor:
    """Luma 0.299 R + 0.587 G + 0.114 B of (N,3,H,W), as MATLAB's rgb2gray; one channel is luma already: (N,H,W)."""
    if x.shape[1] == 1:
        return x[:, 0]
    red, green, blue = _grey_weights()
    return torch.add(x[:, 0] * red, x[:, 1], alpha=green).add(x[:, 2], alpha=blue)


def portions(x: Tensor) -> tuple[Tensor, ...]:
    """A batch (N,H,W) in parts that are quick to work on."""
    most = CACHED if x.device.type == 'cpu' else MOST
    return x.split(max(1, most // (x.shape[-2] * x.shape[-1])))


def local_contrast(x: Tensor, padding: Padding, single: Single = 'weights') -> Tensor:
    """Mean-subtracted, contrast-normalised levels: (x - mean) / (deviation + 1) over a Gaussian window of 7 x 7.

    In an even area the result is zero but for rounding, whose sign decides which pixels count in :func:`fit`, and with
    that moves BRISQUE by up to 0.7. So the rounding of the known programs is kept. With weights of single precision,
    whose sum is 3e-8 off 1, a bright even area lies so much off its mean, everywhere on the same side. Sums of single
    precision make it exactly zero, and the deviation of a nearly even area up to 0.06 levels off.

    Args:
        x: (N,H,W) levels, double precision.
        padding: What lies outside the image: zeros, or its nearest pixel.
        single: What is of single precision: the window's weights, the weighted sums and what follows, or nothing.

    Returns:
        (N,H,W), double precision.
    """
    border, height = (SIDE // 2,) * 4, x.shape[1]
    outside = {'mode': 'replicate'} if padding == 'edge' else {}
    padded = F.pad(x.unsqueeze(1), border, **outside).squeeze(1)
    step = height  # strips of rows stay in the cache, but cost a gradient dear: each slice has one of the full size
    if x.device.type == 'cpu' and not (torch.is_grad_enabled() and x.requires_grad):
        step = max(1, CACHED // 2 // x[:, 0].numel())
    strips = [padded[:, top : top + step + SIDE - 1] for top in range(0, height, step)]
    return torch.cat([_contrast(strip, single) for strip in strips], dim=1)


def _contrast(padded: Tensor, single: Single) -> Tensor:
    weights, inside = _window(single == 'weights'), slice(SIDE // 2, -(SIDE // 2))
    x, mean, energy = padded[:, inside, inside], _blur(padded, weights), _blur(padded * padded, weights)
    if single == 'sums':
        x, mean, energy = x.float(), mean.float(), energy.float()
    deviation = (energy - mean * mean).abs().clamp_min(LEAST_VARIANCE).sqrt()
    return ((x - mean) / (deviation + 1)).double()


def half_size(x: Tensor) -> Tensor:
    """MATLAB's ``imresize(x, 0.5)``: bicubic with antialiasing, mirrored at the edges, (N,H,W) to half, rounded up."""
    return _half_rows(_half_rows(x).transpose(1, 2)).transpose(1, 2)


def _half_rows(x: Tensor) -> Tensor:
    count = (x.shape[1] + 1) // 2
    end = 4 + x.shape[1] % 2
    x = torch.cat((x[:, :3].flip(1), x, x[:, -end:].flip(1)), dim=1)
    result = x[:, 0 : 2 * count : 2] * HALF[0]
    for i in range(1, len(HALF)):
        result.add_(x[:, i : i + 2 * count : 2], alpha=HALF[i])
    return result


def _blur(x: Tensor, weights: tuple[float, ...]) -> Tensor:
    height, width = (n - SIDE + 1 for n in x.shape[-2:])
    rows = x[..., :height, :] * weights[0]
    for i in range(1, SIDE):
        rows.add_(x[..., i : i + height, :], alpha=weights[i])
    result = rows[..., :width] * weights[0]
    for i in range(1, SIDE):
        result.add_(rows[..., i : i + width], alpha=weights[i])
    return result


@lru_cache
def _grey_weights() -> tuple[float, ...]:
    return tuple(torch.tensor([0.299, 0.587, 0.114], dtype=torch.float32).double().tolist())


@lru_cache
def _window(single: bool) -> tuple[float, ...]:
    weights = [math.exp(-((i - SIDE // 2) ** 2) / (2 * SIGMA**2)) for i in range(SIDE)]
    total = sum(weights)
    weights = [w / total for w in weights]
    if not single:
        return tuple(weights)
    square = torch.tensor([[a * b for a in weights] for b in weights], dtype=torch.float64)
    share = math.sqrt(square.float().double().sum().item())
    return tuple(w * share for w in weights)


class Pairs(NamedTuple):
    """Sums over the pixels of each block, (B, 5): of the values themselves, then of products of neighbours.

    The neighbours are right, below, below right and below left; the block goes on at its opposite edge.

    Attributes:
        size: Of absolute values.
        square: Of squares.
        signed_square: Of squares, those of negative values subtracted.
        balance: Positive values less negative ones.
        nonzero: Values that are not zero.
        count: Pixels of a block.
    """

    size: Tensor
    square: Tensor
    signed_square: Tensor
    balance: Tensor
    nonzero: Tensor
    count: int


class Fit(NamedTuple):
    """Asymmetric generalised Gaussians, each attribute (B, 5): a shape, the mean, and the deviation to each side.

    ``left_known`` and ``right_known`` tell where there are values below and above zero. Where one is missing the
    shape is the table's first and the mean is not known, as in the published programs, where they are NaN.
    """

    shape: Tensor
    mean: Tensor
    left: Tensor
    right: Tensor
    left_known: Tensor
    right_known: Tensor


def pair_sums(blocks: Tensor) -> Pairs:
    """What the fits need to know of blocks of local contrast, (B,h,w).

    The sums over products of neighbours are inner products of maps with themselves, shifted: of |x|, x^2, x|x| and
    sign(x). So no product is ever stored, and no value is looked at twice for its sign.
    """
    height, width = blocks.shape[-2:]
    wide = torch.cat((blocks, blocks[:, :1]), dim=1)
    x = torch.cat((wide, wide[:, :, :1]), dim=2).flatten(1)
    size, sign = x.abs(), x.detach().sign().float()  # counts are whole numbers: single precision is exact
    sums = [_sums(m, height, width) for m in (size, x * x, x * size, sign, sign.abs())]
    return Pairs(*sums, count=height * width)


def _sums(x: Tensor, height: int, width: int) -> Tensor:
    """The sum of a map, then of its products with its neighbours, (B, 5).

    Args:
        x: (B, (h + 1) * (w + 1)): blocks with their first row and column repeated behind the last.
        height: h.
        width: w.
    """
    row = width + 1
    length = height * row - 1
    found = [x.view(-1, height + 1, row)[:, :height, :width].sum(dim=(1, 2)).double()]
    for one, other in ((0, 1), (0, row), (0, row + 1), (1, row)):
        first, second = x[:, one : one + length], x[:, other : other + length]
        repeated = (first[:, width::row] * second[:, width::row]).sum(dim=1)
        found.append((_inner(first, second) - repeated).double())
    return torch.stack(found, dim=1)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    if a.device.type == 'cpu':  # BLAS, which stores no products
        return torch.stack([torch.dot(u, v) for u, v in zip(a.unbind(), b.unbind())])
    return torch.linalg.vecdot(a, b)


def symmetric_shape(pairs: Pairs, table: bool) -> Tensor:
    """Shape of the generalised Gaussian fitted to the values themselves, (B,); see :func:`shape_of`."""
    ratio = pairs.size[:, 0].square() / (pairs.count * pairs.square[:, 0]).clamp_min(LEAST)
    return shape_of(ratio, table, by_inverse=True)


def fit(pairs: Pairs, table: bool) -> Fit:
    """Fits asymmetric generalised Gaussians by their moments (Lasmar, Stitou, Berthoumieu, ICIP 2009).

    Args:
        pairs: Sums of :func:`pair_sums`.
        table: See :func:`shape_of`.
    """
    below, above = (pairs.nonzero - pairs.balance) / 2, (pairs.nonzero + pairs.balance) / 2
    left = _root((pairs.square - pairs.signed_square) / 2 / below.clamp_min(1))
    right = _root((pairs.square + pairs.signed_square) / 2 / above.clamp_min(1))
    known = (below > 0) & (above > 0)
    ratio = pairs.size.square() / (pairs.count * pairs.square).clamp_min(LEAST)
    skew = (left**3 + right**3) * (left + right) / (left.square() + right.square()).square()
    shape = shape_of(torch.where(known, ratio * skew, 0), table)
    mean = (right - left) * ratio_of_gammas(shape, 2, 1, 3)
    return Fit(shape, mean, left, right, below > 0, above > 0)


def shape_of(ratio: Tensor, table: bool, by_inverse: bool = False) -> Tensor:
    """Shape a of a generalised Gaussian by E|x|^2 / E x^2 = Gamma(2/a)^2 / (Gamma(1/a) Gamma(3/a)).

    Args:
        ratio: Any shape, double precision.
        table: Whether the value is that of the published look-up, the nearest of 0.2, 0.201, ... 10; otherwise it is
            the exact inverse, within the same bounds. The gradient is that of the exact inverse in both cases.
        by_inverse: Whether the look-up compares the inverse of the ratio.

    Returns:
        The shapes, of the same shape and dtype.
    """
    shapes, ratios, bounds = _table(by_inverse, str(ratio.device))
    ratio = ratio.clamp(ratios[0].item(), ratios[-1].item())
    with torch.no_grad():
        nearest = shapes[torch.searchsorted(bounds, ratio.detach().contiguous())]
        if table and not ratio.requires_grad:
            return nearest
        exact = _refined(nearest, ratio).clamp(*SHAPES)
        slope = _ratio_and_slope(exact)[1]
    return (nearest if table else exact) + (ratio - ratio.detach()) / slope


def ratio_of_gammas(shape: Tensor, top: int, *below: int) -> Tensor:
    """Gamma(top / a) over the geometric mean of Gamma(n / a), n in ``below``."""
    logarithms = [torch.lgamma(n / shape) for n in below]
    return torch.exp(torch.lgamma(top / shape) - sum(logarithms) / len(logarithms))


def _refined(shape: Tensor, ratio: Tensor) -> Tensor:
    for _ in range(3):  # Newton; half a step of the table away, so that three halvings of the exponent suffice
        found, slope = _ratio_and_slope(shape)
        shape = (shape - (found - ratio) / slope).clamp(SHAPES[0] / 2, 2 * SHAPES[1])
    return shape


def _ratio_and_slope(shape: Tensor) -> tuple[Tensor, Tensor]:
    one, two, three = (n / shape for n in (1, 2, 3))
    ratio = torch.exp(2 * torch.lgamma(two) - torch.lgamma(one) - torch.lgamma(three))
    change = torch.digamma(one) + 3 * torch.digamma(three) - 4 * torch.digamma(two)
    return ratio, ratio * change / shape.square()


def _root(x: Tensor) -> Tensor:
    return x.clamp_min(LEAST).sqrt()


@lru_cache(maxsize=8)
def _table(by_inverse: bool, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Shapes, their ratios, and the ratios half-way to the next."""
    shapes = torch.arange(round((SHAPES[1] - SHAPES[0]) / STEP) + 1, dtype=torch.float64) * STEP + SHAPES[0]
    ratios = _ratio_and_slope(shapes)[0]
    before, after = ratios[:-1], ratios[1:]
    bounds = 2 / (1 / before + 1 / after) if by_inverse else (before + after) / 2
    return shapes.to(device), ratios.to(device), bounds.to(device)
