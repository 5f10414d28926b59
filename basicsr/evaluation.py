"""How a network is run to be scored or used, how its images are scored, and in which words that is told."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.conditioning import QualityCondition
from basicsr.errors import DataError, OptionError, QualIRError
from basicsr.logger import get_root_logger
from basicsr.metrics import is_higher_better, needs_of
from basicsr.protocols import Protocol
from basicsr.registry import METRIC_REGISTRY
from basicsr.schema import checked_arguments, fields_of_type, show_value
from basicsr.sections import ValOptions
from basicsr.tiling import Restorer, Tiling

NEEDED = {'img': 'a restored image', 'img2': 'clean images', 'lq': 'degraded images'}


@contextmanager
def open_restorer(net: nn.Module, device: torch.device | str, options: ValOptions) -> Iterator[Restorer]:
    """What runs a network as section ``val`` says; the network itself is afterwards as it was.

    Args:
        net: The network, in evaluation mode.
        device: Where it is.
        options: Tiles, self-ensemble, TLC window, number format, and the network's knobs.

    Raises:
        OptionError: The network does not allow one of them.
    """
    tiling = Tiling(options.tile, options.tile_overlap, options.tile_batch)
    turned = options.score, options.guidance, options.fidelity, options.hq_weight, options.adain
    with localized(net, options.tlc), asked_for(net, *turned):
        yield Restorer(net, torch.device(device), tiling, options.self_ensemble, options.precision)


@contextmanager
def localized(net: nn.Module, window: int | None) -> Iterator[None]:
    """Lets a network take its statistics over a window (TLC) for as long as the context lasts.

    Args:
        net: The network.
        window: Side of the window in pixels; None leaves the network alone.

    Raises:
        OptionError: The network has no such statistics.
    """
    localize = getattr(net, 'localize', None)
    if window is not None and localize is None:
        raise OptionError(f'tlc: {window} cannot be used with {type(net).__name__}, which has no localize().')
    if window is None or localize is None:
        yield
        return
    localize(window)
    try:
        yield
    finally:
        localize(None)


@contextmanager
def asked_for(
    net: nn.Module, score: float | None, guidance: float = 1.0, fidelity: float | None = None,
    hq_weight: float | None = None, adain: bool | None = None,
) -> Iterator[None]:  # fmt: skip
    """Turns the knobs of a network for as long as the context lasts; None leaves a knob where it is.

    Args:
        net: The network.
        score: The quality asked for, 0 to 1; a number beyond is taken as the nearer of the two, with a warning.
        guidance: How far it is exaggerated; 1 is plain.
        fidelity: How much a network of codes takes from its input beside the codes (``w``); 0 takes nothing.
        hq_weight: Weight of the high-quality book of a network of codes (``lambda``).
        adain: Whether a network of codes matches the statistics of its features to those of the input.

    Raises:
        OptionError: The network has no such knob, or a value is out of range.
    """
    asked = knobs(score, guidance, fidelity, hq_weight, adain)
    for name in asked:
        if not KNOBS[name].there(net):
            told = knob_text({name: asked[name]})
            raise OptionError(f'{told} cannot be asked of {type(net).__name__}, which has no {KNOBS[name].what}.')
    _check_knobs(asked)
    turned = {KNOBS[name].attribute: nearest_score(v) if name == 'score' else v for name, v in asked.items()}
    before = {attribute: getattr(net, attribute) for attribute in turned}
    _turn(net, turned)
    try:
        yield
    finally:
        _turn(net, before)


def nearest_score(score: float) -> float:
    """A score within [0,1]; a warning says so where another was given.

    Raises:
        OptionError: It is no finite number.
    """
    _check_knobs({'score': score})
    nearest = min(max(score, 0.0), 1.0)
    if nearest != score:
        get_root_logger().warning(f'A score lies within 0 and 1: {score:g} is taken as {nearest:g}.')
    return nearest


def knobs(
    score: float | None = None, guidance: float = 1.0, fidelity: float | None = None, hq_weight: float | None = None,
    adain: bool | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The knobs that are turned at all, by name; arguments as in :func:`asked_for`."""
    values = {'score': score, 'guidance': None if guidance == 1 else guidance}
    values |= {'fidelity': fidelity, 'hq_weight': hq_weight, 'adain': adain}
    return {name: value for name, value in values.items() if value is not None}


def knob_text(asked: Mapping[str, Any]) -> str:
    """What is asked of a network, in words: ``score 0.9, guidance 2``; empty where nothing is."""
    return ', '.join(f'{k} {("off", "on")[v]}' if isinstance(v, bool) else f'{k} {v:g}' for k, v in asked.items())


def _check_knobs(asked: Mapping[str, Any]) -> None:
    for name, value in asked.items():
        if not math.isfinite(value) or (name != 'score' and value < 0):
            raise OptionError(
                f'{knob_text({name: value})} cannot be asked for: a score lies within 0 and 1, and guidance, fidelity '
                'and hq_weight are finite and at least 0.'
            )


def _turn(net: nn.Module, attributes: Mapping[str, Any]) -> None:
    for attribute, value in attributes.items():
        setattr(net, attribute, value)


def _predicts(net: nn.Module, attribute: str) -> bool:
    """Whether a network is a predictor of codes (:mod:`basicsr.codebooks`) with a plain attribute of a name."""
    return hasattr(net, 'predict') and hasattr(net, attribute)


def _takes_scores(net: nn.Module) -> bool:
    """Whether a score changes anything: a network with a quality condition, or a predictor of codes told scores."""
    if isinstance(getattr(net, 'condition', None), QualityCondition):
        return True
    return _predicts(net, 'guidance') and getattr(net, 'takes_scores', True)


def _takes_fidelity(net: nn.Module) -> bool:
    return _predicts(net, 'w') and getattr(net, 'takes_fidelity', True)


@dataclass(frozen=True)
class _Knob:
    attribute: str
    what: str  # what a network without it lacks
    there: Callable[[nn.Module], bool]


KNOBS = {
    'score': _Knob('score', 'quality condition', _takes_scores),
    'guidance': _Knob('guidance', 'quality condition', _takes_scores),
    'fidelity': _Knob('w', 'way for features of its input around the codes', _takes_fidelity),
    'hq_weight': _Knob('hq_weight', 'second book of codes', lambda net: len(getattr(net, 'book_sizes', ())) > 1),
    'adain': _Knob('adain', 'codes whose statistics it could match', lambda net: _predicts(net, 'adain')),
}


@dataclass(frozen=True)
class Evaluation:
    """Everything, beside network and data, that changes a score: the protocol, and how the images were made.

    Attributes:
        protocol: How the images were prepared and scored.
        images: How the images went through the network, in words, or that they were read from files.
        self_ensemble: As in section ``val``.
        tlc: As in section ``val``.
        precision: As in section ``val``; None for images read from files.
        score: As in section ``val``.
        guidance: As in section ``val``.
        fidelity: As in section ``val``.
        hq_weight: As in section ``val``.
        adain: As in section ``val``.
    """

    protocol: Protocol
    images: str
    self_ensemble: bool = False
    tlc: int | None = None
    precision: str | None = 'fp32'
    score: float | None = None
    guidance: float = 1.0
    fidelity: float | None = None
    hq_weight: float | None = None
    adain: bool | None = None

    @property
    def asked(self) -> dict[str, Any]:
        """The knobs that were turned."""
        return knobs(self.score, self.guidance, self.fidelity, self.hq_weight, self.adain)

    def parts(self) -> dict[str, Any]:
        """All of it by named parts, in plain containers; knobs only where they were turned."""
        return {
            **self.protocol.parts(),
            'images': self.images,
            'self_ensemble': self.self_ensemble,
            'tlc': self.tlc,
            'precision': self.precision,
            **self.asked,
        }

    def __str__(self) -> str:
        window = '' if self.tlc is None else f', TLC window {self.tlc} px'
        knob = knob_text(self.asked)
        return f'{self.protocol}; {self.images}{window}{knob and f", {knob}"}'


def difference(evaluations: Mapping[str, Evaluation]) -> str:
    """A sentence on the first two sets whose scores were not made in the same way; empty if there are none.

    Args:
        evaluations: How the scores of each set were made, by the set's name.
    """
    first, *others = evaluations.items() or [('', None)]
    for name, other in others:
        mine, theirs = first[1].parts(), other.parts()
        unlike = [k for k in mine | theirs if k != 'name' and mine.get(k) != theirs.get(k)]
        if unlike:
            told = ', '.join(f'{k} ({_brief(mine.get(k))} and {_brief(theirs.get(k))})' for k in unlike)
            return f'{first[0]} and {name} were scored in unlike ways, by their {told}'
    return ''


def check_alike(evaluations: Mapping[str, Evaluation]) -> None:
    """Makes sure that scores of several sets may be averaged.

    Raises:
        OptionError: They were made in unlike ways; the text names the first two sets and what differs.
    """
    unlike = difference(evaluations)
    if unlike:
        raise OptionError(f'No average is taken: {unlike}.')


def _brief(value: Any) -> str:
    return ', '.join(value) if isinstance(value, dict) else show_value(value)


@dataclass(frozen=True)
class _Metric:
    function: Callable[..., Any]
    options: dict[str, Any]
    needs: tuple[str, ...]
    higher_better: bool
    rounds_itself: bool  # has an option quantize; any other metric is given 8-bit images


class Measurement:
    """Prepares images and computes the metrics of a protocol, each from what it needs.

    A metric with an option ``quantize`` is given unrounded images and follows its option; any other one sees the 256
    levels that a file would hold.

    Args:
        protocol: The protocol.

    Raises:
        OptionError: A metric is not known or not marked as one, an option of it or its package cannot be used.
        MissingWeightsError: Its weights are not on this machine.
    """

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        self._metrics = {label: _metric(label, block) for label, block in protocol.metrics.items()}

    @property
    def higher_better(self) -> dict[str, bool]:
        """Which way each metric points."""
        return {label: m.higher_better for label, m in self._metrics.items()}

    @property
    def needs(self) -> dict[str, tuple[str, ...]]:
        """What each metric needs: of ``img`` (restored), ``img2`` (clean) and ``lq`` (degraded)."""
        return {label: m.needs for label, m in self._metrics.items()}

    def check(self, given: Collection[str], where: str) -> None:
        """Makes sure that every metric gets what it needs.

        Args:
            given: What there is beside the restored image: ``img2``, ``lq``.
            where: What lacks the rest, for the message: ``Data set 'val'``.

        Raises:
            DataError: A metric needs what is not there.
        """
        for label, needs in self.needs.items():
            missing = [NEEDED[k] for k in needs if k != 'img' and k not in given]
            if missing:
                kind = self.protocol.metrics[label]['type']
                raise DataError(f"{where} has no {missing[0]}, which metric '{label}' ({kind}) compares with.")

    def prepared(self, image: Tensor) -> Tensor:
        """An image (N,C,H,W) in [0,1], cut and resized as the protocol says.

        Raises:
            DataError: It is smaller than the multiple to which it is cut.
        """
        multiple, size = self.protocol.crop_multiple, self.protocol.size
        if multiple > 1:
            height, width = image.shape[-2:]
            if min(height, width) < multiple:
                raise DataError(f'{height} x {width} pixels cannot be cut to a multiple of {multiple}.')
            top, left = height % multiple // 2, width % multiple // 2
            image = image[..., top : top + height // multiple * multiple, left : left + width // multiple * multiple]
        if size is not None and image.shape[-2:] != (size, size):
            image = F.interpolate(image, (size, size), mode='bilinear', align_corners=False)
        return image

    def scores(self, img: Tensor, img2: Tensor | None = None, lq: Tensor | None = None) -> dict[str, float]:
        """Scores of one restored image by every metric.

        Args:
            img: Restored, (1,C,H,W); it and the others are clipped to [0,1].
            img2: Clean, of the same shape.
            lq: Degraded.

        Raises:
            DataError: A metric cannot be computed, or needs what is not given.
        """
        given = {k: image for k, image in (('img', img), ('img2', img2), ('lq', lq)) if image is not None}
        self.check(given, 'This image')
        return self._scores(given, self._metrics)

    def scores_of_input(self, lq: Tensor, img2: Tensor | None = None) -> dict[str, float]:
        """Scores of a degraded input, by those metrics that say something of it.

        Args:
            lq: Degraded, (1,C,H,W).
            img2: Clean; compared with only where its shape is that of ``lq``.

        Raises:
            DataError: As :meth:`scores`.
        """
        given = {'img': lq} if img2 is None or img2.shape != lq.shape else {'img': lq, 'img2': img2}
        return self._scores(given, {label: m for label, m in self._metrics.items() if set(given).issuperset(m.needs)})

    def _scores(self, given: Mapping[str, Tensor], metrics: Mapping[str, _Metric]) -> dict[str, float]:
        exact = {k: image.float().clamp(0, 1) for k, image in given.items()}
        rounded = {k: image.mul(255).round().div(255) for k, image in exact.items()}
        images = {True: exact, False: rounded}
        return {
            label: float(m.function(**{k: images[m.rounds_itself][k] for k in m.needs}, **m.options))
            for label, m in metrics.items()
        }


def _metric(label: str, block: Mapping[str, Any]) -> _Metric:
    function, options = checked_arguments(METRIC_REGISTRY, dict(block))
    if not (hasattr(function, 'higher_better') and hasattr(function, 'needs')):
        raise OptionError(
            f"Metric '{label}': {block['type']} does not say which way is better; mark it with "
            '@metric(higher_better=...) of basicsr.metrics.'
        )
    own = 'quantize' in fields_of_type('metric', function)
    try:
        return _Metric(function, options, needs_of(function, options), is_higher_better(function, options), own)
    except QualIRError as error:  # a package or weights that are not here
        raise type(error)(f"Metric '{label}': {error}") from error
