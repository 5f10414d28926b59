"""What an annotation says about the YAML values of a parameter: which fit, what they become, how to name them."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

MISSING = inspect.Parameter.empty


@dataclass(frozen=True)
class Block:
    """Marks a parameter that is itself a block of options with a ``type``, or a list or mapping of such blocks.

    Args:
        kind: Registry that ``type`` is looked up in (``loss``, ``degradation``, ...).
    """

    kind: str


@dataclass(frozen=True)
class Keys:
    """Marks a parameter that is a block without a ``type``, whose keys are the parameters of a class.

    Args:
        target: The class.
    """

    target: Callable[..., Any]


@dataclass(frozen=True)
class Range:
    """Marks the numbers that a parameter takes, both ends included.

    Args:
        low: Smallest value allowed.
        high: Largest value allowed, or None.
    """

    low: float
    high: float | None = None

    def allows(self, value: float) -> bool:
        """Whether ``value`` lies within; never true for nan."""
        return value >= self.low and (self.high is None or value <= self.high)

    def __str__(self) -> str:
        return f'at least {self.low}' if self.high is None else f'from {self.low} to {self.high}'


class NotYaml:
    """Annotation of a parameter whose default is an object that YAML cannot write, such as a class: no value fits."""


def peel(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """An annotation without ``Annotated``, and what ``Annotated`` added to it."""
    if get_origin(annotation) is Annotated:
        return get_args(annotation)[0], annotation.__metadata__
    return annotation, ()


def arms(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union, or the annotation alone; what ``Annotated`` says of a union holds for each arm."""
    inner, extras = peel(annotation)
    if get_origin(inner) not in (Union, types.UnionType):
        return (annotation,)
    parts = [arm for part in get_args(inner) for arm in arms(part)]
    return tuple(Annotated[(arm, *extras)] if extras and arm is not type(None) else arm for arm in parts)


def block_kind(annotation: Any) -> str | None:
    """The registry of a parameter that holds blocks, however deep in a list, mapping or union; else None."""
    inner, extras = peel(annotation)
    own = next((e.kind for e in extras if isinstance(e, Block)), None)
    return own or next((k for a in get_args(inner) if (k := block_kind(a))), None)


def keys_of(annotation: Any) -> Callable[..., Any] | None:
    """The class whose parameters are the keys of a block without a type; None for anything else."""
    return next((e.target for arm in arms(annotation) for e in peel(arm)[1] if isinstance(e, Keys)), None)


def convert(value: Any, annotation: Any) -> tuple[bool, Any]:
    """Whether a YAML value fits an annotation (also its ``Range``), and the value as the constructor wants it."""
    options = arms(annotation)
    if len(options) > 1:
        fits = [c for ok, c in (convert(value, arm) for arm in options) if ok]
        same = [c for c in fits if type(c) is type(value)]  # 1 stays 1 for `float | int`
        return bool(fits), (same or fits or [value])[0]
    inner, extras = peel(annotation)
    ok, converted = _convert_plain(value, inner)
    return ok and all(e.allows(converted) for e in extras if isinstance(e, Range)), converted


def describe(annotation: Any) -> str:
    """An annotation in the words of an option file: ``int``, ``list of float or null``, ``path``."""
    words = [w for arm in arms(annotation) if (w := _describe_arm(arm))]
    return ' or '.join(dict.fromkeys(words)) or 'a Python object, which an option file cannot give'


def infer(default: Any) -> Any:
    """Annotation of a parameter without one, as in files written for BasicSR: that of its default."""
    if default is MISSING or default is None:
        return Any
    if isinstance(default, bool):
        return bool
    if isinstance(default, int | float):
        return int | float  # `res_scale=1` is given 0.2 in published files: any number
    return next((kind for kind in (str, list, dict) if isinstance(default, kind)), _infer_other(default))


def type_hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function; those that cannot be resolved (names known to type checkers only) are left out."""
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):
        return {k: v for k, v in getattr(function, '__annotations__', {}).items() if not isinstance(v, str)}


def _infer_other(default: Any) -> Any:
    return list if isinstance(default, tuple) else NotYaml


def _convert_plain(value: Any, annotation: Any) -> tuple[bool, Any]:
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation is Any or annotation is MISSING:
        return True, value
    if annotation is None or annotation is type(None):
        return value is None, value
    if origin is Literal:
        return any(value == a and type(value) is type(a) for a in args), value
    if isinstance(annotation, type) and annotation in _SCALARS:
        return _SCALARS[annotation](value)
    kind = origin or annotation
    if kind is dict:
        return _convert_mapping(value, args)
    if is_list(kind):
        return _convert_list(value, kind, args)
    return False, value  # tensors, callables and the like cannot come from YAML


def is_list(kind: Any) -> bool:
    """Whether a YAML list may be given for this type: list, tuple, Sequence, Iterable, ..."""
    return kind is tuple or (inspect.isclass(kind) and kind is not object and issubclass(list, kind))


def element_annotations(kind: Any, args: tuple[Any, ...], length: int) -> tuple[Any, ...] | None:
    """The annotation of each element of a list; None if a list of this length does not fit."""
    if not args:
        return (Any,) * length
    if kind is tuple and args[-1] is not Ellipsis:
        return args if len(args) == length else None
    return (args[0],) * length


def _convert_list(value: Any, kind: Any, args: tuple[Any, ...]) -> tuple[bool, Any]:
    inner = element_annotations(kind, args, len(value)) if isinstance(value, list | tuple) else None
    if inner is None:
        return False, value
    parts = [convert(v, a) for v, a in zip(value, inner)]
    return all(ok for ok, _ in parts), (tuple if kind is tuple else list)(c for _, c in parts)


def _convert_mapping(value: Any, args: tuple[Any, ...]) -> tuple[bool, Any]:
    if not isinstance(value, dict):
        return False, value
    keys_fit = all(convert(k, args[0])[0] for k in value) if args else True
    parts = {k: convert(v, args[1]) if args else (True, v) for k, v in value.items()}
    return keys_fit and all(ok for ok, _ in parts.values()), {k: c for k, (_, c) in parts.items()}


def _as_int(value: Any) -> tuple[bool, Any]:
    """Integers, and floats that are whole: BasicSR writes ``val_freq: !!float 5e3``."""
    if isinstance(value, float) and value.is_integer():
        return True, int(value)
    return isinstance(value, int) and not isinstance(value, bool), value


def _as_float(value: Any) -> tuple[bool, Any]:
    ok = isinstance(value, int | float) and not isinstance(value, bool) and value == value  # no nan
    return ok, float(value) if ok else value


_SCALARS: dict[type, Callable[[Any], tuple[bool, Any]]] = {
    bool: lambda v: (isinstance(v, bool), v),
    int: _as_int,
    float: _as_float,
    str: lambda v: (isinstance(v, str), v),
    Path: lambda v: (isinstance(v, str | Path), Path(v) if isinstance(v, str) else v),
}
_NAMES: dict[Any, str] = {
    **{kind: kind.__name__ for kind in (bool, int, float, str)},
    Path: 'path',
    dict: 'mapping',
    Any: 'any value',
    MISSING: 'any value',
    None: 'null',
    type(None): 'null',
}


def _describe_arm(arm: Any) -> str:
    """Words for one alternative; empty for one that YAML cannot give."""
    inner, extras = peel(arm)
    origin, args = get_origin(inner) or inner, get_args(inner)
    kind = block_kind(arm)
    if (target := keys_of(arm)) is not None:
        return f'mapping with the keys of {target.__name__}'
    if kind:
        many = 'list of blocks' if is_list(origin) else 'mapping of blocks' if origin is dict and args else 'block'
        return f'{many} with a type ({kind})'
    if origin is Literal:
        return ' | '.join(str(a) for a in args)
    if origin is dict and args:
        return f'mapping of {describe(args[0])} to {describe(args[1])}'
    if is_list(origin) and inner is not str:
        return _describe_list(origin, args)
    ranges = ''.join(f' {e}' for e in extras if isinstance(e, Range))
    return _NAMES[origin] + ranges if origin in _NAMES else ''


def _describe_list(kind: Any, args: tuple[Any, ...]) -> str:
    if not args:
        return 'list'
    if kind is tuple and args[-1] is not Ellipsis:
        return f'[{", ".join(describe(a) for a in args)}]'
    return f'list of {describe(args[0])}'
