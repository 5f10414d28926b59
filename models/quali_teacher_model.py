"""QualiTeacher: a mean teacher whose student is told how good each pseudo-label is, and asked for more."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from basicsr.errors import OptionError
from basicsr.iqa.loading import load_scorer
from basicsr.iqa.scorer import Scorer
from basicsr.registry import LOSS_REGISTRY, MODEL_REGISTRY, build
from basicsr.schema import Block, Range

from .banked_teacher import BankedTeacher
from .base_model import Batch
from .draws import draws
from .label_bank import LabelBank, Labels
from .label_judge import DualGate, Gate, Mask, ScorerSpec, judge_of
from .mean_teacher_model import Count, Student, Weight, plain, spread
from .quality_reward import own_units

Score = Annotated[float, Range(0, 1)]
TOP = 1.0  # the score that is asked for at inference


@MODEL_REGISTRY.register()
class QualiTeacherModel(BankedTeacher):
    """QualiTeacher (arXiv:2603.08030; github.com/fengyang1399-pixel/QualiTeacher at 0e9a1618, MIT).

    The teacher, which gets no score, restores several views of each real image. The outputs are scored, and a bank
    keeps some of each image. The student restores the strong view once for every kept label, told its score, and is
    compared with it. It is also asked for the top score: the result shall be better than one asked for a low score,
    and than the teacher's label (preference), and cropping before or after restoring shall not change its score
    (cropped consistency). docs/methods/qualiteacher.md goes through all of it.

    The network is a QualityConditioned one. With another the labels are taught without their scores.

    Args:
        networks: ``{'g': net}``, a QualityConditioned network.
        pixel_opt: Loss between output and ground truth, pixel by pixel.
        scorer: Judge of pseudo-labels and outputs: a file (options/iqa/offline.yml), the type of a scorer, or a block.
        fft_opt: Loss between their spectra, added to it.
        perceptual_opt: Loss between their features, such as FeatureLoss, added to it.
        gradient_opt: Loss between their edges, such as GradientLoss, added to it.
        label_opt: Loss between student and pseudo-label, element by element; null takes L1Loss.
        contrast_opt: Loss between features of the output, the pseudo-label and the strong view.
        scattering_opt: Loss of the scattering model (ScatteringLoss), for networks that predict a transmission.
        label_weight: Factor on all losses against pseudo-labels.
        ramp_iters: Iterations over which that factor rises; null begins with the whole.
        average_labels: Whether the losses of an image's labels are averaged, or added up as in the release.
        views: Views that the teacher sees, such as hflip, vflip, rot90 (released) and identity.
        strength: Range of the strength a drawn for every label, which becomes x + a (teacher - x), clipped: below
            1 weaker than the teacher, beyond 1 stronger. Our addition; null takes the teacher's output, as released.
        tiles: Cells of the grid to a side.
        mask: What a cell's weight is made of: its members' weighted mean (addition), their product, or nothing.
        inverted_members: Members that count as 1 minus their score in the mask: CLIP in the release, by mistake.
        gate_scorers: Largest standard deviation across scorers; null for none.
        gate_views: Largest standard deviation across views; null for none.
        gate: Whether these are absolute values, or percentiles of what was seen lately.
        gate_members: Members that the gate compares; null compares all, and the ensemble's score across views.
        bank_size: Labels kept of each image.
        bank_policy: The best ones (topk, released), or the best one and those whose scores differ most (spread).
        bank_rank: What ranks them: the ensemble's score, or the sum of its members as in the release.
        bank_memory_mb: Most memory of the kept labels; those of images not seen for longest go first.
        drop_score: Part of the labels that are taught without their score, for guidance at inference.
        tell_pairs: Whether labelled images are restored a second time, asked for the top score, so that the top is what
            clean images look like. Our addition; the release never tells them a score.
        preference_opt: ScorePreferenceLoss or RegressionPreferenceLoss; null for none.
        preference_start: Iteration from which it counts.
        low_scores: Range that the low score is drawn from; with bins of 0.1 the release's bins 4, 5 and 6.
        reward_smooth: Standard deviation in pixels of a Gaussian that the scorer's gradient passes, so that it cannot
            teach fine patterns; 0 for none, as released. Our addition.
        crop_weight: Factor on the cropped consistency.
        crop_ratio: Side of its window as a part of the image's.
        crop_start: Iteration from which it counts.
        crop_same_window: Whether both crops are of the same window; the release draws two.
        drift_weight: Factor on the squared change of the convolutions that the condition adds (CORUN).
        held_out: Scorers that are only logged: blocks, files or types.
        held_out_freq: Iterations between such measurements.
        merge: Whether outputs that several losses ask for at one score are computed once: auto does where it costs no
            waiting for a GPU.

    Raises:
        OptionError: Parts do not fit each other, such as a preference without a condition.
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
        scattering_opt: Annotated[dict, Block('loss')] | None = None,
        label_weight: Weight = 1.0,
        ramp_iters: Count | None = None,
        average_labels: bool = False,
        views: list[str] | None = None,
        strength: tuple[Weight, Weight] | None = None,
        tiles: Count = 2,
        mask: Mask = 'addition',
        inverted_members: list[str] | None = None,
        gate_scorers: Weight | None = None,
        gate_views: Weight | None = None,
        gate: Gate = 'absolute',
        gate_members: list[str] | None = None,
        bank_size: Count = 3,
        bank_policy: Literal['topk', 'spread'] = 'topk',
        bank_rank: Literal['weighted', 'sum'] = 'weighted',
        bank_memory_mb: Annotated[float, Range(1)] = 1024,
        drop_score: Score = 0.0,
        tell_pairs: bool = False,
        preference_opt: Annotated[dict, Block('loss')] | None = None,
        preference_start: Count = 1,
        low_scores: tuple[Score, Score] = (0.4, 0.7),
        reward_smooth: Weight = 0.0,
        crop_weight: Weight = 1.0,
        crop_ratio: Annotated[float, Range(0.1, 1)] = 0.5,
        crop_start: Count = 1,
        crop_same_window: bool = True,
        drift_weight: Weight = 0.0,
        held_out: list[ScorerSpec] | None = None,
        held_out_freq: Count = 20,
        merge: Literal['auto', 'always', 'never'] = 'auto',
    ) -> None:
        super().__init__(
            networks, pixel_opt, fft_opt, perceptual_opt, gradient_opt, label_opt, contrast_opt,
            label_weight, ramp_iters,
        )  # fmt: skip
        judge = judge_of(scorer, tiles, mask, inverted_members, reward_smooth)
        bank = LabelBank(bank_size, bank_policy, bank_rank, bank_memory_mb)
        barrier = DualGate(gate_scorers, gate_views, gate, gate_members, list(judge.scorer.members()))
        self.set_up(judge, bank, ['hflip', 'vflip', 'rot90'] if views is None else views, barrier)
        self.average_labels, self.drop_score, self.merge = average_labels, drop_score, merge
        self.strength, self.tell_pairs = strength, tell_pairs and self.conditioned
        self.cri_preference = build(LOSS_REGISTRY, _whole(preference_opt)) if preference_opt else None
        self.cri_scattering = build(LOSS_REGISTRY, _whole(scattering_opt)) if scattering_opt else None
        self.preference_start, self.low_scores = preference_start, low_scores
        self.crop_weight, self.crop_ratio, self.crop_start = crop_weight, crop_ratio, crop_start
        self.crop_same_window, self.drift_weight = crop_same_window, drift_weight
        self.held_out, self.held_out_freq = [load_scorer(spec) for spec in held_out or []], held_out_freq
        self._check()

    def _check(self) -> None:
        condition = getattr(self.net_g, 'condition', None)
        if self.cri_preference is not None and not hasattr(self.cri_preference, 'compares'):
            raise OptionError('preference_opt: give ScorePreferenceLoss or RegressionPreferenceLoss.')
        if self.cri_preference is not None and condition is None:
            raise OptionError(
                'preference_opt: a preference between scores needs a network that takes them: '
                'network_g: {type: QualityConditioned, host: {...}}.'
            )
        by_score = self.crop_weight > 0 or getattr(self.cri_preference, 'compares', None) == 'scores'
        if by_score and not self.judge.scorer.differentiable:
            raise OptionError(
                f'scorer: {self.judge.scorer.name} has no gradient. Take one that has, or crop_weight: 0 and '
                'preference_opt: {type: RegressionPreferenceLoss}.'
            )
        if self.cri_scattering is not None and not hasattr(getattr(self.net_g, 'host', self.net_g), 'stages'):
            raise OptionError(f'scattering_opt: {type(self.net_g).__name__} predicts no transmission.')
        for name, span in (('low_scores', self.low_scores), ('strength', self.strength)):
            if span is not None and span[0] > span[1]:
                raise OptionError(f'{name}: {list(span)}; the smaller one comes first.')

    def scorers(self) -> list[Scorer]:
        """All judges."""
        return [*super().scorers(), *self.held_out]

    def candidates(self, weak: Tensor, batch: Batch) -> Tensor:
        """New labels (B,V,3,H,W): what the teacher makes of each view, at its strength."""
        images = super().candidates(weak, batch)
        if self.strength is None:
            return images
        draws = [self._draws(f'{key} strength').uniform(*self.strength, images.shape[1]) for key in batch['real_key']]
        strength = torch.from_numpy(np.stack(draws)).to(images)[..., None, None, None]
        start = weak[:, None, :3].float()
        return (start + strength * (images - start)).clamp(0, 1)

    # ---- the student ----------------------------------------------------------------------------------------------

    def student(self, lq: Tensor, strong: Tensor, labels: Labels, batch: Batch) -> Student:
        """All outputs of the strong views in one pass, and those of the labelled images where sizes agree.

        Asked for are: every label's score, then the top score and a low one, each where a loss needs it.
        """
        scores = self._asked(labels, batch)
        count = len(strong)
        image = torch.arange(count, device=strong.device).repeat_interleave(scores.shape[1])
        image, wanted, place = self._merged(image, scores.flatten())
        place = place.view(scores.shape)
        if lq.shape[-2:] != strong.shape[-2:] or self.cri_scattering is not None or not self.conditioned:
            outputs, transmission = self._outputs(strong, image, wanted)
            return Student(self._supervised(lq), outputs, place, transmission)
        inputs = self.joined(lq, strong)
        first, told = self._pairs(lq)
        both = self.net_g.branches(inputs, torch.cat((first, image + len(lq))), torch.cat((told, wanted)))
        return Student(both[: len(first)], both[len(first) :], place)

    def _pairs(self, lq: Tensor) -> tuple[Tensor, Tensor]:
        """Which labelled images are restored, and the scores that they are asked for."""
        first = torch.arange(len(lq), device=lq.device)
        nothing = torch.full((len(lq),), math.nan, device=lq.device)
        if not self.tell_pairs:
            return first, nothing
        return torch.cat((first, first)), torch.cat((nothing, torch.full_like(nothing, TOP)))

    def _supervised(self, lq: Tensor) -> Tensor:
        """Restored labelled images, without a score and, where they are told one, at the top."""
        if not self.tell_pairs:
            return plain(self.net_g, lq)
        return self.net_g.branches(lq, *self._pairs(lq))

    def _asked(self, labels: Labels, batch: Batch) -> Tensor:
        """Scores (B,K) of the labels, then (B,1) each: the top score, a low one. NaN for none."""
        count = len(labels.scores)
        if not self.conditioned:
            return labels.scores.new_full((count, labels.scores.shape[1] + 1), math.nan)
        draws = [self._draws(key) for key in batch['real_key']]
        scores = labels.scores
        if self.drop_score:
            dropped = [draw.random(scores.shape[1]) < self.drop_score for draw in draws]
            scores = scores.masked_fill(torch.from_numpy(np.stack(dropped)).to(scores.device), math.nan)
        low, high = self.low_scores
        lows = torch.tensor([[low + (high - low) * draw.random()] for draw in draws]).to(scores)
        parts = [scores, torch.full_like(lows, TOP)] if self._wants_top() else [scores]
        return torch.cat([*parts, lows] if self._wants_low() else parts, dim=1)

    def _draws(self, key: str) -> np.random.Generator:
        """Random numbers of one image in one iteration: the same whatever else is in the batch, or on which rank."""
        return draws(key, self.iteration)

    def _wants_preference(self) -> bool:
        return self.cri_preference is not None and self.iteration >= self.preference_start

    def _wants_crop(self) -> bool:
        return self.crop_weight > 0 and self.iteration >= self.crop_start

    def _wants_top(self) -> bool:
        return self._wants_preference() or self._wants_crop() or self._wants_held_out()

    def _wants_held_out(self) -> bool:
        return bool(self.held_out) and self.iteration % self.held_out_freq == 0

    def _wants_low(self) -> bool:
        return self._wants_preference() and self.cri_preference.compares == 'scores'

    def _merged(self, image: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Leaves out what would be computed twice: images, scores, and for each of those asked its place among them."""
        if self.merge == 'never' or (self.merge == 'auto' and scores.device.type != 'cpu'):
            return image, scores, torch.arange(len(image), device=image.device)
        levels = self.net_g.condition.levels(scores).double() if self.conditioned else scores.double()
        pairs = torch.stack((image.double(), levels.nan_to_num(-1.0)), dim=1)
        kept, place = torch.unique(pairs, dim=0, return_inverse=True)
        first = torch.full((len(kept),), len(place), device=place.device)
        first = first.scatter_reduce(0, place, torch.arange(len(place), device=place.device), 'amin')
        return image[first], scores[first], place

    def _outputs(self, strong: Tensor, image: Tensor, scores: Tensor) -> tuple[Tensor, Tensor | None]:
        """Restored strong views under scores, and the transmission where a loss asks for it."""
        if self.cri_scattering is not None:
            inputs = strong[image]
            images, maps = self.net_g.stages(inputs, scores) if self.conditioned else self.net_g.stages(inputs)
            return images[-1], maps[-1]
        if not self.conditioned:
            return self.net_g(strong)[image], None
        return self.net_g.branches(strong, image, scores), None

    # ---- losses ---------------------------------------------------------------------------------------------------

    def supervised_losses(self, output: Tensor, gt: Tensor) -> dict[str, Tensor]:
        """As usual; images that were restored twice are compared twice."""
        return super().supervised_losses(output, gt.repeat(len(output) // len(gt), 1, 1, 1))

    def shares(self, labels: Labels) -> Tensor:
        """Weight (B,K) of each label."""
        share = super().shares(labels)
        return share / share.sum(1, keepdim=True).clamp_min(1) if self.average_labels else share

    def label_losses(self, student: Student, labels: Labels, strong: Tensor) -> dict[str, Tensor]:
        """As usual, and the scattering model; the label columns come first among the outputs asked for."""
        told = replace(student, place=student.place[:, : labels.valid.shape[1]])
        losses = super().label_losses(told, labels, strong)
        if self.cri_scattering is not None:
            at, count = told.place.flatten(), labels.valid.shape[1]
            hazy = strong.repeat_interleave(count, dim=0)
            mask = spread(labels.grid.flatten(0, 1), hazy.shape[-2:])
            loss = self.cri_scattering(student.outputs[at], student.transmission[at], hazy, mask)
            losses['l_scattering'] = self._total(loss.view(told.place.shape), self.ramp() * self.shares(labels))
        return losses

    def further_losses(self, student: Student, labels: Labels, strong: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Preference, cropped consistency and drift, with what shows whether they work."""
        count = labels.valid.shape[1]
        found: dict[str, Tensor] = {}
        if self._wants_top():
            top = student.outputs[student.place[:, count]]
            if self._wants_preference():
                low = student.outputs[student.place[:, count + 1]] if self._wants_low() else None
                found |= self._preference(top, low, labels, strong, batch['real'])
            if self._wants_crop():
                found |= self._cropped(top, strong, batch)
            if self._wants_held_out():
                found |= self._held_out(top, labels, batch['real'])
        if self.drift_weight and self.conditioned:
            found['l_drift'] = self.drift_weight * self.net_g.condition.drift()
        return found

    def _preference(
        self, top: Tensor, low: Tensor | None, labels: Labels, strong: Tensor, real: Tensor
    ) -> dict[str, Tensor]:
        if low is None:
            return self._regression(top, labels, strong, real)
        high, lower = self.judge.reward(torch.cat((top, low)), torch.cat((real, real))).chunk(2)
        scores = torch.where(labels.valid, labels.scores, torch.nan)
        return {
            'l_preference': self.cri_preference(high, lower, scores).mean(),
            'reward_high': high.detach().mean(),
            'reward_low': lower.detach().mean(),
            'student_wins': _wins(high, labels),
        }

    def _regression(self, top: Tensor, labels: Labels, strong: Tensor, real: Tensor) -> dict[str, Tensor]:
        """The form that needs no gradient of a scorer: nearer to the best label than to the worst one."""
        with torch.no_grad():
            reference = plain(self.evaluation_network(), strong)
            high = self.judge.reward(top, real)
        rows = torch.arange(len(top), device=top.device)
        best = labels.images[rows, torch.where(labels.valid, labels.scores, -torch.inf).argmax(1)]
        worst = labels.images[rows, torch.where(labels.valid, labels.scores, torch.inf).argmin(1)]
        pairs = labels.valid.sum(1) > 1
        loss = self.cri_preference(top, reference, best, worst)
        return {
            'l_preference': torch.where(pairs, loss, 0).mean(),
            'reward_high': high.mean(),
            'student_wins': _wins(high, labels),
        }

    def _cropped(self, top: Tensor, strong: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The score of a window of the restored image, and of the restored window, shall agree."""
        size = [max(1, int(n * self.crop_ratio)) for n in strong.shape[-2:]]
        after, before, whole_of, part_of = [], [], [], []  # the last two: the degraded images of the first two
        for n, key in enumerate(batch['real_key']):
            draw = self._draws(f'{key} window')
            first = self._window(draw, strong.shape[-2:], size)
            second = first if self.crop_same_window else self._window(draw, strong.shape[-2:], size)
            after.append(top[n][:, first[0], first[1]])
            before.append(strong[n][:, second[0], second[1]])
            whole_of.append(batch['real'][n][:, first[0], first[1]])
            part_of.append(batch['real'][n][:, second[0], second[1]])
        inputs = torch.stack(before)
        score = torch.full((len(inputs),), TOP, device=inputs.device)
        alone = self.net_g(inputs, score=score) if self.conditioned else self.net_g(inputs)
        degraded = torch.stack(whole_of + part_of)
        whole, part = self.judge.reward(torch.cat((torch.stack(after), alone)), degraded).chunk(2)
        gap = (whole - part).abs().mean()
        return {'l_crop': self.crop_weight * gap, 'crop_gap': gap.detach()}

    @staticmethod
    def _window(draw: np.random.Generator, shape: torch.Size, size: list[int]) -> tuple[slice, slice]:
        starts = [int(draw.integers(whole - part + 1)) for whole, part in zip(shape, size)]
        return slice(starts[0], starts[0] + size[0]), slice(starts[1], starts[1] + size[1])

    @torch.no_grad()
    def _held_out(self, top: Tensor, labels: Labels, real: Tensor) -> dict[str, Tensor]:
        """Scores that nothing is trained on, in their own units, of the student and of the labels."""
        found = {}
        for scorer in self.held_out:
            found[f'student_{scorer.name}'] = own_units(scorer, top, real).mean()
            of_labels = real.repeat_interleave(labels.valid.shape[1], dim=0)
            each = own_units(scorer, labels.images.flatten(0, 1), of_labels).view(labels.valid.shape)
            found[f'teacher_{scorer.name}'] = torch.where(labels.valid, each, torch.nan).nanmean()
        return found


def _wins(scores: Tensor, labels: Labels) -> Tensor:
    """Share of the images with labels whose score (B,) is above that of their best label."""
    best = torch.where(labels.valid, labels.scores, -torch.inf).amax(1)
    return torch.where(labels.valid.any(1), (scores > best).float(), torch.nan).nanmean()


def _whole(block: dict[str, Any]) -> dict[str, Any]:
    """A loss that gives one value an image; the mean over images comes after it."""
    return {**block, 'reduction': 'none'}
