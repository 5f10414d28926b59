"""Reads YAML and remembers where every key stands, so that any later complaint can name file and line.

Beyond plain YAML: ``_base_`` includes, ``1e-4`` is a float (YAML 1.1 reads a string), ``${NAME}`` is an environment
variable, a key given twice is an error, and dates, base-60 and octal numbers (``2026-11-21``, ``1:30``, ``007``) are
text.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from basicsr.errors import OptionError

KeyPath = tuple[Any, ...]
BASE = '_base_'


@dataclass(frozen=True)
class Mark:
    """Where a value was written: a file and a line, or a command-line override."""

    source: str
    line: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f'{self.source}:{self.line}'


@dataclass
class Document:
    """Values of a YAML file with the place of each key.

    Attributes:
        values: Plain dicts, lists and scalars.
        marks: Place of every key path, such as ``('train', 'optim_g', 'lr')``.
        texts: Values of overrides as they were typed, by key path; a key that wants text takes these, ``name=007``.
    """

    values: dict[str, Any]
    marks: dict[KeyPath, Mark]
    texts: dict[KeyPath, str] = field(default_factory=dict)

    def mark(self, path: KeyPath) -> Mark:
        """Place of ``path``, or of the nearest part of it that was written."""
        while path and path not in self.marks:
            path = path[:-1]
        return self.marks.get(path, Mark('options'))

    def put(self, path: KeyPath, value: Any) -> None:
        """Replaces the value at ``path``, which exists."""
        node: Any = self.values
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars that everyone who writes an option file means."""


class _Dumper(yaml.SafeDumper):
    """SafeDumper that puts quotes around text that ``_Loader`` or plain YAML 1.1 would take for something else."""


_FLOAT = re.compile(
    r'^(?:[-+]?(?:\d[\d_]*\.[\d_]*|\.\d[\d_]*)(?:[eE][-+]?\d+)?|[-+]?\d[\d_]*[eE][-+]?\d+'
    r'|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$'
)
_INT = re.compile(r'^[-+]?(?:0b[01_]+|0x[\da-fA-F_]+|0|[1-9][\d_]*)$')
_NUMBERS = list('-+.0123456789')
_OWN_RULES = ('tag:yaml.org,2002:int', 'tag:yaml.org,2002:float', 'tag:yaml.org,2002:timestamp')


def _set_scalar_rules() -> None:
    rules = yaml.SafeLoader.yaml_implicit_resolvers
    _Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in known if tag not in _OWN_RULES] for first, known in rules.items()
    }
    _Dumper.yaml_implicit_resolvers = {first: list(known) for first, known in rules.items()}
    odd = ('timestamp', 'binary', 'set', 'omap', 'pairs')  # objects that no constructor here takes
    known_tags = yaml.SafeLoader.yaml_constructors.items()
    _Loader.yaml_constructors = {t: c for t, c in known_tags if t is None or t.rpartition(':')[2] not in odd}
    for cls in (_Loader, _Dumper):
        cls.add_implicit_resolver('tag:yaml.org,2002:int', _INT, list('-+0123456789'))
        cls.add_implicit_resolver('tag:yaml.org,2002:float', _FLOAT, _NUMBERS)


_set_scalar_rules()


def parse_value(text: str) -> Any:
    """Reads one YAML value, as an override on the command line gives it.

    Raises:
        OptionError: The text is not valid YAML.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise OptionError(f"'{text}' is not a YAML value: {str(error).splitlines()[0]}.") from error


def dump_yaml(values: Any) -> str:
    """Writes plain containers as YAML text that :func:`read_document`, and others, read back as they are."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)


def read_document(path: Path, _seen: tuple[Path, ...] = ()) -> Document:
    """Reads a YAML file and the files that its ``_base_`` names; the including file wins.

    Raises:
        OptionError: Missing or malformed file, a repeated key, an include cycle or an unset environment variable.
    """
    if path.resolve() in _seen:
        raise OptionError(f'{path}: _base_ includes itself: {" -> ".join(str(p) for p in (*_seen, path.resolve()))}.')
    own = _parse(path)
    bases = own.values.pop(BASE, [])
    where = own.marks.pop((BASE,), None)
    if not isinstance(bases, str | list) or not all(isinstance(b, str) for b in bases):
        raise OptionError(f"{where}: '{BASE}' takes a path or a list of paths, not {bases!r}.")
    document = Document({}, {(): Mark(str(path))})
    for base in [bases] if isinstance(bases, str) else bases:
        if not (path.parent / base).is_file():
            raise OptionError(f"{where}: '{BASE}' names {path.parent / base}, which does not exist.")
        merge(document, read_document(path.parent / base, (*_seen, path.resolve())))
    merge(document, own)
    return document


def merge(target: Document, other: Document, path: KeyPath = ()) -> None:
    """Lays ``other`` over ``target``: mappings are merged, everything else is replaced.

    A block whose ``type`` changes replaces the old block: the arguments of another constructor would not fit it.
    """
    old, new = _at(target.values, path), _at(other.values, path)
    for key, value in new.items():
        here = (*path, key)
        if isinstance(value, dict) and isinstance(old.get(key), dict) and not _types_differ(value, old[key]):
            merge(target, other, here)
        else:
            _forget(target, here)
            old[key] = value
            target.marks.update({p: m for p, m in other.marks.items() if p[: len(here)] == here})


def override(document: Document, text: str) -> None:
    """Applies one ``a:b=value`` of ``--force_yml``; the value is read as YAML and checked later like any other.

    Raises:
        OptionError: There is no ``=``, or a part of the path is no mapping.
    """
    keys, equals, value = text.partition('=')
    path = tuple(k.strip() for k in keys.split(':'))
    if not equals or not all(path):
        raise OptionError(f'--force_yml {text}: write key:subkey=value, as in train:optim_g:lr=1e-4.')
    node: Any = document.values
    place: KeyPath = ()
    mark = Mark(f'--force_yml {text}')
    for key in path[:-1]:
        place = (*place, _index(node, key, text, place))
        if isinstance(node, dict) and place[-1] not in node:
            document.marks[place] = mark
        node = _descend(node, place[-1], text, place)
    place = (*place, _index(node, path[-1], text, place))
    node[place[-1]] = _read_typed(value)
    _forget(document, place)
    document.marks[place] = mark
    document.texts[place] = value.strip()


def _read_typed(text: str) -> Any:
    """The YAML value, or the text itself where it is not YAML (``description=[a``): the schema says what is right."""
    try:
        return parse_value(text)
    except OptionError:
        return text


def _index(node: Any, key: str, text: str, place: KeyPath) -> Any:
    """The key itself, or in a list the number that it stands for."""
    if not isinstance(node, list):
        return key
    if not key.isdigit() or int(key) >= len(node):
        known = f'0 to {len(node) - 1}' if node else 'none, it is empty'
        raise OptionError(
            f"--force_yml {text}: '{'.'.join(map(str, place))}' is a list; '{key}' is no number of it: {known}."
        )
    return int(key)


def _descend(node: Any, key: Any, text: str, place: KeyPath) -> Any:
    if isinstance(node, dict) and node.get(key) is None:
        node[key] = {}
    if not isinstance(node[key], dict | list):
        raise OptionError(f"--force_yml {text}: '{'.'.join(map(str, place))}' holds no further keys.")
    return node[key]


def _forget(document: Document, path: KeyPath) -> None:
    """Drops the places and typed texts of a value that is being replaced."""
    for known in [p for p in document.marks if p[: len(path)] == path]:
        del document.marks[known]
    for known in [p for p in document.texts if p[: len(path)] == path]:
        del document.texts[known]


def _types_differ(new: dict[str, Any], old: dict[str, Any]) -> bool:
    return 'type' in new and 'type' in old and new['type'] != old['type']


def _at(values: dict[str, Any], path: KeyPath) -> dict[str, Any]:
    for key in path:
        values = values[key]
    return values


def _parse(path: Path) -> Document:
    try:
        text = path.read_text(encoding='utf-8-sig')
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else 'it is not a text file'
        raise OptionError(f'Option file {path} cannot be read: {reason}.') from error
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise OptionError(f'{path}: an option file holds "key: value" lines; this one does not.')
        document = Document({}, {(): Mark(str(path), 1)})
        document.values = _Reader(loader, path, document.marks).mapping(node, ())
        return document
    except yaml.YAMLError as error:
        mark = getattr(error, 'problem_mark', None)
        where = f'{path}:{mark.line + 1}' if mark else str(path)
        reason = getattr(error, 'problem', None) or str(error).replace('\n', ' ')
        raise OptionError(f'{where}: not valid YAML: {reason}.') from error
    finally:
        if loader is not None:
            loader.dispose()


class _Reader:
    """Turns YAML nodes into plain values while noting the line of each."""

    def __init__(self, loader: _Loader, file: Path, marks: dict[KeyPath, Mark]) -> None:
        self.loader, self.file, self.marks = loader, file, marks
        self.open: list[yaml.Node] = []  # containers being read, to find one that holds itself

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self.container(node, path, self.mapping)
        if isinstance(node, yaml.SequenceNode):
            return self.container(node, path, self.sequence)
        return self.scalar(node)

    def container(self, node: yaml.Node, path: KeyPath, read: Callable[[Any, KeyPath], Any]) -> Any:
        if node.tag not in ('tag:yaml.org,2002:map', 'tag:yaml.org,2002:seq'):
            raise OptionError(f'{self.at(node)}: not valid YAML: {node.tag} is not allowed here.')
        if any(node is parent for parent in self.open):
            raise OptionError(f"{self.at(node)}: '{'.'.join(map(str, path))}' holds itself.")
        self.open.append(node)
        value = read(node, path)
        self.open.pop()
        return value

    def sequence(self, node: yaml.SequenceNode, path: KeyPath) -> list[Any]:
        values = []
        for i, child in enumerate(node.value):
            self.marks[(*path, i)] = self.at(child)
            values.append(self.value(child, (*path, i)))
        return values

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        own_keys = [k.value for k, _ in node.value if k.tag != 'tag:yaml.org,2002:merge']
        self.loader.flatten_mapping(node)  # resolves "<<: *anchor"; what it merges in comes first
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise OptionError(f'{self.at(key_node)}: a key must be a word, not a list or a mapping.')
            key = key_node.value  # as written: "on" and "001" are names too
            here = (*path, key)
            if own_keys.count(key) > 1:
                raise OptionError(f"{self.at(key_node)}: key '{'.'.join(map(str, here))}' is given twice.")
            self.marks[here] = self.at(key_node)
            values[key] = self.value(value_node, here)
        return values

    def at(self, node: yaml.Node) -> Mark:
        return Mark(str(self.file), node.start_mark.line + 1)

    def scalar(self, node: yaml.ScalarNode) -> Any:
        """A scalar; ``${NAME}`` is replaced first, and what stands there without quotes is then read as YAML."""
        if node.tag != 'tag:yaml.org,2002:str' or '${' not in node.value:
            return self.construct(node)
        text = re.sub(r'\$\{(\w+)\}', lambda match: self.variable(match[1], node), node.value)
        if node.style is not None:
            return text
        tag = self.loader.resolve(yaml.ScalarNode, text, (True, False))
        return self.construct(yaml.ScalarNode(tag, text, node.start_mark, node.end_mark))

    def construct(self, node: yaml.ScalarNode) -> Any:
        try:
            return self.loader.construct_object(node)
        except (ValueError, TypeError, KeyError) as error:  # such as "!!float abc"
            raise OptionError(f"{self.at(node)}: '{node.value}' is not a value of {node.tag}.") from error

    def variable(self, name: str, node: yaml.ScalarNode) -> str:
        if name not in os.environ:
            raise OptionError(f'{self.at(node)}: the environment variable {name} is not set.')
        return os.environ[name]
