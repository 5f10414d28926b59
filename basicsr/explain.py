"""``--explain``: what a section, a block or a type accepts, one line a key, read from the same place as the check."""

from __future__ import annotations

import difflib

from basicsr.errors import OptionError
from basicsr.registry import REGISTRIES, Registry
from basicsr.schema import GIVEN, Field, fields_of, registry_of, section_fields
from basicsr.sections import DistOptions, LoaderOptions, LoggerOptions, PathOptions, TopLevel, TrainOptions, ValOptions

SECTIONS = {
    'path': PathOptions,
    'train': TrainOptions,
    'val': ValOptions,
    'logger': LoggerOptions,
    'dist_params': DistOptions,
    'datasets': LoaderOptions,
}
BLOCKS = {
    'network_g': 'arch', 'network_d': 'arch', 'model_type': 'model', 'optim_g': 'optimizer', 'optim_d': 'optimizer',
    'scheduler': 'scheduler', 'metrics': 'metric', 'datasets': 'dataset', 'degradations': 'degradation', 'losses': 'loss',
    'pixel_opt': 'loss', 'fft_opt': 'loss',
}  # fmt: skip


def explain(topic: str) -> str:
    """Text about a section (``train``), a block (``network_g``, ``train.optim_g``), a key or a type (``NAFNet``).

    Raises:
        OptionError: Nothing has this name; the text names what is near.
    """
    last = topic.replace(':', '.').rpartition('.')[2]
    if not last:
        return '\n'.join(['An option file holds:', *_lines(section_fields(TopLevel)), '', _more()])
    parts = []
    if last in SECTIONS:
        title = 'every data set block takes' if last == 'datasets' else 'takes'
        parts.append('\n'.join([f'{last}: {title}', *_lines(section_fields(SECTIONS[last]))]))
    if last == 'train':
        parts.append(
            'The training method adds its own keys: see --explain with a model_type, such as RestorationModel.'
        )
    if last in BLOCKS:
        parts.append(_kind_text(last, registry_of(BLOCKS[last])))
    kinds = {**REGISTRIES, 'optimizer': registry_of('optimizer')}
    parts += [_type_text(last, kind, registry) for kind, registry in kinds.items() if last in registry]
    parts += _key_lines(last) if not parts else []
    if not parts:
        raise OptionError(_unknown(last, kinds))
    return '\n\n'.join(parts)


def _kind_text(block: str, registry: Registry) -> str:
    names = [f'  {name}: {registry.summary(name)}' for name in registry.keys()]
    return '\n'.join([f"{block}: a block with a type ({registry.name}) and that type's own keys. Types:", *names])


def _type_text(name: str, kind: str, registry: Registry) -> str:
    fields = fields_of(registry.get(name), GIVEN.get(kind, frozenset()))
    title = f'{name} ({kind}): {registry.summary(name)}'
    if kind == 'model':
        title += '\nIn section train it adds:'
    return '\n'.join([title, *(_lines(fields) or ['  no keys'])])


def _lines(fields: dict[str, Field]) -> list[str]:
    return [f'  {f.line()}' for f in fields.values()]


def _key_lines(key: str) -> list[str]:
    """A single key of a fixed section."""
    sections = {'': TopLevel, **SECTIONS}
    found = {s: section_fields(c)[key] for s, c in sections.items() if key in section_fields(c)}
    return [f'{s}.{f.line()}' if s else f.line() for s, f in found.items()]


def _more() -> str:
    return f'More: --explain with one of {", ".join(dict.fromkeys([*SECTIONS, *BLOCKS]))}, or with any type or key.'


def _unknown(topic: str, kinds: dict[str, Registry]) -> str:
    names = [*SECTIONS, *BLOCKS, *(n for r in kinds.values() for n in r.keys())]
    near = difflib.get_close_matches(topic, names, n=3)
    hint = f' Did you mean {", ".join(near)}?' if near else ''
    return f"Nothing is called '{topic}'.{hint} {_more()}"
