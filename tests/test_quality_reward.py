"""The optimisation by a judge: how its gradient reaches the network, what holds it back, what is logged and refused."""

import math

import pytest
import torch

from basicsr.codebooks import CodePrediction
from basicsr.errors import DataError, OptionError
from basicsr.iqa.loading import load_scorer
from basicsr.models.quality_reward import (
    QualityReward,
    divergence,
    hard_weights,
    knobs,
    own_units,
    reward_of,
    supported,
    through_features,
)
from basicsr.schema import fields_of

from . import code_methods as codes
from .code_methods import BOOKS, COLOURFUL, FIDELITY, READERS, batch, gradients, method, part, total

KINDS = list(codes.PREDICTORS)
MODES = ('feat_ste', 'logit_st', 'continuous')


def judged(folder, kind='IQPIRG', net=None, iteration=1, model=None, **options):
    """Stage II with a judge."""
    quality = {'scorer': COLOURFUL, **options}
    return method(folder, kind, net=net, iteration=iteration, quality_opt=quality, **(model or {}))


def moved(model, size=0.3):
    """Moves what is trained, so that the network differs from its reference."""
    torch.manual_seed(6)
    with torch.no_grad():
        for p in model.net_g.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p), alpha=size)
    return model


# ---- straight through ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('mode', MODES)
def test_what_the_reward_s_gradient_reaches(tmp_path, kind, mode):
    model = judged(tmp_path, kind, mode=mode)
    for name, p in model.net_g.named_parameters():  # so that it could be seen if anything reached them
        if name.startswith(('quantize', 'quantize_aesthetic')):
            p.requires_grad_(True)
    found = gradients(model, model(batch())['l_quality'])
    assert found['encoder'] > 0
    assert found['score_embed'] > 0
    for name in READERS[kind]:
        assert (found[name] > 0) == (mode == 'logit_st'), name
    assert (found['quantize'] > 0) == (mode == 'logit_st')  # a mixture of entries; they are frozen in a run
    assert found[FIDELITY[kind][0]] == found['generator'] == 0


@pytest.mark.parametrize('mode', ['feat_ste', 'logit_st'])
def test_the_generator_sees_entries_of_the_books_only(tmp_path, mode):
    model, given = judged(tmp_path, mode=mode), batch()
    prediction = model.net_g.predict(given['lq'], 1.0)
    z = model.optimised(prediction, prediction, None)
    wanted = model.net_g.embed(prediction.codes)
    assert z.requires_grad
    if mode == 'feat_ste':
        assert torch.equal(z, wanted)
    torch.testing.assert_close(z, wanted, rtol=0, atol=1e-6)
    assert not torch.allclose(prediction.features, wanted, atol=0.1)


def test_the_continuous_mode_goes_past_the_books(tmp_path):
    model, given = judged(tmp_path, mode='continuous'), batch()
    reward = model(given)['reward']
    with torch.no_grad():
        for book in model.net_g.books:
            book.embedding.weight.normal_()
    assert torch.equal(model(given)['reward'], reward)
    assert not torch.equal(judged(tmp_path, mode='feat_ste')(given)['reward'], reward)


def test_straight_through_features_have_the_value_of_one_and_the_gradient_of_the_other():
    features, z = torch.rand(2, 3, 4, 4, requires_grad=True), torch.rand(2, 3, 4, 4, requires_grad=True)
    found = through_features(features, z)
    assert torch.equal(found, z)
    found.square().sum().backward()
    torch.testing.assert_close(features.grad, 2 * z.detach())
    assert z.grad is None


def test_hard_weights_are_one_hot_with_the_gradient_of_the_softmax():
    torch.manual_seed(0)
    logits, factor = torch.randn(2, 5, 3, 3, requires_grad=True), torch.randn(2, 5, 3, 3)
    found = hard_weights(logits, 0.5)
    assert torch.equal(found.sum(1), torch.ones(2, 3, 3))
    assert torch.equal(found.argmax(1), logits.argmax(1))
    assert set(found.unique().tolist()) == {0, 1}
    (found * factor).sum().backward()
    soft = logits.detach().clone().requires_grad_(True)
    ((soft / 0.5).softmax(1) * factor).sum().backward()
    torch.testing.assert_close(logits.grad, soft.grad)


# ---- what holds it back ----------------------------------------------------------------------------------------------


def test_codes_stay_among_the_likeliest_of_the_reference(tmp_path):
    given = batch()
    chosen = {}
    for top_k in (2, None):
        model = moved(judged(tmp_path, mode='logit_st', top_k=top_k))
        prediction = model.net_g.predict(given['lq'], 1.0)
        with torch.no_grad():
            reference = model.reference.predict(given['lq'], 1.0)
        seen = []
        embed = model.net_g.embed_weights
        model.net_g.embed_weights = lambda weights, mask, seen=seen, embed=embed: (
            seen.extend(weights) or embed(weights, mask)
        )
        model.optimised(prediction, reference, None)
        likeliest = [logits.topk(2, 1).indices for logits in reference.logits]
        inside = [(w.argmax(1, keepdim=True) == best).any(1) for w, best in zip(seen, likeliest)]
        chosen[top_k] = torch.stack(inside).float().mean().item()
    assert chosen[2] == 1
    assert chosen[None] < 0.9  # it would go elsewhere


def test_logits_outside_of_the_support_get_no_gradient():
    torch.manual_seed(0)
    logits, reference = torch.randn(1, 6, 2, 2, requires_grad=True), torch.randn(1, 6, 2, 2)
    found = supported(logits, reference, 3)
    assert (found.isfinite().sum(1) == 3).all()
    (hard_weights(found, 1.0) * torch.randn(1, 6, 2, 2)).sum().backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[~found.isfinite()] == 0).all()
    assert (logits.grad[found.isfinite()] != 0).any()
    assert supported(logits, reference, None) is logits
    assert supported(logits, reference, 6) is logits


@pytest.mark.parametrize('kind', KINDS)
def test_the_divergence_is_zero_at_first_and_pulls_back(tmp_path, kind):
    model, given = judged(tmp_path, kind, mode='logit_st'), batch()
    losses = model(given)
    assert losses['kl'].abs() < 1e-5
    assert losses['code_change'] == 0
    losses = moved(model, 0.1)(given)
    assert losses['kl'] > 1e-3
    assert losses['code_change'] > 0
    torch.testing.assert_close(losses['l_kl'].detach(), 0.05 * losses['kl'])
    assert gradients(model, losses['l_kl'])[READERS[kind][0]] > 0
    assert all(p.grad is None for p in model.reference.parameters())


def test_the_divergence_is_that_of_torch():
    torch.manual_seed(0)
    ours, theirs = [torch.randn(2, n, 3, 3) for n in (5, 4)], [torch.randn(2, n, 3, 3) for n in (5, 4)]
    wanted = 0.0
    for a, b in zip(ours, theirs):
        each = torch.nn.functional.kl_div(b.log_softmax(1), a.log_softmax(1), reduction='none', log_target=True)
        wanted += each.sum(1).mean()
    torch.testing.assert_close(divergence(ours, theirs), wanted)


def test_the_reference_is_made_when_the_optimisation_begins_and_shares_what_is_frozen(tmp_path):
    model = judged(tmp_path, mode='logit_st', start=3)
    assert model.reference is None
    moved(model).start_iteration(3)
    ours, theirs = dict(model.net_g.named_parameters()), dict(model.reference.named_parameters())
    assert all(torch.equal(p, theirs[name]) for name, p in ours.items())
    assert {name for name, p in ours.items() if p is theirs[name]} == {
        n for n, p in ours.items() if not p.requires_grad
    }
    reference = model.reference
    moved(model).start_iteration(4)
    assert model.reference is reference
    assert method(tmp_path).reference is None


# ---- the loss --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('mode', MODES)
def test_the_reward_rises(tmp_path, mode):
    model, given = judged(tmp_path, mode=mode, weight=5.0, tau=[0.3, 0.3]), batch()
    optimizer = torch.optim.Adam([p for p in model.net_g.parameters() if p.requires_grad], 3e-3)
    rewards = []
    for _ in range(15):
        optimizer.zero_grad()
        losses = model(given)
        losses['l_quality'].backward()
        optimizer.step()
        rewards.append(losses['reward'].item())
    assert max(rewards[-5:]) > rewards[0] + 0.003


def test_the_loss_is_what_the_judge_misses(tmp_path):
    model, given = judged(tmp_path, weight=0.7, score='gt'), batch()
    losses = model(given)
    with torch.no_grad():
        prediction = model.net_g.predict(given['lq'], given['score'])
        images = model.net_g.render(model.net_g.embed(prediction.codes), prediction)
    score = load_scorer(COLOURFUL)(images.clamp(0, 1))
    torch.testing.assert_close(losses['l_quality'].detach(), 0.7 * (1 - score).mean())
    torch.testing.assert_close(losses['reward'], score.mean())


def test_the_reward_is_computed_in_float32_on_clamped_images():
    seen = []
    reward = QualityReward(COLOURFUL)
    reward.judge.scorer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.autocast('cpu', torch.bfloat16):
        reward.loss(torch.randn(2, 3, 16, 16).bfloat16(), ['a', 'b'], 1)
    assert seen[0].dtype == torch.float32
    assert (seen[0].min(), seen[0].max()) == (0, 1)


def test_who_is_judged_and_from_when(tmp_path):
    model, given = judged(tmp_path, start=5, held_out=['UCIQE'], held_out_freq=3), batch()
    told, predict = [], model.net_g.predict
    model.net_g.predict = lambda images, score: told.append(score) or predict(images, score)
    plain = {'l_feat', 'l_code', 'l_code_hq', 'code_accuracy', 'code_accuracy_hq'}
    for iteration, more in (
        (1, set()),
        (3, {'held_out_uciqe'}),
        (5, {'l_quality', 'reward'}),
        (6, {'l_quality', 'reward', 'held_out_uciqe', 'reference_uciqe', 'reference_reward', 'code_change'}),
    ):
        model.start_iteration(iteration)
        if model.reference is not None:
            model.reference.__dict__.pop('predict', None)  # it is a copy, of the spy too
        told.clear()
        losses = model(given)
        assert set(losses) == plain | more, iteration
        assert told[1:] == ([1.0] if more else [])
    assert losses['held_out_uciqe'] == losses['reference_uciqe']  # nothing has moved yet
    assert losses['reward'] == losses['reference_reward']
    assert moved(model)(given)['held_out_uciqe'] != losses['reference_uciqe']


def test_with_gt_the_first_prediction_is_judged_under_the_scores_it_was_told(tmp_path):
    model = judged(tmp_path, mode='logit_st', score='gt', model={'drop_score': 0.5})
    told, asked = [], []
    predict, refer = model.net_g.predict, model.reference.predict
    model.net_g.predict = lambda images, score: told.append(score) or predict(images, score)
    model.reference.predict = lambda images, score: asked.append(score) or refer(images, score)
    losses = model(batch(8))
    assert len(told) == len(asked) == 1
    assert told[0].isnan().any()
    torch.testing.assert_close(told[0], asked[0], equal_nan=True)
    assert losses['kl'].abs() < 1e-5


def test_a_network_that_is_told_no_score_is_asked_for_none(tmp_path):
    model = judged(tmp_path, model={'use_score': False})
    told, predict = [], model.net_g.predict
    model.net_g.predict = lambda images, score: told.append(score) or predict(images, score)
    assert 'l_quality' in model(batch())
    assert told == [None]


def test_the_temperature_falls_along_a_cosine():
    reward = QualityReward(COLOURFUL, start=101, tau=(1.0, 0.3), tau_iters=200)
    assert reward.temperature(1) == reward.temperature(101) == 1.0
    assert reward.temperature(201) == pytest.approx(0.65)
    assert reward.temperature(151) == pytest.approx(0.3 + 0.35 * (1 + math.sqrt(0.5)))
    assert reward.temperature(301) == reward.temperature(10**6) == pytest.approx(0.3)


def test_views_are_drawn_for_each_image_and_iteration():
    reward = QualityReward(COLOURFUL, flip=True, crop=(0.5, 0.75))
    image = torch.arange(20.0 * 24).view(1, 20, 24).repeat(3, 1, 1)
    images, keys = image.repeat(8, 1, 1, 1), [str(n) for n in range(8)]
    seen = [reward._seen(images, keys, n) for n in (1, 1, 2)]
    assert torch.equal(seen[0], seen[1])
    assert seen[0].shape[-1] != seen[2].shape[-1] or not torch.equal(seen[0], seen[2])
    for views in seen:
        height, width = views.shape[-2:]
        assert 10 <= height <= 15
        assert 12 <= width <= 18
        assert len({tuple(v[0, 0].tolist()) for v in views}) > 4
        rises = (views[:, 0, 0, 1] > views[:, 0, 0, 0]).tolist()
        assert True in rises
        assert False in rises
        steps = (views[:, 0, 1:] - views[:, 0, :-1]).unique().tolist()
        assert steps == [24]  # a window, not a resized image
    alone = torch.cat([reward._seen(images[n : n + 1], keys[n : n + 1], 1) for n in range(8)])
    assert torch.equal(alone, seen[0])


def test_a_window_is_as_large_as_the_judge_needs():
    reward = QualityReward('QualityNet', crop=(0.1, 0.1))
    assert reward.judge.scorer.min_size > 8
    least = reward.judge.scorer.min_size
    assert reward._window(torch.Size([80, 400]), 1) == [least, 40]
    assert reward._window(torch.Size([20, 400]), 1)[0] == 20


def test_own_units_are_those_of_the_scorer():
    images = torch.rand(2, 3, 16, 16)
    scorer = load_scorer(COLOURFUL)
    torch.testing.assert_close(own_units(scorer, images * 3 - 1), scorer.raw((images * 3 - 1).clamp(0, 1)))
    torch.testing.assert_close(scorer(images), (own_units(scorer, images) + 100) / 400)


# ---- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('options', 'text'),
    [
        ({'weigth': 1.0}, r"quality_opt: key 'weigth' is not known\. Did you mean 'weight'\?"),
        ({'weight': -1}, r"'weight' is -1 \(int\); allowed: float at least 0"),
        ({'mode': 'ppo'}, r"'mode' is 'ppo'"),
        ({'score': 1.5}, r"'score' is 1\.5"),
        ({'scorer': 'Entropy'}, 'entropy has no gradient; take a scorer that has one'),
        ({'crop': [0.8, 0.5]}, r'crop \[0\.8, 0\.5\]; the smaller one comes first'),
        ({'tau': [1.0, 0.0]}, r"'tau\.1' is 0\.0"),
    ],
)
def test_wrong_options_are_named(options, text):
    with pytest.raises(OptionError, match=text):
        reward_of({'scorer': COLOURFUL, **options}, MODES)


def test_a_scorer_is_needed_and_modes_are_those_of_the_method():
    with pytest.raises(OptionError, match="key 'scorer' is missing"):
        reward_of({}, MODES)
    with pytest.raises(OptionError, match='mode logit_st needs a network of codes; here allowed: continuous'):
        reward_of({'scorer': COLOURFUL, 'mode': 'logit_st'}, ('continuous',))
    with pytest.raises(OptionError, match='top_k needs a network of codes; take it out'):
        reward_of({'scorer': COLOURFUL, 'top_k': 3}, ('continuous',))
    assert reward_of(None, MODES) is None
    assert reward_of({'scorer': COLOURFUL}, MODES).mode == 'feat_ste'
    assert reward_of({'scorer': COLOURFUL}, ('continuous',)).mode == 'continuous'
    kl = [reward_of({'scorer': COLOURFUL, 'mode': m, **o}, MODES).kl_weight
          for m, o in (('feat_ste', {}), ('logit_st', {}), ('feat_ste', {'kl_weight': 0.1}))]  # fmt: skip
    assert kl == [0, 0.05, 0.1]


def test_every_option_of_the_reward_is_explained():
    assert all(field.doc for field in fields_of(QualityReward).values())


def test_images_that_a_judge_cannot_take_are_refused_at_once(tmp_path):
    model = judged(tmp_path, start=1000, held_out=['NIQE'])
    with pytest.raises(DataError, match=r'niqe judges images from 96 x 96 pixels on; those of training are 32 x 32'):
        model(batch())


def test_a_divergence_in_feat_ste_anchors_the_encoder(tmp_path):
    model, given = moved(judged(tmp_path, kl_weight=0.1), 0.1), batch()
    losses = model(given)
    assert losses['l_kl'] > 0
    assert gradients(model, losses['l_kl'])['encoder'] > 0


def test_judges_and_frozen_networks_follow_and_are_not_saved(tmp_path):
    model = judged(tmp_path, 'IQPIRG', held_out=['QualityNet'])
    model.double()
    assert all(p.dtype == torch.float64 for f in model.followers() for p in f.parameters())
    assert len(model.followers()) == 4  # autoencoder, reference, judge, held-out judge
    assert not any(f.training for f in model.train().followers())
    assert all(k.startswith('net_g.') for k in model.state_dict())
    assert not any(k.split('.')[1] in BOOKS for k, p in model.named_parameters() if p.requires_grad)


def test_knobs_are_turned_back(tmp_path):
    net = codes.predictor()

    def fail():
        with knobs(net, w=0.7, adain=True, unknown=1):
            assert (net.w, net.adain, hasattr(net, 'unknown')) == (0.7, True, False)
            raise RuntimeError('stop')

    with pytest.raises(RuntimeError, match='stop'):
        fail()
    assert (net.w, net.adain) == (0.0, False)


def test_all_losses_count_together(tmp_path):
    model = judged(tmp_path, mode='logit_st')
    found = gradients(model, total(model(part(batch(), 2))))
    assert all(found[name] > 0 for name in ('encoder', 'score_embed', *READERS['IQPIRG'][1:]))


def test_codes_of_a_prediction_are_the_likeliest():
    logits = torch.tensor([[[[0.1]], [[0.7]], [[0.2]]]])
    assert CodePrediction((logits, -logits), torch.zeros(1)).codes.flatten().tolist() == [1, 0]
