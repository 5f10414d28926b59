"""Stage III of IQPIR: the schedule of w, the adversarial loss, who learns from what, runs with two players."""

import math

import pytest
import torch
import yaml

from basicsr import train
from basicsr.errors import OptionError
from basicsr.registry import ARCH_REGISTRY, build

from . import code_methods as codes
from .code_methods import COLOURFUL, FIDELITY, batch, gradients, method, total
from .runs import differences, state
from .test_iqpir_code_model import write_options

JUDGE = {'type': 'PatchDiscriminator', 'ndf': 8, 'n_layers': 1, 'norm': 'none'}
GAN = {'type': 'GANLoss', 'gan_type': 'hinge'}
OF_CODES = {'l_feat', 'l_code', 'l_code_hq', 'code_accuracy', 'code_accuracy_hq'}
KINDS = list(codes.PREDICTORS)


def joint(folder, kind='IQPIRG', adversarial=True, iteration=1, **options):
    """Stage III, with a discriminator from the first iteration unless told otherwise."""
    nets = {}
    if adversarial:
        torch.manual_seed(7)
        nets = {'d': build(ARCH_REGISTRY, JUDGE)}
        options = {'gan_opt': GAN, 'disc_start': 1, **options}
    options = {'pixel_opt': {'type': 'L1Loss'}, **options}
    model = method(folder, kind, 'IQPIRJointModel', nets=nets, iteration=iteration, **options)
    with torch.no_grad():  # second decoders begin silent
        for name, p in model.net_g.named_parameters():
            if name.startswith(FIDELITY[kind]) and not p.any():
                p.normal_(0, 0.05)
    return model


def test_the_schedule_is_the_published_one(tmp_path):
    model = joint(tmp_path, adversarial=False)
    seen = [model.w_at(n) for n in (1, 40000, 40001, 80000, 80001, 120000, 120001, 120014, 120015, 120030, 120031)]
    assert seen == [1, 1, 1.3, 1.3, 0, 0, 0, 0, 1.3, 1.3, 0]
    model = joint(tmp_path, adversarial=False, w_schedule=[[2, 0.5]], w_cycle=1, w_later=0.8)
    assert [model.w_at(n) for n in (1, 2, 3, 4)] == [0.5, 0.5, 0.8, 0.8]


@pytest.mark.parametrize('kind', KINDS)
def test_losses_are_those_of_the_formulas(tmp_path, kind):
    schedule = [[5, 1.3]]
    model, given = joint(tmp_path, kind, w_schedule=schedule, perceptual_opt={'type': 'MSELoss'}), batch()
    losses = model(given)
    assert set(losses) == {*OF_CODES, 'l_pix', 'l_percep', 'l_gan', 'gan_weight'}
    codes_alone = method(tmp_path, kind)(given)
    assert all(torch.equal(losses[name], codes_alone[name]) for name in OF_CODES)
    net = model.net_g
    with torch.no_grad():
        prediction = net.predict(given['lq'], given['score'])
        net.w, net.adain = 1.3, False
        images = net.render(net.embed(prediction.codes), prediction)
    images.requires_grad_(True)
    pixels, features = (images - given['gt']).abs().mean(), (images - given['gt']).square().mean()
    torch.testing.assert_close(losses['l_pix'], pixels)
    torch.testing.assert_close(losses['l_percep'], features)
    fooled = -model.net_d(images).mean()
    norms = [torch.autograd.grad(x, images, retain_graph=True)[0].norm() for x in (pixels + features, fooled)]
    weight = 0.1 * float((norms[0] / (norms[1] + 1e-4)).clamp(0, 1))
    assert weight > 0
    torch.testing.assert_close(losses['gan_weight'].item(), weight, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(losses['l_gan'], weight * fooled, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('kind', KINDS)
def test_who_learns_from_what(tmp_path, kind):
    model, given = joint(tmp_path, kind), batch()
    losses = model(given)
    for name in ('l_pix', 'l_gan'):
        found = gradients(model, model(given)[name])
        assert found[FIDELITY[kind][0]] > 0
        assert found['encoder'] == found['generator'] == found['quantize'] == 0
    assert gradients(model, model(given)['l_code'])['encoder'] > 0
    model.zero_grad()
    other = model(given, 'd')
    total(other).backward()
    assert set(other) == {'l_d_real', 'l_d_fake', 'out_d_real', 'out_d_fake'}
    assert all(p.grad is None for p in model.net_g.parameters())
    assert all(p.grad is not None for p in model.net_d.parameters())
    assert 'l_gan' in losses


def test_the_discriminator_sees_this_iteration_s_images(tmp_path):
    model, given = joint(tmp_path), batch()
    model(given)
    first = model(given, 'd')
    again = model(given, 'd')  # not at hand any more: rendered anew
    for name, value in first.items():
        torch.testing.assert_close(value, again[name])
    with torch.no_grad():
        prediction = model.net_g.predict(given['lq'], given['score'])
        images = model.rendered(prediction, None, 1.0)
        wanted = (1 - model.net_d(given['gt'])).relu().mean(), (1 + model.net_d(images)).relu().mean()
    torch.testing.assert_close(first['l_d_real'].detach(), wanted[0])
    torch.testing.assert_close(first['l_d_fake'].detach(), wanted[1])


def test_iterations_of_codes_alone_and_before_the_discriminator(tmp_path):
    model, given = joint(tmp_path, w_schedule=[[2, 1.0], [3, 0.0]], w_cycle=5, disc_start=2), batch()
    before = [p.clone() for p in model.net_d.parameters()]
    optimizer = torch.optim.Adam(model.net_d.parameters(), 1e-2)
    for iteration, more in ((1, {'l_pix'}), (3, set()), (4, set())):
        model.start_iteration(iteration)
        assert set(model(given)) == OF_CODES | more
        found = model(given, 'd')
        assert found['l_d_real'] == found['l_d_fake'] == 0
        assert math.isnan(found['out_d_real'])
        optimizer.zero_grad()
        total(found).backward()
        optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(before, model.net_d.parameters()))
    for iteration in (2, 5):
        model.start_iteration(iteration)
        assert {'l_pix', 'l_gan'} <= set(model(given))
        assert model(given, 'd')['l_d_real'] > 0


@pytest.mark.parametrize('kind', KINDS)
def test_fidelity_may_be_trained_alone(tmp_path, kind):
    options = {'train_codes': False, 'w_schedule': [], 'w_cycle': 1, 'w_later': 1.0}
    model, given = joint(tmp_path, kind, **options), batch()
    losses = model(given)
    assert set(losses) == {'code_accuracy', 'code_accuracy_hq', 'l_pix', 'l_gan', 'gan_weight'}
    learning = {name.partition('.')[0] for name, p in model.net_g.named_parameters() if p.requires_grad}
    assert learning == set(FIDELITY[kind])
    with pytest.raises(OptionError, match='train_codes: false leaves nothing to train where w is 0'):
        joint(tmp_path, kind, train_codes=False)
    with pytest.raises(OptionError, match='train_codes: false leaves quality_opt nothing to train'):
        joint(tmp_path, kind, quality_opt={'scorer': COLOURFUL}, **options)


def test_images_that_the_network_padded_are_cut(tmp_path):
    losses = joint(tmp_path)(batch(side=30))
    assert torch.isfinite(total(losses))


def test_a_judge_of_quality_sees_images_without_fidelity(tmp_path):
    model, given = joint(tmp_path, quality_opt={'scorer': COLOURFUL, 'score': 'gt'}), batch()
    reward = model(given)['reward']
    with torch.no_grad():
        prediction = model.net_g.predict(given['lq'], given['score'])
        images = model.net_g.render(model.net_g.embed(prediction.codes), prediction)
    torch.testing.assert_close(reward, model.quality.judge.reward(images).mean())


def test_what_is_refused(tmp_path):
    with pytest.raises(OptionError, match='needs both gan_opt and network_d'):
        joint(tmp_path, adversarial=False, gan_opt=GAN)
    with pytest.raises(OptionError, match='needs both gan_opt and network_d'):
        joint(tmp_path, gan_opt=None)
    with pytest.raises(OptionError, match=r'w_schedule: \[\[5, 1\.0\], \[5, 0\.0\]\]; its iterations must increase'):
        joint(tmp_path, adversarial=False, w_schedule=[[5, 1.0], [5, 0.0]])


def test_a_run_with_two_players_is_resumed_to_the_bit(tmp_path):
    for name in ('whole', 'stopped'):
        folder = tmp_path / name
        folder.mkdir()
        file = write_options(
            folder, pixel_opt={'type': 'L1Loss'}, gan_opt=GAN, disc_start=2, w_schedule=[[3, 1.0], [4, 0.0]],
            w_cycle=2, optim_d={'type': 'Adam', 'lr': 1e-3},
        )  # fmt: skip
        with open(file) as text:
            options = yaml.safe_load(text)
        options |= {'model_type': 'IQPIRJointModel', 'network_d': JUDGE}
        with open(file, 'w') as text:
            yaml.safe_dump(options, text, sort_keys=False)
        if name == 'stopped':
            assert train.main(['-opt', file, '--force_yml', 'train:total_iter=4']) == 0
        assert train.main(['-opt', file, '--auto_resume']) == 0
    whole, stopped = (state(tmp_path / name, 6, 'codes') for name in ('whole', 'stopped'))
    assert differences(whole, stopped) == []
    assert set(whole['optimizers']) == {'g', 'd'}


def test_without_a_discriminator_there_is_one_player(tmp_path):
    file = write_options(tmp_path, pixel_opt={'type': 'L1Loss'})
    assert train.main(['-opt', file, '--force_yml', 'model_type=IQPIRJointModel', 'train:total_iter=2']) == 0
    assert set(state(tmp_path, 2, 'codes')['optimizers']) == {'g'}


@pytest.mark.parametrize('kind', KINDS)
def test_the_layout_that_the_trainer_chooses_gives_the_same_gradients(tmp_path, kind):
    """In channels-last layout a normalisation without a gradient of its input once crashed."""
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        model, given = joint(tmp_path, kind), batch()
        model.net_g.to(memory_format=layout)
        model.net_d.to(memory_format=layout)
        given |= {k: given[k].contiguous(memory_format=layout) for k in ('lq', 'gt')}
        found.append(gradients(model, total(model(given))))
    for name, size in found[0].items():
        assert size == pytest.approx(found[1][name], rel=1e-3), name
