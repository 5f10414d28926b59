"""Any scorer as a metric."""

import pytest
import torch

from basicsr.errors import DataError, OptionError
from basicsr.iqa import Calibration, Scorer, build_scorer
from basicsr.metrics import calculate_metric, is_higher_better, needs_of
from basicsr.metrics.score import calculate_score, load
from basicsr.registry import SCORER_REGISTRY


@SCORER_REGISTRY.register()
class BrightnessGainForTest(Scorer):
    needs_degraded = True

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__('gain', Calibration(-1, 1, 'by definition'), '1')
        self.gain = gain

    def raw(self, images, degraded=None):
        return self.gain * (images - degraded).mean((1, 2, 3))


def test_the_scores_of_a_scorer():
    images = torch.rand(2, 3, 32, 32, generator=torch.manual_seed(0))
    block = {'type': 'Colourfulness', 'low': 0.0, 'high': 200.0}
    found = calculate_metric({'img': images}, {'type': 'calculate_score', 'scorer': block})
    rounded = (images * 255).round() / 255
    assert torch.allclose(found, build_scorer(block)(rounded).double(), atol=1e-6)
    assert (found.dtype, found.shape) == (torch.float64, (2,))
    assert ((found > 0) & (found < 1)).all()
    grey = (images[0].permute(1, 2, 0).flip(2) * 255).round().byte().numpy()
    assert calculate_score(grey, scorer=block) == pytest.approx(found[0].item(), abs=1e-6)
    assert load(block) is load(dict(reversed(block.items())))


def test_scorers_that_compare_with_the_degraded_image():
    options = {'type': 'calculate_score', 'scorer': {'type': 'BrightnessGainForTest', 'gain': 2.0}}
    assert needs_of(calculate_score, options) == ('img', 'lq')
    assert needs_of(calculate_score, {'scorer': {'type': 'Colourfulness', 'low': 0.0, 'high': 200.0}}) == ('img',)
    assert is_higher_better(calculate_score, options)
    img, lq = torch.full((1, 3, 8, 8), 0.8), torch.full((1, 3, 8, 8), 0.6)
    assert calculate_metric({'img': img, 'lq': lq, 'img2': img}, options).item() == pytest.approx(0.7, abs=1e-6)
    with pytest.raises(DataError, match="needs 'lq'"):
        calculate_metric({'img': img, 'img2': img}, options)
    with pytest.raises(DataError, match="'lq', which is not there"):
        calculate_score(img, scorer=options['scorer'])


@pytest.mark.parametrize(
    ('scorer', 'text'),
    [({'type': 'Niqee'}, 'NIQE'), ({'type': 'Colourfulness', 'hight': 3.0}, "Did you mean 'high'")],
)
def test_a_wrong_block_is_refused(scorer, text):
    with pytest.raises(OptionError, match=text):
        calculate_score(torch.rand(1, 3, 32, 32), scorer=scorer)
