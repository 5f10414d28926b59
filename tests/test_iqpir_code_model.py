"""Stage II of IQPIR: what the losses are made of, what learns, where targets come from, what is refused, resume."""

import math

import pytest
import torch
import yaml
from torch.nn import functional as F

from basicsr import train
from basicsr.errors import CheckpointError, DataError, MissingWeightsError, OptionError
from basicsr.registry import MODEL_REGISTRY, build

from . import code_methods as codes
from .code_methods import BOOKS, COLOURFUL, FIDELITY, READERS, autoencoder, batch, gradients, method, part, total
from .runs import ROOT, differences, state

KINDS = list(codes.PREDICTORS)
NAN = math.nan


@pytest.mark.parametrize('kind', KINDS)
def test_losses_are_those_of_the_formulas(tmp_path, kind):
    model, given = method(tmp_path, kind), batch()
    losses = model(given)
    net, first = model.net_g, autoencoder(kind)
    wanted = first.coded(first.latent(given['gt'])).codes
    prediction = net.predict(given['lq'], given['score'])
    z = net.quantize.lookup(wanted[:, 0]) + 0.8 * net.quantize_aesthetic.lookup(wanted[:, 1])
    assert set(losses) == {'l_feat', 'l_code', 'l_code_hq', 'code_accuracy', 'code_accuracy_hq'}
    torch.testing.assert_close(losses['l_feat'], (prediction.features - z).square().mean())
    for n, end in enumerate(('', '_hq')):
        likely = prediction.logits[n].log_softmax(1).gather(1, wanted[:, n : n + 1])
        torch.testing.assert_close(losses[f'l_code{end}'], -0.5 * likely.mean())
        right = (prediction.logits[n].argmax(1) == wanted[:, n]).float().mean()
        torch.testing.assert_close(losses[f'code_accuracy{end}'], right)
    assert len(wanted.unique()) > 4  # the targets say something


@pytest.mark.parametrize('kind', KINDS)
def test_encoder_reader_and_condition_learn_and_the_books_stay(tmp_path, kind):
    model = method(tmp_path, kind)
    before = {k: v.clone() for k, v in model.net_g.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in model.net_g.parameters() if p.requires_grad], 1e-2)
    found = gradients(model, total(model(batch())))
    optimizer.step()
    moved = {k.partition('.')[0] for k, v in model.net_g.state_dict().items() if not torch.equal(v, before[k])}
    assert moved >= {'encoder', 'score_embed', READERS[kind][0]}
    assert not moved & {*BOOKS, *FIDELITY[kind]}
    assert all(found[name] == 0 for name in (*BOOKS, *FIDELITY[kind]) if name in found)
    assert not [k for k in model.state_dict() if not k.startswith('net_g.')]  # the autoencoder is not saved
    first = autoencoder(kind).state_dict()
    assert all(torch.equal(model.net_g.state_dict()[k], v) for k, v in first.items() if k.startswith(BOOKS))


def test_learning_lowers_the_loss_and_codes_are_read_right(tmp_path):
    model, given = method(tmp_path), batch()
    optimizer = torch.optim.Adam([p for p in model.net_g.parameters() if p.requires_grad], 3e-3)
    seen = []
    for _ in range(60):
        optimizer.zero_grad()
        losses = model(given)
        total(losses).backward()
        optimizer.step()
        seen.append({k: v.item() for k, v in losses.items()})
    assert seen[-1]['l_code'] < 0.5 * seen[0]['l_code']
    assert seen[-1]['code_accuracy'] > 0.7 > seen[0]['code_accuracy']
    assert seen[-1]['l_feat'] < seen[0]['l_feat']


def test_a_batch_of_four_equals_four_batches_of_one(tmp_path):
    options = {
        'drop_score': 0.4, 'train_fidelity': True, 'pixel_opt': {'type': 'MSELoss'},
        'quality_opt': {'scorer': COLOURFUL, 'mode': 'logit_st', 'flip': True, 'top_k': 4},
    }  # fmt: skip
    whole = batch()
    model = method(tmp_path, iteration=7, **options)
    losses = model(whole)
    single = [model(part(whole, n)) for n in range(4)]
    for name, value in losses.items():
        mean = torch.stack([each[name] for each in single]).mean()
        torch.testing.assert_close(value, mean, msg=name, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('kind', KINDS)
def test_every_parameter_that_learns_gets_a_gradient_in_every_step(tmp_path, kind):
    """As several processes need it."""
    options = {'train_fidelity': True, 'pixel_opt': {'type': 'L1Loss'}, 'drop_score': 1.0}
    model = method(tmp_path, kind, **options)
    total(model(batch())).backward()
    assert [n for n, p in model.net_g.named_parameters() if p.requires_grad and p.grad is None] == []


def test_half_precision_gives_nearly_the_same_losses(tmp_path):
    options = {'quality_opt': {'scorer': COLOURFUL, 'mode': 'logit_st'}}
    model, given = method(tmp_path, **options), batch()
    wanted = model(given)
    with torch.autocast('cpu', torch.bfloat16):
        found = model(given)
    for name in ('l_feat', 'l_code', 'l_code_hq', 'reward'):
        assert found[name].dtype == torch.float32
        assert found[name].item() == pytest.approx(wanted[name].item(), rel=0.05), name
    total(found).backward()


# ---- targets ---------------------------------------------------------------------------------------------------------


def test_exported_codes_take_the_place_of_the_autoencoder(tmp_path):
    model, given, first = method(tmp_path), batch(), autoencoder()
    wanted = first.coded(first.latent(given['gt'])).codes
    assert torch.equal(model(given)['l_code'], model({**given, 'codes': wanted})['l_code'])
    assert not torch.equal(model(given)['l_code'], model({**given, 'codes': (wanted + 1) % 10})['l_code'])
    with pytest.raises(DataError, match=r'Target codes are \(4, 1, 8, 8\); the network predicts \(N,2,8,8\)'):
        model({**given, 'codes': wanted[:, :1]})
    with pytest.raises(DataError, match=r'\(4, 2, 8, 7\)'):
        model({**given, 'codes': wanted[..., :7]})


def test_targets_are_those_of_float32_inside_a_mixed_precision_region(tmp_path):
    model, given = method(tmp_path), batch()
    prediction = model.net_g.predict(given['lq'], None)
    wanted = model.targets(given, prediction)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(model.targets(given, prediction), wanted)


def test_books_are_never_random(tmp_path):
    with pytest.raises(MissingWeightsError, match=r"autoencoder_path: there is no file 'nowhere\.pth'; train stage I"):
        method(tmp_path, autoencoder_path='nowhere.pth')
    with pytest.raises(OptionError, match=r'IQPIRGAutoEncoder is given without autoencoder_path'):
        method(tmp_path, autoencoder=codes.AUTOENCODERS['IQPIRG'], autoencoder_path=None)
    with pytest.raises(MissingWeightsError, match=r'the books of network_g are random\. Give autoencoder_path'):
        method(tmp_path, autoencoder_path=None)
    model = build(MODEL_REGISTRY, {'type': 'IQPIRCodeModel'}, networks={'g': codes.predictor()})
    model.net_g.adopt(autoencoder())  # as path.pretrain_network_g would
    model.start_iteration(1)
    with pytest.raises(DataError, match='carries no codes and there is no autoencoder'):
        model(batch())
    wanted = torch.zeros(4, 2, 8, 8, dtype=torch.int64)
    assert torch.isfinite(model({**batch(), 'codes': wanted})['l_code'])


def test_other_books_than_the_autoencoder_s_are_refused(tmp_path):
    path = codes.saved(tmp_path)
    model = build(MODEL_REGISTRY, {'type': 'IQPIRCodeModel', 'autoencoder_path': str(path)},
                  networks={'g': codes.predictor(hq_weight=0.5)})  # fmt: skip
    model.start_iteration(1)  # lambda is a knob, no matter of books
    assert (model.net_g.hq_weight, model.autoencoder.hq_weight) == (0.5, 0.8)
    model = build(MODEL_REGISTRY, {'type': 'IQPIRCodeModel', 'autoencoder_path': str(path)},
                  networks={'g': codes.predictor()})  # fmt: skip
    model.net_g.adopt(autoencoder(seed=5))
    with pytest.raises(CheckpointError, match='other books than autoencoder_path'):
        model.start_iteration(1)


def test_a_file_says_of_which_network_it_is(tmp_path):
    torch.save({'params': autoencoder().state_dict()}, tmp_path / 'bare.pth')
    with pytest.raises(OptionError, match='does not say of which network it is; give autoencoder too'):
        method(tmp_path, autoencoder_path=str(tmp_path / 'bare.pth'))
    model = method(tmp_path, autoencoder_path=str(tmp_path / 'bare.pth'), autoencoder=codes.AUTOENCODERS['IQPIRG'])
    assert not any(p.requires_grad for p in model.autoencoder.parameters())
    assert not model.autoencoder.training
    torch.save({'params': {'a.weight': torch.zeros(1)}, 'network_g': {'type': 'NAFNet'}}, tmp_path / 'other.pth')
    with pytest.raises(OptionError, match='NAFNet turns no images into codes'):
        method(tmp_path, autoencoder_path=str(tmp_path / 'other.pth'))


def test_a_network_without_codes_is_refused():
    net = torch.nn.Conv2d(3, 3, 1)
    with pytest.raises(OptionError, match='Conv2d predicts no codes'):
        build(MODEL_REGISTRY, {'type': 'IQPIRCodeModel'}, networks={'g': net})


# ---- scores ----------------------------------------------------------------------------------------------------------


def spy(model):
    """The scores that the network is told from now on."""
    told, predict = [], model.net_g.predict
    model.net_g.predict = lambda images, score: told.append(score) or predict(images, score)
    return told


def test_the_network_is_told_the_score_of_the_ground_truth(tmp_path):
    model, given = method(tmp_path), batch()
    told = spy(model)
    model(given)
    assert torch.equal(told[0], given['score'])
    del given['score']
    with pytest.raises(DataError, match='the batch has no score; train with QualityPriorDataset, or train with use_'):
        model(given)
    model = method(tmp_path, use_score=False)
    told = spy(model)
    model(given)
    assert told == [None]


def test_dropped_scores_hang_on_image_and_iteration_only(tmp_path):
    given = batch(8)
    model = method(tmp_path, drop_score=0.5)
    found = {}
    for iteration in (1, 2, 1):
        model.start_iteration(iteration)
        found[iteration] = model.told(given)
        alone = torch.cat([model.told(part(given, n)) for n in range(8)])
        torch.testing.assert_close(found[iteration], alone, equal_nan=True)
        known = ~found[iteration].isnan()
        assert torch.equal(found[iteration][known], given['score'][known])
    assert not torch.equal(found[1].isnan(), found[2].isnan())
    many = torch.cat([found[n].isnan() for n in found]).float().mean()
    assert 0.1 < many < 0.9
    several = {**given, 'score': torch.rand(8, 3)}
    rows = model.told(several).isnan()
    assert torch.equal(rows.all(1), found[1].isnan())
    assert torch.equal(rows.all(1), rows.any(1))
    assert method(tmp_path, drop_score=1.0).told(given).isnan().all()


@pytest.mark.parametrize('how', ['tau', 'hq_mask'])
def test_poor_images_teach_nothing_about_the_second_book(tmp_path, how):
    given, first = batch(), autoencoder()
    wanted = first.coded(first.latent(given['gt'])).codes
    given['codes'] = wanted
    given['hq_mask'] = (given['score'] > 0.6).float()
    assert given['hq_mask'].tolist() == [0, 0, 1, 1]
    model = method(tmp_path, mask_hq_targets=True, **({'tau': 0.6} if how == 'tau' else {}))
    losses = model(given)
    changed = wanted.clone()
    changed[:2, 1] = (changed[:2, 1] + 1) % 10
    others = model({**given, 'codes': changed})
    assert all(torch.equal(losses[k], others[k]) for k in losses)
    changed[2, 1] = (changed[2, 1] + 1) % 10
    assert not torch.equal(losses['l_code_hq'], model({**given, 'codes': changed})['l_code_hq'])
    prediction = model.net_g.predict(given['lq'], given['score'])
    each = F.cross_entropy(prediction.logits[1], wanted[:, 1], reduction='none').mean((1, 2))
    torch.testing.assert_close(losses['l_code_hq'], 0.5 * each[2:].mean())
    unmasked = method(tmp_path)(given)  # released: all images do
    torch.testing.assert_close(unmasked['l_code_hq'], 0.5 * each.mean())


def test_a_batch_of_poor_images_has_no_loss_of_the_second_book(tmp_path):
    losses = method(tmp_path, mask_hq_targets=True, tau=0.99)(batch())
    assert losses['l_code_hq'] == 0
    assert losses['code_accuracy_hq'].isnan()
    with pytest.raises(DataError, match='mask_hq_targets needs tau, or a QualityPriorDataset with tau_quantile'):
        method(tmp_path, mask_hq_targets=True)(batch())


# ---- fidelity --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('kind', KINDS)
def test_images_teach_what_brings_fidelity_and_nothing_else(tmp_path, kind):
    options = {'train_fidelity': True, 'pixel_opt': {'type': 'L1Loss'}}
    model, given = method(tmp_path, kind, **options), batch()
    before = model.net_g.w
    losses = model(given)
    assert model.net_g.w == before == 0
    found = gradients(model, losses['l_pix'])
    assert found[FIDELITY[kind][0]] > 0
    assert all(size == 0 for name, size in found.items() if name not in FIDELITY[kind])
    assert gradients(model, model(given)['l_code'])['encoder'] > 0  # the codes go on learning
    with torch.no_grad():
        prediction = model.net_g.predict(given['lq'], given['score'])
        model.net_g.w, model.net_g.adain = 1.0, False
        wanted = model.net_g.render(model.net_g.embed(prediction.codes), prediction)
    torch.testing.assert_close(losses['l_pix'], (wanted - given['gt']).abs().mean())


def test_what_has_no_fidelity_to_train_is_refused(tmp_path):
    with pytest.raises(OptionError, match='train_fidelity goes with pixel_opt'):
        method(tmp_path, train_fidelity=True)
    with pytest.raises(OptionError, match='train_fidelity goes with pixel_opt'):
        method(tmp_path, pixel_opt={'type': 'L1Loss'})
    options = {'train_fidelity': True, 'pixel_opt': {'type': 'L1Loss'}}
    with pytest.raises(OptionError, match='residual_decoder'):
        method(tmp_path, net=codes.predictor(residual_decoder=False), **options)
    model = method(tmp_path, 'IQPIRFormer', net=codes.predictor('IQPIRFormer', connect_list=[]), **options)
    with pytest.raises(OptionError, match='nothing that learns fidelity'):
        model(batch())


# ---- runs ------------------------------------------------------------------------------------------------------------


def write_options(folder, **keys):
    """An option file of a short run on sample photographs; returns its path."""
    options = {
        'name': 'codes', 'model_type': 'IQPIRCodeModel', 'num_gpu': 0,
        'datasets': {
            'train': {
                'type': 'QualityPriorDataset', 'scores': str(ROOT / 'datasets/sample/scores/train.csv'),
                'dataset': {
                    'type': 'OnlineDegradationDataset', 'dataroot_gt': str(ROOT / 'datasets/sample/train'),
                    'gt_size': codes.SIDE, 'degradations': [{'type': 'Haze'}],
                },
                'batch_size_per_gpu': 2, 'num_worker_per_gpu': 0,
            }
        },
        'network_g': codes.PREDICTORS['IQPIRG'],
        'path': {'experiments_root': str(folder / 'experiments')},
        'train': {
            'total_iter': 6, 'optim_g': {'type': 'AdamW', 'lr': 1e-3}, 'ema_decay': 0.9,
            'autoencoder_path': str(codes.saved(folder)), **keys,
        },
        'val': {'report': False},
        'logger': {'print_freq': 1, 'save_checkpoint_freq': 4},
    }  # fmt: skip
    file = folder / 'codes.yml'
    file.write_text(yaml.safe_dump(options, sort_keys=False))
    return str(file)


def test_a_resumed_run_repeats_the_run_to_the_bit(tmp_path):
    folders = []
    for name in ('whole', 'stopped'):
        folder = tmp_path / name
        folder.mkdir()
        folders.append(folder)
        file = write_options(
            folder, drop_score=0.3, train_fidelity=True, pixel_opt={'type': 'L1Loss'},
            quality_opt={'scorer': COLOURFUL, 'mode': 'logit_st', 'start': 3, 'tau_iters': 4, 'flip': True},
        )  # fmt: skip
        if name == 'stopped':
            assert train.main(['-opt', file, '--force_yml', 'train:total_iter=4']) == 0
        assert train.main(['-opt', file, '--auto_resume']) == 0
    whole, stopped = (state(folder, 6, 'codes') for folder in folders)
    assert differences(whole, stopped) == []
    reference, early = whole['extra']['reference'], state(folders[0], 4, 'codes')['extra']['reference']
    assert differences(reference, early) == []  # it has not moved since it was made
    net = {k.removeprefix('net_g.'): v for k, v in whole['model'].items()}
    assert any(not torch.equal(net[k], v) for k, v in reference.items())
    assert not [k for k in reference if k.startswith(BOOKS)]  # nor is it saved twice what is frozen


# ---- quality ---------------------------------------------------------------------------------------------------------


def sharpness(images):
    """Mean absolute difference of neighbours, (N,)."""
    return (images[..., 1:] - images[..., :-1]).abs().flatten(1).mean(1)


def photos_of_all_qualities(count, generator):
    """Patterns of stripes, blurred less the higher their score; and degraded ones that tell nothing of it."""
    places = torch.arange(16) * math.pi / 4
    phase = torch.rand(count, 1, 1, 1, generator=generator) * 2 * math.pi
    wave = torch.sin(places + phase).expand(count, 3, 16, 16)
    score = torch.rand(count, generator=generator)
    gt = 0.5 + 0.45 * score.view(-1, 1, 1, 1) * wave
    lq = 0.5 + 0.1 * wave
    return {'lq': lq, 'gt': gt, 'score': score, 'key': [str(n) for n in range(count)]}


def test_a_higher_score_gives_a_sharper_image(tmp_path):
    """The input says where the stripes are; only the score says how strong they shall be."""
    generator = torch.Generator().manual_seed(4)
    torch.manual_seed(5)
    first = codes.autoencoder(entries=16, entries_hq=16).requires_grad_(True).train()
    optimizer = torch.optim.Adam(first.parameters(), 4e-3)
    for _ in range(120):
        images = photos_of_all_qualities(8, generator)['gt']
        coded = first.coded(first.latent(images))
        loss = (first.render(coded.z) - images).abs().mean() + coded.loss.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    block = {**codes.AUTOENCODERS['IQPIRG'], 'entries': 16, 'entries_hq': 16}
    torch.save({'params': first.state_dict(), 'network_g': block}, tmp_path / 'stage1.pth')
    net = codes.predictor(entries=16, entries_hq=16)
    model = method(tmp_path, net=net, autoencoder_path=str(tmp_path / 'stage1.pth'))
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], 3e-3)
    for _ in range(120):
        optimizer.zero_grad()
        total(model(photos_of_all_qualities(8, generator))).backward()
        optimizer.step()
    net.eval()
    with torch.inference_mode():
        lq = photos_of_all_qualities(16, generator)['lq']
        poor, fair, good = (sharpness(net(lq, score=s)).mean().item() for s in (0.1, 0.5, 0.9))
    assert good - 0.03 > fair > poor + 0.03
