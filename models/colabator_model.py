"""Colabator: a mean teacher that teaches only the best label of each image, cell by cell as far as it is good."""

from __future__ import annotations

from typing import Annotated

from torch import nn

from basicsr.registry import MODEL_REGISTRY
from basicsr.schema import Block, Range

from .banked_teacher import BankedTeacher
from .label_bank import LabelBank
from .label_judge import Mask, ScorerSpec, judge_of
from .mean_teacher_model import Count, Weight


@MODEL_REGISTRY.register()
class ColabatorModel(BankedTeacher):
    """Mean teacher with a pool of optimal labels (C. Fang et al., NeurIPS 2024, arXiv:2406.07966).

    Of each real image one pseudo-label is kept. A new one takes its place only if every member of the scorer finds it
    at least as good. Cells of a grid weigh in the loss by their own scores. In the release every label weighs 5 and
    the scorer is MUSIQ and DA-CLIP (github.com/cnyvfang/CORUN-Colabator).

    Args:
        networks: ``{'g': net}``, mapping (N,3,H,W) to (N,3,H,W).
        pixel_opt: Loss between output and ground truth, pixel by pixel.
        scorer: Judge of pseudo-labels: a file (options/iqa/offline.yml), the type of a scorer, or a block.
        fft_opt: Loss between their spectra, added to it.
        perceptual_opt: Loss between their features, such as FeatureLoss, added to it.
        gradient_opt: Loss between their edges, such as GradientLoss, added to it.
        label_opt: Loss between student and pseudo-label, element by element; null takes L1Loss.
        contrast_opt: Loss between features of the output, the pseudo-label and the strong view.
        label_weight: Factor on all losses against pseudo-labels.
        ramp_iters: Iterations over which that factor rises; null begins with the whole.
        tiles: Cells of the grid to a side; 9 of 32 px each in the release.
        mask: What a cell's weight is made of: its members' weighted mean (addition), their product, or nothing.
        inverted_members: Members that count as 1 minus their score in the mask: DA-CLIP in the release, by mistake.
        bank_memory_mb: Most memory of the kept labels; those of images not seen for longest go first.
    """

    def __init__(
        self,
        networks: dict[str, nn.Module],
        pixel_opt: Annotated[dict, Block('loss')],
        scorer: ScorerSpec,
        fft_opt: Annotated[dict, Block('loss')] | None = None,
        perceptual_opt: Annotated[dict, Block('loss')] | None = None,
        gradient_opt: Annotated[dict, Block('loss')] | None = None,
        label_opt: Annotated[dict, Block('loss')] | None = None,
        contrast_opt: Annotated[dict, Block('loss')] | None = None,
        label_weight: Weight = 1.0,
        ramp_iters: Count | None = None,
        tiles: Count = 2,
        mask: Mask = 'addition',
        inverted_members: list[str] | None = None,
        bank_memory_mb: Annotated[float, Range(1)] = 1024,
    ) -> None:
        super().__init__(
            networks, pixel_opt, fft_opt, perceptual_opt, gradient_opt, label_opt, contrast_opt,
            label_weight, ramp_iters,
        )  # fmt: skip
        judge = judge_of(scorer, tiles, mask, inverted_members)
        self.set_up(judge, LabelBank(size=1, policy='all_better', memory_mb=bank_memory_mb))
