"""A scorer of quality as a loss: how images, or the codes they are made of, are pushed to what a judge likes.

IQPIR, CVPR 2026, arXiv:2603.29773 (github.com/fengyang1399-pixel/IQPIR at a4408c7): the loss is
``weight * relu(1 - R)`` for the reward R of the image that a frozen generator makes of codes. All code here is written
afresh.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr.errors import DataError, OptionError
from basicsr.iqa.loading import load_scorer
from basicsr.iqa.scorer import Scorer
from basicsr.schema import Problems, Range, check_block, fields_of
from basicsr.yaml_io import Document, Mark

from .draws import draws
from .label_judge import Judge, ScorerSpec

Mode = Literal['feat_ste', 'logit_st', 'continuous']
Weight = Annotated[float, Range(0)]
Count = Annotated[int, Range(1)]
Part = Annotated[float, Range(0.1, 1)]
KL_WEIGHT = 0.05  # of logit_st where none is given
OF_CODES = ('kl_weight', 'top_k', 'tau', 'tau_iters')  # options without effect where there are no codes


class QualityReward:
    """The options of ``quality_opt`` and what is computed by them.

    Three ways lead from the reward to the network. ``feat_ste`` (published): the generator sees the likeliest codes and
    the gradient goes to the encoder's features as if they were they, so that it reaches encoder and score condition
    only. ``logit_st``: the gradient goes to the softmax of the logits, whose codes stay among the ``top_k`` likeliest
    of a frozen reference, from which a divergence also holds them. ``continuous``: the generator sees the features
    themselves, with no codes between; the ablation in which a judge is most easily gamed, and the only way for networks
    that make images without codes.

    Args:
        scorer: Judge that is followed: a file (options/iqa/adapt.yml), the type of a scorer, or a block. Beyond the
            ends of its calibration there is no gradient.
        mode: How the gradient reaches the network; null takes the first that the training method allows.
        weight: Factor on the loss; 0.2 in the release for a MUSIQ in [0,1].
        start: Iteration from which the loss counts; the release begins half way.
        score: Score that the judged images are asked for, or gt for that of the ground truth (released).
        kl_weight: Factor on the divergence from the reference; null takes 0.05 in logit_st and 0 in the others.
        top_k: Likeliest codes of the reference that may be taken (logit_st); null for all.
        tau: Temperature of the softmax at first and at last (logit_st), between which a cosine leads.
        tau_iters: Iterations from one to the other.
        flip: Whether half of the images are mirrored before they are judged.
        crop: Range of the side of a random window that is judged, as part of the image's; null judges the whole.
        smooth: Standard deviation in pixels of a Gaussian that the judge's gradient passes; 0 for none.
        held_out: Scorers that are only logged, beside the reward: blocks, files or types.
        held_out_freq: Iterations between such measurements.

    Raises:
        OptionError: The scorer has no gradient or compares with the degraded image; a range begins above its end.
    """

    def __init__(
        self,
        scorer: ScorerSpec,
        mode: Mode | None = None,
        weight: Weight = 0.2,
        start: Count = 1,
        score: Annotated[float, Range(0, 1)] | Literal['gt'] = 1.0,
        kl_weight: Weight | None = None,
        top_k: Count | None = 32,
        tau: tuple[Annotated[float, Range(1e-3)], Annotated[float, Range(1e-3)]] = (1.0, 0.3),
        tau_iters: Count = 20000,
        flip: bool = False,
        crop: tuple[Part, Part] | None = None,
        smooth: Weight = 0.0,
        held_out: list[ScorerSpec] | None = None,
        held_out_freq: Count = 100,
    ) -> None:
        self.judge = Judge(load_scorer(scorer), tiles=1, smooth=smooth)
        if self.judge.scorer.needs_degraded:
            raise OptionError(f'quality_opt: {self.judge.scorer.name} compares with the degraded image, unknown here.')
        if not self.judge.scorer.differentiable:
            raise OptionError(f'quality_opt: {self.judge.scorer.name} has no gradient; take a scorer that has one.')
        if crop is not None and crop[0] > crop[1]:
            raise OptionError(f'quality_opt: crop {list(crop)}; the smaller one comes first.')
        self.mode: Mode = mode or 'feat_ste'
        self.weight, self.start, self.score, self.top_k = weight, start, score, top_k
        self.kl_weight = (KL_WEIGHT if self.mode == 'logit_st' else 0.0) if kl_weight is None else kl_weight
        self.tau, self.tau_iters, self.flip, self.crop = tau, tau_iters, flip, crop
        self.held_out, self.held_out_freq = [load_scorer(spec) for spec in held_out or []], held_out_freq

    @property
    def scorers(self) -> list[Scorer]:
        """All judges."""
        return [self.judge.scorer, *self.held_out]

    def counts(self, iteration: int) -> bool:
        """Whether the loss counts in an iteration."""
        return iteration >= self.start

    def measures(self, iteration: int) -> bool:
        """Whether held-out scorers are asked in an iteration, also in one before ``start``."""
        return bool(self.held_out) and iteration % self.held_out_freq == 0

    def check_size(self, images: Tensor) -> None:
        """Refuses images (N,3,H,W) that a judge could not judge later on, from the first iteration.

        Raises:
            DataError: They are too small.
        """
        for scorer in self.scorers:
            if min(images.shape[-2:]) < scorer.min_size:
                raise DataError(
                    f'quality_opt: {scorer.name} judges images from {scorer.min_size} x {scorer.min_size} pixels on; '
                    f'those of training are {images.shape[-2]} x {images.shape[-1]} (gt_size).'
                )

    def temperature(self, iteration: int) -> float:
        """Temperature of the softmax in an iteration."""
        first, last = self.tau
        part = min(max(iteration - self.start, 0) / self.tau_iters, 1.0)
        return last + (first - last) * (1 + math.cos(math.pi * part)) / 2

    def loss(self, images: Tensor, keys: Sequence[str], iteration: int) -> dict[str, Tensor]:
        """The loss of images (N,3,H,W), and the mean reward that it is made of.

        Args:
            images: What the network made, with gradient.
            keys: Their names, by which windows and mirror images are drawn.
            iteration: The iteration, by which they are drawn too.
        """
        reward = self.judge.reward(self._seen(images, keys, iteration))
        return {'l_quality': self.weight * F.relu(1 - reward).mean(), 'reward': reward.detach().mean()}

    def _seen(self, images: Tensor, keys: Sequence[str], iteration: int) -> Tensor:
        """What of the images is judged: an expectation over transformations is harder to game than one view."""
        if self.crop is None and not self.flip:
            return images
        size = self._window(images.shape[-2:], iteration)
        return torch.stack([self._view(image, size, f'{key} reward', iteration) for image, key in zip(images, keys)])

    def _window(self, whole: torch.Size, iteration: int) -> list[int]:
        """Sides of the window of all images of an iteration, which the judge shall still be able to judge."""
        if self.crop is None:
            return list(whole)
        part = draws('window', iteration).uniform(*self.crop)
        return [min(side, max(round(part * side), self.judge.scorer.min_size)) for side in whole]

    def _view(self, image: Tensor, size: list[int], name: str, iteration: int) -> Tensor:
        draw = draws(name, iteration)
        top, left = (int(draw.integers(whole - part + 1)) for whole, part in zip(image.shape[-2:], size))
        window = image[:, top : top + size[0], left : left + size[1]]
        return window.flip(-1) if self.flip and draw.random() < 0.5 else window

    def held_out_scores(self, images: Tensor, prefix: str) -> dict[str, Tensor]:
        """Mean of each scorer that nothing is trained on, in its own units, as ``<prefix>_<name>``."""
        return {f'{prefix}_{scorer.name}': own_units(scorer, images).mean() for scorer in self.held_out}


def reward_of(block: Mapping[str, Any] | None, modes: tuple[Mode, ...]) -> QualityReward | None:
    """Builds the reward of an option ``quality_opt``, or none.

    Args:
        block: The options of :class:`QualityReward`.
        modes: What the training method allows; the first is taken where none is given.

    Raises:
        OptionError: A key or a value that is not allowed.
    """
    if block is None:
        return None
    problems = Problems(Document({}, {(): Mark('quality_opt')}))
    given = check_block(problems, (), dict(block), fields_of(QualityReward), 'quality_opt')
    problems.stop()
    mode = given.get('mode') or modes[0]
    if mode not in modes:
        raise OptionError(f'quality_opt: mode {mode} needs a network of codes; here allowed: {", ".join(modes)}.')
    if modes == ('continuous',) and (foreign := [key for key in OF_CODES if key in given]):
        raise OptionError(f'quality_opt: {foreign[0]} needs a network of codes; take it out.')
    return QualityReward(**{**given, 'mode': mode})


@torch.no_grad()
def own_units(scorer: Scorer, images: Tensor, degraded: Tensor | None = None) -> Tensor:
    """Scores (N,) of images (N,3,H,W) in the scorer's own units, in float32, of what lies within [0,1].

    ``degraded`` is what each image was made from, for scorers that compare with it.
    """
    seen, inputs = (None if x is None else x.detach().float().clamp(0, 1) for x in (images, degraded))
    with torch.autocast(images.device.type, enabled=False):
        return scorer.checked_raw(seen, inputs)


def through_features(features: Tensor, z: Tensor) -> Tensor:
    """``z`` in value, with the gradient of ``features``; both (N,C,h,w)."""
    return z.detach() + (features - features.detach())


def supported(logits: Tensor, reference: Tensor, top_k: int | None) -> Tensor:
    """Logits (N,n,h,w), minus infinity where a code is not among the ``top_k`` likeliest of the reference."""
    if top_k is None or top_k >= logits.shape[1]:
        return logits
    least = reference.topk(top_k, dim=1).values[:, -1:]
    return logits.masked_fill(reference < least, -torch.inf)


def hard_weights(logits: Tensor, temperature: float) -> Tensor:
    """One-hot weights (N,n,h,w) of the likeliest codes, with the gradient of the softmax at a temperature."""
    soft = (logits.float() / temperature).softmax(1)
    hard = torch.zeros_like(soft).scatter_(1, logits.argmax(1, keepdim=True), 1.0)
    return hard + (soft - soft.detach())


def divergence(logits: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
    """Kullback-Leibler divergence of predictions from a reference: mean over images and places, sum over books."""
    total = logits[0].new_zeros((), dtype=torch.float32)
    for ours, theirs in zip(logits, reference):
        found, wanted = ours.float().log_softmax(1), theirs.detach().float().log_softmax(1)
        total = total + (found.exp() * (found - wanted)).sum(1).mean()
    return total


@contextmanager
def knobs(net: nn.Module, **values: Any) -> Iterator[None]:
    """Sets those of a network's plain attributes that it has, such as ``w`` and ``adain``, for a while."""
    before = {name: getattr(net, name) for name in values if hasattr(net, name)}
    try:
        for name in before:
            setattr(net, name, values[name])
        yield
    finally:
        for name, value in before.items():
            setattr(net, name, value)
