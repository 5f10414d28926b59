"""PromptIR against the published code (tests/golden/make_restormer_family.py); see test_restormer.py for the rest."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from basicsr.archs import build_network
from basicsr.archs.promptir_arch import PromptGenBlock, PromptIR
from basicsr.errors import OptionError
from basicsr.options import load
from basicsr.registry import SCHEDULER_REGISTRY, build
from tests.golden.recipe import fill, image

from .runs import ROOT

GOLDEN = Path(__file__).parent / 'golden'
FACTS = json.loads((GOLDEN / 'promptir.json').read_text())
OUTPUTS = np.load(GOLDEN / 'promptir.npz')
TINY = {'dim': 8, 'num_blocks': [1, 1, 1, 1], 'num_refinement_blocks': 1}
FORMATS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize('memory_format', FORMATS)
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_output_is_the_published_one(memory_format, dtype, tolerance):
    net = fill(PromptIR(**FACTS['small']).to(dtype=dtype, memory_format=memory_format)).eval()
    for size in ((16, 24), (40, 8)):
        x = image((2, 3, *size), 1).to(dtype=dtype, memory_format=memory_format)
        with torch.inference_mode():
            out = net(x)
        np.testing.assert_allclose(out, OUTPUTS['{}x{}'.format(*size)], rtol=0, atol=tolerance)


def test_prompt_larger_than_its_patterns_is_the_published_one():
    block = fill(PromptGenBlock(prompt_dim=8, prompt_len=5, prompt_size=6, lin_dim=12).double())
    with torch.no_grad():
        out = block(image((2, 12, 9, 14), 1))
    np.testing.assert_allclose(out, OUTPUTS['prompt-9x14'], rtol=0, atol=1e-15)


def test_prompt_is_the_pattern_that_the_features_choose():
    block = PromptGenBlock(prompt_dim=4, prompt_len=3, prompt_size=8, lin_dim=2)
    with torch.no_grad():
        block.linear_layer.weight.zero_()
        block.linear_layer.bias.copy_(torch.tensor([0.0, 50.0, 0.0]))
        out = block(torch.rand(2, 2, 8, 8))
        torch.testing.assert_close(out, block.conv3x3(block.prompt_param[:, 1]).expand(2, -1, -1, -1))


def test_memory_format_can_be_changed_and_keeps_the_patterns():
    net = PromptIR(**TINY)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    net.to(memory_format=torch.channels_last).to(memory_format=torch.contiguous_format)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert net.prompt1.prompt_param.shape == (1, 5, 64, 64, 64)
    assert net.prompt1.prompt_param.is_leaf
    assert net.prompt1.prompt_param.requires_grad


def test_every_used_parameter_gets_a_gradient():
    net = fill(PromptIR(**TINY))
    net(torch.rand(1, 3, 16, 16)).square().mean().backward()
    without = {k.split('.')[0] for k, p in net.named_parameters() if p.grad is None or not p.grad.any()}
    unused = {f'chnl_reduce{n}' for n in (1, 2, 3)} | {f'reduce_noise_channel_{n}' for n in (1, 2, 3)}
    assert without == unused


def test_the_published_network_without_prompts_cannot_run_and_is_refused():
    assert FACTS['without_decoder'].startswith('Given groups=1')  # the error of the published code
    with pytest.raises(OptionError, match='with decoder: false the published network cannot run'):
        build_network({'type': 'PromptIR', **TINY, 'decoder': False})


def test_windows_reach_the_blocks_of_the_prompts():
    net = PromptIR(**TINY)
    net.localize(32)
    assert [getattr(net, f'noise_level{n}').attn.window for n in (3, 2, 1)] == [4, 8, 16]
    net.localize(None)
    assert net.noise_level3.attn.window is None


@pytest.mark.parametrize(
    ('file', 'iterations', 'epochs', 'schedule_epochs', 'kind'),
    [
        ('promptir/promptir_3task.yml', 4451, 120, 150, 'PromptIR'),
        ('promptir/promptir_5task.yml', 5082, 120, 150, 'PromptIR'),
        ('adair/adair_3task.yml', 4451, 150, 180, 'AdaIR'),
        ('adair/adair_5task.yml', 5082, 150, 180, 'AdaIR'),
    ],
)
def test_option_files_have_the_published_rates(file, iterations, epochs, schedule_epochs, kind):
    """15 epochs of warm-up to 2e-4, then a cosine from epoch 15 to 0 at the last epoch of the schedule."""
    options = load(ROOT / 'options/train' / file)
    schedule = build(SCHEDULER_REGISTRY, options.train.scheduler)
    assert options.networks['g'] == {'type': kind}
    assert options.train.total_iter == epochs * iterations
    assert options.train.warmup_iter == 15 * iterations
    schedule.check(options.train.total_iter)
    for epoch in (16, 60, epochs - 1):
        published = 1e-4 * (1 + math.cos(math.pi * (epoch - 15) / (schedule_epochs - 15)))
        assert schedule.lr(2e-4, epoch * iterations) == pytest.approx(published)
    assert options.dist.find_unused_parameters
