"""Data sets (``<name>_dataset.py``) and degradations (``<name>_degradation.py``), found by the ``type:`` of a block."""

from typing import Any

from torch.utils.data import DataLoader, Dataset

from basicsr.errors import DataError, OptionError
from basicsr.loader import SampleStream, eval_loader, train_loader
from basicsr.options import dataset_options, find_file
from basicsr.registry import DATASET_REGISTRY, build
from basicsr.schema import fields_of
from basicsr.sections import DatasetOptions


def build_dataset(dataset_opt: DatasetOptions | dict[str, Any], scale: int = 1) -> Dataset:
    """Builds a data set; ``phase`` and ``scale`` are passed to those that take them.

    Args:
        dataset_opt: A block of a checked option file, or a dict as BasicSR has it, ``{'type': ..., 'phase': 'train'}``
            and the other keys, which is checked now and left unchanged.
        scale: Size of the clean image divided by that of the degraded one; a dict's own ``scale`` wins.

    Raises:
        OptionError: A key of the dict is not known, is missing, or has a value of the wrong type.
    """
    if isinstance(dataset_opt, dict):
        scale = dataset_opt.get('scale', scale)
    options = _checked(dataset_opt)
    try:
        return build_block(options.block, options.phase, scale)
    except (DataError, OptionError) as error:
        if not hasattr(error, 'place'):
            raise
        raise type(error)(f'datasets.{options.key}.{error}') from error  # from a data set inside this one


def build_block(block: dict[str, Any], phase: str, scale: int = 1) -> Dataset:
    """Builds a data set from its type and arguments alone; data sets that hold others build those by this.

    Args:
        block: Type and constructor arguments, without loader options.
        phase: train, val or test.
        scale: Size of the clean image divided by that of the degraded one.

    Raises:
        OptionError: A key is not known, is missing, or has a value of the wrong type.
    """
    takes = fields_of(DATASET_REGISTRY.get(block['type']))
    given: dict[str, Any] = {k: v for k, v in {'phase': phase, 'scale': scale}.items() if k in takes}
    return build(DATASET_REGISTRY, {k: _found(k, v) for k, v in block.items()}, **given)


def build_dataloader(dataset: Dataset, dataset_opt: DatasetOptions | dict[str, Any], seed: int = 0) -> DataLoader:
    """The loader of one process: endless for training, one image a batch for validation and test.

    Args:
        dataset: What to load from.
        dataset_opt: The block that it was built by, as for :func:`build_dataset`.
        seed: Seed of the order and of every sample's random generator.

    Raises:
        OptionError: As for :func:`build_dataset`.
    """
    options = _checked(dataset_opt)
    if options.phase != 'train':
        return eval_loader(dataset, options, 0, 1, options.loader.num_worker_per_gpu)
    parts = getattr(dataset, 'parts', None)
    stream = SampleStream(len(dataset), options.loader, seed, parts=parts)  # type: ignore[arg-type]
    return train_loader(dataset, options, stream, pin_memory=False)


def _found(key: str, value: Any) -> Any:
    """Paths are looked up from the current folder, then among the project's own files (``datasets/sample``)."""
    is_path = key.startswith('dataroot') or key.endswith('_file')
    if not is_path:
        return value
    if isinstance(value, list):
        return [str(find_file(v)) for v in value]
    return str(find_file(value)) if isinstance(value, str) else value


def _checked(dataset_opt: DatasetOptions | dict[str, Any]) -> DatasetOptions:
    if isinstance(dataset_opt, DatasetOptions):
        return dataset_opt
    block = {k: v for k, v in dataset_opt.items() if k not in ('phase', 'scale')}
    return dataset_options(block, dataset_opt.get('phase', 'train'))


__all__ = ['build_dataloader', 'build_dataset']
