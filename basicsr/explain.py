"""``--explain``: what a section, a block or a type accepts, one line a key, read from the same place as the check."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from basicsr.annotations import block_kind, describe, keys_of
from basicsr.errors import OptionError
from basicsr.registry import REGISTRIES, Registry, nearest
from basicsr.schema import Field, fields_of, fields_of_type, plain_text, registry_of, section_fields, show_value
from basicsr.sections import DistOptions, LoaderOptions, LoggerOptions, PathOptions, TopLevel, TrainOptions, ValOptions

SECTIONS: dict[str, type] = {
    '': TopLevel,
    'datasets': LoaderOptions,
    'path': PathOptions,
    'train': TrainOptions,
    'val': ValOptions,
    'logger': LoggerOptions,
    'dist_params': DistOptions,
}
PLACES = {'model_type': 'model', 'datasets': 'dataset'}  # blocks that no annotation marks
NOTES = {
    'datasets': 'Every block (train, val, test, val_NAME, test_NAME) takes these keys, and those of its type:',
    'train': 'The training method adds its own keys, its losses: --explain model_type.',
}


def explain(topic: str) -> str:
    """Text about a section (``train``), a block (``network_g``, ``train.optim_g``), a key or a type (``NAFNet``).

    Raises:
        OptionError: Nothing has this name; the text names what is near.
    """
    parts = [p for p in topic.replace(':', '.').split('.') if p]
    if not parts:
        return '\n\n'.join(['An option file holds:\n' + _table(section_fields(TopLevel).values()), _more()])
    last = parts[-1]
    found = _about_section(last) + _about_block(last, _kind_of(last)) or _about_type(last)
    found = found or _about_block(last, _inner_blocks().get(last))
    found = found or _about_key(last, parts[-2] if len(parts) > 1 else '')
    if not found:
        raise OptionError(_unknown(last))
    return '\n\n'.join(dict.fromkeys(found))


def _about_section(name: str) -> list[str]:
    if not name or name not in SECTIONS:
        return []
    fields = section_fields(SECTIONS[name]).values()
    return [f'{name}: {NOTES.get(name, "section of an option file.")}\n{_table(fields)}']


def _about_block(name: str, kind: str | None) -> list[str]:
    """All types that a block may name, each with its keys, and those of the blocks inside them."""
    if kind is None:
        return []
    names = registry_of(kind).keys()
    what = 'one of these' if kind == 'model' else f'a block with a type ({kind}) and the keys of that type'
    title = f'{name}: {what}. Types: {", ".join(names)}.'
    return [title, *(_type_text(registry_of(kind), n) for n in names), *_nested(kind)]


def _about_type(name: str) -> list[str]:
    for kind in _kinds():  # optimisers last: their registry imports torch
        if name in registry_of(kind):
            return [_type_text(registry_of(kind), name), *_nested(kind, name)]
    return []


def _about_key(key: str, place: str) -> list[str]:
    """A single key of fixed sections and of types: of all that have it, or of those that ``place`` stands for."""
    kind = {**_inner_blocks(), **_outer_blocks()}.get(place)
    places = {section: section_fields(cls) for section, cls in SECTIONS.items()}
    places |= {name: _fields(registry, name) for registry, name in _all_types()}
    meant = [name for registry, name in _all_types() if registry.name == kind] or [place]
    having = {name: fields[key] for name, fields in places.items() if key in fields}
    having = {name: f for name, f in having.items() if name in meant} or having
    rows = [replace(f, name=f'{name}.{key}'.lstrip('.')) for name, f in having.items()]
    return [_table(rows, indent='')] if rows else []


def _type_text(registry: Registry, name: str) -> str:
    title = f'{name} ({registry.name}): {plain_text(registry.summary(name))}'
    try:
        fields = fields_of_type(registry.name, registry.get(name))
    except OptionError as error:
        return f'{title}\n  {error}'
    if registry.name == 'model':
        title += '\n  Its keys stand in section train:'
    return '\n'.join([title, _table(fields.values()) or '  no keys', *_blocks_of_keys(fields.values())])


def _blocks_of_keys(fields: Iterable[Field]) -> Iterator[str]:
    """What the blocks without a type among some keys hold."""
    for f in fields:
        if (target := keys_of(f.annotation)) is not None:
            yield f'  {f.name} holds:\n{_table(fields_of(target).values(), indent="    ")}'


def _nested(kind: str, name: str | None = None) -> list[str]:
    """The types of blocks that the keys of a type (or of all types of a kind) hold."""
    registry = registry_of(kind)
    inner: dict[str, dict[str, None]] = {}
    for known in [name] if name else registry.keys():
        for key, f in _fields(registry, known).items():
            if (held := block_kind(f.annotation)) and held != kind:
                inner.setdefault(held, {})[key] = None
    return [text for held, keys in inner.items() for text in _about_block_of(held, list(keys))]


def _about_block_of(kind: str, keys: list[str]) -> Iterator[str]:
    yield '\n'.join(f'{key} holds blocks with a type ({kind}) and the keys of that type:' for key in keys)
    registry = registry_of(kind)
    yield from map(partial(_type_text, registry), registry.keys())


def _fields(registry: Registry, name: str) -> Mapping[str, Field]:
    """Keys of a type; none where its file cannot be imported, which must not spoil what is told of the others."""
    try:
        return fields_of_type(registry.name, registry.get(name))
    except OptionError:
        return {}


def _kind_of(name: str) -> str | None:
    """The registry that a block of the fixed sections names its type in, or that is called so itself."""
    plurals = {word: kind for kind in _kinds() for word in (kind, f'{kind}s', f'{kind}es')}
    return {**plurals, **_outer_blocks()}.get(name)


def _outer_blocks() -> dict[str, str]:
    """Keys of the fixed sections that hold blocks, and the registry of their types."""
    return {**_marked(section_fields(cls) for cls in SECTIONS.values()), **PLACES}


def _inner_blocks() -> dict[str, str]:
    """Keys of training methods, data sets and so on that hold blocks."""
    return _marked(_fields(registry, name) for registry, name in _all_types())


def _marked(tables: Iterable[Mapping[str, Field]]) -> dict[str, str]:
    return {key: kind for table in tables for key, f in table.items() if (kind := block_kind(f.annotation))}


def _kinds() -> list[str]:
    return [*REGISTRIES, 'optimizer']


def _all_types() -> list[tuple[Registry, str]]:
    return [(registry, name) for registry in map(registry_of, _kinds()) for name in [*registry.keys()]]


def _table(fields: Iterable[Field], indent: str = '  ') -> str:
    """Keys in columns: name, type, default, meaning."""
    rows = [(f.name, describe(f.annotation), _default(f), _brief(f.doc)) for f in fields]
    widths = [min(max((len(row[i]) for row in rows), default=0), 40) for i in range(3)]
    lines = ['  '.join([*(cell.ljust(w) for cell, w in zip(row, widths)), row[3]]) for row in rows]
    return '\n'.join(f'{indent}{line}'.rstrip() for line in lines)


def _brief(doc: str) -> str:
    """One line; the long texts of other libraries are cut to their first sentence."""
    doc = re.sub(r'\s*\(default: (?:\([^)]*\)|[^()])*\)', '', doc)
    return doc if len(doc) <= 160 else f'{doc.partition(". ")[0].rstrip(".")}.'


def _default(f: Field) -> str:
    return 'required' if f.required else f'default {_show(f.default)}'


def _show(default: Any) -> str:
    """A default as an option file would give it."""
    if isinstance(default, str) and re.fullmatch(r'\w[\w ./:-]*', default):
        return default
    plain = default is None or isinstance(default, bool | int | float | str | list | tuple | dict)
    return show_value(default) if plain else getattr(default, '__name__', type(default).__name__)


def _more() -> str:
    blocks = [k for k in {**_outer_blocks(), **_inner_blocks()} if k not in SECTIONS]
    sections = [s for s in SECTIONS if s]
    return (
        f'More by --explain with a section ({", ".join(sections)}), a block ({", ".join(blocks)}), '
        'a type (NAFNet) or any key (lr).'
    )


def _unknown(topic: str) -> str:
    names = [*SECTIONS, *_outer_blocks(), *_inner_blocks(), *(name for _, name in _all_types())]
    near = nearest(topic, [n for n in names if n], count=3)
    hint = f' Did you mean {" or ".join(near)}?' if near else ''
    return f"--explain: nothing is called '{topic}'.{hint} {_more()}"
