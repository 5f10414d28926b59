"""How a network is run to be scored or used, how its images are scored, and in which words that is told."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.conditioning import QualityCondition
from basicsr.errors import DataError, OptionError, QualIRError
from basicsr.iqa.loading import load_scorer
from basicsr.iqa.scorer import Scorer
from basicsr.logger import get_root_logger
from basicsr.metrics import is_higher_better, needs_of
from basicsr.protocols import Protocol
from basicsr.registry import METRIC_REGISTRY
from basicsr.schema import checked_arguments, fields_of_type, show_value
from basicsr.sections import ValOptions
from basicsr.tiling import Restorer, Tiling

NEEDED = {'img': 'a restored image', 'img2': 'clean images', 'lq': 'degraded images'}


@contextmanager
def open_restorer(
    net: nn.Module, device: torch.device | str, options: ValOptions, asked: Mapping[str, Any] | None = None
) -> Iterator[Restorer]:
    """What runs a network as section ``val`` says; the network itself is afterwards as it was.

    Args:
        net: The network, in evaluation mode.
        device: Where it is.
        options: Tiles, self-ensemble, TLC window, number format, and the network's knobs.
        asked: What :func:`knobs_of` gave of the options; None calls it, which may have to load a scorer.

    Raises:
        OptionError: The network does not allow one of them, or a scorer needs larger tiles.
        MissingWeightsError: Weights of a scorer are not on this machine.
    """
    asked = knobs_of(options) if asked is None else asked
    tiling = Tiling(options.tile, options.tile_overlap, options.tile_batch)
    with localized(net, options.tlc), asked_for(net, asked):
        _check_tile(asked.get('refine_by'), options.tile)
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
def asked_for(net: nn.Module, asked: Mapping[str, Any]) -> Iterator[None]:
    """Turns the knobs of a network for as long as the context lasts.

    Args:
        net: The network.
        asked: What each of :data:`KNOBS` is set to, by its name in section ``val``; one that is not named stays where
            it is. A ``score`` beyond 0 and 1 is taken as the nearer of the two, with a warning; ``refine_by`` is a
            scorer, which is moved to where the network is.

    Raises:
        OptionError: The network has no such knob, or a value is out of range.
    """
    for name in asked:
        if not KNOBS[name].there(net):
            told = knob_text({name: asked[name]})
            raise OptionError(f'{told} cannot be asked of {type(net).__name__}, which has no {KNOBS[name].what}.')
    _check_knobs(asked)
    turned = {KNOBS[name].attribute: _prepared_for(net, name, value) for name, value in asked.items()}
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


def knobs_of(options: ValOptions) -> dict[str, Any]:
    """The knobs that section ``val`` turns at all, by name; of ``refine_by``, the scorer itself.

    Raises:
        OptionError: There is no such scorer, or its options are wrong.
        MissingWeightsError: Its weights are not on this machine.
    """
    values = {name: getattr(options, name) for name in KNOBS}
    values['guidance'] = None if options.guidance == 1 else options.guidance
    asked = {name: value for name, value in values.items() if value is not None}
    return {name: _judge(value) if name == 'refine_by' else value for name, value in asked.items()}


def knob_text(asked: Mapping[str, Any]) -> str:
    """What is asked of a network, in words: ``score 0.9, guidance 2``; empty where nothing is."""
    return ', '.join(f'{name} {_told(value)}' for name, value in asked.items())


def _told(value: Any) -> str:
    if isinstance(value, bool):
        return ('off', 'on')[value]
    return f'{value:g}' if isinstance(value, int | float) else getattr(value, 'name', str(value))


def _judge(spec: str | dict[str, Any]) -> Scorer:
    try:
        return load_scorer(spec)
    except QualIRError as error:  # an option, or weights that are not here
        raise type(error)(f'refine_by: {error}') from error


def _check_knobs(asked: Mapping[str, Any]) -> None:
    for name, value in asked.items():
        if not KNOBS[name].fits(value):
            raise OptionError(f'{knob_text({name: value})} cannot be asked for: {KNOBS[name].allowed}.')


def _check_tile(judge: Scorer | None, tile: int | str | None) -> None:
    """Makes sure that a judge of restored tiles can judge them at all."""
    if judge is not None and isinstance(tile, int) and tile < judge.min_size:
        raise OptionError(
            f'refine_by {judge.name} cannot judge tiles of {tile} px: it needs at least {judge.min_size} px.'
        )


def _prepared_for(net: nn.Module, name: str, value: Any) -> Any:
    """What a network's attribute is set to for a knob to have a value."""
    if name == 'score':
        return nearest_score(value)
    place = next(net.parameters(), None) if isinstance(value, Scorer) else None
    return value if place is None else value.to(place.device)


def _turn(net: nn.Module, attributes: Mapping[str, Any]) -> None:
    for attribute, value in attributes.items():
        assign = object.__setattr__ if isinstance(value, nn.Module) else setattr  # a judge is no part of the network
        assign(net, attribute, value)


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


def _refines(net: nn.Module) -> bool:
    return hasattr(net, 'refine') and hasattr(net, 'privilege')


def _is_amount(value: float) -> bool:
    return math.isfinite(value) and value >= 0


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


@dataclass(frozen=True)
class _Knob:
    attribute: str
    what: str  # what a network without it lacks
    there: Callable[[nn.Module], bool]
    fits: Callable[[Any], bool] = _is_amount
    allowed: str = 'a score lies within 0 and 1, and guidance, fidelity and hq_weight are finite and at least 0'


def _of_refinement(attribute: str, fits: Callable[[Any], bool], allowed: str) -> _Knob:
    return _Knob(attribute, 'self-refinement', _refines, fits, allowed)


KNOBS = {
    'score': _Knob('score', 'quality condition', _takes_scores, math.isfinite),  # one beyond is brought back
    'guidance': _Knob('guidance', 'quality condition', _takes_scores),
    'fidelity': _Knob('w', 'way for features of its input around the codes', _takes_fidelity),
    'hq_weight': _Knob('hq_weight', 'second book of codes', lambda net: len(getattr(net, 'book_sizes', ())) > 1),
    'adain': _Knob('adain', 'codes whose statistics it could match', lambda net: _predicts(net, 'adain')),
    'refine': _of_refinement('refine', _is_count, 'refine is a whole number of at least 0'),
    'refeed': _of_refinement('refeed', lambda value: isinstance(value, bool), 'refeed is on or off'),
    'refine_tol': _of_refinement('refine_tol', _is_amount, 'refine_tol is finite and at least 0'),
    'refine_by': _of_refinement('judge', lambda value: isinstance(value, Scorer), 'refine_by is a scorer, once built'),
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
        asked: The network's knobs that were turned, as :func:`knobs_of` gives them.
    """

    protocol: Protocol
    images: str
    self_ensemble: bool = False
    tlc: int | None = None
    precision: str | None = 'fp32'
    asked: dict[str, Any] = field(default_factory=dict)

    def parts(self) -> dict[str, Any]:
        """All of it by named parts, in plain containers; knobs only where they were turned, scorers by version."""
        return {
            **self.protocol.parts(),
            'images': self.images,
            'self_ensemble': self.self_ensemble,
            'tlc': self.tlc,
            'precision': self.precision,
            **{k: {v.name: v.version} if isinstance(v, Scorer) else v for k, v in self.asked.items()},
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
