"""IQPIR, stage III: features of the degraded image enter the generator, for fidelity, as much as is asked for."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from basicsr.codebooks import CodePrediction
from basicsr.errors import OptionError
from basicsr.registry import LOSS_REGISTRY, MODEL_REGISTRY, build
from basicsr.schema import Block, Keys, Range

from .adaptive_weight import adaptive_weight
from .base_model import Batch
from .iqpir_code_model import IQPIRCodeModel, Part, learn
from .quality_reward import QualityReward, Weight

Count = Annotated[int, Range(1)]
PUBLISHED = ((40000, 1.0), (80000, 1.3), (120000, 0.0))  # iterations up to which a w holds


@MODEL_REGISTRY.register()
class IQPIRJointModel(IQPIRCodeModel):
    """Stage III, by the recipe of CodeFormer (S. Zhou et al., NeurIPS 2022, arXiv:2206.11253), with scores.

    As stage II, which it begins from (path.pretrain_network_g), and beside it images rendered with ``w`` above 0 are
    compared with the ground truth: pixels, features, and an adversarial loss that begins late. ``w`` follows a
    schedule, in which 0 stands for iterations that train the codes alone, as in stage II. The discriminator of stage I
    is a good one to begin with (path.pretrain_network_d).

    The release degrades images less in iterations with ``w`` above 0 than in those without. Here a batch is degraded by
    its data set, which does not know ``w``: give it the range of both.

    Without network_d, several processes need dist_params.find_unused_parameters where the schedule has a 0.

    Args:
        networks: The predictor of codes ``g`` and, with ``gan_opt``, the discriminator ``d``.
        pixel_opt: Loss between the image rendered with ``w`` and the ground truth, pixel by pixel.
        autoencoder: Network of stage I; null takes the one that its file names.
        autoencoder_path: Its weights. May be left out only if every batch carries ``codes``, exported before, and
            path.pretrain_network_g gives the books.
        perceptual_opt: Loss between features of those images, such as FeatureLoss.
        gan_opt: GANLoss; needs network_d. null trains without a discriminator.
        gan_weight: Factor on the adversarial loss.
        gan_limit: Largest value of the adaptive weight that multiplies it; null for none. The last layer is frozen
            here, so that gradients are compared at the image.
        disc_start: Iteration from which there is a discriminator.
        w_schedule: Pairs of an iteration and the ``w`` that holds up to it.
        w_cycle: After the last of them one iteration in so many has ``w_later``, and the others have 0.
        w_later: That ``w``.
        train_codes: Whether codes are trained at all; otherwise the image at ``w`` 0 stays what it is, and ``w`` may
            never be 0.
        feat_weight: Factor on the distance of the features.
        code_weight: Factor on the cross-entropy of the codes of the common book.
        hq_code_weight: The same for the high-quality book.
        mask_hq_targets: Whether the high-quality book is used only by images whose score exceeds ``tau``.
        tau: Score above which an image has high-quality codes; null takes the data set's ``hq_mask``.
        use_score: Whether the network is told the score of the ground truth (``score`` of the batch).
        drop_score: Part of the images whose score is withheld, for guidance at inference.
        quality_opt: As in IQPIRCodeModel; images are judged at ``w`` 0.

    Raises:
        OptionError: Discriminator and loss are not both there, or the schedule is not in order.
        MissingWeightsError: There is no autoencoder, or the network's books are random when training begins.
        CheckpointError: Network and autoencoder have different books.
    """

    network_names = ('g', 'd')
    optional_networks = ('d',)

    def __init__(
        self,
        networks: dict[str, nn.Module],
        pixel_opt: Annotated[dict, Block('loss')],
        autoencoder: Annotated[dict, Block('arch')] | None = None,
        autoencoder_path: str | None = None,
        perceptual_opt: Annotated[dict, Block('loss')] | None = None,
        gan_opt: Annotated[dict, Block('loss')] | None = None,
        gan_weight: Weight = 0.1,
        gan_limit: Weight | None = 1.0,
        disc_start: Count = 5001,
        w_schedule: list[tuple[Count, Weight]] | None = None,
        w_cycle: Count = 15,
        w_later: Weight = 1.3,
        train_codes: bool = True,
        feat_weight: Weight = 1.0,
        code_weight: Weight = 0.5,
        hq_code_weight: Weight = 0.5,
        mask_hq_targets: bool = False,
        tau: float | None = None,
        use_score: bool = True,
        drop_score: Part = 0.0,
        quality_opt: Annotated[dict, Keys(QualityReward)] | None = None,
    ) -> None:
        super().__init__(
            networks, autoencoder, autoencoder_path, feat_weight, code_weight, hq_code_weight, mask_hq_targets, tau,
            use_score, drop_score, True, 1.0, pixel_opt, perceptual_opt, quality_opt,
        )  # fmt: skip
        self.cri_gan = build(LOSS_REGISTRY, gan_opt) if gan_opt else None
        self.gan_weight, self.gan_limit, self.disc_start = gan_weight, gan_limit, disc_start
        self.w_schedule = [tuple(pair) for pair in (PUBLISHED if w_schedule is None else w_schedule)]
        self.w_cycle, self.w_later, self.train_codes = w_cycle, w_later, train_codes
        learn(self.net_g, train_codes, True)
        self._rendered: dict[int, Tensor] = {}
        self._check_schedule()

    def _check_schedule(self) -> None:
        if (self.cri_gan is None) != ('d' not in self.network_names):
            raise OptionError('IQPIRJointModel: an adversarial loss needs both gan_opt and network_d.')
        ends = [end for end, _ in self.w_schedule]
        if ends != sorted(set(ends)):
            raise OptionError(f'w_schedule: {[list(pair) for pair in self.w_schedule]}; its iterations must increase.')
        never = all(w for _, w in self.w_schedule) and self.w_cycle == 1 and self.w_later > 0
        if not self.train_codes and self.quality is not None:
            raise OptionError('train_codes: false leaves quality_opt nothing to train; take one of them out.')
        if not (self.train_codes or never):
            raise OptionError(
                'train_codes: false leaves nothing to train where w is 0; write a w_schedule without 0, w_cycle: 1 and '
                'w_later above 0.'
            )

    def w_at(self, iteration: int) -> float:
        """The ``w`` of an iteration; 0 where codes alone are trained."""
        for end, w in self.w_schedule:
            if iteration <= end:
                return w
        return self.w_later if iteration % self.w_cycle == 0 else 0.0

    @property
    def adversarial(self) -> bool:
        """Whether this iteration has a discriminator."""
        return self.cri_gan is not None and self.iteration >= self.disc_start and self.w_at(self.iteration) > 0

    def start_iteration(self, iteration: int) -> None:
        """As in stage II; forgets the images of the last iteration."""
        super().start_iteration(iteration)
        self._rendered.clear()

    def code_losses(self, prediction: CodePrediction, codes: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """As in stage II; only the signals where codes are not trained."""
        found = super().code_losses(prediction, codes, mask)
        return {name: value for name, value in found.items() if self.train_codes or not name.startswith('l_')}

    def fidelity_losses(self, prediction: CodePrediction, gt: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Losses of the image rendered with this iteration's ``w``; none where that is 0."""
        w = self.w_at(self.iteration)
        if w == 0:
            return {}
        images = self.rendered(prediction, mask, w)[..., : gt.shape[-2], : gt.shape[-1]]
        losses = self.image_losses(images, gt)
        return losses | self._adversarial(images, gt, sum(losses.values())) if self.adversarial else losses

    def _adversarial(self, images: Tensor, gt: Tensor, reconstruction: Tensor) -> dict[str, Tensor]:
        self._rendered[gt.data_ptr()] = images.detach()
        loss = self.cri_gan(self.net_d(images), True, is_disc=False)
        weight = torch.full((), self.gan_weight, device=images.device)
        if self.gan_limit is not None:
            weight = weight * adaptive_weight(reconstruction, loss, images, self.gan_limit)
        return {'l_gan': weight * loss, 'gan_weight': weight}

    def losses_d(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of the discriminator, against the images of this iteration's losses, if they are at hand."""
        if not self.adversarial:
            return self._idle()
        images = self._rendered.pop(batch['gt'].data_ptr(), None)
        if images is None:
            with torch.no_grad():
                prediction = self.net_g.predict(batch['lq'], self.told(batch))
                images = self.rendered(prediction, self.hq_mask(batch), self.w_at(self.iteration))
                images = images[..., : batch['gt'].shape[-2], : batch['gt'].shape[-1]]
        real, fake = self.net_d(batch['gt']), self.net_d(images)
        return {
            'l_d_real': self.cri_gan(real, True, is_disc=True), 'l_d_fake': self.cri_gan(fake, False, is_disc=True),
            'out_d_real': real.detach().mean(), 'out_d_fake': fake.detach().mean(),
        }  # fmt: skip

    def _idle(self) -> dict[str, Tensor]:
        """The same names where there is no discriminator; its gradients are zero, as wrappers look for some."""
        zero = 0 * sum(p.sum() for p in self.net_d.parameters())
        nothing = torch.full_like(zero.detach(), torch.nan)
        return {'l_d_real': zero, 'l_d_fake': zero, 'out_d_real': nothing, 'out_d_fake': nothing}
