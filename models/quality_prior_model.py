"""The image quality prior of IQPIR for any restoration network, which is told how good the clean image is."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from basicsr.errors import OptionError
from basicsr.registry import MODEL_REGISTRY
from basicsr.schema import Block, Keys, Range

from .base_model import Batch
from .followers import Followers
from .prior_scores import scores_of, withheld
from .quality_reward import QualityReward, reward_of
from .restoration_model import RestorationModel


@MODEL_REGISTRY.register()
class QualityPriorModel(Followers, RestorationModel):
    """Supervised restoration by a network that is told the score of the clean image (plug-and-play IQPIR).

    Clean images of a data set are not all good. A network that is told how good each is learns what a good one looks
    like from all of them, and is asked for the top score at inference: IQPIR, arXiv:2603.29773, whose restoration of
    codes this is without the codes. ``quality_opt`` pushes the result of that request towards what a judge likes; there
    are no codes between them here, so that a judge is easily gamed: watch scorers that are held out.

    Args:
        networks: ``{'g': net}``, a QualityConditioned network.
        pixel_opt: Loss between output and ground truth, pixel by pixel.
        fft_opt: Loss between their spectra, added to it.
        perceptual_opt: Loss between their features, such as FeatureLoss, added to it.
        gradient_opt: Loss between their edges, such as GradientLoss, added to it.
        drop_score: Part of the images whose score is withheld, for guidance at inference.
        quality_opt: Options of the optimisation by a scorer, explained in models/quality_reward.py (QualityReward),
            without those of codes: scorer, weight, start, score, flip, crop, smooth, held_out, held_out_freq. The only
            mode is continuous.

    Raises:
        OptionError: The network takes no scores.
    """

    def __init__(
        self,
        networks: dict[str, nn.Module],
        pixel_opt: Annotated[dict, Block('loss')],
        fft_opt: Annotated[dict, Block('loss')] | None = None,
        perceptual_opt: Annotated[dict, Block('loss')] | None = None,
        gradient_opt: Annotated[dict, Block('loss')] | None = None,
        drop_score: Annotated[float, Range(0, 1)] = 0.1,
        quality_opt: Annotated[dict, Keys(QualityReward)] | None = None,
    ) -> None:
        super().__init__(networks, pixel_opt, fft_opt, perceptual_opt, gradient_opt)
        if not hasattr(self.net_g, 'branches'):
            raise OptionError(
                f'network_g: {type(self.net_g).__name__} takes no scores; '
                'write {type: QualityConditioned, host: {...}}.'
            )
        self.drop_score, self.quality = drop_score, reward_of(quality_opt, ('continuous',))

    def followers(self) -> list[nn.Module]:
        """The judges."""
        return list(self.quality.scorers) if self.quality else []

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        scores = scores_of(batch, type(self).__name__, 'take RestorationModel, which needs none')
        told = withheld(scores, batch['key'], self.iteration, self.drop_score)
        counts, measures = self._wanted(batch['lq'])
        if not counts:
            found = self.supervised_losses(self.net_g(batch['lq'], score=told), batch['gt'])
            return {**found, **self._measured(batch['lq'], scores)} if measures else found
        output, judged = self._both(batch['lq'], told, self._asked(scores))
        found = self.supervised_losses(output, batch['gt'])
        found |= self.quality.loss(judged, batch['key'], self.iteration)
        return {**found, **self.quality.held_out_scores(judged, 'held_out')} if measures else found

    def _wanted(self, images: Tensor) -> tuple[bool, bool]:
        """Whether the judge's loss counts in this iteration, and whether held-out scorers are asked."""
        if self.quality is None:
            return False, False
        self.quality.check_size(images)
        return self.quality.counts(self.iteration), self.quality.measures(self.iteration)

    def _asked(self, scores: Tensor) -> Tensor:
        """Scores (N,) under which the judge sees the images."""
        return scores if self.quality.score == 'gt' else torch.full_like(scores, self.quality.score)

    def _both(self, lq: Tensor, told: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
        """Images restored as they were told, and as they are asked for; the encoder runs once where it can."""
        index = torch.arange(len(lq), device=lq.device).repeat(2)
        output, judged = self.net_g.branches(lq, index, torch.cat((told, asked))).chunk(2)
        return output, judged

    @torch.no_grad()
    def _measured(self, lq: Tensor, scores: Tensor) -> dict[str, Tensor]:
        return self.quality.held_out_scores(self.net_g(lq, score=self._asked(scores)), 'held_out')
