"""What the engine and the training methods may ask of a restoration network, beside mapping an image to an image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.errors import OptionError

Visit = Callable[[str, Tensor], Tensor]
Half = Literal['bf16', 'fp16']


def keep(name: str, feature: Tensor) -> Tensor:
    """The visitor that changes nothing."""
    return feature


@dataclass(frozen=True)
class Site:
    """A named place in a network at which its feature map may be read or replaced.

    Attributes:
        channels: Channels of the feature map.
        stride: How many image pixels one of its pixels spans.
        tap: Whether it is an output of the encoder, known before the decoder begins.
        feature: Where it stands in the list that ``encode`` returns, if nothing in ``encode`` is computed from it: then
            it may as well be changed between ``encode`` and ``decode``. None otherwise.
        part: The sub-network in which it lies, for networks made of several.
    """

    channels: int
    stride: int
    tap: bool = False
    feature: int | None = None
    part: str = ''


class RestorationNetwork(nn.Module):
    """A network that restores images and says what it needs.

    A subclass writes :meth:`encode` and :meth:`decode`; what lies between padding and cropping. At each of its
    :attr:`sites` it calls ``feature = visit(name, feature)``. A visitor is any function of a name and a feature map
    that returns the feature map to go on with. So a training method reads or changes features by passing a function,
    and no network is edited for it; weights that such a function uses belong to whoever made it.

    Attributes:
        multiple_of: Height and width are padded inside to a multiple of this.
        min_size: Smallest height and width, before padding.
        pad_mode: What is padded with: the published choice.
        halo: How far, in pixels, an output pixel sees; None when statistics of the whole image enter, so that a tile
            comes out a little differently than the whole.
        half_precision: Number formats beside float32 in which autocast is known to keep the output.
        prepare: A method for networks that compute something from the whole image which a tile cannot know: it maps
            the image (N,C,H,W) to one with further channels, of which tiles are cut, and which ``forward`` takes too.
    """

    multiple_of: int = 1
    min_size: int = 1
    pad_mode: ClassVar[Literal['constant', 'reflect']] = 'constant'
    halo: int | None = None
    half_precision: ClassVar[tuple[Half, ...]] = ('bf16', 'fp16')
    prepare: ClassVar[Callable[..., Tensor] | None] = None

    @property
    def sites(self) -> dict[str, Site]:
        """The named sites in the order in which they are visited."""
        return {}

    @property
    def taps(self) -> dict[str, Site]:
        """The sites of the encoder."""
        return {name: site for name, site in self.sites.items() if site.tap}

    @property
    def injection_sites(self) -> tuple[str, ...]:
        """Where a condition enters unless told otherwise: the last site of the encoder, which has the widest view."""
        return tuple(self.taps)[-1:]

    @property
    def published_conditions(self) -> dict[str, str]:
        """By site, the name that what a published method put there has in that method's checkpoints."""
        return {}

    def encode(self, x: Tensor, visit: Visit = keep) -> list[Tensor]:
        """Features of a padded image (N,C,H,W) that :meth:`decode` goes on from; the sites with ``tap`` lie here."""
        raise TypeError(f'{type(self).__name__} has no encode(); a subclass of RestorationNetwork must write it.')

    def decode(self, x: Tensor, features: list[Tensor], visit: Visit = keep) -> Tensor:
        """The restored image (N,C,H,W) from the padded image and its features, which are left unchanged."""
        raise TypeError(f'{type(self).__name__} has no decode(); a subclass of RestorationNetwork must write it.')

    def forward(self, inp: Tensor, visit: Visit = keep) -> Tensor:
        """Restores images (N,C,H,W) of any size from :attr:`min_size`; the result has the same height and width."""
        height, width = inp.shape[-2:]
        x = self.pad(inp)
        return self.decode(x, self.encode(x, visit), visit)[..., :height, :width]

    def pad(self, x: Tensor) -> Tensor:
        """Extends an image below and to the right to a multiple of :attr:`multiple_of`."""
        return pad_to_multiple(x, self.multiple_of, self.pad_mode)

    def read_taps(self, inp: Tensor) -> dict[str, Tensor]:
        """The encoder's features of an image (N,C,H,W) by the name of their site; the decoder is not run."""
        found: dict[str, Tensor] = {}
        names = self.taps

        def collect(name: str, feature: Tensor) -> Tensor:
            if name in names:
                found[name] = feature
            return feature

        self.encode(self.pad(inp), collect)
        return found

    def localize(self, window: int | None) -> None:
        """Replaces statistics of the whole image by those of a window around each pixel (TLC), or puts them back.

        Chu, Chen, Chen and Lu, "Improving Image Restoration by Revisiting Global Information Aggregation", ECCV 2022,
        arXiv:2112.04491. For evaluation: networks trained on crops see at test time statistics like those they
        learned from.

        Args:
            window: Side of the window in image pixels, 1.5 times the training crop in the paper; None for the whole.

        Raises:
            OptionError: The network has no such statistics.
        """
        raise OptionError(f'{type(self).__name__} has no statistics of the whole image that tlc could make local.')


@dataclass(frozen=True)
class NetworkFacts:
    """What a network declares, with careful answers for one that declares nothing (an architecture of BasicSR).

    The attributes are those of :class:`RestorationNetwork`.
    """

    multiple_of: int
    min_size: int
    halo: int | None
    half_precision: tuple[str, ...]


def facts_of(net: nn.Module) -> NetworkFacts:
    """The facts of any network."""
    return NetworkFacts(
        int(getattr(net, 'multiple_of', 1)),
        int(getattr(net, 'min_size', 1)),
        getattr(net, 'halo', None),
        tuple(getattr(net, 'half_precision', ('bf16', 'fp16'))),
    )


def pad_to_multiple(x: Tensor, multiple: int, mode: str = 'constant') -> Tensor:
    """Extends (N,C,H,W) below and to the right to the next multiple of ``multiple``.

    Args:
        x: The image.
        multiple: What height and width become a multiple of.
        mode: ``constant`` (zeros) or ``reflect``, which mirrors as often as a small image needs.
    """
    bottom, right = -x.shape[-2] % multiple, -x.shape[-1] % multiple
    if mode == 'constant':  # no branch on whether there is anything to pad: tracing would fix its outcome
        return F.pad(x, (0, right, 0, bottom))
    for dim, extra in ((-2, bottom), (-1, right)):
        if extra:
            x = x.index_select(dim, _mirrored(x.shape[dim], extra, x.device))
    return x


def _mirrored(size: int, extra: int, device: torch.device) -> Tensor:
    """Indices of ``size + extra`` places that run to the last pixel and back, without repeating the edge."""
    period = max(2 * size - 2, 1)
    place = torch.arange(size + extra, device=device) % period
    return torch.minimum(place, period - place) if size > 1 else torch.zeros_like(place)
