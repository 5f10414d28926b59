"""Semi-UIR: a mean teacher with a reliable bank, to which the teacher's output goes when it beats the student's."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from basicsr.errors import OptionError
from basicsr.registry import LOSS_REGISTRY, MODEL_REGISTRY, build
from basicsr.schema import Block, Range
from basicsr.views import VIEWS

from .banked_teacher import BankedTeacher, told_of
from .base_model import Batch
from .label_bank import LabelBank, Labels
from .label_judge import ScorerSpec, judge_of
from .mean_teacher_model import Count, Student, Weight


@MODEL_REGISTRY.register()
class SemiUIRModel(BankedTeacher):
    """Mean teacher with a reliable bank (S. Huang et al., CVPR 2023; github.com/Huang-ShiRui/Semi-UIR).

    Of each real image one pseudo-label is kept. The teacher's output takes its place if its score is higher, and
    higher than that of the student's own output. In the release the scorer is MUSIQ, the factor on the labels rises to
    0.2, and ``train.ema_warmup`` is on with a decay of 0.996.

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
        initial: What an image without a label yet is taught: nothing, or black as in the release.
        edge_weight: Factor on the error of the edges that AIM-Net predicts beside the image; 0.1 in the release.
        bank_memory_mb: Most memory of the kept labels; those of images not seen for longest go first.

    Raises:
        OptionError: ``edge_weight`` is given for a network that predicts no edges.
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
        label_weight: Weight = 0.2,
        ramp_iters: Count | None = None,
        initial: Literal['nothing', 'black'] = 'nothing',
        edge_weight: Weight = 0.0,
        bank_memory_mb: Annotated[float, Range(1)] = 1024,
    ) -> None:
        super().__init__(
            networks, pixel_opt, fft_opt, perceptual_opt, gradient_opt, label_opt, contrast_opt,
            label_weight, ramp_iters,
        )  # fmt: skip
        self.set_up(judge_of(scorer, 1, 'none', None), LabelBank(size=1, policy='topk', memory_mb=bank_memory_mb))
        self.initial, self.edge_weight = initial, edge_weight
        self.cri_edges = build(LOSS_REGISTRY, {'type': 'GradientLoss', 'loss_weight': edge_weight})
        if edge_weight and not hasattr(self.net_g, 'restore_with_gradient'):
            raise OptionError(f'edge_weight: {type(self.net_g).__name__} predicts no edges; leave it at 0.')
        self._edges: Tensor | None = None

    def pseudo_labels(self, weak: Tensor, batch: Batch) -> tuple[Labels, dict[str, Tensor]]:
        """The teacher's outputs, judged; they go to the bank when the student's are known."""
        return self.judge.labels(self.teach(weak, [VIEWS['identity']]), batch['real']), {}

    def accept(self, labels: Labels, student: Student, batch: Batch) -> tuple[Labels, dict[str, Tensor]]:
        """The bank's labels, after those of the teacher that beat the student went into it."""
        with torch.no_grad():
            own = self.judge.reward(student.outputs, batch['real'])[student.place]
        better = labels.scores > own
        told = {'teacher_score': labels.scores.mean(), 'student_score': own.mean(), 'accepted': better.float().mean()}
        labels = self.keep(replace(labels, valid=better), batch)
        told |= told_of(labels)
        if self.initial == 'black':  # images of labels that are not valid are black
            labels = replace(labels, valid=torch.ones_like(labels.valid), grid=torch.ones_like(labels.grid))
        return labels, told

    def together(self, lq: Tensor, strong: Tensor) -> tuple[Tensor, Tensor]:
        """As usual; the predicted edges of the labelled images are kept where they are trained."""
        if not self.edge_weight:
            return super().together(lq, strong)
        supervised, self._edges = self.net_g.restore_with_gradient(lq)
        return supervised, self.net_g(strong)

    def supervised_losses(self, output: Tensor, gt: Tensor) -> dict[str, Tensor]:
        """As usual, and the error of the predicted edges."""
        losses = super().supervised_losses(output, gt)
        if self._edges is not None:
            losses['l_edges'] = self.cri_edges.compare(self._edges, self.cri_edges.magnitude(gt))
            self._edges = None
        return losses
