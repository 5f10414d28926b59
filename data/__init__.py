"""Data sets (``<name>_dataset.py``) and degradations (``<name>_degradation.py``), found by the ``type:`` of an option file."""

from typing import Any

from torch.utils.data import DataLoader, Dataset

from basicsr.loader import SampleStream, eval_loader, train_loader
from basicsr.registry import DATASET_REGISTRY, build
from basicsr.schema import fields_of
from basicsr.sections import DatasetOptions


def build_dataset(dataset_opt: DatasetOptions, scale: int = 1) -> Dataset:
    """Builds a data set from its checked block; ``phase`` and ``scale`` are passed to those that take them."""
    takes = fields_of(DATASET_REGISTRY.get(dataset_opt.block['type']))
    given: dict[str, Any] = {k: v for k, v in {'phase': dataset_opt.phase, 'scale': scale}.items() if k in takes}
    return build(DATASET_REGISTRY, dataset_opt.block, **given)


def build_dataloader(dataset: Dataset, dataset_opt: DatasetOptions, seed: int = 0) -> DataLoader:
    """The loader of one process: endless for training, one image a batch for validation and test."""
    if dataset_opt.phase != 'train':
        return eval_loader(dataset, dataset_opt, 0, 1, dataset_opt.loader.num_worker_per_gpu)
    stream = SampleStream(len(dataset), dataset_opt.loader, seed)  # type: ignore[arg-type]
    return train_loader(dataset, dataset_opt, stream, pin_memory=False)


__all__ = ['build_dataloader', 'build_dataset']
