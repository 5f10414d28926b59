"""Proxy Fusion and plain privilege learning: as published, and what holds for every host."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from basicsr import checkpoint
from basicsr.archs import build_network
from basicsr.archs.proxy_fusion_blocks import CrossBlock, guarded
from basicsr.errors import DataError, OptionError
from basicsr.iqa.scorer import Calibration, Scorer
from basicsr.tiling import Restorer, Tiling
from tests.golden.recipe import fill, image

GOLDEN = Path(__file__).parent / 'golden'
FACTS = json.loads((GOLDEN / 'sipl.json').read_text())
OUTPUTS = np.load(GOLDEN / 'sipl.npz')
PUBLISHED = {'promptir': {'type': 'PromptIR', 'unused': False}, 'adair': {'type': 'AdaIR'}}
TINY = {'dim': 8, 'num_blocks': [1, 1, 1, 1], 'num_refinement_blocks': 1, 'heads': [1, 1, 2, 2]}
HOSTS = {
    'NAFNet': {'width': 4, 'enc_blk_nums': [1, 1, 1, 1], 'middle_blk_num': 1, 'dec_blk_nums': [1, 1, 1, 1]},
    'Restormer': TINY,
    'PromptIR': {**TINY, 'unused': False},
    'AdaIR': TINY,
}


def published(name, **more):
    """The released network with few blocks, filled by the released names of its weights."""
    host = {**PUBLISHED[name], **FACTS['few']}
    net = build_network({'type': 'ProxyFusion', 'host': host, 'as_published': True, **more}).double().eval()
    fill(SimpleNamespace(state_dict=net.published_weights))
    return net


def make(host='NAFNet', kind='ProxyFusion', **more):
    """A network around a small host whose weights do something."""
    torch.manual_seed(0)
    size = {'size': 16} if kind == 'ProxyFusion' else {}
    net = build_network({'type': kind, 'host': {'type': host, **HOSTS[host]}, **size, **more}).eval()
    fill(net.host)
    return net.requires_grad_(False)


def images(count=2, seed=2):
    return torch.rand(count, 3, 19, 21, generator=torch.Generator().manual_seed(seed))


# ---- as published --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', PUBLISHED)
def test_keys_shapes_and_counts_are_the_published_ones(name):
    with torch.device('meta'):
        net = build_network({'type': 'ProxyFusion', 'host': PUBLISHED[name]})
    found = {key: list(value.shape) for key, value in net.published_weights().items()}
    assert found == dict(FACTS[name]['keys'])
    assert sum(p.numel() for p in net.parameters()) == FACTS[name]['params']
    assert FACTS['promptir']['params'], FACTS['adair']['params'] == (40_028_562, 33_436_419)


@pytest.mark.parametrize('name', PUBLISHED)
def test_all_paths_give_what_the_released_code_gives(name):
    net = published(name, refine=2, refeed=True)
    degraded, better = image((2, 3, 16, 24), 1), image((2, 3, 16, 24), 2)
    with torch.inference_mode():
        plain, privileged = net.paths(degraded, [None, net.privilege(better)])
        twice = net(degraded)
    for found, key in ((plain, 'plain'), (privileged, 'privileged'), (twice, 'two_iterations')):
        np.testing.assert_allclose(found, OUTPUTS[f'{name}_{key}'], rtol=0, atol=1e-10, err_msg=key)
    assert np.abs(OUTPUTS[f'{name}_privileged'] - OUTPUTS[f'{name}_plain']).max() > 1e-3


def test_plain_privilege_learning_is_the_released_one():
    net = build_network({'type': 'PrivilegedSkips', 'host': {**PUBLISHED['adair'], **FACTS['few']}}).double().eval()
    fill(SimpleNamespace(state_dict=net.published_weights))
    with torch.inference_mode():
        found = net(image((2, 3, 16, 24), 1), privileged=net.privilege(image((2, 3, 16, 24), 2)))
    np.testing.assert_allclose(found, OUTPUTS['adair_skips'], rtol=0, atol=1e-10)


def test_a_released_file_loads_strictly_and_weights_of_the_backbone_map_one_to_one(tmp_path):
    given = {key: torch.randn(value.shape) for key, value in published('promptir').published_weights().items()}
    net = build_network({'type': 'ProxyFusion', 'host': {**PUBLISHED['promptir'], **FACTS['few']}})
    torch.save({'params': given}, tmp_path / 'sipl.pth')
    checkpoint.load_network(net, tmp_path / 'sipl.pth')
    assert all(torch.equal(value, given[key]) for key, value in net.published_weights().items())

    backbone = build_network({'type': 'PromptIR', **FACTS['few']})  # with its six unused convolutions
    torch.save({'state_dict': {f'net.{k}': v for k, v in backbone.state_dict().items()}}, tmp_path / 'promptir.ckpt')
    before = {key: value.clone() for key, value in net.state_dict().items() if not key.startswith('host.')}
    checkpoint.load_network(net, tmp_path / 'promptir.ckpt')
    assert all(torch.equal(value, backbone.state_dict()[key]) for key, value in net.host.state_dict().items())
    assert all(torch.equal(net.state_dict()[key], value) for key, value in before.items())
    assert len(backbone.state_dict()) - len(net.host.state_dict()) == 6


# ---- every host ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('host', HOSTS)
def test_a_graft_begins_as_its_host_exactly_and_learns_from_there(host):
    net = make(host, graft=True, refine=2)
    x = images()
    with torch.inference_mode():
        wanted = net.host(x)
        assert torch.equal(net(x), wanted)
        assert torch.equal(net(x, privileged=net.privilege(images(seed=3))), wanted)
    net.requires_grad_(True).train()
    net(x, privileged=net.privilege(images(seed=3))).square().mean().backward()
    for n in (1, 2, 3):
        assert getattr(net, f'cross_p{n}').attn.project_out.weight.grad.abs().max() > 0


def test_pretrained_weights_are_lost_without_the_graft():
    assert (make()(images()) - make().host(images())).abs().max() > 1e-3


@pytest.mark.parametrize('host', HOSTS)
@pytest.mark.parametrize('kind', ['ProxyFusion', 'PrivilegedSkips'])
def test_features_of_the_better_image_change_the_output(kind, host):
    net, x = make(host, kind), images()
    with torch.inference_mode():
        one, other = (net(x, privileged=net.privilege(images(seed=seed))) for seed in (3, 4))
        plain = net.shared(x)()
    assert (one - other).abs().max() > 1e-6
    assert (one - plain).abs().max() > 1e-6
    if kind == 'PrivilegedSkips':
        torch.testing.assert_close(plain, net.host(x), rtol=0, atol=1e-5)


def test_levels_are_found_by_the_sites():
    assert make().taps_read == ['encoders.1', 'encoders.2', 'encoders.3']
    assert make().changed == ['decoders.2', 'decoders.1', 'decoders.0']
    net = make('Restormer')
    assert net.changed == ['decoder_level2', 'decoder_level3', 'latent']
    assert [tuple(d.shape) for d in net.dictionaries] == [(1, 16, 8, 8), (1, 32, 4, 4), (1, 64, 2, 2)]


@pytest.mark.parametrize('kind', ['ProxyFusion', 'PrivilegedSkips'])
def test_the_encoder_runs_once_for_all_paths_and_once_more_an_iteration(kind, monkeypatch):
    net, x, runs = make(kind=kind, refine=3), images(), []
    encode = net.host.encode
    monkeypatch.setattr(net.host, 'encode', lambda *args: runs.append(1) or encode(*args))
    with torch.inference_mode():
        net.paths(x, [None, None, None])
        assert len(runs) == 1
        net(x)
        assert len(runs) == 1 + 1 + 3
        net.refeed, runs[:] = True, []
        net(x)
    assert len(runs) == 3 + 3


@pytest.mark.parametrize('refeed', [False, True])
def test_evaluation_gives_the_last_of_the_steps(refeed):
    net, x = make('Restormer', refine=2, refeed=refeed), images()
    with torch.inference_mode():
        steps = net.steps(x, 2)
        torch.testing.assert_close(net(x), steps[2], rtol=0, atol=1e-5)
        torch.testing.assert_close(net.shared(x)(), steps[0], rtol=0, atol=1e-5)
    assert (steps[2] - steps[1]).abs().max() > 1e-5


def test_shared_features_give_what_separate_passes_give():
    net, x = make('Restormer', refine=2), images()
    with torch.inference_mode():
        plain = net.shared(x)()
        first = net.shared(x)(net.privilege(plain))
        second = net.shared(x)(net.privilege(first))
        # the features of the padded image, not of the cut one, are read between iterations
        wanted = net.steps(net.pad(x), 2)[2][..., :19, :21]
        torch.testing.assert_close(net(x), wanted, rtol=0, atol=1e-6)
        torch.testing.assert_close(net(x)[..., :8, :8], second[..., :8, :8], rtol=0, atol=0.05)


def test_each_image_of_a_batch_is_its_own():
    net, x = make('Restormer', refine=2), images(3)
    with torch.inference_mode():
        torch.testing.assert_close(net(x), torch.cat([net(one[None]) for one in x]), rtol=0, atol=1e-5)
        better = net.privilege(images(3, seed=5))
        mixed = net.shared(x)(better, torch.tensor([0.0, 0.3, 1.0]))
        plain, handed = net.paths(x, [None, better])
    torch.testing.assert_close(mixed[0], handed[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(mixed[2], plain[2], rtol=0, atol=1e-5)
    assert min((mixed[1] - plain[1]).abs().max(), (mixed[1] - handed[1]).abs().max()) > 1e-6
    with pytest.raises(DataError, match='3 images need as many shares'):
        net.shared(x)(better, torch.zeros(2))


def test_tiles_are_refined_like_whole_images():
    net, x = make('Restormer', refine=1), images(1)
    with torch.inference_mode():
        torch.testing.assert_close(Restorer(net, 'cpu', Tiling(None))(x), net(x), rtol=0, atol=1e-4)
        tiled = Restorer(net, 'cpu', Tiling(16, 8))(x)
        net.refine = 0
        plain = Restorer(net, 'cpu', Tiling(16, 8))(x)
    assert tiled.shape == x.shape
    assert (tiled - plain).abs().max() > 1e-6


def test_training_takes_the_plain_path_and_evaluation_refines():
    net, x = make(), images()
    with torch.inference_mode():
        assert torch.equal(net.train()(x), net.eval().shared(x)())
        assert not torch.equal(net(x), net.shared(x)())
        net.refine = 0
        assert torch.equal(net(x), net.shared(x)())


def test_visitors_see_the_decoder_with_what_was_handed_over():
    net, x, seen = make(refine=0), images(), {}
    with torch.inference_mode():
        net(x, lambda name, feature: seen.setdefault(name, feature))
        plain = {}
        net.host(x, lambda name, feature: plain.setdefault(name, feature))
    assert list(seen) == list(net.sites)
    assert torch.equal(seen['encoders.3'], plain['encoders.3'])
    assert not torch.equal(seen['decoders.0'], plain['decoders.0'])


# ---- stopping early ------------------------------------------------------------------------------------------------


class Darkness(Scorer):
    """Likes dark images, and counts how often it is asked."""

    asked = 0

    def __init__(self, sign=1.0):
        super().__init__('darkness', Calibration(0, 1, 'test'), '1')
        self.sign = sign

    def raw(self, images, degraded=None):
        self.asked += 1
        mean = images.mean((1, 2, 3))
        return 0.5 + self.sign * (0.5 - mean) / 4


@pytest.mark.parametrize('sign', [1.0, -1.0])
def test_an_image_is_refined_until_its_score_falls(sign):
    net, x = make(refine=2), images(4)
    net.judge = Darkness(sign)
    assert not any('judge' in key for key in (*net.state_dict(), *dict(net.named_modules())))
    with torch.inference_mode():
        steps = torch.stack(net.steps(x, 2))
        better = torch.stack([net.judge(image.clamp(0, 1)) for image in steps]).diff(dim=0) >= 0
        count = better[0].long() + (better[0] & better[1]).long()
        net.judge.asked, found = 0, net(x)
    torch.testing.assert_close(found, steps[count, torch.arange(4)], rtol=0, atol=1e-4)
    assert net.judge.asked <= 3
    assert set(count.tolist()) & {0, 1}


def test_an_image_that_hardly_changes_is_refined_no_further(monkeypatch):
    net, x, runs = make(refine=5), images(), []
    with torch.inference_mode():
        steps = net.steps(x, 5)
        encode = net.host.encode
        monkeypatch.setattr(net.host, 'encode', lambda *args: runs.append(1) or encode(*args))
        net.refine_tol = 1e3
        assert torch.equal(net(x), steps[1])
        assert len(runs) == 2
        net.refine_tol = 1e-12
        torch.testing.assert_close(net(x), steps[5])


# ---- the dictionary ------------------------------------------------------------------------------------------------


def learnt(steps=200, **more):
    """Median size of the last update of the dictionaries, and of all other weights, after some steps of Adam."""
    torch.manual_seed(0)
    level = {'size': 8, 'strides': [2], 'heads_fuse': [1], 'heads_inject': [1]}
    host = {'type': 'NAFNet', 'width': 4, 'enc_blk_nums': [1, 1], 'middle_blk_num': 1, 'dec_blk_nums': [1, 1]}
    net = build_network({'type': 'ProxyFusion', 'host': host, **level, **more}).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-4)
    noise = torch.Generator().manual_seed(1)
    clean = torch.rand(2, 3, 8, 8, generator=noise)
    for _ in range(steps):
        degraded = clean + 0.1 * torch.randn(clean.shape, generator=noise)
        with torch.no_grad():
            better = net.privilege(clean)
        before = {name: p.detach().clone() for name, p in net.named_parameters()}  # of the last step in the end
        optimizer.zero_grad()
        sum((y - clean).abs().mean() for y in net.paths(degraded, [None, better])).backward()
        optimizer.step()
    moved = {name: (p.detach() - before[name]).abs().median() for name, p in net.named_parameters()}
    own = [v for name, v in moved.items() if 'dictionary' in name]
    return max(own), torch.stack([v for name, v in moved.items() if 'dictionary' not in name]).median()


@pytest.mark.parametrize('more', [{}, {'dict_init': 'zeros'}])
def test_the_dictionary_learns(more):
    own, others = learnt(**more)
    assert own > 0.1 * others, (own, others)


def test_the_published_beginning_at_zero_freezes_the_dictionary():
    own, others = learnt(as_published=True)
    assert own < 1e-3 * others, (own, others)


def test_the_guard_changes_no_value_and_evens_out_slopes():
    block = CrossBlock(8, 8, 2)
    kv, gradients = torch.randn(1, 8, 4, 4), []
    for size in (1e-7, 1e-3, 1.0):
        torch.manual_seed(3)
        tokens = (size * torch.randn(1, 8, 4, 4)).requires_grad_()
        assert torch.equal(guarded(tokens), tokens)
        block(guarded(tokens), kv).square().mean().backward()
        gradients.append(float(tokens.grad.norm()))
    assert max(gradients) < 30 * min(gradients), gradients


# ---- blocks and refusals -------------------------------------------------------------------------------------------


def restated(block, x, y):
    """The published block by its equations, written with whole attention matrices."""
    p = dict(block.named_parameters())

    def norm(name, t):
        t = (t - t.mean(1, keepdim=True)) / (t.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        return t * p[f'{name}.body.weight'].view(-1, 1, 1) + p[f'{name}.body.bias'].view(-1, 1, 1)

    def conv(name, t):
        weight = p[f'{name}.weight']
        groups = 1 if weight.shape[1] > 1 else len(weight)
        return nn.functional.conv2d(t, weight, padding=weight.shape[-1] // 2, groups=groups)

    x, y = norm('norm11', x), norm('norm12', y)
    missing = block.missing
    asking = torch.cat([x, x.new_zeros(len(x), missing, *x.shape[2:])], 1) if missing > 0 else x[:, : y.shape[1]]
    q = conv('attn.q_dwconv', conv('attn.q', asking))
    k, v = conv('attn.kv_dwconv', conv('attn.kv', y)).chunk(2, 1)
    heads = []
    for n, (a, b, c) in enumerate(zip(*(t.chunk(len(p['attn.temperature']), 1) for t in (q, k, v)))):
        a, b, c = (t.flatten(2) for t in (a, b, c))
        cosines = torch.einsum('ncq,nck->nqk', a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True))
        weights = (cosines * p['attn.temperature'][n]).softmax(-1)
        heads.append(torch.einsum('nqk,nck->ncq', weights, c).unflatten(2, x.shape[2:]))
    z = asking + conv('attn.project_out', torch.cat(heads, 1))
    if missing > 0:
        z = conv('reduce_channel', z)
    z = torch.cat([z, x[:, y.shape[1] :]], 1) if missing < 0 else z
    a, b = conv('ffn.dwconv', conv('ffn.project_in', norm('norm2', z))).chunk(2, 1)
    gelu = nn.functional.gelu
    return z + conv('ffn.project_out', gelu(b) * a + gelu(a) * b)


@pytest.mark.parametrize('other', [8, 4, 12])
def test_the_block_follows_its_equations_for_equal_and_unequal_channels(other):
    torch.manual_seed(0)
    block = fill(CrossBlock(8, other, 2).double())
    x, y = torch.randn(2, 8, 5, 6).double(), torch.randn(2, other, 4, 3).double()
    with torch.no_grad():
        torch.testing.assert_close(block(x, y), restated(block, x, y), rtol=0, atol=1e-10)


@pytest.mark.parametrize('other', [8, 4, 12])
def test_a_grafted_block_is_the_identity_for_equal_and_unequal_channels(other):
    x = torch.randn(2, 8, 5, 6)
    assert torch.equal(CrossBlock(8, other, 2, graft=True)(x, torch.randn(1, other, 4, 3)), x)


def test_what_does_not_fit_is_refused_in_a_sentence():
    host = {'type': 'NAFNet', **HOSTS['NAFNet']}

    def refused(match, kind='ProxyFusion', **more):
        with pytest.raises(OptionError, match=match):
            build_network({'type': kind, 'host': host, **more})

    refused(r'no encoder level at stride 32; it has \[1, 2, 4, 8, 16\]', strides=[2, 4, 32])
    refused('need one number a level each', heads_fuse=[1])
    refused('size is 4; the stride of each level', size=4)
    refused('as_published and graft exclude each other', as_published=True, graft=True)
    refused('8 channels cannot be split into 3 equal heads', heads_inject=[3, 1, 1])
    for kind in ('ProxyFusion', 'PrivilegedSkips'):
        with pytest.raises(OptionError, match=f'{kind}: AIMnet cannot be the host'):
            build_network({'type': kind, 'host': {'type': 'AIMnet'}})
        with pytest.raises(OptionError, match='cannot be the host'):
            build_network({'type': kind, 'host': {'type': 'PrivilegedSkips', 'host': host}})

    with pytest.raises(OptionError, match='NAFNet has no skip connections'):
        build_network({'type': 'PrivilegedSkips', 'host': {'type': 'NAFNet', 'width': 4}})
