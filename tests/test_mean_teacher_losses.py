"""Losses of the mean-teacher methods against their formulae written out, and where their gradients go."""

import math

import pytest
import torch

from basicsr.archs.aimnet_arch import GradientMap
from basicsr.errors import DataError, MissingWeightsError, OptionError
from basicsr.losses import build_loss
from basicsr.losses.contrast_loss import ContrastiveFeatureLoss
from basicsr.losses.gradient_loss import GradientLoss
from basicsr.losses.preference_loss import RegressionPreferenceLoss, ScorePreferenceLoss
from basicsr.losses.scattering_loss import ScatteringLoss

from .golden.recipe import image

NAN = float('nan')


def images(count, batch=4, size=16, dtype=torch.float64):
    return [image((batch, 3, size, size), seed).to(dtype) for seed in range(1, count + 1)]


def minus_log_sigmoid(z):
    return math.log(1 + math.exp(-z))


def per_image(loss, *tensors):
    """What a batch gives, after it was compared with its images one at a time and with the reductions."""
    build = {**loss, 'reduction': 'none'}
    together = build_loss(build).double()(*tensors)
    alone = torch.cat([build_loss(build).double()(*(t[i : i + 1] for t in tensors)) for i in range(len(tensors[0]))])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-12)
    assert together.shape == (len(tensors[0]),)
    for name in ('mean', 'sum'):
        torch.testing.assert_close(build_loss({**loss, 'reduction': name}).double()(*tensors), getattr(alone, name)())
    return together


@pytest.fixture(scope='module')
def contrast():
    return ContrastiveFeatureLoss().double()


# ---- contrast ---------------------------------------------------------------------------------------------------


def test_contrast_is_its_formula(contrast):
    pred, positive, negative = images(3, batch=2, size=33)
    nets = [contrast.net.features(x) for x in (pred, positive, negative)]
    wanted = []
    for i in range(2):
        levels = [[level[i] for level in found] for found in nets]
        terms = [(f - p).abs().mean() / ((f - n).abs().mean() + 1e-7) for f, p, n in zip(*levels)]
        wanted.append(0.2 * (terms[0] / 16 + terms[1] / 8 + terms[2] / 4 + terms[3]))  # strides 2, 4, 8, 16; not 32
    found = contrast.compare(*nets)
    torch.testing.assert_close(found, torch.stack(wanted))
    assert torch.equal(contrast(pred, positive, negative), found.mean())
    assert contrast.layer_weights == (1 / 16, 1 / 8, 1 / 4, 1.0, 0.0)


def test_contrast_of_each_image():
    value = per_image({'type': 'ContrastiveFeatureLoss'}, *images(3, batch=2, size=32))
    other = build_loss({'type': 'ContrastiveFeatureLoss', 'layer_weights': [0, 0, 2, 0, 0], 'loss_weight': 1.0})
    assert other.double()(*images(3, batch=2, size=32)).item() != pytest.approx(value.mean().item(), rel=0.01)


def test_contrast_reuses_features(contrast):
    pred, first, second, negative = images(4, batch=2, size=32)
    found, unwanted = contrast.features(pred), contrast.features(negative)
    for positive in (first, second):
        again = contrast.compare(found, contrast.features(positive), unwanted).mean()
        assert torch.equal(again, contrast(pred, positive, negative))


def test_contrast_moves_the_output_only(contrast):
    pred, positive, negative = (x.requires_grad_() for x in images(3, batch=1, size=32))
    contrast.compare(*(contrast.features(x) for x in (pred, positive, negative))).sum().backward()
    assert pred.grad.abs().max() > 0
    assert positive.grad is None
    assert negative.grad is None
    assert not list(contrast.net.parameters())


def test_contrast_gradient_is_right(contrast):
    pred, positive, negative = ([x[:, i : i + 1] for i in range(5)] for x in torch.rand(3, 2, 5, 3, 3).double())
    pred = [p.clone().requires_grad_() for p in pred]
    assert torch.autograd.gradcheck(lambda *f: contrast.compare(list(f), positive, negative), pred)


def test_contrast_of_equal_images_is_finite(contrast):
    x, y = images(2, batch=1, size=32)
    assert contrast(x, x, x).item() == 0
    assert torch.isfinite(contrast(x, y, x))  # the distance to the negative is 0: eps


def test_contrast_refuses_what_does_not_fit(contrast):
    with pytest.raises(OptionError, match='EfficientNetLite0 gives 5 features, but layer_weights has 2'):
        ContrastiveFeatureLoss(layer_weights=(1.0, 1.0))
    with pytest.raises(OptionError, match='not all 0'):
        ContrastiveFeatureLoss(layer_weights=(0.0,) * 5)
    with pytest.raises(OptionError, match='NAFNet gives 0 features'):
        ContrastiveFeatureLoss(backbone={'type': 'NAFNet', 'width': 8})
    with pytest.raises(DataError, match='must be equal'):
        contrast(*images(2), images(1, batch=1)[0])
    with pytest.raises(DataError, match='images of 40x31 pixels; at least 32x32'):
        contrast(*torch.rand(3, 1, 3, 31, 40))
    with pytest.raises(MissingWeightsError, match='VGGFeatures'):
        ContrastiveFeatureLoss(backbone={'type': 'VGGFeatures', 'weights': 'nowhere.pth'})


# ---- preference -------------------------------------------------------------------------------------------------

HIGH, LOW = [0.7, 0.4, 0.5, 0.9], [0.5, 0.6, 0.5, 0.1]
LABELS = [[0.8, 0.6, NAN], [0.3, NAN, 0.5], [NAN, NAN, NAN], [0.9, 0.95, 0.2]]


def scores(grad=False):
    high, low = (torch.tensor(x, dtype=torch.float64, requires_grad=grad) for x in (HIGH, LOW))
    return high, low, torch.tensor(LABELS, dtype=torch.float64)


@pytest.mark.parametrize(('anchor', 'pick'), [('best', max), ('worst', min), ('none', None)])
def test_preference_is_its_formula(anchor, pick):
    found = per_image({'type': 'ScorePreferenceLoss', 'anchor': anchor, 'beta': 3.0, 'loss_weight': 2.0}, *scores())
    for value, high, low, labels in zip(found.tolist(), HIGH, LOW, LABELS):
        valid = [s for s in labels if not math.isnan(s)]
        wanted = minus_log_sigmoid(3 * (high - low - 0.1))
        if valid and pick:
            wanted += 0.5 * minus_log_sigmoid(3 * (high - pick(valid)))
        assert value == pytest.approx(2 * wanted, rel=1e-9)


@pytest.mark.parametrize('anchor', ['best', 'worst', 'none'])
def test_preference_gradient_is_right(anchor):
    high, low, labels = scores(grad=True)
    loss = ScorePreferenceLoss(anchor=anchor, beta=5)
    assert torch.autograd.gradcheck(lambda *x: loss(*x, labels), (high, low))


@pytest.mark.parametrize('detach', [False, True])
def test_preference_raises_the_high_score(detach):
    high, low, labels = scores(grad=True)
    labels.requires_grad_()
    ScorePreferenceLoss(detach_low=detach, reduction='sum')(high, low, labels).backward()
    assert (high.grad < 0).all()  # a step against the gradient raises it, also where no label is valid
    assert labels.grad is None
    assert low.grad is None if detach else (low.grad > 0).all()


def test_an_image_without_labels_counts_with_the_first_term_only():
    high, low, labels = scores()
    assert torch.equal(
        ScorePreferenceLoss()(high, low, labels * NAN), ScorePreferenceLoss(lambda2=0)(high, low, labels)
    )


def test_scores_must_be_flat():
    high, low, labels = scores()
    for wrong in ((high[:, None], low[:, None], labels), (high, low[:2], labels), (high, low, labels[:2])):
        with pytest.raises(DataError, match=r'must be \(N,\), \(N,\) and \(N,K\), not'):
            ScorePreferenceLoss()(*wrong)
    with pytest.raises(DataError, match=r'and \(4, 0\)'):
        ScorePreferenceLoss()(high, low, labels[:, :0])


def test_regression_preference_is_its_formula():
    output, reference, winner, loser = images(4)
    found = per_image({'type': 'RegressionPreferenceLoss', 'beta': 7.0, 'loss_weight': 0.5}, *images(4))
    for i, value in enumerate(found.tolist()):
        f, ref, win, lose = (x[i].numpy() for x in (output, reference, winner, loser))
        won = ((win - f) ** 2).mean() - ((win - ref) ** 2).mean()
        lost = ((lose - f) ** 2).mean() - ((lose - ref) ** 2).mean()
        assert value == pytest.approx(0.5 * minus_log_sigmoid(-7 * (won - lost)), rel=1e-9)


def test_regression_preference_draws_to_the_winner():
    output, reference, winner, loser = (x.requires_grad_() for x in images(4))
    RegressionPreferenceLoss()(output, reference, winner, loser).backward()
    assert reference.grad is winner.grad is loser.grad is None
    towards = (winner - output).detach() - (loser - output).detach()
    assert torch.equal((-output.grad).sign(), towards.sign())
    small = [x[:1, :, :2, :2].detach() for x in (output, reference, winner, loser)]
    small[0].requires_grad_()
    assert torch.autograd.gradcheck(RegressionPreferenceLoss(reduction='none'), small)


# ---- scattering and gradients of images ---------------------------------------------------------------------------


def test_scattering_is_its_formula():
    clear, hazy, t, mask = images(4)
    t, mask = t[:, :1], mask[:, :1]
    found = per_image({'type': 'ScatteringLoss', 'loss_weight': 2.0}, clear, t, hazy, mask)
    wanted = [2 * (mask[i] * (clear[i] * t[i] + (1 - t[i]) - hazy[i]).abs()).mean() for i in range(4)]
    torch.testing.assert_close(found, torch.stack(wanted))  # not divided by the mean of the mask
    model = clear * t + (1 - t)
    assert ScatteringLoss()(clear, t, model).item() == pytest.approx(0, abs=1e-12)
    assert ScatteringLoss()(clear, t.expand(-1, 3, -1, -1), hazy) == ScatteringLoss()(clear, t, hazy)
    assert ScatteringLoss().loss_weight == 0.005


def test_scattering_reaches_image_and_transmission():
    clear, t, hazy = (x[:1, :, :3, :3] for x in images(3))
    inputs = (clear.clone().requires_grad_(), t[:, :1].clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda j, t: ScatteringLoss(1.0)(j, t, hazy), inputs)
    with pytest.raises(DataError, match=r'the transmission is \(1, 2, 3, 3\), but the output'):
        ScatteringLoss()(clear, t[:, :2], hazy)


def test_gradient_loss_is_that_of_semi_uir():
    pred, target = images(2, dtype=torch.float32)
    semi_uir = GradientMap()
    wanted = [0.1 * (semi_uir(p) - semi_uir(t)).abs().mean() for p, t in zip(pred.split(1), target.split(1))]
    found = build_loss({'type': 'GradientLoss', 'reduction': 'none'})(pred, target)
    torch.testing.assert_close(found, torch.stack(wanted))
    torch.testing.assert_close(GradientLoss.magnitude(pred), semi_uir(pred))


def test_gradient_loss_of_each_image_and_of_a_map():
    pred, target = images(2)
    per_image({'type': 'GradientLoss'}, pred, target)
    loss = GradientLoss()
    assert torch.equal(loss.compare(GradientLoss.magnitude(pred), GradientLoss.magnitude(target)), loss(pred, target))
    small = pred[:1, :1, :4, :4].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, target[:1, :1, :4, :4]), small)


# ---- all ----------------------------------------------------------------------------------------------------------

CASES = {
    'ContrastiveFeatureLoss': lambda: images(3, 2, 32, torch.float32),
    'ScorePreferenceLoss': lambda: [x.float() for x in scores()],
    'RegressionPreferenceLoss': lambda: images(4, dtype=torch.float32),
    'ScatteringLoss': lambda: images(3, dtype=torch.float32),
    'GradientLoss': lambda: images(2, dtype=torch.float32),
}


@pytest.mark.parametrize('name', CASES)
def test_computes_in_float32_under_bf16(name):
    tensors = [x.bfloat16() for x in CASES[name]()]
    loss = build_loss({'type': name})
    exact = loss(*(x.float() for x in tensors))
    with torch.autocast('cpu', torch.bfloat16):
        low = loss(*tensors)
    assert low.dtype == torch.float32
    assert torch.equal(low, exact)


@pytest.mark.parametrize('name', CASES)
def test_reductions_are_checked(name):
    with pytest.raises(OptionError, match=r"reduction: 'avg'|reduction 'avg'|allowed"):
        build_loss({'type': name, 'reduction': 'avg'})


def test_feature_loss_is_absolute_where_it_is_told_so():
    pred, target = images(2, batch=2, size=32)
    loss = build_loss({'type': 'FeatureLoss', 'relative': False, 'layer_weights': [0, 0.5, 0, 0, 0]})
    pred, target = pred.float(), target.float()
    found, wanted = (loss.net.features(x)[1] for x in (pred, target))
    assert torch.allclose(loss(pred, target), 0.5 * (found - wanted).abs().mean())
    relative = build_loss({'type': 'FeatureLoss', 'layer_weights': [0, 0.5, 0, 0, 0]})
    assert torch.allclose(relative(pred, target), 0.5 * (found - wanted).abs().mean() / wanted.abs().mean())
