"""Evaluation protocols: how restored images are prepared and scored, under a name that goes with every number.

``val: {protocol: derain-y}`` takes one that is built in (:mod:`basicsr.protocol_list`); a block defines one's own::

    val:
      protocol:
        name: my-derain
        crop_multiple: 8
        metrics:
          psnr_y: {type: calculate_psnr, test_y_channel: true}
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from basicsr.errors import OptionError
from basicsr.registry import METRIC_REGISTRY, nearest
from basicsr.schema import (
    MISSING,
    Block,
    Field,
    Problems,
    Range,
    check_block,
    check_value,
    dotted,
    fields_of_type,
    section_fields,
    show_value,
)
from basicsr.yaml_io import Document, KeyPath, Mark, read_document

DIGEST = 8  # characters that are shown
ROUNDED = '8-bit rounding'
NOT_A_SCORE = frozenset({'input_order'})  # keys of a metric that cannot change what it gives for tensors
Blocks = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Protocol:
    """How restored images are scored. Numbers of unlike protocols are not comparable.

    Attributes:
        name: What tables and result files call it.
        metrics: One block a metric, by label, as in val.metrics.
        crop_multiple: Before the network, input and clean image are cut around their middle to a multiple of this.
        size: Before the network, input and clean image are resized to a square of so many pixels; null: not at all.
        test_sets: The sets it is meant for, with their number of images; 0 where it is not fixed.
        sources: Papers and public code that the convention comes from.
        notes: What is disputed, not known, or left out.
    """

    name: str
    metrics: dict[str, Annotated[dict, Block('metric')]] = field(default_factory=dict)
    crop_multiple: Annotated[int, Range(1)] = 1
    size: Annotated[int, Range(1)] | None = None
    test_sets: dict[str, int] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for key in ('metrics', 'test_sets', 'sources', 'notes'):  # what the caller changes later is not meant
            object.__setattr__(self, key, copy.deepcopy(getattr(self, key)))

    def parts(self) -> dict[str, Any]:
        """Name and everything that changes a score, in plain containers; every option of a metric stands there."""
        metrics = {label: _whole(block) for label, block in self.metrics.items()}
        return {'name': self.name, 'metrics': metrics, 'crop_multiple': self.crop_multiple, 'size': self.size}

    @property
    def digest(self) -> str:
        """A few characters that are equal where scores are computed in the same way, whatever the name."""
        # Options at their default are left out, so that a metric may get new ones without a change of digests.
        metrics = {label: {'type': block['type'], **_changed(block)} for label, block in self.metrics.items()}
        text = json.dumps([metrics, self.crop_multiple, self.size], sort_keys=True, default=str)
        return hashlib.sha256(text.encode('utf-8')).hexdigest()[:DIGEST]

    def with_metrics(self, own: Blocks) -> Protocol:
        """The protocol with further metrics; its name then says so.

        Raises:
            OptionError: A label is there already.
        """
        clash = next((label for label in own if label in self.metrics), None)
        if clash is not None:
            raise OptionError(clash_text(clash, self.name))
        metrics = {**self.metrics, **{label: dict(block) for label, block in own.items()}}
        name = f'{self.name} + {", ".join(own)}' if own and self.name else self.name
        return dataclasses.replace(self, name=name, metrics=metrics)

    def only(self, labels: Collection[str] | None) -> Protocol:
        """The protocol with some of its metrics; its name then says which. None leaves it as it is.

        Raises:
            OptionError: It has no metric of a label, or there is no label.
        """
        if labels is None:
            return self
        if not labels:
            raise OptionError('no metric is named; leave the key out to measure all of them.')
        for label in labels:
            if label not in self.metrics:
                near = nearest(label, self.metrics)
                hint = f" Did you mean '{near[0]}'?" if near else ''
                raise OptionError(
                    f"no metric is called '{label}'.{hint} There are: {', '.join(self.metrics) or 'none'}."
                )
        metrics = {label: block for label, block in self.metrics.items() if label in labels}
        part = self.name and len(metrics) < len(self.metrics)
        name = f'{self.name}, only {", ".join(metrics)}' if part else self.name
        return dataclasses.replace(self, name=name, metrics=metrics)

    def doubt(self, images: int) -> str:
        """A sentence if a set of so many images is none of those that the protocol is meant for, else nothing."""
        known = {name: count for name, count in self.test_sets.items() if count}
        if not known or len(known) < len(self.test_sets) or images in known.values():
            return ''
        sets = ', '.join(f'{name} {count:,}' for name, count in known.items())
        return f'{images:,} images: not a whole test set of {self.name} ({sets}).'

    def words(self) -> str:
        """What is computed, and how images are prepared, in words."""
        metrics = [f'{label}: {_metric_words(block)}' for label, block in self.metrics.items()]
        return '; '.join([*metrics, ', '.join(self._prepared())])

    def _prepared(self) -> list[str]:
        exact = [label for label, block in self.metrics.items() if _whole(block).get('quantize') is False]
        rounding = 'no rounding' if exact and len(exact) == len(self.metrics) else ROUNDED
        words = [f'{rounding} but for {", ".join(exact)}' if exact and rounding == ROUNDED else rounding]
        words += [f'cut to a multiple of {self.crop_multiple} px'] if self.crop_multiple > 1 else []
        return [*words, f'resized to {self.size} x {self.size} px'] if self.size else words

    @property
    def label(self) -> str:
        """Name and digest, for a line of a log."""
        return ' '.join(filter(None, ['protocol', self.name, self.digest]))

    def __str__(self) -> str:
        return f'{self.label} ({self.words()})'


def built_in() -> dict[str, Protocol]:
    """The protocols of the project, by name."""
    from basicsr.protocol_list import protocols

    return {p.name: p for p in protocols()}


def named(name: str) -> Protocol:
    """A protocol of the project.

    Raises:
        OptionError: There is none of this name.
    """
    known = built_in()
    if name not in known:
        near = nearest(name, known)
        hint = f' Did you mean {near[0]}?' if near else ''
        raise OptionError(
            f"No protocol named '{name}'.{hint} Write one of: {', '.join(known)}; or a block of your own."
        )
    return known[name]


def protocol_of(value: str | Mapping[str, Any] | Protocol | None, own: Blocks | None = None) -> Protocol:
    """The protocol that ``val.protocol`` and ``val.metrics`` describe together.

    Args:
        value: A name, a block, a protocol, or None for the metrics alone.
        own: Metrics beside those of the protocol.

    Raises:
        OptionError: No such protocol, a block that cannot be used, or a label that is there twice.
    """
    if isinstance(value, str):
        value = named(value)
    elif isinstance(value, Mapping):
        value = _from_block(dict(value))
    return (value or Protocol('')).with_metrics(own or {})


def protocol_file(path: Path) -> Protocol:
    """A protocol from a YAML file that holds the block.

    Raises:
        OptionError: The file cannot be read, or the block cannot be used; each problem with its line.
    """
    document = read_document(path)
    problems = Problems(document)
    checked = check_protocol(problems, (), document.values, None)
    problems.stop()
    return Protocol(**checked)


def checked_metrics(blocks: Any, place: str) -> dict[str, dict[str, Any]]:
    """Metric blocks by label, checked as those of an option file are.

    Args:
        blocks: What was given.
        place: Where it was given, for messages.

    Raises:
        OptionError: A metric, an option or a label cannot be used.
    """
    problems = Problems(Document({}, {(): Mark(place)}))
    metrics = check_value(problems, (), blocks, section_fields(Protocol)['metrics'].annotation)
    check_labels(problems, (), metrics)
    problems.stop()
    return metrics


def check_protocol(problems: Problems, path: KeyPath, value: Any, own: Any) -> dict[str, Any]:
    """Checks ``val.protocol`` of an option file.

    Args:
        problems: Where complaints go.
        path: Place of the value.
        value: What stands there: a name, a block, or None.
        own: The blocks of ``val.metrics``.

    Returns:
        A block with its values converted; empty for a name.
    """
    block: dict[str, Any] = {}
    metrics: Any = {}
    if isinstance(value, dict):
        block = check_block(problems, path, value, section_fields(Protocol), 'protocol')
        metrics = block.get('metrics')
        check_labels(problems, (*path, 'metrics'), metrics)
        if block.get('name') in built_in():
            problems.add((*path, 'name'), f"'{block['name']}' is a protocol of the project; give yours another name.")
    elif isinstance(value, str):
        try:
            metrics = named(value).metrics
        except OptionError as error:
            problems.add(path, f"'{dotted(path)}': {error}")
    for label in own if isinstance(own, dict) and isinstance(metrics, dict) else ():
        if label in metrics:
            name = value if isinstance(value, str) else value.get('name')
            problems.add(('val', 'metrics', label), f"'val.metrics.{label}': {clash_text(label, name)}")
    return block


def check_labels(problems: Problems, place: KeyPath, metrics: Any) -> None:
    """A label must begin with its metric's name: a column called psnr may not hold another number."""
    for label, block in metrics.items() if isinstance(metrics, dict) else ():
        kind = block.get('type') if isinstance(block, dict) else None
        name = str(kind).removeprefix('calculate_')
        if kind in METRIC_REGISTRY and label != name and not label.startswith(f'{name}_'):
            path = (*place, label)
            problems.add(path, f"metric '{dotted(path)}' computes {name}: call it '{name}' or '{name}_...'.")


def clash_text(label: str, name: Any) -> str:
    """That a label is in a protocol already."""
    return f"protocol {name} has a metric '{label}' already; give yours another label, such as '{label}_own'."


def _from_block(block: dict[str, Any]) -> Protocol:
    problems = Problems(Document({}, {(): Mark('protocol')}))
    checked = check_protocol(problems, (), block, None)
    problems.stop()
    return Protocol(**checked)


def _fields(block: Mapping[str, Any]) -> Mapping[str, Field]:
    fields = fields_of_type('metric', METRIC_REGISTRY.get(block['type']))
    return {k: f for k, f in fields.items() if k not in NOT_A_SCORE}


def _whole(block: Mapping[str, Any]) -> dict[str, Any]:
    """A metric's block with its defaults filled in."""
    fields = _fields(block)
    defaults = {k: f.default for k, f in fields.items() if f.default is not MISSING}
    return {'type': block['type'], **defaults, **{k: v for k, v in block.items() if k in fields}}


def _changed(block: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a metric that are not as they are by default."""
    fields = _fields(block)
    return {k: v for k, v in block.items() if k in fields and (fields[k].required or v != fields[k].default)}


def _metric_words(block: Mapping[str, Any]) -> str:
    """The metric, its colour and crop, and whatever else is not as it is by default."""
    fields, words = _fields(block), [str(block['type'])]
    if 'test_y_channel' in fields:
        words.append('Y channel' if block.get('test_y_channel') else 'RGB')
    if 'crop_border' in fields:
        words.append(f'{block["crop_border"]} px cropped' if block.get('crop_border') else 'no crop')
    other = {k: v for k, v in _changed(block).items() if k not in ('test_y_channel', 'crop_border', 'quantize')}
    return ', '.join([*words, *(f'{k} {show_value(v)}' for k, v in other.items())])
