"""Proxy Fusion: a dictionary that learns, in training, what features of clean images have to say (SIPL).

Paper: G. Wu, J. Jiang et al., "Boosting All-in-One Image Restoration via Self-Improved Privilege Learning",
arXiv:2505.24207. Published code: github.com/Aitical/SIPL (bd8b7ad; no licence). Keys and numbers are as published; the
code is written afresh.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from basicsr.errors import DataError, OptionError
from basicsr.network import Site, Visit, keep
from basicsr.registry import ARCH_REGISTRY
from basicsr.schema import Block, Range

from .privileged_arch import Privilege, PrivilegedNetwork
from .proxy_fusion_blocks import EPS, EPS_PUBLISHED, CrossBlock, DictInit, guarded, new_dictionary
from .restormer_blocks import NormType


@ARCH_REGISTRY.register()
class ProxyFusion(PrivilegedNetwork):
    """Any U-shaped network with a privileged dictionary for each of some of its levels.

    At every level the features of the decoder attend to a map of tokens. On the plain path these are the dictionary D,
    on the privileged path what D finds in the features P of the better image, ``fuse(D, P)``: D stands in, as a proxy,
    for the features that are not there at test time. The levels are found by the sites that the host names: at each
    stride the last tap of the encoder is read, and the last site of the decoder is changed, or the lowest tap itself,
    before the decoder begins.

    Around ``{type: PromptIR, unused: false}`` and ``{type: AdaIR}`` the defaults are the released networks of
    40,028,562 and 33,436,419 parameters, whose files load strictly, as do those of the host alone (then the added parts
    stay as they are).

    Args:
        host: The network inside.
        size: Side in pixels of the training crops; a dictionary has as many tokens as features of such a crop places.
        strides: Levels, by the image pixels that a place spans.
        heads_fuse: Heads with which each dictionary attends to the features that are handed over. The third being 1 is
            as published.
        heads_inject: Heads with which the decoder attends to the result.
        expansion: Factor on the channels inside the feed-forward networks.
        bias: Whether convolutions have biases.
        LayerNorm_type: Kind of layer normalisation.
        dict_init: How dictionaries begin; ``zeros``, the released way, with a guard without which they would not learn
            (:func:`~basicsr.archs.proxy_fusion_blocks.guarded`).
        as_published: Begins dictionaries at zero, without guard, and divides by lengths as small as 1e-12.
        graft: Whether the network begins as its host, exactly, so that pretrained weights can be gone on with.
        refine: Iterations of self-refinement in evaluation; 0 is the plain path. Released: 2.
        refeed: Whether an iteration takes the output of the one before for the degraded image (released).

    Raises:
        OptionError: The host lacks a level, or numbers that do not go together.
    """

    takes_mix = True

    def __init__(
        self, host: Annotated[dict, Block('arch')], size: Annotated[int, Range(1)] = 128,
        strides: list[int] = [2, 4, 8],  # noqa: B006  (only read)
        heads_fuse: list[int] = [1, 2, 1],  # noqa: B006
        heads_inject: list[int] = [1, 2, 4],  # noqa: B006
        expansion: float = 2.0, bias: bool = False, LayerNorm_type: NormType = 'WithBias',
        dict_init: DictInit = 'normal', as_published: bool = False, graft: bool = False,
        refine: Annotated[int, Range(0)] = 1, refeed: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(host, refine, refeed)
        _check(host['type'], size, strides, heads_fuse, heads_inject, as_published and graft)
        self.taps_read = [_tap(self.host.sites, stride, host['type']) for stride in strides]
        self.changed = [_changed(self.host.sites, tap) for tap in self.taps_read]
        self.guard = dict_init == 'zeros' and not as_published
        init: DictInit = 'zeros' if as_published else dict_init
        eps = EPS_PUBLISHED if as_published else EPS
        for n, (tap, site) in enumerate(zip(self.taps_read, self.changed), 1):
            width, wide = self.host.sites[tap].channels, self.host.sites[site].channels
            side = size // strides[n - 1]
            more = (expansion, bias, LayerNorm_type)
            fuse = CrossBlock(width, width, heads_fuse[n - 1], *more, False, eps)
            inject = CrossBlock(wide, width, heads_inject[n - 1], *more, graft, eps)
            self.register_parameter(f'privileged_dictionary{n}', new_dictionary((width, side, side), init))
            self.add_module(f'p{n}_cross', fuse)
            self.add_module(f'cross_p{n}', inject)

    @property
    def dictionaries(self) -> list[Tensor]:
        """The dictionaries (1,C,h,w), one a level."""
        return [getattr(self, f'privileged_dictionary{n}') for n in range(1, len(self.taps_read) + 1)]

    def read(self, x: Tensor) -> Privilege:
        """The taps of a padded image, one a level."""
        found: dict[str, Tensor] = {}

        def collect(name: str, feature: Tensor) -> Tensor:
            if name in self.taps_read:
                found[name] = feature
            return feature

        self.host.encode(x, collect)
        return [found[name] for name in self.taps_read]

    def decode_with(
        self, x: Tensor, features: list[Tensor], privileged: Privilege | None, mix: Tensor | None, visit: Visit = keep
    ) -> Tensor:
        """As in the base class; ``mix`` lets the dictionary itself take the place of what it found, in part."""
        levels = {site: n for n, site in enumerate(self.changed)}

        def inject(name: str, feature: Tensor) -> Tensor:
            n = levels.get(name)
            return feature if n is None else self._injected(n, feature, privileged, mix)

        for site, place in self._late().items():
            features = [*features]
            features[place] = inject(site, features[place])
        return self.host.decode(x, features, lambda name, feature: visit(name, inject(name, feature)))

    def _late(self) -> dict[str, int]:
        """By changed site of the encoder its place among the features: it is changed before the decoder begins."""
        sites = self.host.sites
        return {name: sites[name].feature for name in self.changed if sites[name].tap}

    def _injected(self, n: int, feature: Tensor, privileged: Privilege | None, mix: Tensor | None) -> Tensor:
        dictionary = getattr(self, f'privileged_dictionary{n + 1}')
        tokens = guarded(dictionary) if self.guard else dictionary
        if privileged is not None:
            found = getattr(self, f'p{n + 1}_cross')(tokens, privileged[n])
            tokens = found if mix is None else torch.lerp(found, tokens.to(found.dtype), self._share(mix, found))
        return getattr(self, f'cross_p{n + 1}')(feature, tokens)

    @staticmethod
    def _share(mix: Tensor, found: Tensor) -> Tensor:
        if mix.shape != found.shape[:1]:
            raise DataError(f'{len(found)} images need as many shares of the dictionary, not {tuple(mix.shape)}.')
        return mix.to(found)[:, None, None, None]


def _tap(sites: dict[str, Site], stride: int, host: str) -> str:
    """The last tap of the encoder at a stride.

    Raises:
        OptionError: There is none.
    """
    found = [name for name, site in sites.items() if site.tap and site.stride == stride]
    if not found:
        there = sorted({site.stride for site in sites.values() if site.tap})
        raise OptionError(f'ProxyFusion: {host} has no encoder level at stride {stride}; it has {there}.')
    return found[-1]


def _changed(sites: dict[str, Site], tap: str) -> str:
    """The last site of the decoder at the stride of a tap; the tap itself where it is the lowest.

    Raises:
        OptionError: There is neither.
    """
    stride = sites[tap].stride
    after = [name for name, site in sites.items() if not site.tap and site.stride == stride]
    if after:
        return after[-1]
    if sites[tap].feature is None:
        raise OptionError(f'ProxyFusion: nothing of the decoder has the stride of {tap}, {stride}, at which to enter.')
    return tap


def _check(
    host: str, size: int, strides: list[int], heads_fuse: list[int], heads_inject: list[int], both: bool
) -> None:  # fmt: skip
    if not strides or not len(strides) == len(heads_fuse) == len(heads_inject):
        raise OptionError(
            f'ProxyFusion: strides {strides}, heads_fuse {heads_fuse} and heads_inject {heads_inject} need one number '
            'a level each.'
        )
    if min(strides) < 1 or size < max(strides):
        raise OptionError(f'ProxyFusion: size is {size}; the stride of each level, {strides}, must be 1 to that.')
    if both:
        raise OptionError(f'ProxyFusion: as_published and graft exclude each other around {host}.')
