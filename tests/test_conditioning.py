"""The score condition: exactly the host until it is trained, and afterwards where no score is given."""

import math
from functools import cache

import pytest
import torch
from torch import nn

from basicsr.archs import build_network
from basicsr.checkpoint import load_weights
from basicsr.conditioning import DiracConv, QualityCondition
from basicsr.errors import CheckpointError, DataError, OptionError
from basicsr.evaluation import asked_for, open_restorer
from basicsr.network import RestorationNetwork, Site, facts_of, keep
from basicsr.registry import ARCH_REGISTRY
from basicsr.sections import ValOptions
from basicsr.tiling import Restorer, Tiling
from tests.golden.recipe import fill

SMALL = {'dim': 8, 'num_blocks': [1, 1, 1, 1], 'num_refinement_blocks': 1, 'heads': [1, 1, 2, 2]}
HOSTS = {
    'NAFNet': {'width': 4, 'enc_blk_nums': [1, 1], 'middle_blk_num': 1, 'dec_blk_nums': [1, 1]},
    'Restormer': SMALL,
    'PromptIR': SMALL,
    'AdaIR': SMALL,
    'AIMnet': {'n_feat': 8, 'attend': 'all'},
    'CORUN': {'depth': 2},
}
MODES = ('embedding', 'fourier', 'film')
NAN = math.nan
ONE_SITE = {'s': Site(6, 1)}


def block(host, **more):
    return {'type': 'QualityConditioned', 'host': {'type': host, **HOSTS[host]}, **more}


@cache
def weights_of(host):
    """Weights that do something, as in the host's own tests."""
    net = fill(build_network({'type': host, **HOSTS[host]}))
    for name, p in net.named_parameters():
        if name.endswith('step_lambda'):
            p.data.abs_().add_(0.2)
    return net.state_dict()


def make(host='NAFNet', **more):
    """A conditioned network of such a host."""
    torch.manual_seed(0)
    net = build_network(block(host, **more)).eval()
    net.host.load_state_dict(weights_of(host))
    return net.requires_grad_(False)


def random_condition(net, size=0.5):
    torch.manual_seed(1)
    for p in net.condition.encoders.parameters():
        p.data.normal_(0, size)
    return net


def images(net, count=2):
    side = 48 if net.min_size > 16 else 10
    return torch.rand(count, 3, side, side + 3, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('host', HOSTS)
def test_a_fresh_condition_changes_no_bit_and_a_trained_one_none_where_there_is_no_score(host, mode):
    net = make(host, mode=mode)
    x = images(net)
    with torch.inference_mode():
        wanted = net.host(x)
        assert torch.equal(net(x), wanted)
        for score in (None, 0.0, NAN, torch.tensor([0.35, 0.6]), torch.tensor([NAN, 0.6])):
            assert torch.equal(net(x, score=score), wanted), score
        random_condition(net)
        assert torch.equal(net(x, score=None), wanted)
        mixed = net(x, score=torch.tensor([NAN, 0.6]))
    assert torch.equal(mixed[0], wanted[0])
    assert (mixed[1] - wanted[1]).abs().max() > 1e-5


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('host', HOSTS)
def test_branches_are_separate_calls_and_share_the_encoder(host, mode):
    net = random_condition(make(host, mode=mode))
    x = images(net)
    index, scores = torch.tensor([1, 0, 1]), torch.tensor([0.2, NAN, 0.9])
    seen, encode = [], net.host.encode
    net.host.encode = lambda x, *more: seen.append(len(x)) or encode(x, *more)
    with torch.inference_mode():
        found = net.branches(x, index, scores)
        assert seen == ([3] if host == 'CORUN' else [2])  # CORUN's encoder goes on from what the score changes
        for n in range(3):
            wanted = net(x[index[n : n + 1]], score=float(scores[n]))
            torch.testing.assert_close(found[n : n + 1], wanted, rtol=0, atol=1e-5 * float(wanted.abs().max().clip(1)))
    assert (found[0] - found[2]).abs().max() > 1e-5


def test_branches_train_like_separate_calls():
    net = random_condition(make(mode='fourier')).requires_grad_(True).train()
    x, index, scores = images(net), torch.tensor([1, 0, 1]), torch.tensor([0.2, NAN, 0.9])
    gradients = []
    for output in (net.branches(x, index, scores), net(x[index], score=scores)):
        net.zero_grad()
        output.square().mean().backward()
        gradients.append({k: p.grad.clone() for k, p in net.named_parameters()})
        assert all(g.isfinite().all() for g in gradients[-1].values())
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][key], rtol=1e-4, atol=1e-6, msg=key)
    assert gradients[0]['condition.encoders.middle_blks.2.weight'].abs().max() > 0


def test_every_site_of_an_encoder_that_says_so_may_be_changed_late():
    for host in HOSTS:
        net = make(host).host
        x = net.pad(images(net))
        for name, site in net.taps.items():
            if site.feature is None:
                continue

            def change(seen, feature, name=name):
                return feature + 1 if seen == name else feature

            with torch.inference_mode():
                features = net.encode(x)
                assert features[site.feature].shape[1] == site.channels
                features[site.feature] = features[site.feature] + 1
                assert torch.equal(net.decode(x, features), net.decode(x, net.encode(x, change))), (host, name)


def test_where_scores_enter_by_default():
    entered = {host: make(host).injection_sites for host in HOSTS}
    assert entered['NAFNet'] == ('middle_blks',)
    assert entered['Restormer'] == entered['PromptIR'] == entered['AdaIR'] == ('latent',)
    assert entered['AIMnet'] == ('bottleneck.1', 'bottleneck.2')
    parts = ('stage0.transmission', 'stage0.image', 'stage1.image')
    assert entered['CORUN'] == tuple(f'{part}.{place}' for part in parts for place in ('encoder.2', 'fusion.0'))
    assert RestorationNetwork().injection_sites == ()


def test_bins_are_those_of_the_release():
    condition = QualityCondition(ONE_SITE)
    score = torch.tensor([0.69999, 0.7, 1.0, 0.0, -0.1, 0.1, 0.55, NAN])
    assert condition.levels(score)[:-1].tolist() == [6, 7, 7, 0, 0, 1, 5]
    assert condition.levels(score)[-1].isnan()
    assert condition.levels(torch.arange(8) / 10).tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


def test_levels_of_waves_saturate():
    condition = QualityCondition(ONE_SITE, 'fourier')
    level = condition.levels(torch.tensor([0.35, 0.7, 1.0, -0.1, NAN]))
    torch.testing.assert_close(level[:4], torch.tensor([0.5, 1.0, 1.0, 0.0]))
    assert level[4].isnan()


def test_a_row_of_the_table_is_added():
    condition = QualityCondition(ONE_SITE, zero_init=False)
    table = condition.encoders['s'].weight
    assert 0.5 < table.std() < 1.5  # N(0, 1), as the release's CORUN
    x = torch.rand(3, 6, 4, 5)
    y = condition.visitor(torch.tensor([0.42, NAN, 0.8]))('s', x)
    torch.testing.assert_close(y, x + torch.stack([table[4], 0 * table[0], table[7]])[..., None, None])
    assert condition.visitor(torch.tensor([0.42, NAN, 0.8]))('elsewhere', x) is x


@pytest.mark.parametrize('mode', ['fourier', 'film'])
def test_waves_are_those_of_the_formula(mode):
    condition = QualityCondition(ONE_SITE, mode, frequencies=3, hidden=5)
    first, _, last = condition.encoders['s']
    nn.init.normal_(last.weight)
    level = 0.35 / 0.7
    angles = [math.pi * level * 2**k for k in range(3)]
    code = torch.tensor([*map(math.sin, angles), *map(math.cos, angles)])
    vector = last(nn.functional.silu(first(code)))
    x = torch.rand(1, 6, 2, 2)
    found = condition.visitor(torch.tensor([0.35]))('s', x)
    shape = (-1, 1, 1)
    wanted = x + vector.view(shape) if mode == 'fourier' else x * (1 + vector[:6].view(shape)) + vector[6:].view(shape)
    torch.testing.assert_close(found, wanted)


def test_sites_of_equal_width_in_one_part_share_their_weights():
    sites = {'a.1': Site(6, 1), 'a.2': Site(6, 2), 'b': Site(4, 1), 'c': Site(6, 1, part='other')}
    assert list(QualityCondition(sites).encoders) == ['a_1', 'b', 'c']
    assert list(QualityCondition(sites, share=False).encoders) == ['a_1', 'a_2', 'b', 'c']


def test_without_a_score_a_call_costs_what_the_host_costs():
    assert QualityCondition(ONE_SITE).visitor(None) is keep

    def last(name, feature):
        return feature

    assert QualityCondition(ONE_SITE).visitor(None, last) is last


def test_a_learned_null_begins_as_nothing_and_is_learned():
    net = make(null='learned')
    x = images(net)
    with torch.inference_mode():
        assert torch.equal(net(x, score=None), net.host(x))
        net.condition.nulls['middle_blks'].fill_(0.3)
        by_none, by_nan, mixed = (net(x, score=s) for s in (None, NAN, torch.tensor([NAN, 0.5])))
        assert (by_none - net.host(x)).abs().max() > 1e-5
        assert torch.equal(by_none, by_nan)
        assert torch.equal(mixed[0], by_none[0])
        assert torch.equal(mixed[1], net.host(x)[1])


def test_a_visitor_sees_the_features_after_the_condition():
    net = random_condition(make())
    seen = {}
    with torch.inference_mode():
        net(images(net), lambda name, y: seen.setdefault(name, y), score=0.4)
        row = net.condition.encoders['middle_blks'].weight[4]
        plain = net.host.read_taps(images(net))['middle_blks']
        taps = net.read_taps(images(net))['middle_blks']  # at the knob, the top
    assert list(seen) == list(net.sites)
    torch.testing.assert_close(seen['middle_blks'], plain + row[:, None, None])
    torch.testing.assert_close(taps, plain + net.condition.encoders['middle_blks'].weight[7][:, None, None])


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_convolutions_of_refine_begin_as_the_identity_and_their_drift_is_known(layout):
    net = make('CORUN', refine=['*.up.*']).to(memory_format=layout)
    assert len(net.condition.refiners) == 9  # three in each of the three transformers
    x = images(net).contiguous(memory_format=layout)
    with torch.inference_mode():
        wanted = net.host(x)
        assert torch.equal(net(x, score=torch.tensor([NAN, 0.3])), wanted)
        assert net.condition.drift() == 0
        conv = net.condition.refiners['stage1_image_up_0']
        conv.weight[3, 2, 1, 0] += 0.5
        conv.weight[0, 0, 1, 1] -= 0.25
        assert float(net.condition.drift()) == pytest.approx(0.3125)
        assert not torch.equal(net(x, score=None), wanted)
    assert float(make().condition.drift()) == 0


def test_the_convolution_of_refine_is_an_ordinary_one():
    conv = DiracConv(5)
    nn.init.normal_(conv.weight)
    nn.init.normal_(conv.bias)
    x = torch.rand(2, 5, 6, 7)
    torch.testing.assert_close(conv(x), nn.functional.conv2d(x, conv.weight, conv.bias, padding=1), rtol=0, atol=1e-5)
    assert list(conv.state_dict()) == ['weight', 'bias']


def test_stages_of_a_host_that_has_them():
    net = random_condition(make('CORUN'))
    x = images(net)
    with torch.inference_mode():
        pictures, transmissions = net.stages(x, torch.tensor([NAN, 0.4]))
        assert torch.equal(pictures[-1], net(x, score=torch.tensor([NAN, 0.4])))
        assert torch.equal(transmissions[-1][0], net.host.stages(x)[1][-1][0])
        assert torch.equal(net.stages(x)[0][-1], net(x, score=1.0))
    assert not hasattr(make(), 'stages')


def test_the_knob_and_guidance():
    net = random_condition(make())
    x = images(net)
    with torch.inference_mode():
        without, low, top = (net(x, score=s) for s in (None, 0.2, 1.0))
        assert torch.equal(net(x), top)
        net.score = 0.2
        assert torch.equal(net(x), low)
        net.guidance = 2.5
        torch.testing.assert_close(net(x), without + 2.5 * (low - without))
        torch.testing.assert_close(net(x, score=1.0), without + 2.5 * (top - without))
        assert torch.equal(net(x, score=None), without)
        net.guidance = 0.0
        assert torch.equal(net(x), without)
        net.train()
        assert torch.equal(net(x), low)  # guidance is for evaluation


def test_the_knob_is_turned_for_validation_and_put_back():
    net = random_condition(make())
    x = images(net, 1)
    with open_restorer(net, 'cpu', ValOptions(score=0.2, guidance=2.0)) as restorer, torch.inference_mode():
        found = restorer(x)
        assert (net.score, net.guidance) == (0.2, 2.0)
    assert (net.score, net.guidance) == (1.0, 1.0)
    with torch.inference_mode():
        torch.testing.assert_close(found, 2 * net(x, score=0.2) - net(x, score=None), rtol=1e-5, atol=1e-4)
    refused = pytest.raises(OptionError, match=r'score 0\.2 cannot be asked of NAFNet, which has no quality condition')
    with refused, asked_for(net.host, {'score': 0.2}):
        raise AssertionError('not reached')
    for score, nearest in ((1.5, 1.0), (-0.1, 0.0)):
        with asked_for(net, {'score': score}):
            assert net.score == nearest
    for asked in ({'score': NAN}, {'score': math.inf}, {'guidance': -1.0}, {'score': 0.5, 'guidance': math.inf}):
        refused = pytest.raises(OptionError, match='cannot be asked for: a score lies within 0 and 1')
        with refused, asked_for(net, asked):
            raise AssertionError('not reached')


def test_facts_are_those_of_the_host():
    for host in HOSTS:
        net = make(host)
        assert facts_of(net) == facts_of(net.host)
        assert (net.pad_mode, net.prepare) == (net.host.pad_mode, net.host.prepare)
        assert net.sites == net.host.sites
    net = make('Restormer')
    x = images(net)
    with torch.inference_mode():
        net.localize(8)
        local = net(x)
        net.localize(None)
        assert (local - net(x)).abs().max() > 0


@ARCH_REGISTRY.register()
class LocalNet(RestorationNetwork):
    """Sees 3 pixels far, at half the resolution in the middle."""

    multiple_of, min_size, halo = 2, 2, 8

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 8, 4, 2, 1), nn.ConvTranspose2d(8, 3, 4, 2, 1)

    @property
    def sites(self):
        return {'middle': Site(8, 2, tap=True, feature=0)}

    def encode(self, x, visit=keep):
        return [visit('middle', self.down(x))]

    def decode(self, x, features, visit=keep):
        return self.up(features[0].relu()) + x


@pytest.mark.parametrize('mode', MODES)
def test_tiles_of_a_conditioned_local_network_are_the_whole(mode):
    torch.manual_seed(0)
    net = build_network({'type': 'QualityConditioned', 'host': {'type': 'LocalNet'}, 'mode': mode, 'refine': ['mid*']})
    assert net.halo == 10
    random_condition(net.eval())
    for p in net.condition.refiners.parameters():
        p.data.add_(0.05 * torch.randn_like(p))
    x = torch.rand(1, 3, 70, 90)
    whole = Restorer(net, 'cpu')(x)
    tiled = Restorer(net, 'cpu', Tiling(32, 20))(x)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5)
    assert (whole - net.host(x)).abs().max() > 1e-3


def test_aimnet_in_tiles_has_the_illumination_of_the_whole_image():
    net = make('AIMnet')
    x = torch.rand(1, 3, 60, 50)
    with torch.inference_mode():
        prepared = net.prepare(x)
        assert prepared.shape == (1, 6, 60, 50)
        torch.testing.assert_close(net(prepared), net(x))


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('host', ['NAFNet', 'Restormer', 'CORUN'])
def test_bf16_autocast(host, mode):
    net = make(host, mode=mode)
    x, score = images(net), torch.tensor([NAN, 0.4])
    with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16):
        wanted = net.host(x)
        assert torch.equal(net(x, score=score), wanted)
        random_condition(net, 0.05)
        low = net(x, score=score)
        assert torch.equal(low[0], wanted[0])
        assert not torch.equal(low[1], wanted[1])
    with torch.inference_mode():
        high = net(x, score=score)
    assert (low.float() - high).abs().mean() < 0.03 * high.abs().mean()


def test_memory_format_is_kept():
    for mode in MODES:
        visit = QualityCondition(ONE_SITE, mode, zero_init=False).visitor(torch.tensor([0.3, NAN]))
        x = torch.rand(2, 6, 5, 4).contiguous(memory_format=torch.channels_last)
        assert visit('s', x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize('host', HOSTS)
def test_a_checkpoint_of_the_host_loads_strictly_and_that_of_another_is_refused(tmp_path, host):
    net, plain = make(host), build_network({'type': host, **HOSTS[host]})
    for p in plain.parameters():
        p.data.add_(0.1)
    torch.save({'params': plain.state_dict(), 'iter': 5}, tmp_path / 'host.pth')
    loaded = load_weights(net, tmp_path / 'host.pth')
    own = len(net.condition.state_dict())
    assert (loaded.matched, loaded.tensors, loaded.fresh) == (len(plain.state_dict()), loaded.matched + own, own)
    assert str(loaded).endswith(f'{loaded.matched} of {loaded.tensors} tensors loaded, {own} begin fresh')
    assert all(torch.equal(v, net.host.state_dict()[k]) for k, v in plain.state_dict().items())
    lacking = dict(list(plain.state_dict().items())[1:])
    torch.save(lacking, tmp_path / 'lacking.pth')
    first = next(iter(plain.state_dict()))
    with pytest.raises(CheckpointError, match=rf'Missing in the file: host\.{first}\.$'):
        load_weights(net, tmp_path / 'lacking.pth')
    torch.save({'other.weight': torch.zeros(3)}, tmp_path / 'other.pth')
    for strict in (True, False):  # what the network adds itself does not count as a match
        with pytest.raises(CheckpointError, match=r'Unknown to the network: host\.other\.weight'):
            load_weights(net, tmp_path / 'other.pth', strict)


def test_a_conditioned_checkpoint_makes_the_round_trip(tmp_path):
    net = random_condition(make(mode='film', null='learned', refine=['decoders.0']))
    torch.save({'params': net.state_dict()}, tmp_path / 'w.pth')
    other = build_network(block('NAFNet', mode='film', null='learned', refine=['decoders.0']))
    loaded = load_weights(other, tmp_path / 'w.pth')
    assert (loaded.matched, loaded.fresh) == (len(net.state_dict()), 0)
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in net.state_dict().items())
    with pytest.raises(CheckpointError, match=r'condition\.encoders'):
        load_weights(build_network(block('NAFNet')), tmp_path / 'w.pth')


def released(host, **tensors):
    """A checkpoint as QualiTeacher's release saves it: its own keys among those of the host."""
    return {'params_ema': {**build_network({'type': host, **HOSTS[host]}).state_dict(), **tensors}}


def test_a_released_aimnet_loads(tmp_path):
    table = torch.rand(8, 32)
    torch.save(released('AIMnet', **{'score_embedding.weight': table}), tmp_path / 'w.pth')
    for share, weights in ((True, ['bottleneck_1']), (False, ['bottleneck_1', 'bottleneck_2'])):
        net = make('AIMnet', share=share)
        loaded = load_weights(net, tmp_path / 'w.pth')
        assert (loaded.matched, loaded.fresh) == (len(net.state_dict()), 0)
        assert list(net.condition.encoders) == weights
        assert all(torch.equal(net.condition.encoders[key].weight, table) for key in weights)
    with pytest.raises(CheckpointError, match=r'score_embedding|condition\.encoders'):
        load_weights(make('AIMnet', mode='fourier'), tmp_path / 'w.pth')


def test_a_released_corun_loads(tmp_path):
    torch.manual_seed(0)
    modules = {'stage0.transmission': 'first.trans_net', 'stage0.image': 'first.dehaze_net',
               'stage1.image': 'last.dehaze_net'}  # fmt: skip
    tensors = {}
    for module in modules.values():
        tensors[f'{module}.score_embedding.weight'] = torch.rand(8, 120)
        for n, width in enumerate((120, 60, 30)):
            tensors[f'{module}.decoder_layers.{n}.0.body.2.weight'] = torch.rand(width, width, 3, 3)
            tensors[f'{module}.decoder_layers.{n}.0.body.2.bias'] = torch.rand(width)
    torch.save(released('CORUN', **tensors), tmp_path / 'w.pth')
    net = make('CORUN', refine=['*.up.*'])
    assert load_weights(net, tmp_path / 'w.pth').matched == len(net.state_dict())
    for part, module in modules.items():
        key = part.replace('.', '_')
        found = net.condition.encoders[f'{key}_encoder_2'].weight
        assert torch.equal(found, tensors[f'{module}.score_embedding.weight'])
        conv = net.condition.refiners[f'{key}_up_1']
        assert torch.equal(conv.weight, tensors[f'{module}.decoder_layers.1.0.body.2.weight'])
        assert torch.equal(conv.bias, tensors[f'{module}.decoder_layers.1.0.body.2.bias'])
    with pytest.raises(CheckpointError, match=r'Unknown to the network: host\.first\.trans_net\.decoder_layers\.0\.0'):
        load_weights(make('CORUN'), tmp_path / 'w.pth')


def test_what_cannot_be_is_refused_in_a_sentence():
    with pytest.raises(OptionError, match=r"sites has 'latent', but NAFNet has no such site; it has encoders\.0,"):
        make(sites=['latent'])
    with pytest.raises(OptionError, match="refine has 'up'"):
        make(refine=['up'])
    with pytest.raises(OptionError, match='QualityConditioned cannot be the host'):
        build_network({'type': 'QualityConditioned', 'host': block('NAFNet')})
    with pytest.raises(OptionError, match='saturate above 0 and up to 1'):
        make(saturate=0.0)
    with pytest.raises(OptionError, match='NAFNet has no site at which a score could enter'):
        make(sites=[])
    net = make()
    x = images(net)
    with pytest.raises(DataError, match=r'2 images need as many scores, not a tensor of shape \(2, 1\)'):
        net(x, score=torch.rand(2, 1))
    with pytest.raises(DataError, match='not of one length'):
        net.branches(x, torch.tensor([0, 1, 1]), torch.rand(2))
    with pytest.raises(DataError, match='one number an image'):
        net.condition.visitor(torch.rand(2, 1))
