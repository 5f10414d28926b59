"""Loads an option file: includes, overrides, and a full check before any work.

Every block is compared with the constructor it feeds (:mod:`basicsr.schema`), every fixed section with its dataclass
(:mod:`basicsr.sections`). All problems are reported at once, each with file and line.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import yaml

from basicsr.errors import OptionError
from basicsr.foreign_options import key_hint, type_hint
from basicsr.registry import MODEL_REGISTRY, import_plugins
from basicsr.schema import GIVEN, Field, Problems, check_block, check_typed_block, fields_of, section_fields
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
from basicsr.yaml_io import Document, Mark, override, read_document

DATASET_KEY = re.compile(r'(train|val|test)(_\w+)?')


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
    return check(document, imports or [])


def check(document: Document, imports: list[str] | None = None) -> Options:
    """Checks a document whole and returns typed options."""
    problems = Problems(document)
    top_values = check_block(problems, (), document.values, _top_fields(), hint=lambda p: key_hint(p, 'top'))
    for name in [*(imports or []), *_listed_imports(document)]:
        import_plugins([name])
    model_type = top_values.get('model_type', TopLevel.model_type)
    model_fields, letters = _model_schema(problems, model_type)
    sections = _check_sections(problems, document, model_fields)
    networks = _check_networks(problems, document, letters)
    datasets = _check_datasets(problems, document)
    _check_metrics(problems, document)
    problems.stop()
    _check_agreement(problems, sections, datasets, letters)
    problems.stop()
    return Options(
        top=TopLevel(**top_values),
        networks=networks,
        datasets=datasets,
        resolved=document.values,
        **sections,
    )


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
    return yaml.safe_dump(options.resolved, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)


def train_fields(model_type: str) -> dict[str, Field]:
    """Keys of section ``train`` for one training method: the trainer's and the method's own."""
    own = fields_of(MODEL_REGISTRY.get(model_type), GIVEN['model'])
    return {**section_fields(TrainOptions), **own}


def _top_fields() -> dict[str, Field]:
    fields = section_fields(TopLevel)
    plain = {k: dataclasses.replace(f, annotation=dict | None) for k, f in fields.items() if k.startswith('network_')}
    return {**fields, **plain}  # networks are checked as blocks, once the imports are done


def _listed_imports(document: Document) -> list[str]:
    names = document.values.get('imports') or []
    return [n for n in names if isinstance(n, str)] if isinstance(names, list) else []


def _model_schema(problems: Problems, model_type: Any) -> tuple[dict[str, Field], tuple[str, ...]]:
    """Keys that the training method adds to ``train``, and the letters of its networks."""
    if not isinstance(model_type, str):
        return {}, ()
    try:
        cls = MODEL_REGISTRY.get(model_type)
    except (OptionError, ImportError) as error:
        problems.add(('model_type',), f"'model_type': {type_hint('model', model_type) or error}")
        return {}, ()
    return fields_of(cls, GIVEN['model']), tuple(cls.network_names)


def _check_sections(problems: Problems, document: Document, model_fields: dict[str, Field]) -> dict[str, Any]:
    values = document.values
    sections: dict[str, Any] = {'train': None, 'model': {}}
    if values.get('train') is not None:
        fields = {**section_fields(TrainOptions), **model_fields}
        block = check_block(problems, ('train',), values['train'], fields, lambda p: key_hint(p, 'train'))
        sections['model'] = {k: v for k, v in block.items() if k in model_fields}
        own = {k: v for k, v in block.items() if k not in model_fields}
        sections['train'] = own if problems.found else TrainOptions(**own)
    names = {'path': PathOptions, 'val': ValOptions, 'logger': LoggerOptions, 'dist_params': DistOptions}
    for key, cls in names.items():
        block = values.get(key) if values.get(key) is not None else {}
        checked = check_block(problems, (key,), block, section_fields(cls), lambda p, k=key: key_hint(p, k))
        sections['dist' if key == 'dist_params' else key] = checked if problems.found else cls(**checked)
    return sections


def _check_networks(problems: Problems, document: Document, letters: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    networks = {}
    for key, block in document.values.items():
        if not str(key).startswith('network_') or block is None:
            continue
        if letters and key.removeprefix('network_') not in letters:
            wanted = ', '.join(f'network_{letter}' for letter in letters)
            problems.add((key,), f"this training method has no '{key}'; it uses {wanted}.")
            continue
        networks[key.removeprefix('network_')] = check_typed_block(problems, (key,), block, 'arch', {})
    for letter in letters:
        if document.values.get(f'network_{letter}') is None:
            problems.add((), f"block 'network_{letter}' is missing: give it a type and that network's arguments.")
    return networks


def _check_datasets(problems: Problems, document: Document) -> dict[str, DatasetOptions]:
    blocks = document.values.get('datasets')
    found: dict[str, DatasetOptions] = {}
    if not isinstance(blocks, dict):
        if blocks is None:
            problems.add((), "section 'datasets' is missing: give it train and val blocks (or test blocks).")
        return found
    loader_fields = section_fields(LoaderOptions)
    for key, block in blocks.items():
        match = DATASET_KEY.fullmatch(str(key))
        if match is None:
            allowed = ['train', 'val', 'test', 'val_NAME', 'test_NAME']
            problems.unknown(('datasets', key), allowed, key_hint(('datasets', key), 'datasets'))
            continue
        checked = check_typed_block(problems, ('datasets', key), block, 'dataset', loader_fields)
        loader = {k: checked.pop(k) for k in list(checked) if k in loader_fields}
        if not problems.found:
            found[key] = DatasetOptions(key, match[1], checked, LoaderOptions(**loader))
            _check_stages(problems, found[key])
    return found


def _check_stages(problems: Problems, dataset: DatasetOptions) -> None:
    loader = dataset.loader
    stages = {k: getattr(loader, k) for k in ('gt_sizes', 'mini_batch_sizes', 'iters')}
    given = {k: v for k, v in stages.items() if v is not None}
    if given and (len(given) < 3 or len({len(v) for v in given.values()}) > 1 or min(map(min, given.values())) < 1):
        path = ('datasets', dataset.key, next(iter(given)))
        text = 'gt_sizes, mini_batch_sizes and iters belong together: three lists of the same length, of numbers from 1'
        problems.add(path, f'{text}; given: {given}.')


def _check_metrics(problems: Problems, document: Document) -> None:
    """A label must begin with its metric's name: a column called psnr may not hold another number."""
    metrics = (
        (document.values.get('val') or {}).get('metrics') if isinstance(document.values.get('val'), dict) else None
    )
    for label, block in metrics.items() if isinstance(metrics, dict) else ():
        path = ('val', 'metrics', label)
        if not check_typed_block(problems, path, block, 'metric', {}):
            continue
        name = block['type'].removeprefix('calculate_')
        if str(label) != name and not str(label).startswith(f'{name}_'):
            problems.add(path, f"metric '{label}' computes {name}: call it '{name}' or '{name}_...'.")


def _check_agreement(
    problems: Problems, sections: dict[str, Any], datasets: dict[str, DatasetOptions], letters: tuple[str, ...]
) -> None:
    """What only shows when the sections are seen together."""
    train: TrainOptions | None = sections['train']
    phases = {d.phase for d in datasets.values()}
    if (train is None) != ('train' not in phases):
        missing = "section 'train'" if train is None else "block 'datasets.train'"
        problems.add(('train',) if train else ('datasets',), f'{missing} is missing: training needs both.')
    if train is None:
        return
    if sum(d.phase == 'train' for d in datasets.values()) > 1:
        problems.add(('datasets',), 'there is more than one training set; only one is trained on.')
    for letter in letters:
        if getattr(train, f'optim_{letter}', None) is None:
            problems.add(('train',), f"key 'train.optim_{letter}' is missing: the optimiser of network_{letter}.")
    if train.scheduler is not None:
        _check_scheduler(problems, train)
    stages = next((d.loader.iters for d in datasets.values() if d.phase == 'train'), None)
    if stages and sum(stages) < train.total_iter:
        text = f'the stages cover {sum(stages)} iterations, train.total_iter is {train.total_iter}'
        problems.add(('datasets', 'train', 'iters'), f'{text}; lengthen the last stage.')
    if sections['val'].val_freq is not None and 'val' not in phases:
        problems.add(('val', 'val_freq'), "val_freq is given but there is no block 'datasets.val'.")


def _check_scheduler(problems: Problems, train: TrainOptions) -> None:
    from basicsr.registry import SCHEDULER_REGISTRY, build

    try:
        build(SCHEDULER_REGISTRY, train.scheduler or {}).check(train.total_iter)
    except (OptionError, ValueError) as error:
        problems.add(('train', 'scheduler'), str(error))


__all__ = ['Mark', 'check', 'dump', 'find_file', 'load', 'project_roots', 'train_fields']
