"""Semi-supervised restoration: pairs, and unlabelled images on which a student follows its own moving average."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr.errors import OptionError
from basicsr.registry import LOSS_REGISTRY, MODEL_REGISTRY, build
from basicsr.schema import Block, Range
from basicsr.views import VIEWS, View

from .base_model import Batch
from .label_bank import Labels
from .restoration_model import RestorationModel

Weight = Annotated[float, Range(0)]
Count = Annotated[int, Range(1)]


@dataclass
class Student:
    """What the student made of a batch.

    Attributes:
        supervised: Restored labelled images (N,3,H,W).
        outputs: Restored strong views (M,3,H,W); one may answer to several labels.
        place: (B,K), which of them answers to each label.
        transmission: (M,1,H,W) of networks that predict it, where a loss asks for it.
    """

    supervised: Tensor
    outputs: Tensor
    place: Tensor
    transmission: Tensor | None = None


@MODEL_REGISTRY.register()
class MeanTeacherModel(RestorationModel):
    """Pairs, and consistency with the teacher on real images (SemiDataset).

    The teacher is the moving average of the network (``train.ema_decay``). It sees the weak view ``real`` and its
    output, the pseudo-label, is what the student is to make of the strong view ``real_strong``. A. Tarvainen and
    H. Valpola, "Mean teachers are better role models", NeurIPS 2017.

    A network with a quality condition is run without a score.

    Args:
        networks: ``{'g': net}``, mapping (N,3,H,W) to (N,3,H,W).
        pixel_opt: Loss between output and ground truth, pixel by pixel.
        fft_opt: Loss between their spectra, added to it.
        perceptual_opt: Loss between their features, such as FeatureLoss, added to it.
        gradient_opt: Loss between their edges, such as GradientLoss, added to it.
        label_opt: Loss between student and pseudo-label, element by element (L1Loss, MSELoss, CharbonnierLoss); null
            takes L1Loss.
        contrast_opt: Loss between features of the output, the pseudo-label and the strong view, such as
            ContrastiveFeatureLoss.
        label_weight: Factor on all losses against pseudo-labels.
        ramp_iters: Iterations T over which that factor rises as exp(-5 (1 - t/T)^2); null begins with the whole.

    Raises:
        OptionError: A loss is of the wrong kind; later, ``train.ema_decay`` is 0.
    """

    def __init__(
        self,
        networks: dict[str, nn.Module],
        pixel_opt: Annotated[dict, Block('loss')],
        fft_opt: Annotated[dict, Block('loss')] | None = None,
        perceptual_opt: Annotated[dict, Block('loss')] | None = None,
        gradient_opt: Annotated[dict, Block('loss')] | None = None,
        label_opt: Annotated[dict, Block('loss')] | None = None,
        contrast_opt: Annotated[dict, Block('loss')] | None = None,
        label_weight: Weight = 1.0,
        ramp_iters: Count | None = None,
    ) -> None:
        super().__init__(networks, pixel_opt, fft_opt, perceptual_opt, gradient_opt)
        self.cri_label = _per_image(label_opt or {'type': 'L1Loss'}, 'label_opt')
        self.cri_contrast = _per_image(contrast_opt, 'contrast_opt') if contrast_opt else None
        if self.cri_contrast is not None and not hasattr(self.cri_contrast, 'compare'):
            raise OptionError(f'contrast_opt: {contrast_opt["type"]} does not contrast features.')
        self.label_weight, self.ramp_iters = label_weight, ramp_iters
        self.conditioned = hasattr(self.net_g, 'branches')

    def bind_averages(self, averages: dict[str, nn.Module]) -> None:
        """Is given the teacher.

        Raises:
            OptionError: There is none.
        """
        if 'g' not in averages:
            raise OptionError(f'{type(self).__name__} needs a teacher: train.ema_decay must be above 0.')
        super().bind_averages(averages)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        weak, strong = self.real_inputs(batch)
        labels, told = self.pseudo_labels(weak, batch)
        student = self.student(batch['lq'], strong, labels, batch)
        labels, told_more = self.accept(labels, student, batch)
        return {
            **self.supervised_losses(student.supervised, batch['gt']),
            **self.label_losses(student, labels, batch['real_strong']),
            **self.further_losses(student, labels, strong, batch),
            **told,
            **told_more,
        }

    # ---- what a descendant changes --------------------------------------------------------------------------------

    def pseudo_labels(self, weak: Tensor, batch: Batch) -> tuple[Labels, dict[str, Tensor]]:
        """The labels of a batch, and signals for the log."""
        return unscored(self.teach(weak, [VIEWS['identity']])), {}

    def student(self, lq: Tensor, strong: Tensor, labels: Labels, batch: Batch) -> Student:
        """Runs the student on the labelled and on the strong images."""
        supervised, outputs = self.together(lq, strong)
        count, each = labels.valid.shape
        place = torch.arange(count, device=strong.device).unsqueeze(1).expand(count, each)
        return Student(supervised, outputs, place)

    def accept(self, labels: Labels, student: Student, batch: Batch) -> tuple[Labels, dict[str, Tensor]]:
        """The labels that the student is to follow, now that its own outputs are known."""
        return labels, {}

    def further_losses(self, student: Student, labels: Labels, strong: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Losses and signals that only a descendant has."""
        return {}

    # ---- parts ----------------------------------------------------------------------------------------------------

    def real_inputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Weak and strong views as the networks take them: with what they compute from a whole image, once.

        Such maps (AIM-Net's illumination) are those of the weak view for both, as in QualiTeacher's release.
        """
        weak, strong = batch['real'], batch['real_strong']
        prepare = getattr(self.net_g, 'prepare', None)
        if prepare is None:
            return weak, strong
        with torch.no_grad():
            weak = prepare(weak)
        return weak, torch.cat((strong, weak[:, strong.shape[1] :]), dim=1)

    @torch.no_grad()
    def teach(self, weak: Tensor, views: Sequence[View]) -> Tensor:
        """Outputs (B,V,3,H,W) in [0,1] of the teacher for views of the images, turned back; one pass where it can be.

        Args:
            weak: (B,C,H,W).
            views: How the images are turned.
        """
        groups = [[n for n, v in enumerate(views) if v.swaps == swaps] for swaps in (False, True)]
        if weak.shape[-1] == weak.shape[-2]:
            groups = [list(range(len(views)))]
        found: dict[int, Tensor] = {}
        for group in (g for g in groups if g):
            turned = torch.cat([views[n].apply(weak) for n in group])
            outputs = plain(self.evaluation_network(), turned).float().clamp(0, 1).chunk(len(group))
            found |= {n: views[n].invert(output) for n, output in zip(group, outputs)}
        return torch.stack([found[n] for n in range(len(views))], dim=1)

    def together(self, lq: Tensor, strong: Tensor) -> tuple[Tensor, Tensor]:
        """The student's outputs for labelled and strong images without a score, in one pass where sizes agree."""
        if lq.shape[-2:] != strong.shape[-2:]:
            return plain(self.net_g, lq), plain(self.net_g, strong)
        return plain(self.net_g, self.joined(lq, strong)).split([len(lq), len(strong)])

    def joined(self, lq: Tensor, strong: Tensor) -> Tensor:
        """Both as one batch; the labelled ones get the further channels that the strong ones have."""
        if lq.shape[1] != strong.shape[1]:
            with torch.no_grad():
                lq = self.net_g.prepare(lq)
        return torch.cat((lq, strong))

    def ramp(self) -> float:
        """Factor on the losses against pseudo-labels in this iteration."""
        if self.ramp_iters is None:
            return self.label_weight
        part = min(self.iteration / self.ramp_iters, 1.0)
        return self.label_weight * math.exp(-5 * (1 - part) ** 2)

    def label_losses(self, student: Student, labels: Labels, strong: Tensor) -> dict[str, Tensor]:
        """Masked pixel loss and contrast against the valid labels: a sum over labels, a mean over images."""
        share = self.ramp() * self.shares(labels)
        losses = {'l_label': self._total(self._pixel(student, labels), share)}
        if self.cri_contrast is not None:
            losses['l_contrast'] = self._total(self._contrast(student, labels, strong), share)
        return losses

    def shares(self, labels: Labels) -> Tensor:
        """Weight (B,K) of each label."""
        return labels.valid.float()

    @staticmethod
    def _total(loss: Tensor, share: Tensor) -> Tensor:
        return torch.where(share > 0, loss * share, 0).sum(1).mean()

    def _pixel(self, student: Student, labels: Labels) -> Tensor:
        """(B,K): means of mask times difference."""
        outputs = student.outputs.float()[student.place.flatten()]
        wanted = labels.images.flatten(0, 1)
        difference = self.cri_label(outputs, wanted)
        if difference.shape != wanted.shape:
            raise OptionError('label_opt: a loss of single elements is needed, such as L1Loss.')
        mask = spread(labels.grid.flatten(0, 1), wanted.shape[-2:])
        return (mask * difference).mean((1, 2, 3)).view(student.place.shape)

    def _contrast(self, student: Student, labels: Labels, strong: Tensor) -> Tensor:
        """(B,K); features of an output, and of a strong view, are computed once."""
        count, each = labels.valid.shape
        outputs, place = student.outputs, student.place.flatten()
        if outputs.device.type == 'cpu':  # which of them answer to labels is known without waiting
            used, place = place.unique(return_inverse=True)
            outputs = outputs[used]
        own = [f[place] for f in self.cri_contrast.features(outputs.float())]
        with torch.no_grad():
            both = self.cri_contrast.features(torch.cat((labels.images.flatten(0, 1), strong.float())))
        positive = [f[: count * each] for f in both]
        negative = [f[count * each :].repeat_interleave(each, dim=0) for f in both]
        return self.cri_contrast.compare(own, positive, negative).view(count, each)


def plain(net: nn.Module, images: Tensor) -> Tensor:
    """A network's output without a quality score, whether or not it takes one."""
    return net(images, score=None) if hasattr(net, 'branches') else net(images)


def unscored(images: Tensor) -> Labels:
    """Labels (B,K,3,H,W) that nobody has judged: all valid, all of full weight."""
    count, each = images.shape[:2]
    blank = images.new_full((count, each), math.nan)
    whole = torch.ones_like(blank)
    return Labels(images, blank, blank.unsqueeze(2)[..., :0], whole[..., None, None], whole.bool())


def spread(grid: Tensor, size: Sequence[int]) -> Tensor:
    """Weights (N,t,t) of cells as a smooth mask (N,1,H,W), bilinear between the middles of the cells."""
    if grid.shape[-1] == 1:
        return grid.unsqueeze(1)
    return F.interpolate(grid.unsqueeze(1), size=tuple(size), mode='bilinear', align_corners=False)


def _per_image(block: dict[str, Any], key: str) -> Any:
    """Builds a loss that reduces nothing over the batch.

    Raises:
        OptionError: The loss cannot do that.
    """
    if block.get('reduction', 'none') != 'none':
        raise OptionError(f'{key}: leave out reduction; the mask and the mean over images come after the loss.')
    return build(LOSS_REGISTRY, {**block, 'reduction': 'none'})
