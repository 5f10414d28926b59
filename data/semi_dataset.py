"""Pairs together with real images in a weak and a strong view, as the mean-teacher methods train on."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np

from basicsr.errors import DataError, OptionError
from basicsr.image_io import to_tensor
from basicsr.registry import DATASET_REGISTRY, DEGRADATION_REGISTRY, build
from basicsr.schema import Block, Range

from ._members import build_member, draw_sample, fork
from .base_dataset import BaseDataset, Phase


@DATASET_REGISTRY.register()
class SemiDataset(BaseDataset):
    """A labelled pair and an unlabelled real image in every sample, for semi-supervised training.

    The sample is that of ``paired`` (``lq``, ``gt``, ``key``, ...) and, beside it:

    - ``real`` (3,h,w) float32 in [0,1]: the weak view, which the teacher sees; crop, resize and flips only;
    - ``real_strong`` (3,h,w): the strong view, which the student sees: the same pixels after ``strong``, which changes
      colours and sharpness but moves nothing;
    - ``real_path`` and ``real_key``, the image's name, by which a bank of pseudo-labels keeps its entries;
    - ``real_box``, six whole numbers that say which part of the image is seen and how it is turned, see
      SingleImageDataset. A bank's entry lies over the view only while the box is the same. It stays so with
      ``real_mode: resize`` (as released) or ``fixed_crop`` when ``use_hflip`` and ``use_rot`` are false.

    An epoch goes once through the longer of the two sets; the shorter starts again, so that its images are seen equally
    often, give or take one (QualiTeacher's and Colabator's releases, SemiDataset).

    Args:
        paired: Block of a data set that gives ``lq`` and ``gt``, such as PairedImageDataset.
        real: Block of a data set of real images, such as SingleImageDataset.
        strong: Blocks of degradations that make the strong view, one after another, such as ``{type: SemiUIRAugment}``.
        gt_size: Crop size of both in pixels; null leaves it to their own blocks.
        phase: ``train``; validation needs no second set.
        scale: Size of the clean image divided by that of the degraded one.

    Raises:
        DataError: One of the two sets cannot be used, or the real one gives no ``lq``.
        OptionError: The phase is not ``train``, or a block is wrong.

    Sources: C. Fang et al., "Real-world image dehazing with coherence-based pseudo labeling and cooperative unfolding
    network", NeurIPS 2024 (github.com/cnyvfang/CORUN-Colabator); S. Huang et al., "Contrastive semi-supervised learning
    for underwater image restoration via reliable bank", CVPR 2023 (github.com/Huang-ShiRui/Semi-UIR).
    """

    def __init__(
        self,
        paired: Annotated[dict, Block('dataset')],
        real: Annotated[dict, Block('dataset')],
        strong: Annotated[list[dict], Block('degradation')],
        gt_size: Annotated[int, Range(1)] | None = None,
        phase: Phase = 'train',
        scale: Annotated[int, Range(1)] = 1,
    ) -> None:
        super().__init__(phase, gt_size, scale=scale)
        if phase != 'train':
            raise OptionError(
                f'SemiDataset is a training set, not one for {phase}: validate with PairedImageDataset, or with '
                'SingleImageDataset where there is no clean image.'
            )
        self.paired = build_member('paired', paired, phase, scale)
        self.real = build_member('real', real, phase, scale)
        self.strong = [build(DEGRADATION_REGISTRY, block) for block in strong]

    def __len__(self) -> int:
        return max(len(self.paired), len(self.real))  # type: ignore[arg-type]

    def sample(self, index: int, rng: np.random.Generator, gt_size: int | None = None) -> dict[str, Any]:
        """A pair and a real image; the pair, the weak view and the strong view each draw from a generator of their own.

        Raises:
            DataError: A file cannot be used; the text names the set and the file.
        """
        size = gt_size or self.gt_size
        of_pair, of_real, of_strong = fork(rng, 3)
        pair = draw_sample('paired', self.paired, index % len(self.paired), of_pair, size)  # type: ignore[arg-type]
        real = draw_sample('real', self.real, index % len(self.real), of_real, size)  # type: ignore[arg-type]
        for place, given, wanted in (('paired', pair, ('lq', 'gt')), ('real', real, ('lq', 'key'))):
            if lost := [k for k in wanted if k not in given]:
                raise DataError(f'{place}: the data set gives no {" and no ".join(lost)} in its samples.')
        extra = {'real_path': real.get('lq_path', real['key']), 'real_key': real['key']}
        if 'box' in real:
            extra['real_box'] = real['box']
        return {**pair, 'real': real['lq'], 'real_strong': self._strong_view(real['lq'], of_strong), **extra}

    def _strong_view(self, real: Any, rng: np.random.Generator) -> Any:
        image = np.ascontiguousarray(real.numpy().transpose(1, 2, 0))
        for degradation in self.strong:
            image = degradation(image, rng)
        return to_tensor(image)
