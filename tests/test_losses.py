"""Pixel and frequency losses against BasicSR and NAFNet (tests/golden), and what must hold of them by themselves."""

import json
import math
from pathlib import Path

import pytest
import torch

from basicsr.errors import DataError, OptionError
from basicsr.losses import build_loss
from basicsr.losses.basic_loss import CharbonnierLoss, FFTLoss, L1Loss, MSELoss, PSNRLoss
from basicsr.losses.loss_util import weighted_loss
from tests.golden.recipe import image

GOLDEN = Path(__file__).parent / 'golden'
ALL = [L1Loss, MSELoss, CharbonnierLoss, PSNRLoss, FFTLoss]


def pair(dtype=torch.float32):
    return image((2, 3, 6, 5), 1).to(dtype), image((2, 3, 6, 5), 2).to(dtype)


@pytest.mark.parametrize(
    ('name', 'options', 'channels', 'shape', 'total'), json.loads((GOLDEN / 'losses.json').read_text())['rows']
)
def test_as_basicsr(name, options, channels, shape, total):
    weight = None if channels is None else image((2, channels, 6, 5), 3).float()
    loss = build_loss({'type': name, **options})(*pair(), weight=weight)
    assert list(loss.shape) == shape
    assert loss.double().sum().item() == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize(
    ('source', 'name', 'options', 'value'), json.loads((GOLDEN / 'published.json').read_text())['losses']
)
def test_as_nafnet(source, name, options, value):
    assert build_loss({'type': name, **options})(*pair()).item() == pytest.approx(value, rel=1e-6)


def test_psnr_loss_is_minus_the_psnr_of_each_image():
    pred, target = torch.full((2, 3, 4, 4), 0.5), torch.zeros(2, 3, 4, 4)
    target[0] = 0.4
    loss = PSNRLoss(reduction='none')(pred, target)
    torch.testing.assert_close(loss, torch.tensor([-20.0, 20 * math.log10(0.5)]), atol=1e-4, rtol=0)
    assert PSNRLoss(reduction='sum')(pred, target).item() == pytest.approx(loss.sum().item())
    assert PSNRLoss()(target, target).item() == pytest.approx(-80, abs=1e-4)  # the 1e-8 is the floor


def test_psnr_loss_of_equal_images_has_a_finite_gradient():
    x = torch.rand(1, 3, 4, 4, requires_grad=True)
    PSNRLoss()(x, x.detach()).backward()
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_psnr_loss_on_luma():
    grey = torch.rand(1, 1, 4, 4).expand(1, 3, 4, 4)
    black = torch.zeros(1, 3, 4, 4)
    difference = PSNRLoss(toY=True)(grey, black) - PSNRLoss()(grey, black)
    assert difference.item() == pytest.approx(20 * math.log10(219 / 255), abs=1e-4)  # luma spans 219 of 255 levels


def test_fft_loss_sees_the_unscaled_half_spectrum():
    pred, target = pair(torch.float64)
    elements = FFTLoss(reduction='none')(pred, target)
    assert elements.shape == (2, 3, 6, 3, 2)
    assert elements[0, 0, 0, 0, 0].item() == pytest.approx((pred - target)[0, 0].sum().abs().item())  # sum of a plane
    full = torch.fft.fft2(pred) - torch.fft.fft2(target)
    torch.testing.assert_close(elements[..., 0], full.real.abs()[..., :3])
    torch.testing.assert_close(elements[..., 1], full.imag.abs()[..., :3])
    assert FFTLoss(0.1)(pred, target).item() == pytest.approx(0.1 * elements.mean().item())


@pytest.mark.parametrize('loss', ALL)
def test_equal_images_cost_least_and_gradients_are_right(loss):
    generator = torch.Generator().manual_seed(0)
    pred, target = torch.rand(2, 1, 3, 4, 5, dtype=torch.float64, generator=generator)
    criterion = loss(eps=1e-3) if loss is CharbonnierLoss else loss()
    assert criterion(target, target) < criterion(0.99 * target, target)
    pred.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: criterion(x, target), pred)


@pytest.mark.parametrize('loss', ALL)
def test_computes_in_float32_under_bf16(loss):
    pred, target = (x.bfloat16() for x in pair())
    exact = loss()(pred.float(), target.float())
    with torch.autocast('cpu', torch.bfloat16):
        low = loss()(pred, target)
    assert low.dtype == torch.float32
    assert torch.equal(low, exact)


@pytest.mark.parametrize('loss', ALL)
@pytest.mark.parametrize('reduction', ['none', 'mean', 'sum'])
def test_weights_of_one_change_nothing(loss, reduction):
    pred, target = pair(torch.float64)
    criterion = loss(0.3, reduction)
    ones = torch.ones(2, 1, 1, 1)
    torch.testing.assert_close(criterion(pred, target, weight=ones), criterion(pred, target))


@pytest.mark.parametrize('loss', ALL)
def test_one_weight_an_image_selects_images(loss):
    pred, target = pair(torch.float64)
    only_second = loss()(pred, target, weight=torch.tensor([0.0, 1.0]).view(2, 1, 1, 1))
    if loss is PSNRLoss:  # one value an image: the first has an MSE of 0 and counts as a perfect one
        torch.testing.assert_close(only_second, (loss()(pred[1:], target[1:]) - 80) / 2)
    else:
        torch.testing.assert_close(only_second, loss()(pred[1:], target[1:]))


@pytest.mark.parametrize('loss', [L1Loss, MSELoss, CharbonnierLoss, PSNRLoss])
def test_mask_selects_pixels(loss):
    pred, target = pair(torch.float64)
    mask = torch.zeros(2, 1, 6, 5)
    mask[..., :4] = 1
    torch.testing.assert_close(loss()(pred, target, mask), loss()(pred[..., :4], target[..., :4]))


@pytest.mark.parametrize('loss', [L1Loss, MSELoss, CharbonnierLoss, FFTLoss])
def test_weights_of_zero_give_zero_not_nan(loss):
    pred, target = pair()
    pred.requires_grad_()
    value = loss()(pred, target, weight=torch.zeros(2, 1, 1, 1))
    value.backward()
    assert value == 0
    assert not pred.grad.any()


@pytest.mark.parametrize('loss', ALL)
def test_bad_input_is_refused(loss):
    with pytest.raises(DataError, match=r'\(1, 3, 4, 4\) but target is \(1, 3, 4, 5\)'):
        loss()(torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 5))
    with pytest.raises(DataError, match=r'shape|weights'):
        loss()(*pair(), weight=torch.rand(2, 2, 6, 5))
    with pytest.raises(OptionError, match=r"reduction 'avg' .* none, mean, sum"):
        loss(reduction='avg')


def test_luma_of_grey_is_refused():
    with pytest.raises(DataError, match='three channels'):
        PSNRLoss(toY=True)(torch.rand(1, 1, 4, 4), torch.rand(1, 1, 4, 4))


def test_weighted_loss_decorates_a_function_of_a_plug_in():
    absolute = weighted_loss(lambda pred, target, scale=1.0: scale * (pred - target).abs())
    pred, target = torch.tensor([[0.0, 2.0, 3.0]]), torch.tensor([[1.0, 1.0, 1.0]])
    weight = torch.tensor([[1.0, 0.0, 1.0]])
    assert absolute(pred, target).item() == pytest.approx(4 / 3)
    assert absolute(pred, target, weight).item() == 1.5
    assert absolute(pred, target, weight, reduction='sum', scale=2.0).item() == 6
    assert absolute(pred, target, reduction='none').tolist() == [[1, 1, 2]]
