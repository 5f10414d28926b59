"""CORUN: a dehazing network unfolded from the atmospheric scattering model, transmission and image in turn.

Paper: Fang, He, Xiao, Zhang, Tang, Zhang, Li and Li, "Real-world Image Dehazing with Coherence-based Pseudo Labeling
and Cooperative Unfolding Network", NeurIPS 2024, arXiv:2406.07966. Published code:
github.com/cnyvfang/CORUN-Colabator (no licence stated). Keys and numbers are as published; the code is written afresh.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.errors import OptionError
from basicsr.network import RestorationNetwork, Site, Visit, keep
from basicsr.registry import ARCH_REGISTRY

from .arch_util import LayerNorm2d, trunc_normal_
from .precision import full_precision

DIM = 30  # channels at full resolution, and of an attention head
DEPTH = 3  # times that a sub-network halves the image
TINY = 1e-7  # takes the place of a zero that is divided by


class SpectralAttention(nn.Module):
    """Attention among channels (MST, Cai et al., CVPR 2022) plus a depthwise positional part.

    The attention map, of 30x30 numbers a head, is made in float32 under autocast, and joined with the projection
    before it meets the image.

    Args:
        channels: Channels in and out, a multiple of 30.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels, bias=False) for _ in range(3))
        self.rescale = nn.Parameter(torch.ones(channels // DIM, 1, 1))
        self.proj = nn.Linear(channels, channels)
        depthwise = [nn.Conv2d(channels, channels, 3, padding=1, bias=False, groups=channels) for _ in range(2)]
        self.pos_emb = nn.Sequential(depthwise[0], nn.GELU(), depthwise[1])

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, channels, H, W) to the same shape."""
        weight = torch.cat((self.to_q.weight, self.to_k.weight, self.to_v.weight))
        q, k, v = F.conv2d(x, weight[..., None, None]).chunk(3, dim=1)
        with torch.autocast(x.device.type, enabled=False):
            mix = self._joined(self._attention(*(full_precision(t).flatten(2) for t in (q, k))))
        return _mixed(mix, v) + self.proj.bias.view(-1, 1, 1) + self.pos_emb(v)

    def _attention(self, q: Tensor, k: Tensor) -> Tensor:
        """(N, heads, 30, 30) from two (N, channels, positions)."""
        q, k = (t.unflatten(1, (-1, DIM)) for t in (q, k))
        q_length, k_length = (t.norm(dim=-1, keepdim=True).clamp_min(1e-12) for t in (q, k))
        return ((k @ q.mT) / (k_length * q_length.mT) * self.rescale).softmax(-1)

    def _joined(self, attention: Tensor) -> Tensor:
        """Projection after attention, as one matrix (N, channels, channels)."""
        projection = self.proj.weight.unflatten(1, (-1, DIM))
        return torch.einsum('ohd,nhde->nohe', projection, attention).flatten(2)


def _mixed(matrix: Tensor, x: Tensor) -> Tensor:
    """Multiplies the channels of (N, C, H, W) by (N, C, C) and keeps the memory format."""
    flat = x.flatten(2)
    mixed = (flat.mT @ matrix.mT).mT if x.stride(1) == 1 else matrix @ flat
    return mixed.unflatten(2, x.shape[2:])


class FeedForward(nn.Module):
    """Pointwise, depthwise and pointwise convolution with GELU between, four times as wide inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 4 * channels
        self.net = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False),
            nn.GELU(),
            nn.Conv2d(wide, wide, 3, padding=1, bias=False, groups=wide),
            nn.GELU(),
            nn.Conv2d(wide, channels, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, channels, H, W) to the same shape."""
        return self.net(x)


class PreNorm(nn.Module):
    """The feed-forward part behind a layer normalisation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fn = FeedForward(channels)
        self.norm = LayerNorm2d(channels, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, channels, H, W) to the same shape."""
        return self.fn(self.norm(x))


class MSAB(nn.Module):
    """One attention block of MST: attention without normalisation, then the feed-forward part; both are residuals."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.ModuleList([SpectralAttention(channels), PreNorm(channels)])])

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, channels, H, W) to the same shape."""
        for attention, feed_forward in self.blocks:
            x = x + attention(x)
            x = x + feed_forward(x)
        return x


class Resize(nn.Module):
    """Convolution, then pixel (un)shuffle: half the size and twice the channels, or the other way round.

    Args:
        channels: Channels in.
        up: Whether to double the size.
    """

    def __init__(self, channels: int, up: bool) -> None:
        super().__init__()
        out, shuffle = (2 * channels, nn.PixelShuffle(2)) if up else (channels // 2, nn.PixelUnshuffle(2))
        self.body = nn.Sequential(nn.Conv2d(channels, out, 3, padding=1, bias=False), shuffle)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, C/2, 2H, 2W) or (N, 2C, H/2, W/2)."""
        return self.body(x)


class MST(nn.Module):
    """A U-shaped transformer of three levels that refines one map with another at its side, and adds to it.

    Args:
        out_dim: Channels of the map that is refined; it and the other one have four together.
    """

    def __init__(self, out_dim: int) -> None:
        super().__init__()
        widths = [DIM << level for level in range(DEPTH + 1)]
        self.embedding = nn.Conv2d(4, DIM, 3, padding=1, bias=False)
        self.encoder_layers = nn.ModuleList([nn.ModuleList([MSAB(w), Resize(w, up=False)]) for w in widths[:-1]])
        self.bottleneck = MSAB(widths[-1])
        self.decoder_layers = nn.ModuleList(
            [
                nn.ModuleList([Resize(2 * w, up=True), nn.Conv2d(2 * w, w, 1, bias=False), MSAB(w)])
                for w in widths[-2::-1]
            ]
        )
        self.mapping = nn.Conv2d(DIM, out_dim, 3, padding=1, bias=False)
        for linear in (m for m in self.modules() if isinstance(m, nn.Linear)):
            trunc_normal_(linear.weight, std=0.02)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    @staticmethod
    def sites(prefix: str, tap: bool = False) -> dict[str, Site]:
        """The sites in the order in which they are visited; those of the encoder are taps where ``tap`` says so."""
        found = {f'{prefix}.encoder.{n}': Site(DIM << n, 1 << n, tap, part=prefix) for n in range(DEPTH)}
        found[f'{prefix}.bottleneck'] = Site(DIM << DEPTH, 1 << DEPTH, tap, -1 if tap else None, prefix)
        for n, level in enumerate(reversed(range(DEPTH))):
            found |= {
                f'{prefix}.{place}.{n}': Site(DIM << level, 1 << level, part=prefix) for place in ('up', 'fusion')
            }
        return found

    def encode(self, x: Tensor, other: Tensor, visit: Visit, prefix: str) -> list[Tensor]:
        """Outputs of the encoder levels, then of the bottleneck, of two maps (N,?,H,W)."""
        y, features = self.embedding(torch.cat((x, other), dim=1)), []
        for n, (block, down) in enumerate(self.encoder_layers):
            features.append(visit(f'{prefix}.encoder.{n}', block(y)))
            y = down(features[-1])
        return [*features, visit(f'{prefix}.bottleneck', self.bottleneck(y))]

    def decode(self, x: Tensor, features: list[Tensor], visit: Visit, prefix: str) -> Tensor:
        """The refined map, of the shape of ``x``."""
        *skips, y = features
        for n, (up, fusion, block) in enumerate(self.decoder_layers):
            y = visit(f'{prefix}.up.{n}', up(y))
            y = visit(f'{prefix}.fusion.{n}', fusion(torch.cat((y, skips[-1 - n]), dim=1)))
            y = block(y)
        return self.mapping(y) + x

    def forward(self, x: Tensor, other: Tensor, visit: Visit = keep, prefix: str = '') -> Tensor:
        """Refines ``x``."""
        return self.decode(x, self.encode(x, other, visit, prefix), visit, prefix)


class TransmissionStep(nn.Module):
    """Closed-form proximal step for the transmission, with the atmospheric light fixed to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.step_lambda = nn.Parameter(torch.tensor([0.3]).sigmoid())

    def forward(self, hazy: Tensor, image: Tensor, transmission: Tensor) -> Tensor:
        """A transmission (N,1,H,W) in [0.05, 0.999] from the images (N,3,H,W) and the last transmission."""
        gap = 1 - image
        pull = self.step_lambda / gap.masked_fill(gap == 0, TINY)
        above = (1 - hazy + pull * transmission).sum(1, keepdim=True)
        below = (gap + pull).sum(1, keepdim=True)
        return (above / below.masked_fill(below == 0, TINY)).clamp(0.05, 0.999)


class ImageStep(nn.Module):
    """Closed-form proximal step for the clear image, with the atmospheric light fixed to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.step_lambda = nn.Parameter(torch.tensor([0.3]).sigmoid())

    def forward(self, hazy: Tensor, image: Tensor, transmission: Tensor) -> Tensor:
        """A clear image (N,3,H,W) in [0, 1] from the hazy one, the last clear one and a transmission (N,1,H,W)."""
        square = transmission * transmission
        above = transmission * hazy + square - transmission + self.step_lambda * image
        below = square + self.step_lambda
        return (above / below.masked_fill(below == 0, TINY)).clamp(0, 1)


class Stage(nn.Module):
    """One unfolding stage: a proximal step and a refining network for the transmission, then for the image.

    Args:
        last: Whether it is the last one, which does not refine the transmission.
    """

    def __init__(self, last: bool = False) -> None:
        super().__init__()
        self.trans_prox = TransmissionStep()
        if not last:
            self.trans_net = MST(out_dim=1)
        self.dehaze_prox = ImageStep()
        self.dehaze_net = MST(out_dim=3)


@ARCH_REGISTRY.register()
class CORUN(RestorationNetwork):
    """CORUN, an unfolding network for dehazing.

    Every stage solves the scattering model ``hazy = image * t + 1 - t`` for the transmission ``t`` and for the image
    by one proximal step each, and refines either result by a small transformer. It begins with t = 0.5 and the hazy
    image. Attention weighs channels by sums over the whole image, so tiles come out a little differently.

    As the encoder counts that of the first transformer, all that is computed before anything is decoded; the later
    stages belong to the decoder. Sites are called ``stage0.transmission.encoder.2``: stage, map, place.

    bf16 is declared as measured; the proximal steps and attention maps stay in float32. fp16 is not declared, for its
    range was never tried with trained weights.

    Args:
        depth: Unfolding stages, at least 2; the published weights have 4.

    Raises:
        OptionError: There are fewer than 2 stages.
    """

    multiple_of = 1 << DEPTH
    pad_mode: ClassVar[Literal['constant', 'reflect']] = 'reflect'
    half_precision = ('bf16',)

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        if depth < 2:
            raise OptionError(f'CORUN: depth is {depth}; it must be at least 2, a first stage and a last one.')
        self.basic = nn.Sequential(*[Stage() for _ in range(depth - 2)])
        self.first = Stage()
        self.last = Stage(last=True)

    @property
    def sites(self) -> dict[str, Site]:
        """Places in both transformers of every stage; the last stage has none for the transmission.

        QualiTeacher adds its embedding at ``encoder.2`` and ``fusion.0`` of each, and puts a convolution at every
        ``up``.
        """
        found: dict[str, Site] = {}
        for prefix in self._parts():
            found |= MST.sites(prefix, tap=prefix == 'stage0.transmission')
        return found

    @property
    def injection_sites(self) -> tuple[str, ...]:
        """Two places in every transformer, as in QualiTeacher's release."""
        return tuple(f'{prefix}.{place}' for prefix in self._parts() for place in ('encoder.2', 'fusion.0'))

    @property
    def published_conditions(self) -> dict[str, str]:
        """QualiTeacher's release has a table for every transformer, and a convolution after each that goes up."""
        found = {}
        for prefix, module in self._parts().items():
            found |= {f'{prefix}.{place}': f'{module}.score_embedding' for place in ('encoder.2', 'fusion.0')}
            found |= {f'{prefix}.up.{n}': f'{module}.decoder_layers.{n}.0.body.2' for n in range(DEPTH)}
        return found

    def stages(self, inp: Tensor, visit: Visit = keep) -> tuple[list[Tensor], list[Tensor]]:
        """What every stage finds, for training losses.

        Args:
            inp: Hazy images (N,3,H,W) of any size.
            visit: Reads or changes features at the :attr:`sites`.

        Returns:
            Images (N,3,H,W) and transmissions (N,1,H,W) in the order of the stages: the last is the result. (The
            published code returns the last one first.)
        """
        height, width = inp.shape[-2:]
        x = self.pad(inp)
        images, transmissions = self._unfold(x, self.encode(x, visit), visit)
        return [y[..., :height, :width] for y in images], [t[..., :height, :width] for t in transmissions]

    def encode(self, x: Tensor, visit: Visit = keep) -> list[Tensor]:
        """Features of the first transformer's encoder."""
        return self.first.trans_net.encode(self._first_transmission(x), x, visit, 'stage0.transmission')

    def decode(self, x: Tensor, features: list[Tensor], visit: Visit = keep) -> Tensor:
        """The image of the last stage, from the padded hazy image and the features of :meth:`encode`."""
        return self._unfold(x, features, visit)[0][-1]

    def _stages(self) -> Iterator[tuple[str, Stage]]:
        """The stages in the order in which they run, with their names."""
        for n, stage in enumerate((self.first, *self.basic, self.last)):
            yield f'stage{n}', stage

    def _parts(self) -> dict[str, str]:
        """The names of the transformers in the order in which they run, and those of their modules."""
        found = {}
        for n in range(len(self.basic) + 2):
            module = 'first' if n == 0 else 'last' if n > len(self.basic) else f'basic.{n - 1}'
            if module != 'last':
                found[f'stage{n}.transmission'] = f'{module}.trans_net'
            found[f'stage{n}.image'] = f'{module}.dehaze_net'
        return found

    def _first_transmission(self, x: Tensor) -> Tensor:
        return self.first.trans_prox(x, x, torch.full_like(x[:, :1], 0.5))

    def _unfold(self, x: Tensor, features: list[Tensor], visit: Visit) -> tuple[list[Tensor], list[Tensor]]:
        """Images and transmissions of all stages, padded."""
        images, transmissions = [], []
        image = estimate = x
        for name, stage in self._stages():
            prefix = f'{name}.transmission'
            if stage is self.first:
                solved = self._first_transmission(x)
                refined = stage.trans_net.decode(solved, features, visit, prefix)
            else:
                solved = stage.trans_prox(x, estimate, refined)
                refined = solved if stage is self.last else stage.trans_net(solved, image, visit, prefix)
            estimate = stage.dehaze_prox(x, image, solved)
            image = stage.dehaze_net(estimate, solved, visit, f'{name}.image')
            images.append(image)
            transmissions.append(solved)
        return images, transmissions
