"""Stage I of IQPIR: an autoencoder of discrete codes, learned on clean images whose quality is known."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from basicsr.codebooks import Quantized
from basicsr.errors import DataError, OptionError
from basicsr.registry import LOSS_REGISTRY, MODEL_REGISTRY, build
from basicsr.schema import Block, Range

from .adaptive_weight import adaptive_weight
from .base_model import BaseModel, Batch
from .code_usage import CodeUsage, book_inputs, reseed, usage_signals

Weight = Annotated[float, Range(0)]
Count = Annotated[int, Range(1)]
BOOKS = ('common', 'hq')
NOTHING, UNUSED, ALL = 0, 1, 2  # which entries of a book are to be replaced as soon as there are features for it


@MODEL_REGISTRY.register()
class IQPIRVQModel(BaseModel):
    """Trains an autoencoder of codes (VQAutoEncoder, IQPIRGAutoEncoder) to reconstruct clean images.

    IQPIR, CVPR 2026, arXiv:2603.29773; github.com/fengyang1399-pixel/IQPIR (a4408c7), stage I. All images use the
    common book; those whose quality is above ``tau`` use the high-quality book too. It is VQGAN (arXiv:2012.09841) with
    the losses of CodeFormer (arXiv:2206.11253): pixels, features, codes, and an adversarial loss that begins late.

    Reads ``gt`` of a batch, or ``lq`` where there is none (SingleImageDataset of clean images), and the images'
    ``score`` (N,), or (N,M) of several judges, whose mean counts. QualityPriorDataset gives them; with ``tau_quantile``
    it also says itself, by ``hq_mask`` (N,), which images are good enough, and ``tau`` is not asked.

    Args:
        networks: The autoencoder ``g`` and, with ``gan_opt``, the discriminator ``d``.
        pixel_opt: Loss between reconstruction and image, pixel by pixel.
        perceptual_opt: Loss between their features, such as FeatureLoss, added to it.
        gan_opt: GANLoss; needs network_d. null trains without a discriminator.
        code_weight: Factor on the loss of the books.
        tau: Score above which an image is good enough for the second book; null takes all images. It must match the
            scale of the scores: 0.7 in the last published options.
        hq_norm: What the masked loss of the second book is averaged over: all images of the batch, as released, or
            those that use the book (active), so that it does not hang on how many there are.
        gan_weight: Factor on the adversarial loss.
        gan_limit: Largest value of the adaptive weight, which multiplies it; 1 in CodeFormer and IQPIR, 1e4 in VQGAN;
            null for none (FeMaSR, with ``gan_weight: 0.1``).
        disc_start: Iteration from which there is a discriminator; before it, it stays as it is.
        code_reset: Iterations after which entries that no image used are put where features of the batch are; null
            never does it, as released.
        init_from_data: Whether the books begin as features of the first batches; leave it off where weights are loaded.
        usage_window: Iterations over which the logged use of the books is counted.

    Raises:
        OptionError: The network is no autoencoder of codes, or discriminator and loss are not both there.
    """

    network_names = ('g', 'd')
    optional_networks = ('d',)

    def __init__(
        self,
        networks: dict[str, nn.Module],
        pixel_opt: Annotated[dict, Block('loss')],
        perceptual_opt: Annotated[dict, Block('loss')] | None = None,
        gan_opt: Annotated[dict, Block('loss')] | None = None,
        code_weight: Weight = 1.0,
        tau: float | None = 0.7,
        hq_norm: Literal['batch', 'active'] = 'batch',
        gan_weight: Weight = 0.8,
        gan_limit: Weight | None = 1.0,
        disc_start: Count = 30001,
        code_reset: Count | None = None,
        init_from_data: bool = False,
        usage_window: Count = 100,
    ) -> None:
        super().__init__(networks)
        self._check(gan_opt is not None)
        self.cri_pix = build(LOSS_REGISTRY, pixel_opt)
        self.cri_perceptual = build(LOSS_REGISTRY, perceptual_opt) if perceptual_opt else None
        self.cri_gan = build(LOSS_REGISTRY, gan_opt) if gan_opt else None
        self.code_weight, self.tau, self.hq_norm = code_weight, tau, hq_norm
        self.gan_weight, self.gan_limit, self.disc_start = gan_weight, gan_limit, disc_start
        self.code_reset, self.init_from_data, self.usage_window = code_reset, init_from_data, usage_window
        sizes = self.net_g.book_sizes
        self.recent, self.since_reset = CodeUsage(sizes), CodeUsage(sizes)
        self.replace = [NOTHING] * len(sizes)
        self._rendered: dict[int, Tensor] = {}

    def _check(self, adversarial: bool) -> None:
        lacking = [n for n in ('latent', 'coded', 'render', 'last_layer', 'book_sizes') if not hasattr(self.net_g, n)]
        if lacking:
            raise OptionError(
                f'IQPIRVQModel: {type(self.net_g).__name__} is no autoencoder of codes: it has no '
                f'{", ".join(lacking)}. Take one such as VQAutoEncoder or IQPIRGAutoEncoder.'
            )
        if adversarial != ('d' in self.network_names):
            there, not_there = ('gan_opt', 'network_d') if adversarial else ('network_d', 'gan_opt')
            raise OptionError(f'IQPIRVQModel: {there} is given without {not_there}: an adversarial loss needs both.')

    # ---- schedules -------------------------------------------------------------------------------------------------

    @property
    def adversarial(self) -> bool:
        """Whether this iteration has a discriminator."""
        return self.cri_gan is not None and self.iteration >= self.disc_start

    def start_iteration(self, iteration: int) -> None:
        """Begins windows of counting, and notes which books are due for a reset."""
        super().start_iteration(iteration)
        self._rendered.clear()
        if (iteration - 1) % self.usage_window == 0:
            self.recent.clear()
        if iteration == 1 and self.init_from_data:
            self.replace = [ALL] * len(self.replace)
        elif self.code_reset and iteration > 1 and (iteration - 1) % self.code_reset == 0:
            self.replace = [max(UNUSED, due) for due in self.replace]

    # ---- the autoencoder -------------------------------------------------------------------------------------------

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        images = self._images(batch)
        mask = self.hq_mask(batch)
        latent = self.net_g.latent(images)
        self._replace_entries(latent, mask)
        quantized = self.net_g.coded(latent, mask)
        output = self.net_g.render(quantized.z)
        losses = self._reconstruction(output, images)
        if self.cri_gan is not None:
            self._rendered[images.data_ptr()] = output.detach()
            losses |= self._adversarial(output, sum(losses.values()))
        return {**losses, **self._code_losses(quantized.loss, mask), **self._signals(quantized, output, images, mask)}

    def hq_mask(self, batch: Batch) -> Tensor | None:
        """Which images use the second book, (N,), 1 or 0; None where there is no such choice.

        Raises:
            DataError: The batch has neither scores nor a mask.
        """
        if len(self.net_g.book_sizes) < 2:
            return None
        if 'hq_mask' in batch:
            return batch['hq_mask'].float()
        if self.tau is None:
            return None
        if 'score' not in batch:
            raise DataError(
                f'IQPIRVQModel: tau is {self.tau}, but the training set gives no score of its images. Wrap it in a '
                'QualityPriorDataset, which reads a table of tools/score_dataset.py, or write tau: null: then all '
                'images use the high-quality book.'
            )
        score = batch['score'].float()
        return ((score.nanmean(1) if score.dim() > 1 else score) > self.tau).float()

    def _images(self, batch: Batch) -> Tensor:
        images = batch['gt'] if 'gt' in batch else batch['lq']
        step = getattr(self.net_g, 'multiple_of', 1)
        if any(side % step for side in images.shape[-2:]):
            raise DataError(
                f'IQPIRVQModel: training images are {images.shape[-1]} x {images.shape[-2]} pixels, but '
                f'{type(self.net_g).__name__} needs sides that are multiples of {step}: change gt_size.'
            )
        return images

    def _reconstruction(self, output: Tensor, images: Tensor) -> dict[str, Tensor]:
        losses = {'l_pix': self.cri_pix(output, images)}
        if self.cri_perceptual is not None:
            losses['l_percep'] = self.cri_perceptual(output, images)
        return losses

    def _code_losses(self, each: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Losses of the books, from those of each image and book (N,K); a bad image teaches the second one nothing."""
        losses = {}
        if each.shape[1] > 0:
            losses['l_code'] = self.code_weight * each[:, 0].mean()
        if each.shape[1] > 1:
            active = torch.ones_like(each[:, 1]) if mask is None else mask
            count = active.sum().clamp_min(1) if self.hq_norm == 'active' else len(active)
            losses['l_code_hq'] = self.code_weight * (each[:, 1] * active).sum() / count
        return losses

    def _adversarial(self, output: Tensor, reconstruction: Tensor) -> dict[str, Tensor]:
        if not self.adversarial:
            return {'gan_weight': torch.full((), torch.nan, device=output.device)}
        loss = self.cri_gan(self.net_d(output), True, is_disc=False)
        weight = torch.full((), self.gan_weight, device=output.device)
        if self.gan_limit is not None:
            weight = weight * adaptive_weight(reconstruction, loss, self.net_g.last_layer, self.gan_limit)
        return {'l_gan': weight * loss, 'gan_weight': weight}

    # ---- the discriminator -----------------------------------------------------------------------------------------

    def losses_d(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of the discriminator, against the reconstructions of this iteration's losses, if they are at hand."""
        if not self.adversarial:
            return self._idle()
        images = self._images(batch)
        output = self._rendered.pop(images.data_ptr(), None)
        if output is None:
            with torch.no_grad():
                latent = self.net_g.latent(images)
                output = self.net_g.render(self.net_g.coded(latent, self.hq_mask(batch)).z)
        real, fake = self.net_d(images), self.net_d(output)
        return {
            'l_d_real': self.cri_gan(real, True, is_disc=True), 'l_d_fake': self.cri_gan(fake, False, is_disc=True),
            'out_d_real': real.detach().mean(), 'out_d_fake': fake.detach().mean(),
        }  # fmt: skip

    def _idle(self) -> dict[str, Tensor]:
        """The same names before the discriminator begins; zero gradients, with which Adam changes nothing.

        Gradients must be there: wrappers for distributed training and scalers of half precision look for them.
        """
        zero = 0 * sum(p.sum() for p in self.net_d.parameters())
        nothing = torch.full_like(zero.detach(), torch.nan)
        return {'l_d_real': zero, 'l_d_fake': zero, 'out_d_real': nothing, 'out_d_fake': nothing}

    # ---- the books -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _replace_entries(self, latent: Tensor, mask: Tensor | None) -> None:
        """Puts features in the place of entries where that is due; of the second book only those of good images."""
        if not any(self.replace):
            return
        average = self._averages.get('g')
        for n, features in enumerate(book_inputs(self.net_g, latent)):
            if self.replace[n] == NOTHING:
                continue
            if n and mask is not None:
                features = features[mask > 0]
            unused = self.since_reset.total(n).to(latent.device) == 0
            replaced = torch.ones_like(unused) if self.replace[n] == ALL else unused
            nets = [net for net in (self.net_g, average) if net is not None]
            books = [net.books[n].embedding.weight for net in nets]  # an average would lag behind a jump
            if reseed(books, replaced, features, seed=self.iteration * len(BOOKS) + n):
                self.replace[n] = NOTHING
                self.since_reset.clear(n)

    @torch.no_grad()
    def _signals(self, quantized: Quantized, output: Tensor, images: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        self.recent.add(quantized.codes, mask)
        if self.code_reset:
            self.since_reset.add(quantized.codes, mask)
        full = self.iteration % self.usage_window == 0
        error = (output.float().clamp(0, 1) - images.float()).square().mean((1, 2, 3))
        signals = {'psnr': (-10 * torch.log10(error.clamp_min(1e-10))).mean()}
        if mask is not None:
            signals['hq_share'] = mask.mean()
        names = BOOKS[: len(self.net_g.book_sizes)]
        return signals | usage_signals(self.recent if full else None, names, images.device)

    def extra_state(self) -> dict[str, Any]:
        """The counts of codes over all processes, and which books wait for features."""
        return {
            'recent': self.recent.state(), 'since_reset': self.since_reset.state(), 'replace': list(self.replace),
        }  # fmt: skip

    def load_extra_state(self, state: dict[str, Any]) -> None:
        device = next(self.net_g.parameters()).device
        self.recent.load(state['recent'], device)
        self.since_reset.load(state['since_reset'], device)
        self.replace = list(state['replace'])
