"""Loads an option file: includes, overrides, and a full check before any work.

Every block is compared with the constructor it feeds (:mod:`basicsr.schema`), every fixed section with its dataclass
(:mod:`basicsr.sections`). All problems are reported at once, each with file and line.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from basicsr.errors import OptionError
from basicsr.foreign_options import key_advice
from basicsr.protocols import Protocol, check_labels, check_protocol, protocol_of
from basicsr.registry import (
    DATASET_REGISTRY,
    MODEL_REGISTRY,
    SCHEDULER_REGISTRY,
    build,
    import_plugins,
)
from basicsr.schema import (
    Field,
    Problems,
    check_block,
    check_typed_block,
    dotted,
    fields_of_type,
    find_type,
    section_fields,
    show_value,
)
from basicsr.sections import (
    DatasetOptions,
    DistOptions,
    LoaderOptions,
    LoggerOptions,
    Options,
    PathOptions,
    TopLevel,
    TrainOptions,
    ValOptions,
)
from basicsr.yaml_io import Document, KeyPath, Mark, dump_yaml, override, read_document

PHASES = ('train', 'val', 'test')
DATASET_KEY = re.compile(rf'({"|".join(PHASES)})(_\w+)?')
SECTIONS = {'path': PathOptions, 'val': ValOptions, 'logger': LoggerOptions, 'dist_params': DistOptions}
NETWORK_KEY = re.compile(r'(?:network|optim|pretrain_network|strict_load|param_key)_([a-z])')


def load(file: str | Path, overrides: list[str] | None = None, imports: list[str] | None = None) -> Options:
    """Loads and checks an option file.

    Args:
        file: Path of the file, also relative to the project (``options/quickstart.yml`` works from any folder).
        overrides: ``--force_yml`` texts, ``a:b=value``.
        imports: ``--import`` modules or files, imported before the check.

    Raises:
        OptionError: Anything is wrong with it; the text has one line for each problem.
    """
    document = read_document(find_file(file))
    for text in overrides or []:
        override(document, text)
    return check(document, imports)


def from_dict(values: Mapping[str, Any]) -> Options:
    """Checks the options that a program gives as a dict, laid out like an option file; the dict is left unchanged.

    Raises:
        OptionError: Anything is wrong with them.
    """
    return check(Document(copy.deepcopy(dict(values)), {(): Mark('options')}))


def check(document: Document, imports: list[str] | None = None) -> Options:
    """Checks a document whole and returns typed options.

    Raises:
        OptionError: Anything is wrong with it; the text has one line for each problem.
    """
    problems = Problems(document)
    _import_all(problems, imports or [])
    model = find_type(problems, ('model_type',), MODEL_REGISTRY, document.values.get('model_type', TopLevel.model_type))
    letters = tuple(model.network_names) if model else ()
    top = check_block(problems, (), document.values, _for_networks(letters, section_fields(TopLevel)), 'top')
    train, arguments = _check_train(problems, document.values.get('train'), model, letters)
    sections = {key: _check_section(problems, key, cls, letters) for key, cls in SECTIONS.items()}
    datasets = _check_datasets(problems, document.values.get('datasets'))
    _check_protocol(problems, sections['val'])
    players = _players(model, letters, document.values)
    _check_presence(problems, document.values, letters, players)
    problems.stop()
    options = Options(
        top=TopLevel(**top),
        networks={letter: top[f'network_{letter}'] for letter in players},
        datasets=datasets,
        path=PathOptions(**sections['path']),
        train=TrainOptions(**train) if train else None,
        model=arguments,
        val=ValOptions(**sections['val']),
        logger=LoggerOptions(**sections['logger']),
        dist=DistOptions(**sections['dist_params']),
        resolved=document.values,
    )
    _check_agreement(problems, options)
    problems.stop()
    return options


def dataset_options(block: Mapping[str, Any], phase: str) -> DatasetOptions:
    """Checks one data set block that a program gives as a dict, without ``phase`` and ``scale``.

    Raises:
        OptionError: Anything is wrong with it.
    """
    if phase not in PHASES:
        raise OptionError(f"The phase of a data set is one of {', '.join(PHASES)}, not '{phase}'.")
    problems = Problems(Document({}, {(): Mark('data set options')}))
    dataset = _check_dataset(problems, (), phase, phase, dict(block))
    problems.stop()
    return dataset


def find_file(path: str | Path) -> Path:
    """A path as given, or else relative to the project's own files (a checkout, or what a wheel ships).

    Lets ``options/quickstart.yml`` and ``datasets/sample`` be found from any folder.
    """
    path = Path(path).expanduser()
    if path.is_absolute() or path.exists():
        return path
    for root in project_roots():
        if (root / path).exists():
            return root / path
    return path


def project_roots() -> list[Path]:
    """Folders that hold the project's own ``options/`` and ``datasets/sample``."""
    here = Path(__file__).resolve().parent
    return [r for r in (here.parent, here / 'share') if (r / 'options').is_dir() and (r / 'datasets').is_dir()]


def dump(options: Options) -> str:
    """The resolved options as YAML text, as they are saved in the run's folder."""
    return dump_yaml(options.resolved)


def train_fields(model_type: str) -> dict[str, Field]:
    """Keys of section ``train`` for one training method: the trainer's and the method's own."""
    model = MODEL_REGISTRY.get(model_type)
    return {**_for_networks(model.network_names, section_fields(TrainOptions)), **fields_of_type('model', model)}


def _import_all(problems: Problems, imports: list[str]) -> None:
    """Imports what the command line and the file ask for, so that their types are known."""
    listed = problems.document.values.get('imports')
    wanted: list[tuple[KeyPath, Any]] = [(('--import',), name) for name in imports]
    wanted += [(('imports', i), name) for i, name in enumerate(listed if isinstance(listed, list) else [])]
    problems.document.marks[('--import',)] = Mark('--import')
    for path, name in wanted:
        try:
            import_plugins([name] if isinstance(name, str) else [])  # another type is refused with the other keys
        except OptionError as error:
            problems.add(path, str(error) if path[0] == '--import' else f"'imports': {error}")


def _for_networks(letters: tuple[str, ...], fields: Mapping[str, Field]) -> dict[str, Field]:
    """Leaves out the keys of networks that the training method does not have, such as ``optim_d``."""
    matches = {name: NETWORK_KEY.fullmatch(name) for name in fields}
    return {n: f for n, f in fields.items() if not letters or matches[n] is None or matches[n][1] in letters}


def _check_section(problems: Problems, key: str, section: type, letters: tuple[str, ...]) -> dict[str, Any]:
    block = problems.document.values.get(key)
    fields = _for_networks(letters, section_fields(section))
    return check_block(problems, (key,), {} if block is None else block, fields, key)


def _check_train(
    problems: Problems, block: Any, model: Any, letters: tuple[str, ...]
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """The trainer's own keys of section ``train``, None without one, and the arguments of the training method."""
    if block is None:
        return None, {}
    fields = _for_networks(letters, section_fields(TrainOptions))
    if model is None and isinstance(block, dict):  # what the unknown method would add cannot be told
        block = {k: v for k, v in block.items() if k in fields}
    added = fields_of_type('model', model) if model else {}
    checked = check_block(problems, ('train',), block, {**fields, **added}, 'train')
    return {k: v for k, v in checked.items() if k not in added}, {k: v for k, v in checked.items() if k in added}


def _check_datasets(problems: Problems, blocks: Any) -> dict[str, DatasetOptions]:
    found: dict[str, DatasetOptions] = {}
    for key, block in blocks.items() if isinstance(blocks, dict) else ():
        path = ('datasets', key)
        match = DATASET_KEY.fullmatch(str(key))
        if match is None:
            problems.unknown(path, [*PHASES, 'val_NAME', 'test_NAME'], key_advice('datasets', str(key)))
        found[str(key)] = _check_dataset(problems, path, str(key), match[1] if match else 'train', block)
    return found


def _check_dataset(problems: Problems, path: KeyPath, key: str, phase: str, block: Any) -> DatasetOptions:
    """One data set block; its loader options are kept apart from the arguments of its constructor."""
    before = len(problems.found)
    checked = check_typed_block(problems, path, block, 'dataset', section_fields(LoaderOptions))
    if problems.hopeless or len(problems.found) > before:
        return DatasetOptions(key, phase, {}, LoaderOptions())
    own = fields_of_type('dataset', DATASET_REGISTRY.get(checked['type']))
    loader = {k: v for k, v in checked.items() if k in section_fields(LoaderOptions) and k not in own}
    arguments = {k: v for k, v in checked.items() if k not in loader}
    dataset = DatasetOptions(key, phase, arguments, LoaderOptions(**loader))
    _check_stages(problems, path, dataset.loader)
    return dataset


def _check_stages(problems: Problems, path: KeyPath, loader: LoaderOptions) -> None:
    stages = {k: getattr(loader, k) for k in ('gt_sizes', 'mini_batch_sizes', 'iters')}
    given = {k: v for k, v in stages.items() if v is not None}
    if given and (len(given) < len(stages) or len({len(v) for v in given.values()}) > 1 or not min(given.values())):
        text = 'gt_sizes, mini_batch_sizes and iters belong together: three lists of the same length'
        problems.add((*path, next(iter(given))), f'{text}; given: {show_value(given)}.')


def _check_protocol(problems: Problems, val: dict[str, Any]) -> None:
    """The protocol of section ``val``, and the labels of its metrics and of the section's own."""
    path, own = ('val', 'protocol'), val.get('metrics')
    check_protocol(problems, path, val.get('protocol'), own)
    check_labels(problems, ('val', 'metrics'), own)


def _players(model: Any, letters: tuple[str, ...], values: dict[str, Any]) -> tuple[str, ...]:
    """The networks of this file: those that the training method may do without only where the file gives them."""
    optional = getattr(model, 'optional_networks', ())
    return tuple(k for k in letters if k not in optional or values.get(f'network_{k}') is not None)


def _check_presence(
    problems: Problems, values: dict[str, Any], letters: tuple[str, ...], players: tuple[str, ...]
) -> None:
    """Blocks that the file must have, and their optimisers."""
    train, datasets = values.get('train'), values.get('datasets')
    for letter in letters:
        if letter not in players:
            if isinstance(train, dict) and train.get(f'optim_{letter}') is not None:
                path = ('train', f'optim_{letter}')
                problems.add(path, f"'train.optim_{letter}' is given, but there is no block 'network_{letter}'.")
            continue
        if values.get(f'network_{letter}') is None:
            problems.add((), f"block 'network_{letter}' is missing: give it a type and that network's arguments.")
        if letter != 'g' and isinstance(train, dict) and train.get(f'optim_{letter}') is None:
            problems.add(('train',), f"key 'train.optim_{letter}' is missing: the optimiser of network_{letter}.")
    if datasets is None:
        problems.add((), "section 'datasets' is missing: give it train and val blocks, or test blocks.")
    if not isinstance(datasets, dict):
        return
    sets = [key for key in datasets if str(key).startswith('train')]
    if train is None and sets:
        problems.add(('datasets', sets[0]), "section 'train' is missing: training needs it beside 'datasets.train'.")
    if train is not None and not sets:
        problems.add(('train',), "block 'datasets.train' is missing: training needs it beside section 'train'.")
    if len(sets) > 1:
        problems.add(('datasets', sets[1]), f'there is more than one training set ({", ".join(sets)}); keep one.')


def _check_agreement(problems: Problems, options: Options) -> None:
    """What only shows when the sections are seen together."""
    _check_chosen_metrics(problems, options)
    train = options.train
    if train is None:
        return
    if train.ema_warmup and not train.ema_decay:
        problems.add(
            ('train', 'ema_warmup'), "'train.ema_warmup' is true, but 'train.ema_decay' is 0: nothing warms up."
        )
    if train.scheduler is not None:
        try:
            build(SCHEDULER_REGISTRY, train.scheduler).check(train.total_iter)
        except (OptionError, ValueError) as error:
            problems.add(('train', 'scheduler'), f"'train.scheduler': {error}")
    for dataset in options.of_phase('train'):
        covered = sum(dataset.loader.iters or [train.total_iter])
        if covered < train.total_iter:
            text = f'the stages cover {covered} iterations, but train.total_iter is {train.total_iter}'
            problems.add(('datasets', dataset.key, 'iters'), f'{text}; lengthen the last stage.')
    if options.val.val_freq is not None and not options.of_phase('val'):
        problems.add(('val', 'val_freq'), "'val.val_freq' is given, but there is no block 'datasets.val'.")


def _check_chosen_metrics(problems: Problems, options: Options) -> None:
    """The labels by which a data set chooses some of the metrics of section ``val``."""
    for dataset in options.datasets.values():
        path, labels = ('datasets', dataset.key, 'metrics'), dataset.loader.metrics
        if labels is not None and dataset.phase == 'train':
            problems.add(path, f"'{dotted(path)}': a training set is not measured; write it in a val or test block.")
        elif labels is not None:
            _check_labels_exist(problems, path, labels, protocol_of(options.val.protocol, options.val.metrics))


def _check_labels_exist(problems: Problems, path: KeyPath, labels: list[str], protocol: Protocol) -> None:
    """Every label on the line where it stands."""
    for place, chosen in [((*path, i), [label]) for i, label in enumerate(labels)] or [(path, labels)]:
        try:
            protocol.only(chosen)
        except OptionError as error:
            problems.add(place, f"'{dotted(path)}': {error}")


__all__ = [
    'Mark', 'check', 'dataset_options', 'dump', 'find_file', 'from_dict', 'load', 'project_roots', 'train_fields',
]  # fmt: skip
