"""The mean-teacher methods: what their losses are made of, batches, gradients, resume, processes."""

import math
from pathlib import Path

import pytest
import torch

from basicsr import train
from basicsr.errors import OptionError
from basicsr.history import History
from basicsr.models import label_judge
from basicsr.registry import ARCH_REGISTRY, build
from basicsr.views import VIEWS

from . import teachers
from .runs import differences, spawn, state
from .teachers import HOST, batch, conditioned, gradients, method, part

KINDS = list(teachers.METHOD)
LAUNCHER = [
    '-m', 'torch.distributed.run', '--nproc_per_node=2', '--master_port=0', '--rdzv-backend=c10d',
    '--rdzv-endpoint=localhost:0',
]  # fmt: skip


@pytest.mark.parametrize('name', VIEWS)
def test_views_have_exact_inverses(name):
    x = torch.rand(2, 3, 5, 7)
    view = VIEWS[name]
    assert torch.equal(view.invert(view.apply(x)), x)
    assert (view.apply(x).shape[-2:] == (7, 5)) == view.swaps
    assert name == 'identity' or not torch.equal(view.apply(x[..., :5]), x[..., :5])


def test_the_eight_views_are_all_different():
    x = torch.rand(1, 1, 4, 4)
    assert len({tuple(v.apply(x).flatten().tolist()) for v in VIEWS.values()}) == 8


def test_names_of_views_say_what_they_do():
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert VIEWS['hflip'].apply(x).flatten().tolist() == [2, 1, 4, 3]
    assert VIEWS['vflip'].apply(x).flatten().tolist() == [3, 4, 1, 2]
    assert VIEWS['rot90'].apply(x).flatten().tolist() == [2, 4, 1, 3]  # counter-clockwise


@pytest.mark.parametrize('shape', [(24, 24), (16, 24)])
def test_what_the_teacher_sees_turned_comes_back_turned_back(shape):
    """A network that works pixel by pixel gives the same for every view."""
    model = method('MeanTeacherModel')
    x = torch.rand(2, 3, *shape)
    model._averages['g'] = torch.nn.Conv2d(3, 3, 1).requires_grad_(False)
    found = model.teach(x, list(VIEWS.values()))
    wanted = model._averages['g'](x).clamp(0, 1)
    assert found.shape == (2, 8, 3, *shape)
    assert torch.allclose(found, wanted.unsqueeze(1).expand_as(found), atol=1e-6)


@pytest.mark.parametrize('kind', KINDS)
def test_a_batch_of_four_equals_four_batches_of_one(kind):
    # Not L1: where weak and strong view are alike, its gradient is the sign of a rounding error.
    options = {'contrast_opt': {'type': 'ContrastiveFeatureLoss'}, 'label_opt': {'type': 'MSELoss'}}
    if kind == 'QualiTeacherModel':
        options |= {'drop_score': 0.3, 'held_out': ['UCIQE'], 'held_out_freq': 7}
    whole = batch(4)
    losses, grads = gradients(method(kind, **options), whole)
    single = [gradients(method(kind, **options), part(whole, n)) for n in range(4)]
    for name, value in losses.items():
        mean = torch.stack([each[name].float() for each, _ in single]).nanmean(0)
        assert torch.allclose(value, mean, rtol=1e-4, atol=1e-6), name
    assert {'l_pix', 'l_label', 'l_contrast'} <= set(losses)
    assert losses['l_label'] > 0
    for name, grad in grads.items():
        mean = torch.stack([each[name] for _, each in single]).mean(0)
        assert (grad - mean).norm() <= 1e-3 * mean.norm(), name


@pytest.mark.parametrize('mode', ['embedding', 'fourier'])
@pytest.mark.parametrize('average', [False, True])
def test_merged_outputs_give_the_same_losses_and_gradients(mode, average):
    given = batch(2)
    results = []
    for merge in ('always', 'never'):
        model = method('QualiTeacherModel', conditioned(mode=mode), merge=merge, average_labels=average,
                       label_opt={'type': 'MSELoss'})  # fmt: skip
        results.append(gradients(model, given))
    (losses, grads), (others, theirs) = results
    assert losses.keys() == others.keys()
    assert all(torch.allclose(losses[k], others[k], rtol=1e-5, atol=1e-7) for k in losses)
    for name, grad in grads.items():
        assert (grad - theirs[name]).norm() <= 1e-3 * grad.norm(), name


def test_merging_leaves_out_what_would_be_computed_twice():
    model = method('QualiTeacherModel', conditioned(mode='embedding'), merge='always')
    image, scores, place = model._merged(torch.tensor([0, 0, 0, 1]), torch.tensor([0.71, 0.95, 0.2, math.nan]))
    assert image.tolist() == [0, 0, 1]  # 0.71 and 0.95 share a row of the table
    assert [round(s, 2) for s in scores[:2].tolist()] == [0.2, 0.71]
    assert place.tolist() == [1, 1, 0, 2]


def test_the_preference_moves_images_asked_for_the_top_score_up():
    """A few steps on the preference alone; the scorer is Colourfulness, whose gradient is simple."""
    net = conditioned()
    model = method('QualiTeacherModel', net, crop_weight=0.0)
    given = batch(2)
    optimizer = torch.optim.Adam(net.condition.parameters(), 1e-3)
    rewards = []
    for _ in range(8):
        optimizer.zero_grad()
        losses = model(given)
        losses['l_preference'].backward()
        optimizer.step()
        rewards.append((losses['reward_high'].item(), losses['reward_low'].item()))
    assert rewards[-1][0] > rewards[0][0] + 0.005
    assert rewards[-1][0] - rewards[-1][1] > rewards[0][0] - rewards[0][1] + 0.005


def test_detach_low_gives_the_low_output_no_gradient():
    model = method(
        'QualiTeacherModel', conditioned(mode='embedding'), low_scores=[0.05, 0.05], crop_weight=0.0,
        preference_opt={'type': 'ScorePreferenceLoss', 'detach_low': True},
    )  # fmt: skip
    model(batch(2))['l_preference'].backward()
    table = next(p for n, p in model.net_g.condition.named_parameters() if p.shape[0] == 8)
    assert table.grad[7].abs().sum() > 0
    assert table.grad[0].abs().sum() == 0


@pytest.mark.parametrize(('grad', 'moves'), [(True, True), (False, False)])
def test_only_members_with_grad_reach_the_student(grad, moves):
    scorer = {
        'type': 'Ensemble',
        'members': [
            {'type': 'Colourfulness', 'weight': 1e-9},  # the ensemble needs a gradient; this one's is next to nothing
            {'type': 'BRISQUE', 'weight': 1.0, 'grad': grad, 'low': 150, 'high': -50},
        ],
    }
    model = method('QualiTeacherModel', conditioned(), scorer=scorer, crop_weight=0.0)
    model(batch(2))['l_preference'].backward()
    size = sum(p.grad.abs().sum() for p in model.net_g.parameters() if p.grad is not None)
    assert (size > 1e-4) == moves


def test_a_scorer_without_a_gradient_is_refused_for_what_needs_one():
    with pytest.raises(OptionError, match=r'entropy has no gradient.*RegressionPreferenceLoss'):
        method('QualiTeacherModel', scorer='Entropy')
    model = method(
        'QualiTeacherModel', scorer='Entropy', crop_weight=0.0, preference_opt={'type': 'RegressionPreferenceLoss'}
    )
    losses, grads = gradients(model, batch(2))
    assert losses['l_preference'] > 0
    assert all(torch.isfinite(g).all() for g in grads.values())


def test_both_crops_are_of_one_window():
    """A network that returns its input restores a window as it restores the whole; two windows would not agree."""
    net = conditioned(wake=False)
    torch.nn.init.zeros_(net.host.ending.weight)
    torch.nn.init.zeros_(net.host.ending.bias)
    given = batch(2)
    gaps = [method('QualiTeacherModel', net, crop_same_window=same)(given)['crop_gap'] for same in (True, False)]
    assert gaps[0] == 0
    assert gaps[1] > 1e-4


def test_preference_and_crop_wait_for_their_iteration():
    options = {'preference_start': 10, 'crop_start': 12}
    given = batch(1)
    names = {}
    for iteration in (9, 10, 12):
        names[iteration] = set(method('QualiTeacherModel', iteration=iteration, **options)(given))
    assert not names[9] & {'l_preference', 'l_crop'}
    assert 'l_preference' in names[10]
    assert 'l_crop' not in names[10]
    assert 'l_crop' in names[12]


def test_the_student_is_told_the_score_of_its_label_and_the_teacher_none():
    """With a table that only knows one row, labels of other scores leave the row without gradient."""
    model = method('QualiTeacherModel', conditioned(mode='embedding'), preference_opt=None, crop_weight=0.0)
    given = batch(2)
    labels, _ = model.pseudo_labels(given['real'], given)
    rows = set(model.net_g.condition.levels(labels.scores.flatten()).long().tolist())
    model = method('QualiTeacherModel', conditioned(mode='embedding'), preference_opt=None, crop_weight=0.0)
    _, grads = gradients(model, given)
    table = next(g for n, g in grads.items() if n.startswith('condition'))
    assert {n for n in range(8) if table[n].abs().sum() > 0} == rows


def test_label_losses_are_those_of_the_fact_sheet():
    """Sum over labels of mean(M |y - PL|), computed again here in plain steps."""
    model = method('QualiTeacherModel', preference_opt=None, crop_weight=0.0, merge='never')
    given = batch(1)
    labels, _ = model.pseudo_labels(given['real'], given)
    total = 0.0
    for k in range(3):
        mask = torch.nn.functional.interpolate(labels.grid[:, k : k + 1], given['real'].shape[-2:], mode='bilinear')
        output = model.net_g(given['real_strong'], score=labels.scores[:, k])
        total = total + (mask * (output - labels.images[:, k]).abs()).mean()
    assert torch.allclose(model.label_losses(model.student(given['lq'], given['real_strong'], labels, given), labels,
                                             given['real_strong'])['l_label'], total, rtol=1e-5)  # fmt: skip


def test_a_network_without_a_condition_is_taught_all_labels_alike():
    net = teachers.awake(build(ARCH_REGISTRY, dict(HOST)))
    with pytest.raises(OptionError, match='QualityConditioned'):
        method('QualiTeacherModel', net)
    model = method('QualiTeacherModel', net, preference_opt=None)
    losses, _ = gradients(model, batch(2))
    assert losses['l_label'] > 0
    assert losses['l_crop'] > 0


def test_gates_refuse_whole_images_and_the_bank_is_taught_instead():
    given = batch(2)
    model = method('QualiTeacherModel', gate_scorers=0.0)
    losses = model(given)
    assert losses['gated'] == 1
    assert losses['l_label'] == 0
    model.gate.thresholds = (1.0, 1.0)
    assert model(given)['l_label'] > 0
    model.gate.thresholds = (0.0, 0.0)
    losses = model(given)
    assert losses['gated'] == 1
    assert losses['l_label'] > 0  # of the bank


def test_the_percentile_gate_refuses_about_its_share():
    model = method('QualiTeacherModel', gate='percentile', gate_scorers=90.0, gate_views=None)
    torch.manual_seed(0)
    labels, refused = model.judge.labels(torch.rand(1, 3, 3, 32, 32)), []
    for _ in range(400):
        labels.members = torch.rand(1, 3, 2)
        refused.append(model.gate(labels)[1].float().mean().item())
    assert sum(refused[:60]) == 0
    assert 0.05 < sum(refused[200:]) / 200 < 0.16


def test_semi_uir_takes_what_beats_the_student_and_black_before_that():
    given = batch(2)
    model = method('SemiUIRModel')
    losses = model(given)  # teacher and student are the same network: here the weak view is not the strong one
    assert set(losses) >= {'accepted', 'teacher_score', 'student_score'}
    never = method('SemiUIRModel', initial='black')
    never.judge = type(never.judge)(never.judge.scorer, 1, 'none')
    labels, _ = never.pseudo_labels(given['real'], given)
    labels.scores.fill_(-1.0)
    student = never.student(given['lq'], given['real_strong'], labels, given)
    taught, told = never.accept(labels, student, given)
    assert told['accepted'] == 0
    assert taught.valid.all()
    assert not taught.images.any()


def test_colabator_keeps_one_label_that_all_members_prefer():
    model = method('ColabatorModel')
    given = batch(2)
    first, _ = model.pseudo_labels(given['real'], given)
    assert first.images.shape[1] == 1
    with torch.no_grad():
        for p in model._averages['g'].parameters():
            p.mul_(0.2)  # another teacher
    second, _ = model.pseudo_labels(given['real'], given)
    fresh = model.judge.labels(model.teach(given['real'], [VIEWS['identity']]))
    for n in range(2):
        better = bool((fresh.members[n, 0] >= first.members[n, 0]).all())
        wanted = fresh if better else first
        assert torch.allclose(second.scores[n], wanted.scores[n], atol=1e-6)


def test_ramp():
    model = method('MeanTeacherModel', label_weight=0.2, ramp_iters=100)
    for iteration, wanted in ((50, 0.2 * math.exp(-1.25)), (100, 0.2), (500, 0.2)):
        model.start_iteration(iteration)
        assert model.ramp() == pytest.approx(wanted)


def test_a_teacher_is_needed():
    model = method('MeanTeacherModel')
    with pytest.raises(OptionError, match=r'ema_decay must be above 0'):
        model.bind_averages({})


@pytest.mark.parametrize('kind', KINDS)
def test_aimnet_and_its_maps_go_through_every_method(kind):
    host = {'type': 'AIMnet', 'n_feat': 8, 'n_RCB': 1}
    net = conditioned(host, wake=False).eval()
    model = method(kind, net)
    model.eval()  # its attention draws at random in training
    losses, _ = gradients(model, batch(1, gt_size=96))
    assert all(torch.isfinite(v).all() for k, v in losses.items() if k.startswith('l_'))


def test_corun_brings_the_scattering_model():
    host = {'type': 'CORUN', 'depth': 2}
    given = batch(1)
    model = method('QualiTeacherModel', conditioned(host, wake=False, refine=['*.up.*']),
                   scattering_opt={'type': 'ScatteringLoss'}, drift_weight=0.005)  # fmt: skip
    losses, grads = gradients(model, given)
    assert losses['l_scattering'] > 0
    assert losses['l_drift'] == 0
    assert all(torch.isfinite(g).all() for g in grads.values())
    with pytest.raises(OptionError, match='predicts no transmission'):
        method('QualiTeacherModel', scattering_opt={'type': 'ScatteringLoss'})


@pytest.mark.parametrize('kind', KINDS)
def test_killed_and_resumed_in_the_middle_is_exact_bank_included(tmp_path, kind):
    file = teachers.write_options(tmp_path, kind, held_out=['UCIQE']) if kind == 'QualiTeacherModel' else (
        teachers.write_options(tmp_path, kind))  # fmt: skip
    assert train.main(['-opt', str(file)]) == 0
    straight = {i: state(tmp_path, i, 'teacher') for i in (3, 6)}
    run = tmp_path / 'experiments/teacher'
    for path in (run / 'training_states/6.state', run / 'models/net_g_6.pth'):
        path.unlink()
    assert train.main(['-opt', str(file), '--auto_resume']) == 0
    assert differences(straight[6], state(tmp_path, 6, 'teacher')) == []
    assert differences(straight[3]['model'], straight[6]['model']) != []
    assert kind == 'MeanTeacherModel' or straight[6]['extra']['bank']['groups']


def test_two_processes_follow_one_with_the_doubled_batch(tmp_path):
    """A step of SGD, whose update is proportional to the gradient; with Adam rounding would grow."""
    histories = []
    for name, size in (('one', 4), ('two', 2)):
        (tmp_path / name).mkdir()
        file = teachers.write_options(tmp_path / name, optim_g={'type': 'SGD', 'lr': 1e-2})
        size = f'datasets:train:batch_size_per_gpu={size}'
        process = spawn(file, '--force_yml', size, *(('--launcher', 'pytorch') if name == 'two' else ()),
                        launcher=LAUNCHER if name == 'two' else ())  # fmt: skip
        _, log = process.communicate(timeout=180)
        assert process.returncode == 0, log
        path = Path(tmp_path) / name / 'experiments/teacher/history.jsonl'
        histories.append([r for r in History.read(path) if r['kind'] == 'train'])
    one, two = histories
    assert len(one) == len(two) == 6
    for a, b in zip(one, two):
        assert b['losses'] == pytest.approx(a['losses'], rel=2e-3, abs=1e-5)
        assert b['signals']['label_scores'] == pytest.approx(a['signals']['label_scores'], abs=1e-6)
    banks = [state(tmp_path / name, 6, 'teacher')['extra']['bank'] for name in ('one', 'two')]
    keys = [sorted(k for g in bank['groups'] for k in g['keys']) for bank in banks]
    assert keys[0] == keys[1]


def test_strength_makes_labels_between_the_image_and_beyond_the_teacher():
    given = batch(2)
    half = method('QualiTeacherModel', strength=[0.5, 0.5]).candidates(given['real'], given)
    whole = method('QualiTeacherModel').candidates(given['real'], given)
    assert torch.allclose(half, (whole + given['real'][:, None]) / 2, atol=1e-6)
    none = method('QualiTeacherModel', strength=[0.0, 0.0]).candidates(given['real'], given)
    assert torch.allclose(none, given['real'][:, None].expand_as(none), atol=1e-6)
    drawn = method('QualiTeacherModel', strength=[0.0, 1.5])
    first = drawn.candidates(given['real'], given)
    assert not torch.allclose(first[:, 0], first[:, 1], atol=1e-3)
    assert torch.equal(first, drawn.candidates(given['real'], given))  # the same in the same iteration
    drawn.start_iteration(8)
    assert not torch.equal(first, drawn.candidates(given['real'], given))


@pytest.mark.parametrize(
    ('options', 'text'),
    [
        ({'views': ['turned']}, 'views: .*turned.*allowed are identity'),
        ({'inverted_members': ['clip']}, "no member 'clip'; it has colourfulness, brisque"),
        ({'gate_members': ['clip']}, "no member 'clip'"),
        ({'gate': 'percentile', 'gate_scorers': 101.0}, 'gate_scorers: 101'),
        ({'low_scores': [0.6, 0.4]}, 'smaller one comes first'),
        ({'contrast_opt': {'type': 'L1Loss'}}, 'L1Loss does not contrast'),
        ({'label_opt': {'type': 'L1Loss', 'reduction': 'mean'}}, 'leave out reduction'),
        ({'preference_opt': {'type': 'L1Loss'}}, 'preference_opt: give ScorePreferenceLoss'),
    ],
)
def test_what_cannot_be_is_refused_with_one_sentence(options, text):
    with pytest.raises(OptionError, match=text):
        method('QualiTeacherModel', **options)


@pytest.mark.parametrize('size', [48, 64])
def test_told_pairs_are_compared_with_and_without_the_top_score(size):
    """Pairs of another size than the real images go through the network by themselves."""
    given = batch(2)
    given['lq'], given['gt'] = given['lq'][..., :size, :size].contiguous(), given['gt'][..., :size, :size].contiguous()
    if size != 48:
        given['lq'], given['gt'] = (torch.nn.functional.pad(given[k], (0, 16, 0, 16), 'reflect') for k in ('lq', 'gt'))
    model = method('QualiTeacherModel', tell_pairs=True)
    losses = model(given)
    with torch.no_grad():
        found = [(model.net_g(given['lq'], score=s) - given['gt']).abs().mean() for s in (None, 1.0)]
    assert torch.allclose(losses['l_pix'], (found[0] + found[1]) / 2, rtol=1e-4)
    assert not torch.allclose(found[0], found[1], rtol=1e-4)
    losses['l_pix'].backward()
    assert sum(p.grad.abs().sum() for p in model.net_g.condition.parameters()) > 0


def test_a_smoothed_reward_has_the_same_score_and_no_fine_pattern_in_its_gradient():
    model = method('QualiTeacherModel', reward_smooth=2.0)
    plain = method('QualiTeacherModel')
    images = (0.5 + 0.1 * torch.rand(2, 3, 40, 40)).requires_grad_()
    grads = []
    for judge in (model.judge, plain.judge):
        score = judge.reward(images)
        grads.append((score, torch.autograd.grad(score.sum(), images)[0]))
    assert torch.allclose(grads[0][0], grads[1][0], atol=1e-6)
    fine = [g.diff(dim=-1).norm() / g.norm() for _, g in grads]
    assert fine[0] < 0.5 * fine[1]
    inner = [g[..., 12:-12, 12:-12] for _, g in grads]
    wanted = label_judge.blurred(grads[1][1], 2.0)[..., 12:-12, 12:-12]  # away from the edges it is its own transpose
    assert torch.allclose(inner[0], wanted, atol=1e-7)


def test_the_blur_keeps_what_is_flat_and_has_its_width():
    assert torch.allclose(label_judge.blurred(torch.full((1, 3, 9, 9), 0.3), 1.5), torch.full((1, 3, 9, 9), 0.3))
    dot = torch.zeros(1, 1, 41, 41)
    dot[..., 20, 20] = 1
    spread_ = label_judge.blurred(dot, 2.0)[0, 0]
    places = torch.arange(41.0) - 20
    assert (spread_.sum(0) * places**2).sum().sqrt() == pytest.approx(2.0, rel=0.02)
