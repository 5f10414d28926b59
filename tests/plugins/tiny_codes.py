"""An autoencoder of codes and a set of scored images, to test methods that learn codes."""

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from basicsr.archs.vector_quantizer import CodeBooks
from basicsr.models.iqpir_vq_model import IQPIRVQModel
from basicsr.registry import ARCH_REGISTRY, DATASET_REGISTRY, MODEL_REGISTRY


@ARCH_REGISTRY.register()
class TinyAutoEncoder(CodeBooks):
    """One convolution each way, stride 2.

    Args:
        entries: Entries of the common book.
        entries_hq: Entries of the other one.
        hq_input: What that quantises.
        dim: Channels of the codes.
    """

    multiple_of = 2

    def __init__(self, entries: int = 8, entries_hq: int | None = 8, hq_input: str = 'shared', dim: int = 4):
        super().__init__(entries, dim, entries_hq, hq_input=hq_input)
        self.enc = nn.Conv2d(3, dim, 2, 2)
        self.dec = nn.ConvTranspose2d(dim, 16, 2, 2)
        self.last = nn.Conv2d(16, 3, 3, padding=1)

    @property
    def last_layer(self):
        return self.last.weight

    def latent(self, images):
        return self.enc(2 * images - 1)

    def render(self, z):
        return (self.last(torch.relu(self.dec(z))) + 1) / 2

    def encode(self, x, visit=lambda name, feature: feature):
        return [self.latent(x)]

    def decode(self, x, features, visit=lambda name, feature: feature):
        return self.render(self.coded(features[0]).z)


@DATASET_REGISTRY.register()
class ScoredDataset(torch.utils.data.Dataset):
    """Noise of several strengths; the weaker, the better.

    Args:
        length: Number of images.
        size: Side of the images.
        scored: Whether samples tell their score.
        phase: Given by the engine.
    """

    def __init__(self, length: int = 10, size: int = 16, scored: bool = True, phase: str = 'train'):
        self.length, self.size, self.scored, self.phase = length, size, scored, phase

    def __len__(self):
        return self.length

    def sample(self, index, rng, gt_size=None):
        score = index / self.length
        draw = np.random.default_rng(index).random((3, self.size, self.size), dtype=np.float32)
        gt = torch.from_numpy(draw) * (1 - score / 2) + score / 4
        sample = {'lq': gt, 'gt': gt, 'key': f'scored_{index}'}
        return {**sample, 'score': torch.tensor(score)} if self.scored else sample


@MODEL_REGISTRY.register()
class WatchedVQModel(IQPIRVQModel):
    """Tells how far the books of several processes are apart after the entries of an iteration were replaced."""

    def losses(self, batch):
        found = super().losses(batch)
        books = torch.cat([b.embedding.weight.detach().flatten() for b in self.net_g.books])
        low, high = books.clone(), books.clone()
        dist.all_reduce(low, dist.ReduceOp.MIN)
        dist.all_reduce(high, dist.ReduceOp.MAX)
        return {**found, 'apart': (high - low).max()}
