"""LPIPS: equal to the package lpips on seeded trunks (tests/golden/make_metrics_lpips.py), and its refusals."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from basicsr.errors import CheckpointError, DataError, MissingWeightsError, OptionError
from basicsr.metrics import calculate_metric, is_higher_better
from basicsr.metrics.lpips import LPIPS, TAPS, TRUNKS, calculate_lpips, load_lpips, trunk_layers
from tests.golden.recipe import fill, image

GOLDEN = json.loads((Path(__file__).parent / 'golden' / 'metrics_lpips.json').read_text())
NETS = list(TAPS)


def weights_of(net):
    """Seeded weights under the keys of torchvision and of lpips."""
    trunk = fill(nn.ModuleDict({'features': trunk_layers(net)})).state_dict()
    heads = {f'lin{i}.model.1.weight': image((1, c, 1, 1), i).float() for i, c in enumerate(TAPS[net].values())}
    return trunk, heads


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Weight files of alex, and nothing else that could be found."""
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('QUALIR_WEIGHTS', str(tmp_path / 'weights'))
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    load_lpips.cache_clear()
    trunk, heads = weights_of('alex')
    (tmp_path / 'weights').mkdir()
    torch.save(trunk, tmp_path / 'trunk.pth')
    torch.save(heads, tmp_path / 'heads.pth')
    yield tmp_path
    load_lpips.cache_clear()


@pytest.mark.parametrize('net', NETS)
def test_as_the_package(net):
    model = LPIPS(net, *weights_of(net))
    first, second = image((2, 3, 64, 72), 1).float(), image((2, 3, 64, 72), 2).float()
    found = model(first, second)
    assert found.tolist() == pytest.approx(GOLDEN['scores'][net], rel=1e-5)
    assert torch.allclose(model(first[:1], second[:1]), found[:1], rtol=1e-5)
    assert model(first, first).abs().max() == 0


def test_by_files(files):
    options = {'trunk': str(files / 'trunk.pth'), 'heads': str(files / 'heads.pth')}
    img, img2 = image((2, 3, 64, 72), 1).float(), image((2, 3, 64, 72), 2).float()
    found = calculate_metric({'img': img, 'img2': img2}, {'type': 'calculate_lpips', **options})
    assert found.tolist() == pytest.approx(GOLDEN['scores']['alex'], rel=0.02)  # the metric rounds to 8 bits
    assert (found.dtype, found.requires_grad) == (torch.float64, False)
    arrays = [(x[0].permute(1, 2, 0).flip(2) * 255).round().byte().numpy() for x in (img, img2)]
    assert calculate_lpips(*arrays, **options) == pytest.approx(found[0].item(), abs=1e-6)
    assert load_lpips('alex', *options.values()) is load_lpips('alex', *options.values())
    assert not is_higher_better(calculate_lpips)


def test_files_are_found_where_they_are_looked_for(files):
    (files / 'trunk.pth').rename(files / 'weights' / TRUNKS['alex'][1])
    (files / 'weights' / 'lpips').mkdir()
    (files / 'heads.pth').rename(files / 'weights' / 'lpips' / 'alex.pth')
    same = torch.rand(1, 3, 40, 40)
    assert calculate_lpips(same, same).item() == 0


def test_one_file_with_both(files):
    trunk, heads = weights_of('alex')
    slices = {0: 1, 3: 2, 6: 3, 8: 4, 10: 5}
    own = {f'net.slice{slices[int(k.split(".")[1])]}.{k.removeprefix("features.")}': v for k, v in trunk.items()}
    torch.save({**own, **heads, 'scaling_layer.shift': torch.zeros(3)}, files / 'both.pth')
    img, img2 = image((1, 3, 40, 40), 1).float(), image((1, 3, 40, 40), 2).float()
    wanted = calculate_lpips(img, img2, trunk=str(files / 'trunk.pth'), heads=str(files / 'heads.pth'))
    assert torch.equal(calculate_lpips(img, img2, trunk=str(files / 'both.pth')), wanted)


def test_missing_weights_are_never_replaced(files):
    img = torch.rand(1, 3, 40, 40)
    with pytest.raises(MissingWeightsError, match=r'LPIPS \(alex\), trunk: the weight file alexnet-owt-7be5be79.pth'):
        calculate_lpips(img, img)
    with pytest.raises(MissingWeightsError, match=r'LPIPS \(alex\), heads: .* comes from the PyPI package lpips'):
        calculate_lpips(img, img, trunk=str(files / 'trunk.pth'))
    with pytest.raises(MissingWeightsError, match=r'LPIPS \(vgg\), trunk: .*vgg16-397923af.pth'):
        calculate_lpips(img, img, net='vgg')


def test_weights_that_do_not_fit(files):
    trunk, heads = weights_of('alex')
    img = torch.rand(1, 3, 40, 40)
    with pytest.raises(CheckpointError, match=r"trunk: 'features.10.bias' is missing, needed is \(256,\)"):
        LPIPS('alex', {k: v for k, v in trunk.items() if k != 'features.10.bias'}, heads)
    with pytest.raises(CheckpointError, match=r"heads: 'lin4' is of shape \(3,\)"):
        LPIPS('alex', trunk, {**heads, 'lin4.model.1.weight': torch.zeros(1, 3, 1, 1)})
    with pytest.raises(CheckpointError, match='trunk'):
        calculate_lpips(img, img, net='vgg', trunk=str(files / 'trunk.pth'), heads=str(files / 'heads.pth'))
    (files / 'bad.pth').write_bytes(b'not weights')
    with pytest.raises(CheckpointError, match=r'bad.pth cannot be read as weights'):
        calculate_lpips(img, img, trunk=str(files / 'bad.pth'))


def test_gradients_reach_the_pixels_only():
    model = LPIPS('alex', *weights_of('alex'))
    x = image((1, 3, 48, 48), 3).float().requires_grad_()
    model(x, image((1, 3, 48, 48), 4).float()).sum().backward()
    assert x.grad.abs().max() > 0
    assert not any(p.requires_grad for p in model.parameters())


def test_refusals():
    with pytest.raises(OptionError, match="net 'resnet' is not known; allowed are alex, vgg, squeeze"):
        calculate_lpips(torch.rand(1, 3, 40, 40), torch.rand(1, 3, 40, 40), net='resnet')
    with pytest.raises(DataError, match='at least 32 x 32 pixels, got 3 channels, 31 x 40'):
        calculate_lpips(torch.rand(1, 3, 31, 40), torch.rand(1, 3, 31, 40))
