"""CKDN as scorer, as metric of folders, in ensembles and as a guarded loss."""

import json
import os
from pathlib import Path

import pytest
import torch
import yaml
from torch.nn import functional as F

from basicsr import test as test_command
from basicsr.archs import build_network
from basicsr.archs.ckdn_arch import ORIGINS
from basicsr.errors import CheckpointError, DataError, MissingWeightsError, OptionError
from basicsr.evaluation import Measurement
from basicsr.image_io import read_image, to_tensor, write_image
from basicsr.iqa import build_scorer
from basicsr.losses.ckdn_loss import DegradedReferenceLoss
from basicsr.metrics import calculate_metric
from basicsr.protocols import Protocol
from basicsr.tools import evaluate

from .runs import ROOT
from .test_ckdn import LAYOUTS, SMALL, official, trained


@pytest.fixture(scope='module')
def small():
    return trained(**SMALL)


@pytest.fixture(scope='module')
def weights(small, tmp_path_factory):
    """Its file, as training of this project leaves it."""
    path = tmp_path_factory.mktemp('ckdn') / 'net_g_latest.pth'
    torch.save({'params': small.state_dict(), 'network_g': {'type': 'CKDN', **SMALL}, 'iter': 5}, path)
    return str(path)


@pytest.fixture(scope='module')
def images():
    """Crops of photographs, and the same darker and noisy: clean and degraded, (2,3,80,96)."""
    files = sorted((ROOT / 'datasets/sample/val').glob('*.jpg'))[:2]
    clean = torch.stack([to_tensor(read_image(file)[60:140, 60:156]) for file in files])
    noisy = 0.7 * clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    return clean, (noisy.clamp(0, 1) * 255).round() / 255


# ---- scorer -----------------------------------------------------------------------------------------------------


def test_the_scorer_is_the_network(weights, small, images):
    scorer = build_scorer({'type': 'CKDNScorer', 'weights': weights})
    assert (scorer.name, scorer.needs_degraded, scorer.differentiable) == ('ckdn', True, True)
    assert (scorer.net.short_side, scorer.net.crop) == (73, 64)  # as the file says
    clean, noisy = images
    with torch.no_grad():
        scores = scorer(clean, noisy)
        assert torch.equal(scores, small.score(clean, noisy))
        assert not torch.allclose(scores, scorer(clean, clean), atol=1e-5)
        alone = torch.cat([scorer(a[None], b[None]) for a, b in zip(clean, noisy)])
        assert scorer.tiles(clean, 2, noisy).shape == (2, 2, 2)
    assert torch.allclose(scores, alone, atol=1e-6)
    assert ((scores > 0) & (scores < 1)).all()
    assert not any(p.requires_grad for p in scorer.parameters())
    assert not scorer.train().training
    half = build_scorer({'type': 'CKDNScorer', 'weights': weights, 'low': 0.2, 'high': 0.8, 'name': 'x'})
    assert torch.allclose(half(clean, noisy), ((scores - 0.2) / 0.6).clamp(0, 1), atol=1e-6)
    assert scorer.version == half.version
    assert 'CKDN' in scorer.version


def test_published_weights_are_found_by_their_names(small, images, tmp_path, monkeypatch):
    torch.save(LAYOUTS['pyiqa'](small.state_dict()), tmp_path / 'CKDN_model_best-38b27dc6.pth')
    monkeypatch.setenv('QUALIR_WEIGHTS', str(tmp_path))
    scorer = build_scorer({'type': 'CKDNScorer', 'network': {'type': 'CKDN', 'resize': 'tensor', **SMALL}})
    with torch.no_grad():
        tensor, pil = scorer(*images), small.score(*images)
    assert torch.allclose(tensor, pil, atol=0.02)  # the two ways of resizing differ by rounding only
    assert not torch.equal(tensor, pil)


def test_weights_of_the_release_are_read_by_path(small, tmp_path):
    torch.save(official(small.state_dict()), tmp_path / 'model_best.pth.tar')
    scorer = build_scorer({'type': 'CKDNScorer', 'weights': str(tmp_path / 'model_best.pth.tar')})
    assert (scorer.net.short_side, scorer.net.crop, scorer.net.resize) == (329, 288, 'pil')
    assert torch.equal(scorer.net.fc_[6].bias, small.fc_[6].bias)


def test_a_judge_without_its_weights_does_not_exist(small, tmp_path, monkeypatch):
    with pytest.raises(MissingWeightsError, match='there is no such file'):
        build_scorer({'type': 'CKDNScorer', 'weights': str(tmp_path / 'none.pth')})
    monkeypatch.setattr('basicsr.weights.weight_folders', lambda: [tmp_path])
    with pytest.raises(MissingWeightsError, match=r'CKDN_model_best-38b27dc6\.pth or model_best\.pth\.tar'):
        build_scorer({'type': 'CKDNScorer'})
    named = {key.partition('.')[::2]: value for key, value in small.state_dict().items()}
    backbone = {f'{ORIGINS[part]}.{rest}': value for (part, rest), value in named.items() if part in ORIGINS}
    torch.save(backbone, tmp_path / 'resnet50.pth')
    with pytest.raises(CheckpointError, match='a backbone to start training from, not a trained judge: 12 tensors'):
        build_scorer({'type': 'CKDNScorer', 'weights': str(tmp_path / 'resnet50.pth')})
    torch.save({'params': {'a': torch.zeros(1)}}, tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match='of another network'):
        build_scorer({'type': 'CKDNScorer', 'weights': str(tmp_path / 'x.pth')})
    block = {'type': 'CKDNScorer', 'weights': str(tmp_path / 'x.pth'), 'network': {'type': 'NAFNet', 'width': 8}}
    with pytest.raises(OptionError, match=r'NAFNet has no score\(restored, reference\)'):
        build_scorer(block)


def test_degraded_images_are_needed(weights, images):
    scorer = build_scorer({'type': 'CKDNScorer', 'weights': weights})
    with pytest.raises(DataError, match='compares with the degraded images'):
        scorer(images[0])
    with pytest.raises(DataError, match='at least 32 x 32'):
        scorer(images[0][..., :31], images[1][..., :31])


def test_gradients_are_right(weights, images):
    """Against finite differences where nothing is rounded, and close to them where the release rounds."""
    block = {'type': 'CKDNScorer', 'weights': weights, 'network': {'type': 'CKDN', 'short_side': 40, 'crop': 36}}
    exact = {**block, 'network': {**block['network'], 'resize': 'tensor'}}
    scorer, rounded = build_scorer(exact).double(), build_scorer(block).double()
    clean, noisy = (x[:1, :, :33, :37].double() for x in images)
    noisy.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: scorer.raw(x, clean), (noisy,), fast_mode=True, eps=1e-7, atol=1e-5)
    first, second = (torch.autograd.grad(s(noisy, clean).sum(), noisy)[0] for s in (scorer, rounded))
    assert F.cosine_similarity(first.flatten(), second.flatten(), dim=0) > 0.6  # other sides of some ReLUs


def test_it_is_a_member_of_ensembles(weights, images):
    members = [{'type': 'CKDNScorer', 'weights': weights, 'weight': 3}, {'type': 'Colourfulness', 'weight': 1}]
    both = build_scorer({'type': 'Ensemble', 'members': members})
    assert both.needs_degraded
    assert both.differentiable
    clean, noisy = images
    one, other = build_scorer({'type': 'CKDNScorer', 'weights': weights}), build_scorer({'type': 'Colourfulness'})
    with torch.no_grad():
        assert torch.allclose(both(clean, noisy), (3 * one(clean, noisy) + other(clean)) / 4, atol=1e-5)


# ---- metric -----------------------------------------------------------------------------------------------------


def test_it_is_a_metric_of_restored_and_degraded_images(weights, small, images):
    block = {'type': 'calculate_score', 'scorer': {'type': 'CKDNScorer', 'weights': weights}}
    clean, noisy = ((x * 255).round() / 255 for x in images)
    with torch.no_grad():
        wanted = small.score(clean, noisy)
    assert torch.allclose(calculate_metric({'img': clean, 'lq': noisy}, block).float(), wanted, atol=1e-5)
    measurement = Measurement(Protocol('x', metrics={'ckdn': block}))
    assert measurement.needs == {'ckdn': ('img', 'lq')}
    assert measurement.scores(clean[:1], lq=noisy[:1])['ckdn'] == pytest.approx(wanted[0].item(), abs=1e-5)
    with pytest.raises(DataError, match="no degraded images, which metric 'ckdn'"):
        measurement.scores(clean[:1])


@pytest.fixture
def folders(images, tmp_path):
    for name, clean, noisy in zip('ab', *images):
        write_image(tmp_path / f'out/{name}.png', clean)
        write_image(tmp_path / f'lq/{name}.png', noisy)
    return tmp_path


def metric(weights):
    return {'score_ckdn': {'type': 'calculate_score', 'scorer': {'type': 'CKDNScorer', 'weights': weights}}}


def test_evaluate_scores_folders_without_clean_images(folders, weights, small, images):
    given = ['-i', folders / 'out', '-lq', folders / 'lq', '-o', folders / 'results', '--num_worker', 0]
    assert evaluate.main([*map(str, given), '--metrics', json.dumps(metric(weights))]) == 0
    record = json.loads((folders / 'results/out.json').read_text())
    with torch.no_grad():
        wanted = small.score(*images).mean().item()  # files hold the 256 levels that both images have
    assert record['metrics']['score_ckdn'] == pytest.approx(wanted, abs=1e-5)


def test_test_py_scores_what_a_network_restores(folders, weights, small, images):
    data = {'type': 'PairedImageDataset', 'dataroot_gt': str(folders / 'out'), 'dataroot_lq': str(folders / 'lq')}
    net = {'type': 'NAFNet', 'width': 8, 'enc_blk_nums': [1], 'dec_blk_nums': [1], 'middle_blk_num': 1}
    built = build_network(net)
    torch.nn.init.zeros_(built.ending.weight)  # gives the input back
    torch.nn.init.zeros_(built.ending.bias)
    torch.save({'params': built.state_dict()}, folders / 'net.pth')
    options = {
        'name': 'x', 'num_gpu': 0, 'datasets': {'test': {**data, 'num_worker_per_gpu': 0}}, 'network_g': net,
        'path': {'pretrain_network_g': str(folders / 'net.pth')}, 'val': {'metrics': metric(weights)},
    }  # fmt: skip
    (folders / 'o.yml').write_text(yaml.safe_dump(options))
    assert test_command.main(['-opt', str(folders / 'o.yml'), '-o', str(folders / 'r')]) == 0
    record = json.loads((folders / 'r/x/test.json').read_text())
    with torch.no_grad():
        wanted = small.score(images[1], images[1]).mean().item()
    assert record['metrics']['score_ckdn'] == pytest.approx(wanted, abs=1e-5)


# ---- loss -------------------------------------------------------------------------------------------------------


def test_the_loss_is_one_minus_the_score_near_the_anchor(weights, small, images):
    clean, noisy = images
    block = {'type': 'CKDNScorer', 'weights': weights}
    loss = DegradedReferenceLoss(block, loss_weight=2.0, tolerance=0.02, guard_weight=3.0)
    with torch.no_grad():
        score = small.score(clean, noisy)
    assert loss(clean, noisy, clean).item() == pytest.approx(2 * (1 - score).mean().item(), abs=1e-5)
    anchor = clean.clone()
    anchor[1] += 0.03  # half as far again as is allowed
    pred = clean.clone().requires_grad_()
    value = loss(pred, noisy, anchor)
    assert value.item() == pytest.approx(2 * ((1 - score).sum() + 3 * 0.5).item() / 2, abs=1e-3)
    (gradient,) = torch.autograd.grad(value, pred)
    pull = gradient[1]
    assert torch.allclose(pull, pull.mean().expand_as(pull), rtol=1e-3)  # the guard's alone: straight to the anchor
    assert pull.mean() < 0
    assert gradient[0].std() > 0
    assert not loss.state_dict()


def test_a_judge_without_gradient_makes_no_loss():
    with pytest.raises(OptionError, match='PIQE has no gradient'):
        DegradedReferenceLoss({'type': 'PIQE'})


def test_the_guard_stops_the_score_from_being_gamed(weights, images):
    """Ascent on pixels raises the score with and without it, but with it the picture stays."""
    clean, noisy = (x[:1] for x in images)
    block = {'type': 'CKDNScorer', 'weights': weights}
    reached = {}
    for tolerance in (0.02, 1.0):
        loss = DegradedReferenceLoss(block, tolerance=tolerance)
        pixels = clean.clone().requires_grad_()
        adam = torch.optim.Adam([pixels], 0.01)
        before = loss(pixels, noisy, clean).item()
        for _ in range(12):
            adam.zero_grad()
            loss(pixels, noisy, clean).backward()
            adam.step()
        moved = (pixels.detach().clamp(0, 1) - clean).square().mean().sqrt().item()
        reached[tolerance] = moved, before - loss(pixels.detach(), noisy, clean).item()
    assert reached[1.0][0] > 0.04
    assert reached[0.02][0] < 0.03
    assert min(gain for _, gain in reached.values()) > 0


# ---- published scores -------------------------------------------------------------------------------------------

GOLDEN = {'I03': 0.2833, 'I04': 0.5767, 'I06': 0.6367, 'I08': 0.6580, 'I19': 0.5999}  # the release's, of TID2013


def published_weights():
    folder = Path(os.environ.get('QUALIR_WEIGHTS', 'nowhere'))
    return next(iter(sorted(folder.rglob('CKDN_model_best-38b27dc6.pth'))), None) if folder.is_dir() else None


@pytest.mark.skipif(
    published_weights() is None or not (Path(os.environ.get('QUALIR_DATA', 'nowhere')) / 'iqa_golden').is_dir(),
    reason='QUALIR_WEIGHTS and QUALIR_DATA name no published CKDN and no iqa_golden',
)
def test_published_scores():
    scorer = build_scorer({'type': 'CKDNScorer', 'weights': str(published_weights())})
    root = Path(os.environ['QUALIR_DATA']) / 'iqa_golden'
    for name, wanted in GOLDEN.items():
        pair = [to_tensor(read_image(root / f'{kind}_dir/{name}.bmp'))[None] for kind in ('dist', 'ref')]
        with torch.no_grad():
            assert scorer.raw(*pair).item() == pytest.approx(wanted, abs=1e-3)
