"""The score condition of networks of codes: bins, several scores, none, and every way of entering."""

import math

import pytest
import torch
from torch import nn

from basicsr.archs.score_condition import PARTS, ScoreCondition, guided
from basicsr.errors import DataError, OptionError

NAN = math.nan
SIZE = (3, 2)
CPU = torch.device('cpu')
IN_FEATURES = ('spatial_add', 'vector_add', 'fourier_film')
IN_LAYERS = ('adaln_zero', 'token')


def make(mode, **more):
    torch.manual_seed(0)
    return ScoreCondition(8, mode, **{'size': SIZE, 'layers': 2, **more})


def effect(condition, score, x):
    """What any mode makes of scores: features, a token or changes of layers."""
    scores = condition.scores_of(score, x.shape[0], CPU)
    if condition.mode == 'token':
        return condition.token(scores, x.shape[0])
    if condition.mode == 'adaln_zero':
        return condition.modulation(scores, x.shape[0])
    return condition(x, scores)


def features(count=4):
    return torch.randn(count, 8, *SIZE, generator=torch.Generator().manual_seed(1))


def randomise(condition):
    torch.manual_seed(2)
    for p in condition.parameters():
        nn.init.normal_(p)
    return condition


def test_scores_go_to_their_bins_and_one_and_beyond_to_the_nearest(capsys):
    condition = make('spatial_add')
    scores = torch.tensor([0.0, 0.05, 0.1, 0.3, 0.6, 0.7, 0.9, 0.95, 1.0])
    assert condition.bins_of(scores).tolist() == [0, 0, 1, 3, 6, 7, 9, 9, 9]
    condition.scores_of(scores, len(scores), CPU)
    condition.scores_of(1.0, 2, CPU)
    assert not capsys.readouterr().err  # 1 lies within
    found = condition.scores_of(torch.tensor([-0.5, 1.5, NAN]), 3, CPU)
    condition.scores_of(-3.0, 3, CPU)
    assert condition.bins_of(found[:2, 0]).tolist() == [0, 9]
    assert found[2].isnan().all()
    assert capsys.readouterr().err.count('A score lies outside [0,1] and is taken as the nearest of 0 and 1.') == 1


def test_edges_bound_the_bins_and_are_not_saved():
    condition = make('spatial_add', bins=3, edges=[0.75, 0.8])
    assert condition.bins_of(torch.tensor([0.0, 0.7499, 0.75, 0.79, 0.8, 1.0])).tolist() == [0, 0, 1, 1, 2, 2]
    assert list(condition.state_dict()) == ['weight']
    x = features(2)
    vector = randomise(make('vector_add', bins=3, edges=[0.75, 0.8]))
    found = effect(vector, torch.tensor([0.76, 0.85]), x)
    table = vector.get_submodule('0.encoders.h').weight
    torch.testing.assert_close(found, x + table[[1, 2], :, None, None])


def test_the_released_mode_adds_the_row_of_each_image_as_a_map():
    condition, x = make('spatial_add'), features(3)
    assert list(condition.state_dict()) == ['weight']
    assert condition.weight.shape == (10, 8 * 3 * 2)
    assert 0.9 < condition.weight.std() < 1.1  # begins at random, as released
    found = effect(condition, torch.tensor([0.95, 0.0, 0.42]), x)
    assert torch.equal(found, x + condition.weight[[9, 0, 4]].view(3, 8, *SIZE))
    assert torch.equal(effect(condition, 0.42, x), x + condition.weight[4].view(8, *SIZE))


def test_several_scores_are_added_under_the_released_keys():
    condition, x = make('spatial_add', scores=3, bins=20), features(2)
    assert list(condition.state_dict()) == ['0.weight', '1.weight', '2.weight']
    score = torch.tensor([[0.66, 0.91, 0.0], [NAN, 0.5, NAN]])
    tables = [condition.get_submodule(str(i)).weight for i in range(3)]
    wanted = torch.stack([tables[0][13] + tables[1][18] + tables[2][0], tables[1][10]])
    torch.testing.assert_close(effect(condition, score, x), x + wanted.view(x.shape))
    for wrong in (torch.rand(2), torch.rand(3, 3), torch.rand(2, 2)):
        with pytest.raises(DataError, match=r'2 images need 3 scores each, \(2, 3\)'):
            condition.scores_of(wrong, 2, CPU)


@pytest.mark.parametrize('mode', IN_FEATURES)
@pytest.mark.parametrize('scores', [1, 2])
def test_zero_and_no_score_change_no_bit_image_by_image(mode, scores):
    x = features()
    score = torch.tensor([0.2, NAN, 0.95, NAN])[:, None].repeat(1, scores)
    assert torch.equal(effect(make(mode, init='zero', scores=scores), score, x), x)
    condition = randomise(make(mode, scores=scores))
    found = effect(condition, score, x)
    assert torch.equal(found[1::2], x[1::2])
    assert all((found[i] - x[i]).abs().max() > 0.01 for i in (0, 2))
    assert torch.equal(effect(condition, None, x), x)
    for i in range(4):  # the others in the batch do not matter
        torch.testing.assert_close(effect(condition, score[i : i + 1], x[i : i + 1])[0], found[i], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('mode', ['vector_add', 'fourier_film'])
def test_features_of_any_size_where_the_mode_allows(mode):
    x = torch.rand(2, 8, 5, 7)
    assert effect(randomise(make(mode, size=None)), torch.tensor([0.3, 0.8]), x).shape == x.shape
    with pytest.raises(DataError, match=r'Features of \(5, 7\) cannot take a score map of \(3, 2\)'):
        effect(make('spatial_add'), 0.5, x)


def test_a_learned_null_is_what_images_without_a_score_get():
    x = features(2)
    for mode in (*IN_FEATURES, *IN_LAYERS):
        condition = randomise(make(mode, null='learned'))
        none, nan = (effect(condition, score, x) for score in (None, torch.tensor([NAN, NAN])))
        for a, b in zip(none, nan):
            assert torch.equal(a, b), mode
        if mode in IN_FEATURES:
            assert (none - x).abs().max() > 0.01
            nn.init.zeros_(next(p for name, p in condition.named_parameters() if 'null' in name))
            assert torch.equal(effect(condition, None, x), x)


def test_changes_of_layers_begin_at_zero_and_are_zero_without_a_score():
    condition, x = make('adaln_zero'), features(3)
    score = torch.tensor([0.2, NAN, 0.9])
    found = effect(condition, score, x)
    assert [tuple(change.shape) for change in found] == [(3, PARTS, 1, 8)] * 2
    assert not any(change.any() for change in found)
    assert all(change.requires_grad for change in found)
    for change in effect(randomise(condition), score, x):
        assert change[0].all()
        assert change[2].all()
        assert not change[1].any()
    assert effect(condition, None, x) is None
    loss = sum(change.sum() for change in effect(condition, torch.tensor([NAN] * 3), x))
    assert not torch.autograd.grad(loss, condition.layers[0][1].bias)[0].any()


def test_tokens_and_for_whom_they_are_there():
    condition, x = make('token'), features(3)
    rows, there = effect(condition, torch.tensor([0.2, NAN, 1.0]), x)
    assert torch.equal(rows[:, 0], torch.stack([condition.weight[2], torch.zeros(8), condition.weight[9]]))
    assert there.tolist() == [True, False, True]
    assert effect(condition, None, x) is None
    assert effect(make('vector_add'), None, x) is x
    assert condition(x, condition.scores_of(0.3, 3, CPU)) is x  # nothing enters the features


def test_a_score_without_use_is_ignored_and_gradients_reach_the_row_looked_up():
    x = features(2)
    assert effect(make('none'), torch.rand(7, 7), x) is x
    assert not list(make('none').parameters())
    condition = make('spatial_add')
    effect(condition, torch.tensor([0.35, NAN]), x).sum().backward()
    assert condition.weight.grad.any(1).nonzero().flatten().tolist() == [3]


def test_guidance_goes_on_from_the_logits_without_a_score():
    a, b = torch.rand(1, 4, 2, 2), torch.rand(1, 4, 2, 2)
    (found,) = guided((a,), (b,), 1.5)
    torch.testing.assert_close(found, 1.5 * a - 0.5 * b)
    torch.testing.assert_close(guided((a,), (b,), 0.0)[0], b)


@pytest.mark.parametrize(
    ('more', 'text'),
    [
        ({'bins': 0}, 'at least 1 bin and 1 score, not 0 and 1'),
        ({'size': None}, 'spatial_add needs a network of one image size'),
        ({'bins': 3, 'edges': [0.5]}, r'3 bins need 2 increasing edges between 0 and 1, not \[0.5\]'),
        ({'bins': 3, 'edges': [0.5, 0.5]}, 'increasing edges'),
        ({'bins': 3, 'edges': [0.5, 1.0]}, 'increasing edges'),
        ({'mode': 'fourier_film', 'edges': [0.5]}, 'it has no bins that edges could bound'),
    ],
)
def test_what_cannot_be_is_refused(more, text):
    with pytest.raises(OptionError, match=text):
        make(**{'mode': 'spatial_add', **more})
