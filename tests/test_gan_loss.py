"""Adversarial losses by hand."""

import math

import pytest
import torch

from basicsr.errors import OptionError
from basicsr.registry import LOSS_REGISTRY, build

KINDS = ['vanilla', 'lsgan', 'wgan', 'wgan_softplus', 'hinge']
SAID = torch.tensor([[-2.0, 0.5], [1.0, 3.0]])  # what a discriminator says


def loss(kind, **options):
    return build(LOSS_REGISTRY, {'type': 'GANLoss', 'gan_type': kind, **options})


def softplus(x):
    return math.log1p(math.exp(x))


def mean(f):
    return pytest.approx(sum(f(x) for x in SAID.flatten().tolist()) / 4, rel=1e-6)


def test_hinge():
    hinge = loss('hinge')
    assert hinge(SAID, True, is_disc=True).item() == pytest.approx((3 + 0.5 + 0 + 0) / 4)
    assert hinge(SAID, False, is_disc=True).item() == pytest.approx((0 + 1.5 + 2 + 4) / 4)
    assert hinge(SAID, True).item() == pytest.approx(-(-2 + 0.5 + 1 + 3) / 4)


@pytest.mark.parametrize('is_disc', [True, False])
def test_the_others(is_disc):
    assert loss('vanilla')(SAID, True, is_disc).item() == mean(lambda x: softplus(-x))
    assert loss('vanilla')(SAID, False, is_disc).item() == mean(softplus)
    assert loss('lsgan')(SAID, True, is_disc).item() == mean(lambda x: (x - 1) ** 2)
    assert loss('lsgan')(SAID, False, is_disc).item() == mean(lambda x: x**2)
    assert loss('wgan')(SAID, True, is_disc).item() == mean(lambda x: -x)
    assert loss('wgan')(SAID, False, is_disc).item() == mean(lambda x: x)
    assert loss('wgan_softplus')(SAID, True, is_disc).item() == mean(lambda x: softplus(-x))
    assert loss('wgan_softplus')(SAID, False, is_disc).item() == mean(softplus)


def test_labels_can_be_softened():
    found = loss('lsgan', real_label_val=0.9, fake_label_val=0.1)
    assert found(SAID, True).item() == mean(lambda x: (x - 0.9) ** 2)
    assert found(SAID, False).item() == mean(lambda x: (x - 0.1) ** 2)
    found = loss('vanilla', real_label_val=0.9)(SAID, True).item()
    assert found == mean(lambda x: 0.9 * softplus(-x) + 0.1 * softplus(x))


@pytest.mark.parametrize('kind', KINDS)
def test_the_weight_is_the_generators_alone(kind):
    plain, weighted = loss(kind), loss(kind, loss_weight=0.1)
    assert torch.allclose(weighted(SAID, True), 0.1 * plain(SAID, True))
    assert torch.equal(weighted(SAID, True, is_disc=True), plain(SAID, True, is_disc=True))


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('is_disc', [True, False])
def test_a_step_down_makes_what_is_said_truer(kind, is_disc):
    for real in (True, False) if is_disc else (True,):
        said = torch.zeros(2, 1, 3, 3, requires_grad=True)
        loss(kind)(said, real, is_disc).backward()
        moved = -said.grad * (1 if real else -1)
        assert (moved > 0).all() or (kind == 'lsgan' and not real and not moved.any())  # 0 is its label already


def test_half_precision_is_computed_in_float32():
    assert loss('vanilla')(SAID.bfloat16(), True).dtype == torch.float32


def test_an_unknown_kind_is_refused():
    with pytest.raises(OptionError, match='hinge'):
        loss('relativistic')
