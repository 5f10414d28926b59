"""The schema of a block of options is the constructor it feeds: its parameters, their types, defaults, docstring lines.

:func:`fields_of` reads a constructor, :func:`check_block` compares a block with it, and ``--explain`` prints it.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin

from basicsr.annotations import (
    MISSING,
    Block,
    Keys,
    Range,
    arms,
    block_kind,
    convert,
    describe,
    element_annotations,
    infer,
    is_list,
    keys_of,
    peel,
    type_hints,
)
from basicsr.errors import OptionError
from basicsr.foreign_options import key_advice, type_advice
from basicsr.registry import REGISTRIES, Registry, nearest
from basicsr.yaml_io import Document, KeyPath, Mark

__all__ = [
    'MISSING', 'Block', 'Field', 'Keys', 'Problems', 'Range', 'check_block', 'check_typed_block', 'check_value',
    'checked_arguments', 'describe', 'dotted', 'fields_of', 'fields_of_type', 'registry_of', 'section_fields',
]  # fmt: skip

# Arguments that the engine passes itself; an option file does not give them.
GIVEN: dict[str, frozenset[str]] = {
    'dataset': frozenset({'phase', 'scale'}),
    'model': frozenset({'networks'}),
    'metric': frozenset({'img', 'img2'}),
    'optimizer': frozenset({'params'}),
}


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


class Problems:
    """Collects everything wrong with a document, so that one run reports all of it.

    Args:
        document: What is checked.
    """

    def __init__(self, document: Document) -> None:
        self.document = document
        self.found: list[tuple[Mark, str]] = []
        self.hopeless = False

    def add(self, path: KeyPath, text: str) -> None:
        """Notes one problem at the place of ``path``."""
        if self.hopeless:
            return
        self.found.append((self.document.mark(path), text))

    def unknown(self, path: KeyPath, allowed: Iterable[str], advice: str | None = None) -> None:
        """Notes a key that its block does not accept, with advice or else the nearest key and all that it does."""
        names = sorted(allowed)
        near = nearest(path[-1], names)
        if advice is None:
            advice = f"Did you mean '{near[0]}'?" if near else 'Remove it.'
            advice += f' Allowed here: {", ".join(names) or "no keys"}.'
        self.add(path, f"key '{dotted(path)}' is not known. {advice}")

    def give_up(self, path: KeyPath, text: str) -> None:
        """Notes a problem that no change to the document solves; the others are then not worth reading."""
        if not self.hopeless:
            self.found = [(self.document.mark(path), text)]
        self.hopeless = True

    def wrong(self, path: KeyPath, value: Any, allowed: str) -> None:
        """Notes a value that its key does not take."""
        self.add(path, f"'{dotted(path)}' is {show_value(value)} ({_type_name(value)}); allowed: {allowed}.")

    def stop(self) -> None:
        """Ends the run if anything was found.

        Raises:
            OptionError: With one line for each problem, file by file and in the order of their lines.
        """
        if self.found:
            sources = list(dict.fromkeys(mark.source for mark, _ in self.found))
            ordered = sorted(self.found, key=lambda p: (sources.index(p[0].source), p[0].line or 0))
            raise OptionError('\n'.join(dict.fromkeys(f'{mark}: {text}' for mark, text in ordered)))


def dotted(path: KeyPath) -> str:
    """A key path as people write it, ``train.optim_g.lr``."""
    return '.'.join(str(p) for p in path)


def registry_of(kind: str) -> Registry:
    """The registry of a kind of block."""
    if kind == 'optimizer':
        from basicsr.optim import OPTIMIZER_REGISTRY  # imports torch, which --help does without

        return OPTIMIZER_REGISTRY
    return REGISTRIES[kind]


@cache
def fields_of(target: Callable[..., Any], given: frozenset[str] = frozenset()) -> Mapping[str, Field]:
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
        hints = type_hints(function)
        for p in parameters:
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in given:
                found.setdefault(p.name, Field(p.name, hints.get(p.name, infer(p.default)), p.default, ''))
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return MappingProxyType({name: dataclasses.replace(f, doc=docs.get(name, '')) for name, f in found.items()})


def fields_of_type(kind: str, target: Callable[..., Any], given: frozenset[str] = frozenset()) -> Mapping[str, Field]:
    """The keys that an option file may give for a registered class or function, without those the engine passes."""
    passed = GIVEN.get(kind, frozenset()) | given | frozenset(getattr(target, 'needs', ()))
    return fields_of(target, passed)


@cache
def section_fields(section: type) -> Mapping[str, Field]:
    """The keys of a fixed section, which is a dataclass."""
    hints, docs = typing.get_type_hints(section, include_extras=True), _argument_docs(section)
    found = {}
    for f in dataclasses.fields(section):
        default = f.default if f.default is not dataclasses.MISSING else MISSING
        if f.default_factory is not dataclasses.MISSING:
            default = f.default_factory()
        found[f.name] = Field(f.name, hints[f.name], default, docs.get(f.name, ''))
    return MappingProxyType(found)


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
    registry = registry_of(kind)
    if not isinstance(block, dict):
        problems.wrong(path, block, f'a block with a type ({kind}): one of {", ".join(registry.keys())}')
        return {}
    if 'type' not in block:
        _report_missing_type(problems, path, block, registry)
        return {}
    target = find_type(problems, (*path, 'type'), registry, block['type'])
    if target is None:
        return {}
    own = fields_of_type(kind, target)
    fields = {'type': Field('type', str, MISSING, f'Which {kind}.'), **extra, **own}
    return check_block(problems, path, block, fields, f'{kind} {target.__name__}')


def check_block(
    problems: Problems, path: KeyPath, block: Any, fields: Mapping[str, Field], kind: str = ''
) -> dict[str, Any]:
    """Checks the keys and values of one block and returns it with its values converted.

    Args:
        problems: Where complaints go.
        path: Place of the block.
        block: What stands there.
        fields: What it may hold.
        kind: Section, or registry and type, by which advice for keys of other toolboxes is found.
    """
    if not isinstance(block, dict):
        problems.wrong(path, block, f'a block with the keys {", ".join(fields)}')
        return {}
    checked = {}
    for key, value in block.items():
        here = (*path, key)
        if key not in fields:
            problems.unknown(here, fields, key_advice(kind, str(key)))
        else:
            checked[key] = check_value(problems, here, value, fields[key].annotation)
    for name, f in fields.items():
        if f.required and name not in block:
            here = dotted((*path, name))
            problems.add(path, f"key '{here}' is missing: {describe(f.annotation)}. {f.doc}".rstrip())
    return checked


def check_value(problems: Problems, path: KeyPath, value: Any, annotation: Any) -> Any:
    """Checks one value against an annotation; lists, mappings and nested blocks are followed. Returns it converted.

    An object that YAML cannot hold, which a program may pass to a builder, is returned as it is.
    """
    if not _is_plain(value):
        return value
    for arm in arms(annotation):
        inner, _ = peel(arm)
        shape, args, kind = get_origin(inner) or inner, get_args(inner), block_kind(arm)
        if is_list(shape) and isinstance(value, list | tuple) and element_annotations(shape, args, len(value)):
            return _check_list(problems, path, value, shape, args, kind)
        if shape is dict and args and isinstance(value, dict):
            return _check_mapping(problems, path, value, args, kind)
        # null, or the file of `str | dict`
        another = value is None or (not isinstance(value, dict) and convert(value, annotation)[0])
        if shape is dict and kind and not another:
            return check_typed_block(problems, path, value, kind, {})
        if (target := keys_of(arm)) is not None and not another:
            return check_block(problems, path, value, fields_of(target))
    ok, converted = convert(value, annotation)
    if not ok and value is not None and path in problems.document.texts:  # an override, typed by the schema
        text = problems.document.texts[path]
        ok, converted = convert(text, annotation)
        if ok:
            problems.document.put(path, text)
    if not ok:
        problems.wrong(path, value, describe(annotation))
    return converted


def checked_arguments(
    registry: Registry, block: Any, given: frozenset[str] = frozenset()
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """What a block's ``type`` names and the arguments that its other keys give, checked like an option file.

    Args:
        registry: Where ``type`` is looked up.
        block: The block, from an option file or from a program; objects that YAML cannot hold are not checked.
        given: Arguments that the caller passes itself; they win over keys of the block.

    Raises:
        OptionError: The type or a key is not known, a key is missing, or a value is of the wrong type.
    """
    if not isinstance(block, dict) or not isinstance(block.get('type'), str):
        raise OptionError(f"{registry.name} options: a dict with the key 'type' is needed, not {show_value(block)}.")
    target = registry.get(block['type'])
    block_name = f'{registry.name} {block["type"]}'
    problems = Problems(Document({}, {(): Mark(block_name)}))
    options = {k: v for k, v in block.items() if k != 'type' and k not in given}
    checked = check_block(problems, (), options, fields_of_type(registry.name, target, given), block_name)
    problems.stop()
    return target, checked


def find_type(problems: Problems, path: KeyPath, registry: Registry, name: Any) -> Any:
    """What ``name`` is registered as; if another toolbox uses the name, a note of it and what it is called here.

    Returns:
        The class or function, or None.
    """
    if not isinstance(name, str):
        problems.wrong(path, name, f'the name of one of {", ".join(registry.keys())}')
        return None
    foreign = None if name in registry else type_advice(registry.name, name)
    if foreign is not None:
        note = problems.give_up if foreign.hopeless else problems.add
        note(path, f"'{dotted(path)}' is {name}: {foreign.advice}")
        name = foreign.instead if foreign.instead in registry else None
    if name is None:
        return None
    try:
        return registry.get(name)
    except OptionError as error:
        problems.add(path, f"'{dotted(path)}': {error}")
        return None


def show_value(value: Any) -> str:
    """A value as YAML writes it, shortened."""
    if value is None or isinstance(value, bool):
        return {None: 'null', True: 'true', False: 'false'}[value]
    if isinstance(value, list | tuple):
        text = f'[{", ".join(show_value(v) for v in value)}]'
    elif isinstance(value, dict):
        text = f'{{{", ".join(f"{k}: {show_value(v)}" for k, v in value.items())}}}'
    else:
        text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else f'{text[:77]}...'


def _check_list(problems: Problems, path: KeyPath, value: Any, shape: Any, args: tuple, kind: str | None) -> Any:
    annotations = element_annotations(shape, args, len(value)) or ()
    if kind and not block_kind_inside(args):
        return [check_typed_block(problems, (*path, i), v, kind, {}) for i, v in enumerate(value)]
    checked = [check_value(problems, (*path, i), v, a) for i, (v, a) in enumerate(zip(value, annotations))]
    return tuple(checked) if shape is tuple else checked


def _check_mapping(problems: Problems, path: KeyPath, value: dict, args: tuple, kind: str | None) -> dict:
    keys, values = args
    checked = {}
    for key, item in value.items():
        here = (*path, key)
        if get_origin(keys) is Literal and key not in get_args(keys):
            problems.unknown(here, map(str, get_args(keys)))
        elif kind and not block_kind_inside(args):
            checked[key] = check_typed_block(problems, here, item, kind, {})
        else:
            checked[key] = check_value(problems, here, item, values)
    return checked


def block_kind_inside(args: tuple) -> bool:
    """Whether the elements' own annotation already says that they are blocks."""
    return any(block_kind(a) for a in args)


def _report_missing_type(problems: Problems, path: KeyPath, block: dict, registry: Registry) -> None:
    meant = next((k for k in block if nearest('type', [str(k)], cutoff=0.7)), None)
    if meant is not None:
        problems.unknown((*path, meant), ['type'], "Did you mean 'type'?")
    else:
        problems.add(path, f"key '{dotted((*path, 'type'))}' is missing: one of {', '.join(registry.keys())}.")


def _is_plain(value: Any) -> bool:
    """Whether YAML could have given the value."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return value is None or type(value) in (bool, int, float, str)


def _type_name(value: Any) -> str:
    return {dict: 'mapping', tuple: 'list', type(None): 'null'}.get(type(value), type(value).__name__)


def _argument_docs(target: Any) -> dict[str, str]:
    """The lines of the ``Args:`` or ``Attributes:`` section of a Google-form docstring, one for each name."""
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
    return {k: plain_text(d) for k, d in docs.items()}


def plain_text(doc: str) -> str:
    """A docstring line without the marks of reStructuredText."""
    return re.sub(r':\w+:`~?([^`]*)`', r'\1', doc).replace('``', '').replace('`', '')
