"""A data set in shards that writes down which tar file every sample was read from, a file for each process."""

import os
from pathlib import Path

import torch

from basicsr.image_io import decode_image, to_tensor
from basicsr.registry import DATASET_REGISTRY
from basicsr.shards import ShardReader


@DATASET_REGISTRY.register()
class ShardLogDataset(torch.utils.data.Dataset):
    """Pairs in shards.

    Args:
        root: Folder of the shards.
        log: File to write to; the process's rank is added to its name.
        phase: Given by the engine.
    """

    def __init__(self, root: str, log: str, phase: str = 'train'):
        self.readers = {field: ShardReader(root, field) for field in ('lq', 'gt')}
        self.parts, self.log = self.readers['gt'].parts, f'{log}.{os.environ["RANK"]}'

    def __len__(self):
        return len(self.readers['gt'])

    def sample(self, index, rng, gt_size=None):
        key = self.readers['gt'].keys[index]
        with open(self.log, 'a') as file:
            file.write(f'{Path(self.readers["gt"].path(key)).parent.name}\n')
        images = {field: to_tensor(decode_image(r.get(key), r.path(key))) for field, r in self.readers.items()}
        return {**images, 'key': key}
