"""LPIPS as a loss: the metric's distance, with gradients, and no weights in checkpoints."""

import pytest
import torch
from torch import nn

from basicsr.errors import DataError, MissingWeightsError
from basicsr.metrics.lpips import LPIPS, TAPS, load_lpips, trunk_layers
from basicsr.registry import LOSS_REGISTRY, build
from tests.golden.recipe import fill, image


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Seeded weights of squeeze, and nothing else that could be found."""
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('QUALIR_WEIGHTS', str(tmp_path / 'weights'))
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    load_lpips.cache_clear()
    trunk = fill(nn.ModuleDict({'features': trunk_layers('squeeze')})).state_dict()
    heads = {f'lin{i}.model.1.weight': image((1, c, 1, 1), i).float() for i, c in enumerate(TAPS['squeeze'].values())}
    torch.save(trunk, tmp_path / 'trunk.pth')
    torch.save(heads, tmp_path / 'heads.pth')
    yield {'trunk': str(tmp_path / 'trunk.pth'), 'heads': str(tmp_path / 'heads.pth')}, LPIPS('squeeze', trunk, heads)
    load_lpips.cache_clear()


def test_the_loss_is_the_mean_distance_and_has_a_gradient(files):
    paths, distance = files
    loss = build(LOSS_REGISTRY, {'type': 'LPIPSLoss', 'net': 'squeeze', 'loss_weight': 0.5, **paths})
    first, second = image((2, 3, 40, 48), 1).float().requires_grad_(), image((2, 3, 40, 48), 2).float()
    found = loss(first, second)
    assert torch.allclose(found, 0.5 * distance(first, second).mean())
    found.backward()
    assert first.grad.abs().sum() > 0
    assert loss(second, second) == 0
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(loss(first, second), found)
    assert loss.state_dict() == {}
    with pytest.raises(DataError, match='equal'):
        loss(first, second[:1])


def test_weights_that_are_not_there_are_missed_at_once(files):
    with pytest.raises(MissingWeightsError, match='vgg'):
        build(LOSS_REGISTRY, {'type': 'LPIPSLoss'})
