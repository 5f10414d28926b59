"""Any restoration network with a knob: the quality that the restored image should have (QualiTeacher)."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from basicsr.conditioning import Mode, QualityCondition
from basicsr.errors import DataError, OptionError
from basicsr.network import RestorationNetwork, Site, Visit, keep
from basicsr.registry import ARCH_REGISTRY, build
from basicsr.schema import Block, Range

from .fused_ops import repeated
from .hosted import HostedNetwork

Score = Tensor | float | Literal['knob'] | None  # one an image (N,), one for all, that of the knob, or none
Stages = tuple[list[Tensor], list[Tensor]]


@ARCH_REGISTRY.register()
class QualityConditioned(HostedNetwork):
    """A restoration network that is told how good its result should look: a score in [0,1], 1 the best.

    QualiTeacher, arXiv:2603.08030; code github.com/fengyang1399-pixel/QualiTeacher (0e9a161, MIT). The network inside,
    the host, is left as it is: scores enter at its sites (:class:`~basicsr.conditioning.QualityCondition`). With
    ``zero_init`` it begins as the host, to the bit, for every score; without a score it stays the host, but for what
    ``null: learned`` and ``refine`` add.

    A checkpoint of the host alone loads strictly, and so do checkpoints of the release: AIM-Net with
    ``host: {type: AIMnet, attend: all}`` and CORUN with ``refine: ['*.up.*']``, either with ``mode: embedding``.

    Attributes:
        score: The knob: the score of every image where a call gives none; None for no score. Not saved.
        guidance: ``w`` of ``f(x, none) + w (f(x, score) - f(x, none))`` in evaluation mode (classifier-free guidance,
            Ho and Salimans, arXiv:2207.12598); 1 is plain and 0 runs without a score. Not saved.

    Args:
        host: The network that is conditioned.
        mode: How a score enters: a row of a table is added, a vector made of waves is added, or waves scale and shift.
        sites: Where it enters, by name or pattern ('*.fusion.0'); null takes the host's own choice.
        bins: Rows of the table (embedding).
        bin_width: Scores that a row of the table spans (embedding).
        saturate: Score from which on all are alike.
        frequencies: Sines, and cosines, that describe a score (fourier, film).
        hidden: Width between the two linear layers (fourier, film).
        share: Whether sites of equal width in the same part of the host share their weights.
        null: What an image without a score gets: nothing, or a vector that is learned.
        refine: Sites at which a 3 x 3 convolution is put that begins as the identity, by name or pattern.
        zero_init: Whether the effect of every score begins at zero; the release's CORUN begins at random.

    Raises:
        OptionError: The host has no sites, or none of a given name.
    """

    def __init__(
        self,
        host: Annotated[dict, Block('arch')],
        mode: Mode = 'embedding',
        sites: list[str] | None = None,
        bins: Annotated[int, Range(1)] = 8,
        bin_width: float = 0.1,
        saturate: Annotated[float, Range(0, 1)] = 0.7,
        frequencies: Annotated[int, Range(1)] = 8,
        hidden: Annotated[int, Range(1)] = 128,
        share: bool = True,
        null: Literal['zero', 'learned'] = 'zero',
        refine: list[str] = [],  # noqa: B006  (only read)
        zero_init: bool = True,
    ) -> None:
        super().__init__()
        self.host = build(ARCH_REGISTRY, host)
        if not isinstance(self.host, RestorationNetwork) or isinstance(self.host, QualityConditioned):
            raise OptionError(f'QualityConditioned: {host["type"]} cannot be the host; it names no sites of its own.')
        entered = _chosen(self.host, self.host.injection_sites if sites is None else sites, 'sites')
        refined = _chosen(self.host, refine, 'refine')
        if not entered:
            raise OptionError(f'QualityConditioned: {host["type"]} has no site at which a score could enter.')
        self.condition = QualityCondition(
            entered, mode, bins, bin_width, saturate, frequencies, hidden, share, null, refined, zero_init
        )
        changed = {name: site for name, site in self.host.sites.items() if name in self.condition.sites}
        self._entered = tuple(entered)
        self._reach = sum(site.stride for site in refined.values())  # a convolution sees a pixel further
        self._late = {name: site.feature for name, site in changed.items() if site.tap}
        self.score: float | None = 1.0
        self.guidance = 1.0

    # ---- what this network declares --------------------------------------------------------------------------------

    @property
    def halo(self) -> int | None:  # type: ignore[override]
        """As the host, and the reach of the convolutions of ``refine``."""
        return None if self.host.halo is None else self.host.halo + self._reach

    @property
    def injection_sites(self) -> tuple[str, ...]:
        """Where scores enter."""
        return self._entered

    # ---- restoring -------------------------------------------------------------------------------------------------

    def encode(self, x: Tensor, visit: Visit = keep) -> list[Tensor]:
        """Features of a padded image at the score of the knob."""
        return self.host.encode(x, self._visitor('knob', x, visit))

    def decode(self, x: Tensor, features: list[Tensor], visit: Visit = keep) -> Tensor:
        """The restored image from a padded one and its features, at the score of the knob."""
        return self.host.decode(x, features, self._visitor('knob', x, visit))

    def forward(self, inp: Tensor, visit: Visit = keep, score: Score = 'knob') -> Tensor:
        """Restores images.

        Args:
            inp: (N,3,H,W), or what the host takes.
            visit: Reads or changes features at the :attr:`sites`, after the condition.
            score: The score wanted of each image, (N,) with NaN for none, or of all; None for none; by default that of
                the knob.

        Raises:
            DataError: There is not one score an image.
        """
        plain = self.training or self.guidance == 1
        wished = None if not plain and self.guidance == 0 else score
        result = self.host(inp, self._visitor(wished, inp, visit))
        if plain or self._tensor(wished, inp) is None:
            return result
        without = self.host(inp, self._visitor(None, inp, visit))
        return without + self.guidance * (result - without)

    def branches(self, inp: Tensor, index: Tensor, scores: Tensor) -> Tensor:
        """Restores images under several scores each; the encoder runs once an image where the sites allow it.

        Args:
            inp: (N,3,H,W).
            index: Which image, (M,) whole numbers, in any order and as often as wanted.
            scores: The score of each result, (M,); NaN for none.

        Returns:
            (M,3,H,W), what :meth:`forward` gives for ``inp[index]`` and the scores without guidance.

        Raises:
            DataError: ``index`` and ``scores`` are not of one length.
        """
        if index.shape != scores.shape:
            raise DataError(f'{tuple(index.shape)} images and {tuple(scores.shape)} scores are not of one length.')
        visit = self.condition.visitor(scores)
        if None in self._late.values():  # the encoder goes on from what the score changes
            return self.host(inp[index], visit)
        height, width = inp.shape[-2:]
        x = self.host.pad(inp)
        features = [repeated(feature, index) for feature in self.host.encode(x)]
        for name, place in self._late.items():
            features[place] = visit(name, features[place])
        return self.host.decode(x[index], features, visit)[..., :height, :width]

    @property
    def stages(self) -> Callable[..., Stages]:
        """``stages(inp, score='knob', visit=keep)``: images and transmissions of all stages, of a host that has them.

        Raises:
            AttributeError: It has none.
        """
        stages = self.host.stages
        return lambda inp, score='knob', visit=keep: stages(inp, self._visitor(score, inp, visit))

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    def convert_weights(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of the host alone, or of QualiTeacher's release, under this network's keys; its own stay as they are.

        Where the file holds nothing of the condition, the condition stays as it is at present.
        """
        if any(key.startswith('host.') for key in weights):
            return weights
        own = self.condition.state_dict(prefix='condition.')
        places = self._released()
        converted = {new: value for key, value in weights.items() for new in places.get(key, (f'host.{key}',))}
        return converted if any(key in own for key in converted) else converted | own

    def _released(self) -> dict[str, tuple[str, ...]]:
        """Keys of the release's condition, and the keys that they have here."""
        found: dict[str, tuple[str, ...]] = {}
        for site, name in self.host.published_conditions.items():
            if site in self.condition.sites:
                for kind in ('weight', 'bias'):
                    place = f'condition.{self.condition.module_at(site)}.{kind}'
                    found[f'{name}.{kind}'] = (*found.get(f'{name}.{kind}', ()), place)
        return found

    # ---- scores ----------------------------------------------------------------------------------------------------

    def _visitor(self, score: Score, inp: Tensor, visit: Visit) -> Visit:
        return self.condition.visitor(self._tensor(score, inp), visit)

    def _tensor(self, score: Score, inp: Tensor) -> Tensor | None:
        """One score an image (N,), or None."""
        score = self.score if isinstance(score, str) else score
        if score is None:
            return None
        if not isinstance(score, Tensor):
            return torch.full(inp.shape[:1], float(score), device=inp.device)
        if score.shape != inp.shape[:1]:
            raise DataError(f'{inp.shape[0]} images need as many scores, not a tensor of shape {tuple(score.shape)}.')
        return score.to(inp.device)


def _chosen(host: RestorationNetwork, wanted: Any, key: str) -> dict[str, Site]:
    """The sites of a host that are named or match a pattern, in the order in which they are visited.

    Raises:
        OptionError: A name or pattern fits none.
    """
    for pattern in wanted:
        if not any(fnmatchcase(name, pattern) for name in host.sites):
            raise OptionError(
                f"QualityConditioned: {key} has '{pattern}', but {type(host).__name__} has no such site; "
                f'it has {", ".join(host.sites) or "none"}.'
            )
    return {name: site for name, site in host.sites.items() if any(fnmatchcase(name, p) for p in wanted)}
