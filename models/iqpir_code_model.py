"""IQPIR, stage II: codes of clean images are read off degraded ones at a wished quality, and improved by a judge."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr.codebooks import CodePrediction
from basicsr.errors import CheckpointError, DataError, MissingWeightsError, OptionError
from basicsr.registry import LOSS_REGISTRY, MODEL_REGISTRY, build
from basicsr.schema import Block, Keys, Range

from .base_model import Batch
from .followers import Followers
from .frozen_autoencoder import STAGE_ONE, check_codes, codes_of, load_autoencoder, sample_of_books
from .prior_scores import scores_of, withheld
from .quality_reward import (
    QualityReward,
    Weight,
    divergence,
    hard_weights,
    knobs,
    reward_of,
    supported,
    through_features,
)

Part = Annotated[float, Range(0, 1)]
BOOKS = ('', '_hq')  # endings of the names of signals, the common book first


@MODEL_REGISTRY.register()
class IQPIRCodeModel(Followers):
    """Stage II of IQPIR (arXiv:2603.29773; github.com/fengyang1399-pixel/IQPIR at a4408c7).

    A frozen autoencoder turns the ground truth into codes. The network, which has its books and its generator, shall
    read them off the degraded image, told the score of the ground truth. The losses are those of CodeFormer (S. Zhou et
    al., NeurIPS 2022, arXiv:2206.11253): squared distance of the features from the codes' own, and cross-entropy of the
    codes. ``quality_opt`` adds the optimisation over codes (:class:`~basicsr.models.quality_reward.QualityReward`).

    The network is a predictor of :mod:`basicsr.codebooks`.

    Args:
        networks: ``{'g': net}``, a predictor of codes.
        autoencoder: Network of stage I; null takes the one that its file names.
        autoencoder_path: Its weights. May be left out only if every batch carries ``codes``, exported before, and
            path.pretrain_network_g gives the books.
        feat_weight: Factor on the distance of the features.
        code_weight: Factor on the cross-entropy of the codes of the common book.
        hq_code_weight: The same for the high-quality book.
        mask_hq_targets: Whether the high-quality book is taught only on images whose score exceeds ``tau``; the release
            teaches it on all.
        tau: Score above which an image has high-quality codes, as in stage I; null takes the data set's ``hq_mask``
            (QualityPriorDataset with tau_quantile).
        use_score: Whether the network is told the score of the ground truth (``score`` of the batch).
        drop_score: Part of the images whose score is withheld, for guidance at inference.
        train_fidelity: Whether what the network adds for fidelity (``w``) is trained too, by the next two losses.
        fidelity: The ``w`` at which it is.
        pixel_opt: Loss between the image rendered with ``w`` and the ground truth, pixel by pixel.
        perceptual_opt: Loss between their features.
        quality_opt: Options of the optimisation by a scorer, explained in models/quality_reward.py (QualityReward):
            scorer, mode (feat_ste, logit_st, continuous), weight, start, score, kl_weight, top_k, tau, tau_iters, flip,
            crop, smooth, held_out, held_out_freq.

    Raises:
        OptionError: The network predicts no codes, or options do not fit each other.
        MissingWeightsError: There is no autoencoder, or the network's books are random when training begins.
        CheckpointError: Network and autoencoder have different books.
    """

    def __init__(
        self,
        networks: dict[str, nn.Module],
        autoencoder: Annotated[dict, Block('arch')] | None = None,
        autoencoder_path: str | None = None,
        feat_weight: Weight = 1.0,
        code_weight: Weight = 0.5,
        hq_code_weight: Weight = 0.5,
        mask_hq_targets: bool = False,
        tau: float | None = None,
        use_score: bool = True,
        drop_score: Part = 0.0,
        train_fidelity: bool = False,
        fidelity: Weight = 1.0,
        pixel_opt: Annotated[dict, Block('loss')] | None = None,
        perceptual_opt: Annotated[dict, Block('loss')] | None = None,
        quality_opt: Annotated[dict, Keys(QualityReward)] | None = None,
    ) -> None:
        super().__init__(networks)
        self._check(train_fidelity, pixel_opt, perceptual_opt)
        self.feat_weight, self.code_weights = feat_weight, (code_weight, hq_code_weight)
        self.mask_hq_targets, self.tau = mask_hq_targets, tau
        self.use_score, self.drop_score = use_score, drop_score
        self.train_fidelity, self.fidelity = train_fidelity, fidelity
        self.cri_pix = build(LOSS_REGISTRY, pixel_opt) if pixel_opt else None
        self.cri_perceptual = build(LOSS_REGISTRY, perceptual_opt) if perceptual_opt else None
        self.quality = reward_of(quality_opt, ('feat_ste', 'logit_st', 'continuous'))
        # in a dictionary so that they are neither trained nor saved with the method
        self._frozen: dict[str, nn.Module] = {}
        found = load_autoencoder(autoencoder, autoencoder_path)
        if found is not None:
            self._frozen['autoencoder'] = found
            self.net_g.adopt(found)
        learn(self.net_g, True, train_fidelity)
        self._random_books = None if found is not None else sample_of_books(self.net_g)
        self._books_checked = False

    def _check(self, train_fidelity: bool, *losses: dict[str, Any] | None) -> None:
        net = type(self.net_g).__name__
        if not all(hasattr(self.net_g, name) for name in ('predict', 'adopt', 'render', 'embed')):
            raise OptionError(f'network_g: {net} predicts no codes; take one such as IQPIRFormer or IQPIRG.')
        if train_fidelity != any(losses):
            raise OptionError('train_fidelity goes with pixel_opt or perceptual_opt, and they with it.')

    # ---- what goes with the method ---------------------------------------------------------------------------------

    @property
    def autoencoder(self) -> nn.Module | None:
        """The autoencoder of stage I, frozen; None where batches carry codes."""
        return self._frozen.get('autoencoder')

    @property
    def reference(self) -> nn.Module | None:
        """The network as it was when the optimisation by a judge began, frozen; None before."""
        return self._frozen.get('reference')

    def followers(self) -> list[nn.Module]:
        """Judges and frozen networks."""
        return [*self._frozen.values(), *(self.quality.scorers if self.quality else [])]

    def start_iteration(self, iteration: int) -> None:
        """Checks the books before the first iteration, and keeps a reference before the first of the optimisation."""
        super().start_iteration(iteration)
        if not self._books_checked:
            self._check_books()
        if self.quality and self.quality.counts(iteration) and self.reference is None:
            self._keep_reference()

    def extra_state(self) -> dict[str, Any]:
        """What of the reference the network has gone on training."""
        if self.reference is None:
            return {}
        frozen = {name for name, p in self.net_g.named_parameters() if not p.requires_grad}
        return {'reference': {k: v for k, v in self.reference.state_dict().items() if k not in frozen}}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Takes back the reference."""
        if 'reference' in state:
            self._keep_reference()
            self.reference.load_state_dict(state['reference'], strict=False)

    def _keep_reference(self) -> None:
        """A copy of the network; what is frozen anyway, such as the generator, it shares."""
        shared = {id(p): p for p in self.net_g.parameters() if not p.requires_grad}
        self._frozen['reference'] = copy.deepcopy(self.net_g, shared).eval().requires_grad_(False)

    def _check_books(self) -> None:
        """The books were learned, and are those that the targets are made of; one wait for the device, once."""
        books = sample_of_books(self.net_g)
        if self.autoencoder is not None:
            with knobs(self.autoencoder, hq_weight=getattr(self.net_g, 'hq_weight', None)):
                agree = torch.allclose(books, sample_of_books(self.autoencoder), atol=1e-5)
            if not agree:
                raise CheckpointError(
                    'path.pretrain_network_g has other books than autoencoder_path: the targets would be codes of '
                    'another language. Give the autoencoder that this network was trained with.'
                )
        elif torch.equal(books, self._random_books.to(books)):
            raise MissingWeightsError(
                f'{type(self).__name__}: the books of network_g are random. Give autoencoder_path ({STAGE_ONE}), or '
                'path.pretrain_network_g and a data set whose batches carry codes.'
            )
        self._books_checked = True

    # ---- a step ----------------------------------------------------------------------------------------------------

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        told, mask = self.told(batch), self.hq_mask(batch)
        prediction = self.net_g.predict(batch['lq'], told)
        found = self.code_losses(prediction, self.targets(batch, prediction), mask)
        if self.train_fidelity:
            found |= self.fidelity_losses(prediction, batch['gt'], mask)
        if self.quality is not None:
            found |= self.quality_losses(prediction, told, batch, mask)
        return found

    def told(self, batch: Batch) -> Tensor | None:
        """Scores (N,) or (N,M) that the network is told, NaN where they are withheld; None where it is told none."""
        scores = self.scores(batch)
        return None if scores is None else withheld(scores, batch['key'], self.iteration, self.drop_score)

    def scores(self, batch: Batch) -> Tensor | None:
        """Scores of the ground truth.

        Raises:
            DataError: The batch has none.
        """
        if not self.use_score:
            return None
        return scores_of(batch, type(self).__name__, 'train with use_score: false')

    def hq_mask(self, batch: Batch) -> Tensor | None:
        """(N,), 1 where the ground truth is good enough for the high-quality book; None: all are."""
        if not self.mask_hq_targets:
            return None
        if self.tau is None and 'hq_mask' in batch:
            return batch['hq_mask']
        if self.tau is None:
            raise DataError(
                f'{type(self).__name__}: mask_hq_targets needs tau, or a QualityPriorDataset with tau_quantile.'
            )
        scores = scores_of(batch, type(self).__name__, 'write mask_hq_targets: false')
        return ((scores.nanmean(1) if scores.dim() > 1 else scores) > self.tau).float()

    def targets(self, batch: Batch, prediction: CodePrediction) -> Tensor:
        """Codes (N,K,h,w) of the ground truth: those exported before, or else what the autoencoder makes of it.

        Raises:
            DataError: There are neither, or they do not fit the network.
        """
        codes = batch.get('codes')
        if codes is None:
            if self.autoencoder is None:
                raise DataError(
                    f'{type(self).__name__}: the batch carries no codes and there is no autoencoder; give '
                    'autoencoder_path, or a data set with exported codes.'
                )
            codes = codes_of(self.autoencoder, batch['gt'])
        return check_codes(codes, self.net_g.book_sizes, prediction.logits[0].shape[2:])

    def code_losses(self, prediction: CodePrediction, codes: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Distance of the features and cross-entropy of the codes, and the share of codes that are right."""
        with torch.no_grad():
            wanted = self.net_g.embed(codes, mask).float()
        found = {'l_feat': self.feat_weight * F.mse_loss(prediction.features.float(), wanted)}
        for book, (logits, code) in enumerate(zip(prediction.logits, codes.unbind(1))):
            given = mask if book else None
            each = F.cross_entropy(logits.float(), code, reduction='none')
            found[f'l_code{BOOKS[book]}'] = self.code_weights[book] * _mean(each, given)
            right = (logits.detach().argmax(1) == code).float()
            found[f'code_accuracy{BOOKS[book]}'] = _mean(right, given, empty_nan=True)
        return found

    def fidelity_losses(self, prediction: CodePrediction, gt: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Losses of the image rendered with ``w``; the codes get no gradient from them, as in CodeFormer."""
        return self.image_losses(self.rendered(prediction, mask, self.fidelity), gt)

    def rendered(self, prediction: CodePrediction, mask: Tensor | None, w: float) -> Tensor:
        """The image (N,3,H,W) of the likeliest codes at a fidelity ``w``.

        Raises:
            OptionError: Nothing of the network is trained by it.
        """
        with torch.no_grad():
            z = self.net_g.embed(prediction.codes, mask)
        images = self._image(z, _detached(prediction), w)
        if torch.is_grad_enabled() and not images.requires_grad:
            raise OptionError(
                f'network_g: this {type(self.net_g).__name__} has nothing that learns fidelity (w); give it a '
                'connect_list or a residual_decoder.'
            )
        return images

    def image_losses(self, images: Tensor, gt: Tensor) -> dict[str, Tensor]:
        """``l_pix`` and ``l_percep``, those that there are; what the network padded is cut off."""
        images = images[..., : gt.shape[-2], : gt.shape[-1]]
        terms = {'l_pix': self.cri_pix, 'l_percep': self.cri_perceptual}
        return {name: loss(images, gt) for name, loss in terms.items() if loss is not None}

    def _image(self, z: Tensor, prediction: CodePrediction, w: float = 0.0) -> Tensor:
        """Renders features; their statistics are not matched to the input's (``adain``), as in training released."""
        with knobs(self.net_g, w=w, adain=False):
            return self.net_g.render(z, prediction)

    # ---- optimisation by a judge -----------------------------------------------------------------------------------

    def quality_losses(
        self, prediction: CodePrediction, told: Tensor | None, batch: Batch, mask: Tensor | None
    ) -> dict[str, Tensor]:
        """The judge's loss and the divergence from the reference, where they count, and what shows their effect.

        Args:
            prediction: What the network made of the batch.
            told: The scores that it was told.
            batch: The batch.
            mask: Which images have high-quality codes; all do that are asked for a given score.
        """
        counts, measures = self.quality.counts(self.iteration), self.quality.measures(self.iteration)
        self.quality.check_size(batch['lq'])
        if not counts and not measures:
            return {}
        asked = told if self.quality.score == 'gt' or not self.use_score else self.quality.score
        if asked is not told:
            with torch.set_grad_enabled(torch.is_grad_enabled() and counts):
                prediction, mask = self.net_g.predict(batch['lq'], asked), None
        reference = self._referred(batch['lq'], asked, measures)
        found: dict[str, Tensor] = {}
        if counts:
            images = self._image(self.optimised(prediction, reference, mask), prediction)
            found |= self.quality.loss(images, batch['key'], self.iteration) | self._held(prediction, reference)
        if measures:
            found |= self._measured(prediction, reference, mask, images if counts else None)
        return found

    def _referred(self, lq: Tensor, score: Tensor | float | None, measures: bool) -> CodePrediction | None:
        """What the reference predicts, where it is needed."""
        needed = measures or self.quality.mode == 'logit_st' or self.quality.kl_weight > 0
        if self.reference is None or not needed:
            return None
        with torch.no_grad():
            return self.reference.predict(lq, score)

    def optimised(self, prediction: CodePrediction, reference: CodePrediction | None, mask: Tensor | None) -> Tensor:
        """What the generator sees (N,C,h,w), with the gradient of ``quality_opt.mode``."""
        mode = self.quality.mode
        if mode == 'continuous':
            return prediction.features
        if mode == 'feat_ste':
            return through_features(prediction.features, self.net_g.embed(prediction.codes, mask))
        temperature = self.quality.temperature(self.iteration)
        weights = [
            hard_weights(supported(ours.float(), theirs.float(), self.quality.top_k), temperature)
            for ours, theirs in zip(prediction.logits, reference.logits)
        ]
        return self.net_g.embed_weights(weights, mask)

    def _held(self, prediction: CodePrediction, reference: CodePrediction | None) -> dict[str, Tensor]:
        """The divergence from the reference, and the share of codes that are other ones by now."""
        if reference is None:
            return {}
        found = {'code_change': (prediction.codes != reference.codes).float().mean()}
        if self.quality.kl_weight:
            kl = divergence(prediction.logits, reference.logits)
            found |= {'l_kl': self.quality.kl_weight * kl, 'kl': kl.detach()}
        return found

    @torch.no_grad()
    def _measured(
        self, prediction: CodePrediction, reference: CodePrediction | None, mask: Tensor | None, images: Tensor | None
    ) -> dict[str, Tensor]:
        """What held-out scorers say of the images, and of those that the reference makes."""
        if images is None:
            continuous = self.quality.mode == 'continuous'
            z = prediction.features if continuous else self.net_g.embed(prediction.codes, mask)
            images = self._image(z, prediction)
        found = self.quality.held_out_scores(images, 'held_out')
        if reference is not None:
            with knobs(self.reference, w=0.0, adain=False):
                before = self.reference.render(self.reference.embed(reference.codes, mask), reference)
            found |= self.quality.held_out_scores(before, 'reference')
            found['reference_reward'] = self.quality.judge.reward(before).mean()
        return found


def learn(net: nn.Module, codes: bool, fidelity: bool) -> None:
    """Says which parameters of a predictor learn: what reads codes, and what the network adds for fidelity (``w``).

    Raises:
        OptionError: The network adds nothing.
    """
    wanted, of_codes = set(), _learning(net, 'codes')
    if codes:
        wanted |= of_codes
    if fidelity:
        wanted |= _learning(net, 'fidelity') - of_codes
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name in wanted)


def _learning(net: nn.Module, stage: str) -> set[str]:
    """Names of the parameters that learn in a stage; the network's ``w`` stays as it is."""
    with knobs(net, w=getattr(net, 'w', 0.0)):
        net.set_stage(stage)
    return {name for name, parameter in net.named_parameters() if parameter.requires_grad}


def _detached(prediction: CodePrediction) -> CodePrediction:
    """The same features without their history."""
    skips = {stride: skip.detach() for stride, skip in prediction.skips.items()}
    return replace(prediction, features=prediction.features.detach(), skips=skips)


def _mean(values: Tensor, mask: Tensor | None, empty_nan: bool = False) -> Tensor:
    """Mean of values (N,h,w) over the images of a mask (N,); without any image 0, or NaN."""
    each = values.flatten(1).mean(1)
    if mask is None:
        return each.mean()
    count = mask.sum()
    mean = (each * mask).sum() / count.clamp_min(1)
    return torch.where(count > 0, mean, torch.nan) if empty_nan else mean
