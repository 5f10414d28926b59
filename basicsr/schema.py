"""The schema of a block of options is the constructor it feeds: its parameters, their types, defaults and docstring lines.

:func:`fields_of` reads a constructor, :func:`check_block` compares a block with it, and the ``--explain`` command prints it.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from basicsr.errors import OptionError
from basicsr.foreign_options import key_hint, type_hint
from basicsr.registry import REGISTRIES, Registry
from basicsr.yaml_io import Document, KeyPath

MISSING = inspect.Parameter.empty

# Arguments that the engine passes itself; an option file does not give them.
GIVEN: dict[str, frozenset[str]] = {
    'dataset': frozenset({'phase', 'scale'}),
    'model': frozenset({'networks'}),
    'metric': frozenset({'img', 'img2'}),
    'optimizer': frozenset({'params'}),
}


@dataclass(frozen=True)
class Block:
    """Marks a parameter that is itself a block of options with a ``type``, or a list or mapping of such blocks.

    Args:
        kind: Registry that ``type`` is looked up in (``loss``, ``degradation``, ...).
    """

    kind: str


@dataclass(frozen=True)
class Range:
    """Marks the numbers that a parameter takes, both ends included.

    Args:
        low: Smallest value allowed.
        high: Largest value allowed, or None.
    """

    low: float
    high: float | None = None

    def problem(self, value: Any) -> str | None:
        """What is wrong with ``value``, or None."""
        if not isinstance(value, int | float) or isinstance(value, bool):
            return None
        if value >= self.low and (self.high is None or value <= self.high):
            return None
        return f'at least {self.low}' if self.high is None else f'between {self.low} and {self.high}'


@dataclass(frozen=True)
class Field:
    """One key that a block accepts."""

    name: str
    annotation: Any
    default: Any
    doc: str

    @property
    def required(self) -> bool:
        """Whether the block must give it."""
        return self.default is MISSING

    def line(self) -> str:
        """The key as ``--explain`` prints it."""
        default = 'required' if self.required else f'default {_show(self.default)}'
        return f'{self.name}: {describe(self.annotation)} ({default})' + (f'  {self.doc}' if self.doc else '')


@dataclass
class Problems:
    """Collects everything wrong with a document, so that one run reports all of it."""

    document: Document
    found: list[str] = field(default_factory=list)

    def add(self, path: KeyPath, text: str) -> None:
        """Notes one problem at the place of ``path``."""
        self.found.append(f'{self.document.mark(path)}: {text}')

    def unknown(self, path: KeyPath, allowed: Iterable[str], hint: str | None = None) -> None:
        """Notes a key that its block does not accept, with the nearest one that it does."""
        names = sorted(allowed)
        near = difflib.get_close_matches(str(path[-1]), names, n=1, cutoff=0.6)
        advice = hint or (f"Did you mean '{near[0]}'?" if near else '')
        self.add(
            path, f"key '{dotted(path)}' is not known. {advice} Allowed here: {', '.join(names)}.".replace('  ', ' ')
        )

    def stop(self) -> None:
        """Ends the run if anything was found.

        Raises:
            OptionError: With one line for each problem.
        """
        if self.found:
            raise OptionError('\n'.join(self.found))


def dotted(path: KeyPath) -> str:
    """A key path as people write it, ``train.optim_g.lr``."""
    return '.'.join(str(p) for p in path)


def registry_of(kind: str) -> Registry:
    """The registry of a kind of block."""
    if kind == 'optimizer':
        from basicsr.optim import OPTIMIZER_REGISTRY

        return OPTIMIZER_REGISTRY
    return REGISTRIES[kind]


def fields_of(target: Callable[..., Any], given: frozenset[str] = frozenset()) -> dict[str, Field]:
    """The keys that a class or function takes, with type, default and docstring line.

    A ``**kwargs`` of a class is followed to the constructors of its bases; it never makes unknown keys acceptable.

    Args:
        target: Class (its ``__init__``) or function.
        given: Parameters to leave out because the engine passes them.
    """
    found: dict[str, Field] = {}
    docs: dict[str, str] = {}
    owners = inspect.getmro(target) if inspect.isclass(target) else (target,)
    for owner in owners:
        function = owner.__dict__.get('__init__') if inspect.isclass(owner) else owner
        docs = {**_argument_docs(owner), **(_argument_docs(function) if function else {}), **docs}
        if not inspect.isfunction(function):
            continue
        parameters = list(inspect.signature(function).parameters.values())[1 if inspect.isclass(owner) else 0 :]
        hints = _hints(function)
        for p in parameters:
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in given:
                found.setdefault(p.name, Field(p.name, hints.get(p.name, _infer(p.default)), p.default, ''))
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return {name: dataclasses.replace(f, doc=docs.get(name, '')) for name, f in found.items()}


def section_fields(section: type) -> dict[str, Field]:
    """The keys of a fixed section, which is a dataclass."""
    hints, docs = typing.get_type_hints(section, include_extras=True), _argument_docs(section)
    found = {}
    for f in dataclasses.fields(section):
        default = f.default if f.default is not dataclasses.MISSING else MISSING
        if f.default_factory is not dataclasses.MISSING:
            default = f.default_factory()
        found[f.name] = Field(f.name, hints[f.name], default, docs.get(f.name, ''))
    return found


def check_typed_block(
    problems: Problems, path: KeyPath, block: Any, kind: str, extra: Mapping[str, Field]
) -> dict[str, Any]:
    """Checks a block with a ``type``: the type exists, and its constructor takes the other keys.

    Args:
        problems: Where complaints go.
        path: Place of the block.
        block: The block; returned with its values converted (``1`` to ``1.0`` for a float, list to tuple).
        kind: Registry of its type.
        extra: Keys allowed beside the constructor's, such as a dataset's loader options.
    """
    if not isinstance(block, dict):
        problems.add(path, f"'{dotted(path)}' must be a block with a type ({kind}), not {block!r}.")
        return {}
    registry = registry_of(kind)
    target = None
    if not isinstance(block.get('type'), str):
        problems.add(path, f"block '{dotted(path)}' needs a type: one of {', '.join(registry.keys())}.")
    else:
        target = _resolve(problems, path, registry, block['type'])
    if target is None:
        return {}
    fields = {
        'type': Field('type', str, MISSING, f'Which {kind}.'),
        **extra,
        **fields_of(target, GIVEN.get(kind, frozenset())),
    }
    return check_block(problems, path, block, fields, hint=lambda p: key_hint(p, kind))


def check_block(
    problems: Problems,
    path: KeyPath,
    block: Any,
    fields: Mapping[str, Field],
    hint: Callable[[KeyPath], str | None] = lambda path: None,
) -> dict[str, Any]:
    """Checks the keys and values of one block and returns it with its values converted."""
    if not isinstance(block, dict):
        problems.add(path, f"'{dotted(path)}' must hold keys ({', '.join(fields)}), not {block!r}.")
        return {}
    checked = {}
    for key, value in block.items():
        here = (*path, key)
        if key not in fields:
            problems.unknown(here, fields, hint(here))
        else:
            checked[key] = check_value(problems, here, value, fields[key].annotation)
    for name, f in fields.items():
        if f.required and name not in block:
            problems.add(path, f"key '{dotted((*path, name))}' is missing: {describe(f.annotation)}. {f.doc}".rstrip())
    return checked


def check_value(problems: Problems, path: KeyPath, value: Any, annotation: Any) -> Any:
    """Checks one value against an annotation; nested blocks are followed. Returns the converted value."""
    block = _find_block(annotation)
    if block and value is not None:
        return _check_nested(problems, path, value, annotation, block.kind)
    ok, converted = convert(value, annotation)
    if not ok:
        problems.add(path, f"'{dotted(path)}' is {value!r} ({type(value).__name__}); allowed: {describe(annotation)}.")
        return value
    for extra in _metadata(annotation):
        wrong = extra.problem(converted) if isinstance(extra, Range) else None
        if wrong:
            problems.add(path, f"'{dotted(path)}' is {value!r}; it must be {wrong}.")
    return converted


def convert(value: Any, annotation: Any) -> tuple[bool, Any]:
    """Whether a YAML value fits an annotation, and the value as the constructor wants it."""
    annotation = _strip(annotation)
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation is Any or annotation is MISSING:
        return True, value
    if annotation is None or annotation is type(None):
        return value is None, value
    if origin in (Union, types.UnionType):
        return _first_fit(value, args)
    if origin is Literal:
        return any(value == a and type(value) is type(a) for a in args), value
    if isinstance(annotation, type) and annotation in _SCALARS:
        return _SCALARS[annotation](value)
    return _convert_container(value, origin or annotation, args)


def describe(annotation: Any) -> str:
    """An annotation in the words of an option file."""
    block = _find_block(annotation)
    inner = _strip(annotation)
    origin, args = get_origin(inner), get_args(inner)
    if block:
        many = any(get_origin(_strip(a)) is list for a in (inner, *args))
        optional = ' or null' if type(None) in args else ''
        return f'{"list of blocks" if many else "block"} with a type ({block.kind}){optional}'
    if inner is Any or inner is MISSING:
        return 'any'
    if inner is None or inner is type(None):
        return 'null'
    if origin in (Union, types.UnionType):
        return ' or '.join(describe(a) for a in args)
    if origin is Literal:
        return ' | '.join(str(a) for a in args)
    if origin in (list, tuple):
        return _describe_list(origin, args)
    return {dict: 'mapping', Path: 'path', complex: 'number'}.get(
        origin or inner, getattr(inner, '__name__', str(inner))
    )


def _describe_list(origin: Any, args: tuple[Any, ...]) -> str:
    if not args:
        return 'list'
    if origin is list or args[-1] is Ellipsis:
        return f'list of {describe(args[0])}'
    return f'[{", ".join(describe(a) for a in args)}]'


def _resolve(problems: Problems, path: KeyPath, registry: Registry, name: str) -> Any:
    try:
        return registry.get(name)
    except OptionError as error:
        hint = type_hint(registry.name, name)
        problems.add((*path, 'type'), f"'{dotted((*path, 'type'))}': {hint or error}")
    except ImportError as error:
        problems.add((*path, 'type'), f"'{name}' cannot be imported: {error}.")
    return None


def _check_nested(problems: Problems, path: KeyPath, value: Any, annotation: Any, kind: str) -> Any:
    inner = _strip(annotation)
    variants = [get_origin(_strip(a)) or _strip(a) for a in (get_args(inner) or ()) if get_origin(inner) is not dict]
    is_list = list in (get_origin(inner), *variants)
    if is_list and isinstance(value, list):
        return [check_typed_block(problems, (*path, i), v, kind, {}) for i, v in enumerate(value)]
    if is_list:
        problems.add(path, f"'{dotted(path)}' is {value!r}; allowed: {describe(annotation)}.")
        return value
    return check_typed_block(problems, path, value, kind, {})


def _metadata(annotation: Any) -> tuple[Any, ...]:
    """Annotated's extras, also those inside an optional."""
    own = getattr(annotation, '__metadata__', ())
    return own + tuple(m for a in get_args(annotation) for m in getattr(a, '__metadata__', ()))


def _find_block(annotation: Any) -> Block | None:
    return next((m for m in _metadata(annotation) if isinstance(m, Block)), None)


def _strip(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _as_int(value: Any) -> tuple[bool, Any]:
    """Integers, and floats that are whole: BasicSR writes ``val_freq: !!float 5e3``."""
    if isinstance(value, float) and value.is_integer():
        return True, int(value)
    return isinstance(value, int) and not isinstance(value, bool), value


def _as_float(value: Any) -> tuple[bool, Any]:
    ok = isinstance(value, int | float) and not isinstance(value, bool)
    return ok, float(value) if ok else value


_SCALARS: dict[type, Callable[[Any], tuple[bool, Any]]] = {
    bool: lambda v: (isinstance(v, bool), v),
    int: _as_int,
    float: _as_float,
    str: lambda v: (isinstance(v, str), v),
    Path: lambda v: (isinstance(v, str), Path(v) if isinstance(v, str) else v),
    complex: lambda v: (
        isinstance(v, int | float) and not isinstance(v, bool),
        v,
    ),  # a number of either sort, kept as it is
}


def _first_fit(value: Any, args: tuple[Any, ...]) -> tuple[bool, Any]:
    fits = [(type(c) is type(value), c) for ok, c in (convert(value, a) for a in args) if ok]
    if not fits:
        return False, value
    return True, next((c for exact, c in fits if exact), fits[0][1])


def _convert_container(value: Any, kind: Any, args: tuple[Any, ...]) -> tuple[bool, Any]:
    if kind in (list, tuple) or (inspect.isclass(kind) and issubclass(list, kind) and kind is not object):
        if not isinstance(value, list | tuple):
            return False, value
        inner = (args[0],) * len(value) if args and (kind is not tuple or args[-1] is Ellipsis) else args
        if inner and len(inner) != len(value):
            return False, value
        parts = [convert(v, a) for v, a in zip(value, inner)] if inner else [(True, v) for v in value]
        return all(ok for ok, _ in parts), (tuple if kind is tuple else list)(c for _, c in parts)
    if kind is dict:
        if not isinstance(value, dict):
            return False, value
        parts = {k: convert(v, args[1]) if args else (True, v) for k, v in value.items()}
        return all(ok for ok, _ in parts.values()), {k: c for k, (_, c) in parts.items()}
    return False, value  # tensors, callables and the like cannot come from YAML


def _infer(default: Any) -> Any:
    """Type of a parameter without annotation, as in files written for BasicSR: that of its default."""
    if isinstance(default, bool):
        return bool
    if isinstance(default, int | float):
        return complex  # `res_scale=1` is given 0.2 in published files: any number
    if isinstance(default, str):
        return str
    return list if isinstance(default, list | tuple) else Any


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):  # a name known to type checkers only
        return {k: v for k, v in getattr(function, '__annotations__', {}).items() if not isinstance(v, str)}


def _argument_docs(target: Any) -> dict[str, str]:
    """First sentences of the ``Args:`` or ``Attributes:`` section of a Google-form docstring."""
    lines = (inspect.cleandoc(target.__doc__) if target.__doc__ else '').splitlines()
    docs: dict[str, str] = {}
    name, inside = '', False
    for line in lines:
        if re.fullmatch(r'(Args|Attributes|Arguments|Parameters):', line.strip()) and not line.startswith(' '):
            inside = True
        elif inside and line and not line.startswith(' '):
            inside = False
        elif inside and (match := re.match(r'^ {2,4}(\w+)(?: \(.*?\))?: (.*)', line)):
            name = match[1]
            docs[name] = match[2].strip()
        elif inside and name and line.strip():
            docs[name] += ' ' + line.strip()
    return docs


def _show(default: Any) -> str:
    if default is None:
        return 'null'
    if isinstance(default, bool):
        return str(default).lower()
    return default.__name__ if inspect.isclass(default) else str(default)
