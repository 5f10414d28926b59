"""Images that are already ranked: a folder of folders, each holding versions of one picture from best to worst."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import torch

from basicsr.errors import DataError
from basicsr.image_io import to_tensor
from basicsr.image_source import Cache, open_source
from basicsr.registry import DATASET_REGISTRY
from basicsr.schema import Range

from .base_dataset import BaseDataset, Phase, unique_keys


@DATASET_REGISTRY.register()
class RankedFolderDataset(BaseDataset):
    """Folders of versions of one picture, named in the order of their quality, ``0.png`` the best.

    Samples are as those of LadderDataset: ``lq`` (rungs,3,h,w), best first; ``level`` (rungs), 0 to 1 in even steps;
    ``task``; ``key``. A picture's versions are cropped and mirrored alike.

    Args:
        dataroot_lq: Folder (or LMDB) of the pictures' folders, such as tools/restoration_ladders.py makes.
        task: What the samples are called.
        rungs: Versions of each picture; one that has more gives its best, its worst and evenly spaced ones between.
        phase: ``train`` crops and augments; ``val`` and ``test`` give whole images.
        gt_size: Crop size in pixels; null takes the whole image.
        use_hflip: Whether training samples are mirrored at random.
        use_rot: Whether training samples are turned at random by multiples of 90 degrees.
        cache: Decoded images kept in memory (ram) or in a file that later runs find again (memmap), or not.
        cache_dir: Folder for the memmap cache; null takes ~/.cache/qualir.

    Raises:
        DataError: The root is missing or empty, or a picture has fewer versions than ``rungs``.
    """

    def __init__(
        self,
        dataroot_lq: str,
        task: str = 'restored',
        rungs: Annotated[int, Range(2)] = 4,
        phase: Phase = 'train',
        gt_size: Annotated[int, Range(1)] | None = None,
        use_hflip: bool = True,
        use_rot: bool = False,
        cache: Cache = 'none',
        cache_dir: str | None = None,
    ) -> None:
        super().__init__(phase, gt_size, use_hflip, use_rot)
        self.task, self.rungs = task, rungs
        self.lq = open_source(dataroot_lq, 'lq', cache=cache, cache_dir=cache_dir)
        groups: dict[str, list[str]] = {}
        for stem in self.lq.stems:  # in natural order
            groups.setdefault(stem.rpartition('/')[0], []).append(stem)
        few = [name or dataroot_lq for name, stems in groups.items() if len(stems) < rungs]
        if few:
            raise DataError(f"'{dataroot_lq}': {few[0]} holds fewer than {rungs} versions of its picture.")
        self.groups = list(groups.values())
        self.keys = unique_keys(groups)

    def __len__(self) -> int:
        return len(self.groups)

    def sample(self, index: int, rng: np.random.Generator, gt_size: int | None = None) -> dict[str, Any]:
        """One picture's versions; see :meth:`BaseDataset.sample`.

        Raises:
            DataError: A file cannot be read, is of another size than the first, or does not fill the crop.
        """
        group = self.groups[index]
        stems = [group[i] for i in np.linspace(0, len(group) - 1, self.rungs).round().astype(int)]
        views = [self.lq.pixels(stem) for stem in stems]
        for stem, view in zip(stems, views):
            if view.shape != views[0].shape:
                sizes = ' and '.join(f'{v.shape[1]}x{v.shape[0]}' for v in (view, views[0]))
                raise DataError(f"'{self.lq.path(stem)}' and the best version differ in size: {sizes}.")
        if self.phase == 'train':
            stack = np.concatenate(views, axis=2)
            stack, _ = self.crop(stack, stack, rng, gt_size, self.lq.path(stems[0]))
            views = np.split(self.augment([stack], rng)[0], self.rungs, axis=2)
        return {
            'lq': torch.stack([to_tensor(np.ascontiguousarray(v)) for v in views]),
            'level': torch.linspace(0, 1, self.rungs),
            'perfect': True, 'task': self.task, 'lq_path': self.lq.path(stems[0]), 'key': self.keys[index],
        }  # fmt: skip
