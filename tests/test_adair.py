"""AdaIR against the published code (tests/golden/make_restormer_family.py); see test_restormer.py for the rest."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from basicsr.archs import build_network
from basicsr.archs.adair_arch import AdaIR, FreModule
from basicsr.archs.restormer_arch import Restormer
from basicsr.errors import OptionError
from basicsr.network import facts_of
from tests.golden.recipe import fill, image

GOLDEN = Path(__file__).parent / 'golden'
FACTS = json.loads((GOLDEN / 'adair.json').read_text())
OUTPUTS = np.load(GOLDEN / 'adair.npz')
TINY = {'dim': 8, 'num_blocks': [1, 1, 1, 1], 'num_refinement_blocks': 1}
FORMATS = [torch.contiguous_format, torch.channels_last]


def run(net, *inputs):
    with torch.inference_mode():
        return net(*inputs)


@pytest.mark.parametrize('memory_format', FORMATS)
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_output_is_the_published_one(memory_format, dtype, tolerance):
    net = fill(AdaIR(**FACTS['small']).to(dtype=dtype, memory_format=memory_format)).eval()
    for size in ((16, 24), (40, 8)):
        out = run(net, image((2, 3, *size), 1).to(dtype=dtype, memory_format=memory_format))
        np.testing.assert_allclose(out, OUTPUTS['{}x{}'.format(*size)], rtol=0, atol=tolerance)


def test_output_without_frequency_modules_is_the_published_one_and_that_of_restormer():
    net = fill(AdaIR(**FACTS['small'], decoder=False).double()).eval()
    x = image((2, 3, 16, 24), 1)
    np.testing.assert_allclose(run(net, x), OUTPUTS['without_decoder-16x24'], rtol=0, atol=1e-12)
    other = Restormer(**FACTS['small']).double().eval()
    other.load_state_dict(net.state_dict())
    assert torch.equal(run(net, x), run(other, x))


def test_output_where_the_transform_runs_but_the_box_is_empty_is_the_published_one():
    net = fill(AdaIR(**FACTS['small'])).eval()
    out = run(net, image((1, 3, 272, 264), 1).float())[..., ::11, ::13]
    np.testing.assert_allclose(out, OUTPUTS['272x264'], rtol=0, atol=1e-5)


def test_output_with_low_frequencies_is_the_published_one():
    net = fill(AdaIR(**FACTS['small'])).eval()
    with torch.no_grad():
        net.fre3.rate_conv[2].weight.mul_(-200)
    boxes = []
    counted = net.fre3.low_frequencies
    net.fre3.low_frequencies = lambda x: boxes.append(counted(x)) or boxes[-1]
    out = run(net, image((1, 3, 528, 512), 1).float())[..., ::19, ::17]
    np.testing.assert_allclose(out, OUTPUTS['528x512'], rtol=0, atol=1e-5)
    assert [int(box.sum()) for box in boxes] == [4]


def test_split_with_a_box_for_each_image_is_the_published_one():
    module = fill(FreModule(16, num_heads=4, bias=False).double())
    images = image((2, 3, 392, 264), 1) * torch.tensor([1, 0.2]).view(2, 1, 1, 1)
    with torch.inference_mode():
        module.rate_conv[2].weight.mul_(torch.tensor([40, -60]).view(2, 1, 1, 1))
        x = module.conv1(images)
        assert module.low_frequencies(x).sum((1, 2, 3)).tolist() == [8, 4]
        low, high = (part[..., ::79, ::41] for part in module.split(x))
    np.testing.assert_allclose(low, OUTPUTS['low-392x264'], rtol=0, atol=1e-14)
    np.testing.assert_allclose(high, OUTPUTS['high-392x264'], rtol=0, atol=1e-14)


def test_split_below_128_pixels_is_what_the_transform_would_give():
    module = fill(FreModule(16, num_heads=4, bias=False).double())
    x = image((1, 16, 127, 200), 1) - 0.5
    assert not module.low_frequencies(x).any()
    low, high = module.split(x)
    assert not low.any()
    there_and_back = torch.fft.ifft2(torch.fft.fft2(x)).abs()
    torch.testing.assert_close(high, there_and_back, rtol=0, atol=1e-14)


def test_low_and_high_frequencies_of_a_constant_are_all_and_nothing():
    module = fill(FreModule(16, num_heads=4, bias=False))
    x = torch.full((1, 16, 256, 256), 0.75)
    module.low_frequencies = lambda x: torch.ones(1, 1, 256, 1, dtype=torch.bool) & (torch.arange(256) == 0)
    low, high = module.split(x)
    torch.testing.assert_close(low, x)
    torch.testing.assert_close(high, torch.zeros_like(x), rtol=0, atol=1e-6)


def test_fresh_modules_change_nothing():
    """The published start: the new features have weight 0, the old ones 1."""
    torch.manual_seed(0)
    y = torch.rand(1, 16, 8, 8)
    assert torch.equal(FreModule(16, 4, False)(torch.rand(1, 3, 16, 16), y), y)


def test_bf16_autocast_of_the_transform_stays_close():
    module = fill(FreModule(16, num_heads=4, bias=False)).eval()
    x, y = image((1, 3, 300, 290), 1).float(), image((1, 16, 150, 145), 2).float()
    with torch.autocast('cpu', torch.bfloat16):
        low = run(module, x, y).float()
    high = run(module, x, y)
    assert 0 < (low - high).abs().mean() < 0.02 * high.abs().mean()


def test_facts_for_the_engine():
    assert facts_of(build_network({'type': 'AdaIR', **TINY})).half_precision == ('bf16',)


def test_windows_reach_the_attention_of_the_frequency_modules():
    net = AdaIR(**TINY)
    net.localize(32)
    assert [getattr(net, f'fre{n}').channel_cross_agg.window for n in (1, 2, 3)] == [4, 8, 16]
    AdaIR(**TINY, decoder=False).localize(32)


def test_a_network_too_narrow_for_the_frequency_modules_is_refused():
    with pytest.raises(OptionError, match='dim is 6; the frequency modules need at least 8'):
        AdaIR(dim=6, heads=[1, 1, 1, 1])
    AdaIR(dim=6, heads=[1, 1, 1, 1], num_blocks=[1, 1, 1, 1], decoder=False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
@pytest.mark.parametrize('memory_format', FORMATS)
def test_output_on_a_gpu(memory_format):
    net = fill(AdaIR(**FACTS['small'])).to('cuda', torch.float64, memory_format=memory_format).eval()
    out = run(net, image((1, 3, 272, 264), 1).to('cuda', memory_format=memory_format))[..., ::11, ::13]
    np.testing.assert_allclose(out.cpu(), OUTPUTS['272x264'], rtol=0, atol=1e-9)
