"""What is particular to AIM-Net: its illumination map, its sparse attention and its deformable convolution."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.errors import DataError

from .precision import full_precision

SIGMAS = (15, 60, 90)  # of the blurs behind the illumination map, in pixels
CHUNK = 144  # positions that attend together
HASHES = 4  # rounds of hashing
SEED = 0  # of the hash rotations in evaluation mode


@torch.no_grad()
def illumination_map(image: Tensor) -> Tensor:
    """The local illumination (LA) that AIM-Net reads beside the image, in the 256 levels of the published LA files.

    The mean of ``log10`` of the image blurred with standard deviations of 15, 60 and 90 pixels, stretched between the
    extremes of the whole image. The image is taken as 8-bit numbers and blurred as OpenCV blurs these, in fixed point;
    all sums are whole numbers, so a CPU and a GPU give the same map.

    Source: estimate_illumination.py of github.com/Huang-ShiRui/Semi-UIR (Huang et al., CVPR 2023).

    Args:
        image: (N, C, H, W) in [0, 1]. Of a crop it gives another map than the crop of the map: use whole images.

    Returns:
        A tensor of the same shape and type, in [0, 1].
    """
    levels = (image.double() * 255).round_().clamp_(0, 255)
    with torch.autocast(image.device.type, enabled=False):
        total = torch.ones_like(levels)
        for sigma in SIGMAS:
            total += torch.log10(gaussian_blur(levels, sigma) + 1e-8).clamp_(min=0)
    total /= 3
    low, high = (edge(total, dim=(1, 2, 3), keepdim=True) for edge in (torch.amin, torch.amax))
    return (((total - low) / (high - low + 1e-6) * 255).floor_() / 255).to(image.dtype)


def gaussian_blur(levels: Tensor, sigma: float) -> Tensor:
    """Blurs 8-bit levels, held as float64 (N, C, H, W), as ``cv2.GaussianBlur(image, (0, 0), sigma)`` does."""
    kernel = fixed_point_gaussian(sigma).to(levels.device, non_blocking=True)
    blurred = _along_rows(_along_rows(levels, kernel).mT, kernel).mT
    return ((blurred + (1 << 15)) / (1 << 16)).floor()


def fixed_point_gaussian(sigma: float) -> Tensor:
    """OpenCV's Gaussian for 8-bit images: whole numbers (float64) of sum 256, over three standard deviations.

    Each weight is what the rounded running sum adds, so that rounding errors do not pile up; the middle one is what
    is left to 256.
    """
    radius = (round(6 * sigma + 1) | 1) // 2
    weights = torch.exp(torch.arange(-radius, radius + 1, dtype=torch.float64).square() / (-2 * sigma * sigma))
    running = (256 * weights / weights.sum())[:radius].cumsum(0).round()
    half = running.diff(prepend=running.new_zeros(1))
    return torch.cat((half, 256 - 2 * half.sum(0, keepdim=True), half.flip(0)))


def _along_rows(x: Tensor, kernel: Tensor, block: int = 512, at_once: int = 1 << 22) -> Tensor:
    """Convolves the last axis, mirrored at its ends, as products of blocks of it with a band matrix."""
    size, taps = x.shape[-1], kernel.numel()
    block = min(block, size)
    blocks = -(-size // block)
    period = max(2 * size - 2, 1)
    place = torch.arange(-(taps // 2), blocks * block + taps // 2, device=x.device).remainder(period)
    place = torch.minimum(place, period - place).clamp(max=size - 1)
    offset = torch.arange(block + taps - 1, device=x.device)[:, None] - torch.arange(block, device=x.device)
    band = F.pad(kernel, (block - 1, block - 1))[offset + block - 1]
    rows = x.reshape(-1, size).split(max(at_once // size, 1))
    done = [part[:, place].unfold(-1, block + taps - 1, block) @ band for part in rows]
    return torch.cat(done).flatten(1)[:, :size].reshape(x.shape)


class NonLocalSparseAttention(nn.Module):
    """Attention among positions whose features point in similar directions, found by random rotations (LSH).

    Mei, Fan and Zhou, "Image Super-Resolution with Non-Local Sparse Attention", CVPR 2021, as in Semi-UIR's
    attention.py. In evaluation mode the rotations come from a generator with a fixed seed, so that equal images give
    equal results, on any device; in training mode from the global one, as published. Runs in float32 under autocast.

    Semi-UIR sorts only the first channel of the features into the buckets and gives its result to all channels, while
    the hashes see all of them. That is what its weights were trained with, and it is cheap; ``attend='all'`` is the
    attention of the paper.

    Args:
        channels: Channels in and out.
        attend: Which channels take part.
    """

    def __init__(self, channels: int, attend: Literal['first', 'all'] = 'first') -> None:
        super().__init__()
        self.conv_match = nn.Conv2d(channels, channels // 4, 3, padding=1)
        self.conv_assembly = nn.Conv2d(channels, channels, 1)
        self.attend = attend

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, channels, H, W) with at least 144 positions to the same shape.

        Raises:
            DataError: There are fewer positions.
        """
        if x.shape[-2] * x.shape[-1] < CHUNK:
            raise DataError(
                f'Non-local attention got a feature map of {x.shape[-2]}x{x.shape[-1]} positions; '
                f'it needs at least {CHUNK}.'
            )
        with torch.autocast(x.device.type, enabled=False):
            return x + self._attended(full_precision(x)).to(x.dtype)

    def _attended(self, x: Tensor) -> Tensor:
        used = slice(1) if self.attend == 'first' else slice(None)
        match = self.conv_match(x).flatten(2).mT  # (N, positions, channels)
        order = self._order(match.detach())
        weight, bias = self.conv_assembly.weight[used], self.conv_assembly.bias[used]
        value = F.conv2d(x, weight, bias).flatten(2).mT
        copies = match.shape[-1] if self.attend == 'first' else 1
        found = _attend_in_order(match[..., used], value, order, copies)
        return found.mT.unflatten(2, x.shape[-2:])

    @torch.no_grad()
    def _order(self, match: Tensor) -> Tensor:
        """Positions sorted by hash: (N, HASHES, positions), every round with its own rotations."""
        positions, channels = match.shape[1:]
        buckets = min((positions // CHUNK + 1) // 2 * 2, 128)
        rotations = self._rotations(match, (channels, HASHES, buckets // 2)).flatten(1)
        codes = [_codes((part @ rotations).unflatten(2, (HASHES, -1))) for part in match.split(1 << 16, dim=1)]
        return torch.cat(codes, dim=1).mT.sort(stable=True).indices

    def _rotations(self, like: Tensor, shape: tuple[int, ...]) -> Tensor:
        if self.training:
            return torch.randn(shape, dtype=like.dtype, device=like.device)
        drawn = torch.randn(shape, generator=torch.Generator().manual_seed(SEED))
        return drawn.to(like.device, like.dtype, non_blocking=True)


def _codes(rotated: Tensor) -> Tensor:
    """Index of the largest among the numbers of the last axis and then their negatives."""
    (high, at), (low, at_low) = rotated.max(-1), rotated.min(-1)
    return torch.where(high >= -low, at, at_low + rotated.shape[-1]).to(torch.int16)


def _attend_in_order(match: Tensor, value: Tensor, order: Tensor, copies: int) -> Tensor:
    """Attention of every position to its chunk of the order and the two beside it, weighed over the rounds.

    Args:
        match: (N, positions, K).
        value: (N, positions, V).
        order: (N, rounds, positions).
        copies: How many equal channels each channel of ``match`` stands for.

    Returns:
        (N, positions, V).
    """
    positions = order.shape[2]
    filled = torch.cat((order, order[..., positions - -positions % CHUNK :]), dim=2)
    query = _gather(match, filled).unflatten(2, (-1, CHUNK))
    key = query / (query.norm(dim=-1, keepdim=True) * math.sqrt(copies)).clamp_min(5e-5)
    known = _with_neighbours(_gather(value, filled).unflatten(2, (-1, CHUNK)))
    found, logs = _attend(query * copies, _with_neighbours(key), known)
    back = torch.empty_like(order).scatter_(2, order, torch.arange(positions, device=order.device).expand_as(order))
    found = found.flatten(2, 3).gather(2, back[..., None].expand(-1, -1, -1, value.shape[2]))
    weights = logs.flatten(2, 4).gather(2, back).softmax(1)
    return (found * weights[..., None]).sum(1)


def _gather(x: Tensor, order: Tensor) -> Tensor:
    """(N, positions, K) in the order (N, rounds, M): (N, rounds, M, K)."""
    index = order.flatten(1)[..., None].expand(-1, -1, x.shape[2])
    return x.gather(1, index).unflatten(1, order.shape[1:])


def _with_neighbours(chunks: Tensor) -> Tensor:
    """(N, rounds, chunks, CHUNK, K) with the chunks before and after appended: (N, rounds, chunks, 3 CHUNK, K)."""
    return torch.cat((chunks, chunks.roll(1, 2), chunks.roll(-1, 2)), dim=3)


def _attend(query: Tensor, key: Tensor, value: Tensor, at_once: int = 128) -> tuple[Tensor, Tensor]:
    """Softmax attention within chunks, and the logarithm of its denominator; a limited number of chunks at a time."""
    found, logs = [], []
    for q, k, v in zip(*(t.flatten(0, 2).split(at_once) for t in (query, key, value))):
        scores = q @ k.mT
        top = scores.detach().amax(-1, keepdim=True)
        scores = (scores - top).exp()
        total = scores.sum(-1, keepdim=True)
        found.append(scores @ v / total)
        logs.append(total.log() + top)
    shape = query.shape[:3]
    return torch.cat(found).unflatten(0, shape), torch.cat(logs).unflatten(0, shape)


class GuidedDeformConv(nn.Module):
    """Modulated deformable 3x3 convolution (DCNv2) whose offsets and masks are read from two feature maps.

    Zhu, Hu, Lin and Dai, "Deformable ConvNets v2", arXiv:1811.11168; Semi-UIR's deform_conv.py. Written with
    ``grid_sample``, so that it needs no compiled extension. Positions are float32 under autocast.

    Args:
        channels: Channels in and out, and of the guide.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3))
        self.conv_offset_mask = nn.Conv2d(2 * channels, 27, 3, padding=1)
        nn.init.zeros_(self.conv_offset_mask.weight)
        nn.init.zeros_(self.conv_offset_mask.bias)
        bound = (9 * channels) ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """Convolves ``x`` (N, channels, H, W) at the places that it and ``guide``, of the same shape, choose."""
        offsets, mask = self.conv_offset_mask(torch.cat((x, guide), dim=1)).split((18, 9), dim=1)
        with torch.autocast(x.device.type, enabled=False):
            samples = _sample(full_precision(x), full_precision(offsets)) * full_precision(mask).sigmoid()[:, None]
        return (self.weight.flatten(1) @ samples.flatten(1, 2).flatten(2)).unflatten(2, x.shape[-2:])


def _sample(x: Tensor, offsets: Tensor) -> Tensor:
    """Samples (N, C, H, W) at the nine places of every 3x3 window, moved by (N, 18, H, W): (N, C, 9, H, W).

    Offsets are, tap by tap, down and then to the right. Outside ``x`` there are zeros.
    """
    height, width = x.shape[-2:]
    down, right = offsets.unflatten(1, (9, 2)).unbind(2)
    tap = torch.arange(9, device=x.device).view(9, 1, 1)
    rows = torch.arange(height, device=x.device).view(-1, 1) + (tap // 3 - 1)
    columns = torch.arange(width, device=x.device) + (tap % 3 - 1)
    grid = torch.stack(((2 * (columns + right) + 1) / width - 1, (2 * (rows + down) + 1) / height - 1), dim=-1)
    return F.grid_sample(x, grid.flatten(1, 2), align_corners=False).unflatten(2, (9, height))
