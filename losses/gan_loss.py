"""Adversarial losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr.errors import OptionError
from basicsr.registry import LOSS_REGISTRY

from .loss_util import at_least_float32

Kind = Literal['vanilla', 'lsgan', 'wgan', 'wgan_softplus', 'hinge']


@LOSS_REGISTRY.register()
class GANLoss(nn.Module):
    """Adversarial loss of what a discriminator says, for it and for the generator, with BasicSR's name and options.

    ``vanilla``: binary cross-entropy on logits (Goodfellow et al., NeurIPS 2014). ``lsgan``: squared distance from the
    labels (Mao et al., ICCV 2017). ``wgan``: plus or minus the mean (Arjovsky et al., ICML 2017), without a penalty.
    ``wgan_softplus``: softplus of that, which is ``vanilla`` without labels (StyleGAN2, Karras et al., CVPR 2020).
    ``hinge``: ``relu(1 - D(real))`` and ``relu(1 + D(fake))`` for the discriminator, ``-D(fake)`` for the generator
    (Lim and Ye, arXiv:1705.02894; VQGAN, CodeFormer and IQPIR).

    Args:
        gan_type: vanilla, lsgan, wgan, wgan_softplus or hinge.
        real_label_val: Label of real images (vanilla, lsgan).
        fake_label_val: Label of generated images (vanilla, lsgan).
        loss_weight: Factor on the generator's loss; the discriminator's is never weighted.

    Raises:
        OptionError: Another ``gan_type``.
    """

    def __init__(
        self, gan_type: Kind, real_label_val: float = 1.0, fake_label_val: float = 0.0, loss_weight: float = 1.0
    ) -> None:
        super().__init__()
        if gan_type not in _KINDS:
            raise OptionError(f"GANLoss: gan_type '{gan_type}' is not known; allowed are {', '.join(_KINDS)}.")
        self.gan_type, self.loss_weight = gan_type, loss_weight
        self.real_label_val, self.fake_label_val = real_label_val, fake_label_val

    def forward(self, input: Tensor, target_is_real: bool, is_disc: bool = False) -> Tensor:
        """Loss of a discriminator's output.

        Args:
            input: What the discriminator says, of any shape, before a sigmoid.
            target_is_real: What it, or for the generator's sake it should, take the images for.
            is_disc: Whether this is the discriminator's own loss.

        Returns:
            A scalar, in float32 or finer.
        """
        label = self.real_label_val if target_is_real else self.fake_label_val
        loss = _KINDS[self.gan_type](at_least_float32(input), target_is_real, label, is_disc)
        return loss if is_disc else self.loss_weight * loss


def _signed(x: Tensor, real: bool) -> Tensor:
    return -x if real else x


def _vanilla(x: Tensor, real: bool, label: float, is_disc: bool) -> Tensor:
    return F.binary_cross_entropy_with_logits(x, torch.full_like(x, label))


def _lsgan(x: Tensor, real: bool, label: float, is_disc: bool) -> Tensor:
    return (x - label).square().mean()


def _wgan(x: Tensor, real: bool, label: float, is_disc: bool) -> Tensor:
    return _signed(x, real).mean()


def _wgan_softplus(x: Tensor, real: bool, label: float, is_disc: bool) -> Tensor:
    return F.softplus(_signed(x, real)).mean()


def _hinge(x: Tensor, real: bool, label: float, is_disc: bool) -> Tensor:
    # In BasicSR the generator's is -mean whatever the target; only "real" makes sense for it, and both agree there.
    return F.relu(1 + _signed(x, real)).mean() if is_disc else -x.mean()


_KINDS: dict[str, Callable[[Tensor, bool, float, bool], Tensor]] = {
    'vanilla': _vanilla,
    'lsgan': _lsgan,
    'wgan': _wgan,
    'wgan_softplus': _wgan_softplus,
    'hinge': _hinge,
}
