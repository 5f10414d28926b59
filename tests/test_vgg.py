"""VGG features: equal to torchvision's (tests/golden/make_vgg.py) from a file in its layout, and never random."""

import json

import pytest
import torch
from torch import nn

from basicsr.archs import build_network
from basicsr.archs.vgg_arch import CONVS, FILES, LAYERS, WIDTHS, VGGFeatures
from basicsr.errors import CheckpointError, MissingWeightsError, OptionError
from basicsr.losses import build_loss

from .golden.recipe import fill, image
from .runs import ROOT

GOLDEN = json.loads((ROOT / 'tests/golden/vgg.json').read_text())


def torchvision_layers(depth):
    """``features`` of torchvision's VGG, written down by its table of layers."""
    layers, c_in = [], 3
    for width, count in zip(WIDTHS, CONVS[depth]):
        for _ in range(count):
            layers += [nn.Conv2d(c_in, width, 3, padding=1), nn.ReLU()]
            c_in = width
        layers.append(nn.MaxPool2d(2))
    return nn.ModuleDict({'features': nn.Sequential(*layers)})


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Weight files of both networks under torchvision's names; the classifier is there too, as in its files."""
    folder = tmp_path_factory.mktemp('vgg')
    for depth, name in FILES.items():
        weights = {**fill(torchvision_layers(depth)).state_dict(), 'classifier.0.bias': torch.zeros(4096)}
        torch.save(weights, folder / name)
    return folder


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No place that is searched holds a file."""
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('QUALIR_WEIGHTS', str(tmp_path / 'weights'))
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    return tmp_path


@pytest.mark.parametrize('depth', [16, 19])
def test_as_torchvision(files, depth):
    golden = GOLDEN[f'vgg{depth}']
    net = VGGFeatures(tuple(golden), str(files), depth=depth).double()
    found = net.features(image((2, 3, 36, 34), 4))
    for feature, channels, stride, wanted in zip(found, net.channels, net.strides, golden.values(), strict=True):
        assert list(feature.shape) == wanted['shape'] == [2, channels, 36 // stride, 34 // stride]
        assert feature.mean().item() == pytest.approx(wanted['mean'], rel=1e-6)
        assert (feature * image(feature.shape, 9)).mean().item() == pytest.approx(wanted['product'], rel=1e-6)


def test_only_what_is_needed_is_built(files):
    net = VGGFeatures(('relu1_2', 'relu2_1'), str(files / FILES[19]))
    assert list(net.net) == ['relu1_1', 'relu1_2', 'pool1', 'relu2_1']
    assert (net.channels, net.strides) == ((64, 128), (1, 2))
    assert net.features(torch.rand(1, 3, 8, 8))[-1].shape == (1, 128, 4, 4)


def test_normalisation_is_that_of_imagenet(files):
    x = torch.rand(1, 3, 8, 8)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    plain, normalised = (VGGFeatures(('relu1_1',), str(files), input_norm=n) for n in (False, True))
    torch.testing.assert_close(normalised(x), plain((x - mean) / std))
    assert not torch.allclose(normalised(x), plain(x))


def test_weights_are_frozen_and_never_saved(files):
    net = VGGFeatures(LAYERS[:2], str(files))
    assert not list(net.parameters())
    assert not net.state_dict()
    x = torch.rand(1, 3, 8, 8, requires_grad=True)
    net(x).sum().backward()
    assert x.grad.abs().max() > 0


def test_it_serves_the_feature_losses(files, nowhere, monkeypatch):
    monkeypatch.setenv('QUALIR_WEIGHTS', str(files))
    backbone = {'type': 'VGGFeatures'}
    contrast = build_loss({'type': 'ContrastiveFeatureLoss', 'backbone': backbone})
    assert contrast.layer_weights == (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)  # as released
    a, b, c = torch.rand(3, 1, 3, 32, 32)
    assert contrast(a, b, c).item() > 0
    perceptual = build_loss({'type': 'FeatureLoss', 'backbone': backbone})
    assert perceptual(a, b).item() > 0 == perceptual(a, a).item()


@pytest.mark.parametrize('depth', [16, 19])
def test_missing_weights_are_never_replaced(nowhere, depth):
    text = rf'VGGFeatures \(VGG{depth}\): the weight file {FILES[depth]} is not on this machine'
    with pytest.raises(MissingWeightsError, match=text):
        build_network({'type': 'VGGFeatures', 'depth': depth})
    with pytest.raises(MissingWeightsError, match=rf"'none.pth', but there is no such file. {FILES[depth]} comes from"):
        VGGFeatures(weights='none.pth', depth=depth)


def test_weights_that_do_not_fit(files, tmp_path):
    with pytest.raises(CheckpointError, match=r"'features.17.weight' is missing; needed is \(512, 256, 3, 3\)"):
        VGGFeatures(weights=str(files / FILES[19]), depth=16)  # in VGG19 a ReLU stands there
    weights = torch.load(files / FILES[19])
    torch.save({**weights, 'features.2.bias': torch.zeros(3)}, tmp_path / 'bad.pth')
    with pytest.raises(CheckpointError, match=r"bad.pth: 'features.2.bias' is of shape \(3,\); needed is \(64,\)"):
        VGGFeatures(weights=str(tmp_path / 'bad.pth'))


def test_wrong_layers_are_refused(files):
    with pytest.raises(OptionError, match=r"'relu5_4' is not in VGG16; allowed are relu1_1, .*, relu5_3\."):
        VGGFeatures(('relu5_4',), str(files), depth=16)
    for layers in ((), ('relu2_1', 'relu1_1'), ('relu1_1', 'relu1_1')):
        with pytest.raises(OptionError, match='at least one, each once, shallow first'):
            VGGFeatures(layers, str(files))
