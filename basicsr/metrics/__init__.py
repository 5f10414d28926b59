"""Metrics, found by the ``type:`` of a ``val.metrics`` block; each file of this folder may define some.

A metric is a function of images and options. ``@metric(...)`` says of it what validation needs to know.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from basicsr.errors import DataError, OptionError
from basicsr.registry import METRIC_REGISTRY

__all__ = ['calculate_metric', 'calculate_psnr', 'calculate_ssim', 'is_higher_better', 'metric', 'needs_of']


def metric(
    *,
    higher_better: bool | Callable[..., bool],
    needs: tuple[str, ...] = ('img', 'img2'),
    needs_of: Callable[..., tuple[str, ...]] | None = None,
) -> Callable[[Callable], Callable]:
    """Marks a function as a metric. Ask :func:`is_higher_better` and :func:`needs_of` about it.

    Args:
        higher_better: Whether a larger value is a better image; decides which checkpoint is the best. A function of
            the metric's options where it depends on them.
        needs: Names of its arguments that come from the data (``img`` restored, ``img2`` wanted, ``lq`` degraded), not
            from options. Where ``needs_of`` is given, all that it may name.
        needs_of: The same as a function of the metric's options, where it depends on them.
    """

    def mark(function: Callable) -> Callable:
        function.higher_better = higher_better
        function.needs = needs
        function.needs_of = needs_of
        return function

    return mark


def is_higher_better(function: Callable, options: Mapping[str, Any] | None = None) -> bool:
    """Whether a larger value of a metric is a better image.

    Args:
        function: The metric.
        options: Its block; ``type`` is left out of account.

    Raises:
        OptionError: The options cannot be used.
    """
    found = function.higher_better
    return bool(found(**_without_type(options)) if callable(found) else found)


def needs_of(function: Callable, options: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """Which of ``img``, ``img2`` and ``lq`` a metric is to be given.

    Args:
        function: The metric.
        options: Its block; ``type`` is left out of account.

    Raises:
        OptionError: The options cannot be used.
    """
    depends = getattr(function, 'needs_of', None)
    return tuple(depends(**_without_type(options)) if depends else function.needs)


def calculate_metric(data: dict[str, Any], opt: dict[str, Any]) -> Any:
    """Calculates the metric that a block of options describes.

    Args:
        data: What metrics may need: ``img`` and, where there is one, ``img2`` and ``lq``.
        opt: ``{'type': 'calculate_psnr', 'crop_border': 0, ...}``; left unchanged.

    Returns:
        What the metric returns: a tensor (N,) for tensors, a float for numpy images.

    Raises:
        OptionError: Unknown metric, or a key that it does not have.
        DataError: The metric needs something that ``data`` lacks.
    """
    name = opt.get('type')
    function = METRIC_REGISTRY.get(name)
    options = _without_type(opt)
    parameters = inspect.signature(function).parameters
    named = [k for k, p in parameters.items() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    takes_any = len(named) < len(parameters)
    passed = getattr(function, 'needs', tuple(k for k in data if k in named or takes_any))
    allowed = [k for k in named if k not in passed]
    for key in options:
        if key in passed or (key not in allowed and not takes_any):
            raise OptionError(_unknown_key_text(name, key, allowed))
    needs = needs_of(function, options) if hasattr(function, 'needs') else passed
    missing = [k for k in needs if k not in data]
    if missing:
        raise DataError(f"Metric {name} needs '{missing[0]}', but the data has only: {', '.join(data) or 'nothing'}.")
    return function(**{k: data[k] for k in needs}, **options)


def _without_type(options: Mapping[str, Any] | None) -> dict[str, Any]:
    return {k: v for k, v in (options or {}).items() if k != 'type'}


def _unknown_key_text(name: str, key: str, allowed: list[str]) -> str:
    near = difflib.get_close_matches(key, allowed, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ''
    return f"Metric {name} has no option '{key}'.{hint} Its options: {', '.join(allowed) or 'none'}."


def __getattr__(name: str) -> Any:
    if name in (
        'calculate_psnr',
        'calculate_ssim',
    ):  # on first use, so that the metrics' own imports stay out of start-up
        return getattr(importlib.import_module('basicsr.metrics.psnr_ssim'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
