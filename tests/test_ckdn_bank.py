"""CKDN as the judge of pseudo-labels: every label is compared with the real photograph that it was made from."""

import pytest
import torch

from basicsr.archs.ckdn_arch import CKDN
from basicsr.errors import OptionError
from basicsr.iqa import build_scorer
from basicsr.models.label_judge import judge_of
from basicsr.models.quality_reward import reward_of

from .teachers import batch, method

TINY = {'short_side': 32, 'crop': 32}


@pytest.fixture(scope='module')
def block(tmp_path_factory):
    torch.manual_seed(0)
    net = CKDN(**TINY).eval()
    path = tmp_path_factory.mktemp('ckdn') / 'w.pth'
    torch.save({'params': net.state_dict(), 'network_g': {'type': 'CKDN', **TINY}}, path)
    return {'type': 'CKDNScorer', 'weights': str(path)}


def test_labels_are_compared_with_their_own_photographs(block):
    scorer, judge = build_scorer(block), judge_of(block, 2, 'addition', None)
    images, real = torch.rand(2, 3, 3, 64, 64), torch.rand(2, 3, 64, 64)
    found = judge.labels(images, real)
    with torch.no_grad():
        wanted = torch.stack([scorer(images[:, v], real) for v in range(3)], dim=1)
        cell = scorer(images[:, 2, :, 32:, :32], real[..., 32:, :32])
    assert torch.allclose(found.scores, wanted, atol=1e-5)
    assert torch.allclose(found.grid[:, 2, 1, 0], cell, atol=1e-5)
    pixels = images[:, 0].clone().requires_grad_()
    assert torch.autograd.grad(judge.reward(pixels, real).sum(), pixels)[0].abs().sum() > 0


@pytest.mark.parametrize('kind', ['SemiUIRModel', 'ColabatorModel', 'QualiTeacherModel'])
def test_every_bank_takes_it(block, kind):
    own = {'held_out': [block], 'held_out_freq': 1} if kind == 'QualiTeacherModel' else {}
    tiles = {} if kind == 'SemiUIRModel' else {'tiles': 1}
    scorer = {'type': 'Ensemble', 'members': [block, {'type': 'Colourfulness'}]}
    model = method(kind, scorer=scorer, **tiles, **own)
    losses = model(batch(2, gt_size=64))
    assert all(v.isfinite().all() for k, v in losses.items() if k.startswith('l_'))
    sum(v for k, v in losses.items() if k.startswith('l_')).backward()


def test_where_the_degraded_image_is_not_known_it_is_refused(block):
    with pytest.raises(OptionError, match='quality_opt: ckdn compares with the degraded image'):
        reward_of({'scorer': block}, ('continuous',))
