"""IQPIR-G: codes of images of any size, tiles that equal the whole, and a predictor that begins as its autoencoder."""

import logging
import math

import pytest
import torch
import torch.nn.functional as F

from basicsr.appetite import peak_bytes
from basicsr.archs import build_network
from basicsr.archs import iqpir_g_arch as arch
from basicsr.checkpoint import load_weights
from basicsr.codebooks import Renders
from basicsr.errors import CheckpointError, DataError, OptionError
from basicsr.logger import get_root_logger
from basicsr.network import facts_of
from basicsr.tiling import Restorer, Tiling

SMALL = {'width': 8, 'stride': 2, 'blocks': [0, 1], 'dim': 6, 'entries': 8, 'entries_hq': 8}
TINY = {**SMALL, 'depth': 2, 'heads': 2, 'window': 4}
CONDITIONS = ('vector_add', 'fourier_film', 'adaln_zero')
NAN = math.nan


def autoencoder(**more):
    torch.manual_seed(0)
    return build_network({'type': 'IQPIRGAutoEncoder', **SMALL, **more}).eval()


def predictor(**more):
    torch.manual_seed(1)
    return build_network({'type': 'IQPIRG', **TINY, **more}).eval()


def stirred(net, part, size=0.5):
    """The network with random numbers where a part of it begins at zero."""
    torch.manual_seed(2)
    for p in getattr(net, part).parameters():
        p.data.add_(size * torch.randn_like(p))
    return net


def images(count=2, height=32, width=32, seed=3):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def close(found, wanted, atol=1e-5):
    torch.testing.assert_close(found, wanted, rtol=0, atol=atol)


# ---- any size, tiles -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize('stride', [2, 4, 8])
@pytest.mark.parametrize('make', [autoencoder, predictor])
def test_images_of_any_size(make, stride):
    net = make(stride=stride, blocks=None)
    with torch.inference_mode():
        for height, width in ((1, 1), (7, 5), (33, 18)):
            y = net(images(2, height, width))
            assert y.shape == (2, 3, height, width)
            assert y.isfinite().all()
            shape = (2, 6, -(-height // stride), -(-width // stride))
            assert net.latent(images(2, height, width)).shape == shape
    assert net.last_layer is net.generator.last.weight
    assert isinstance(net, Renders)


def test_codes_of_autoencoder_and_predictor_lie_on_one_grid():
    x = images(1, 27, 38)  # a multiple of neither stride nor window
    with torch.inference_mode():
        codes = autoencoder().coded(autoencoder().latent(x)).codes
        found = predictor().predict(x)
    assert codes.shape == found.codes.shape == (1, 2, 14, 19)
    assert [logits.shape for logits in found.logits] == [(1, 8, 14, 19)] * 2
    assert found.features.shape == (1, 6, 14, 19)
    assert {stride: tuple(skip.shape) for stride, skip in found.skips.items()} == {
        1: (1, 8, 28, 38),
        2: (1, 16, 14, 19),
    }
    assert found.images is None


def reach_of(run, side, place):
    """How far from a pixel the image changes its value: pixels up and left, and down and right."""
    x = images(1, side, side).double().requires_grad_(True)
    run(x)[0, :, place, place].sum().backward()
    rows = x.grad.abs().sum((0, 1, 3)).nonzero()[:, 0]
    return place - int(rows[0]), int(rows[-1]) - place


@pytest.mark.parametrize('more', [{}, {'blocks': [1, 2]}, {'stride': 4, 'blocks': None, 'decoder_blocks': [1, 0, 1]}])
def test_an_autoencoder_sees_as_far_as_it_says(more):
    net = autoencoder(**more).double()
    side = 2 * net.halo + 16
    seen = [reach for n in range(net.stride) for reach in reach_of(net, side, side // 2 + n)]
    assert max(seen) == net.halo


@pytest.mark.parametrize(
    'more', [{}, {'depth': 3}, {'body': 'conv'}, {'depth': 0}, {'choose': 'nearest'}, {'residual_decoder': False}]
)
def test_a_predictor_sees_no_further_than_it_says(more):
    net = predictor(**more, w=0.0 if 'residual_decoder' in more else 1.0).double()
    if net.residual_decoder:
        stirred(net, 'fidelity')

    def soft(x):  # argmax has no gradient
        found = net.predict(x, 0.5)
        z = net.embed_weights([F.one_hot(each.argmax(1), 8).permute(0, 3, 1, 2) + each for each in found.logits])
        return net.render(z, found)

    side = -(-(2 * net.halo + 16) // 8) * 8
    seen = [reach for n in range(net.multiple_of) for reach in reach_of(soft, side, side // 2 + n)]
    assert 0.6 * net.halo < max(seen) <= net.halo


@pytest.mark.parametrize('more', [{}, {'body': 'conv'}, {'choose': 'nearest', 'w': 1.0}])
def test_tiles_equal_the_whole(more):
    net = stirred(predictor(**more), 'fidelity', 0.2).double()
    assert facts_of(net).halo == net.halo < 64
    tile = -(-4 * net.halo // net.multiple_of) * net.multiple_of
    x = images(1, tile + 101, tile + 30).double()
    restorer = Restorer(net, 'cpu', Tiling(tile))
    whole = Restorer(net, 'cpu')(x)
    assert 'tiles of' in restorer.describe()
    close(restorer(x), whole, 1e-9)
    assert whole.std() > 1e-3


def test_tiles_of_an_autoencoder_equal_the_whole():
    net = autoencoder().double()
    x = images(1, 150, 131).double()
    close(Restorer(net, 'cpu', Tiling(96))(x), Restorer(net, 'cpu')(x), 1e-9)


def test_statistics_of_the_whole_image_are_no_halo():
    assert autoencoder(fusion='attention').halo is None
    assert predictor(fusion='attention').halo is None
    assert autoencoder(fusion='weightmap').halo == autoencoder().halo
    net = predictor()
    assert net.halo is not None
    net.adain = True
    assert net.halo is None
    with torch.inference_mode():
        found = net.predict(images())
        z = net.embed(found.codes)
        net.w, wanted = 0.0, net.render(arch.adain(z, found.features))
        assert torch.equal(net.render(z, found), wanted)
        like = arch.adain(z, found.features)
    close(like.mean((2, 3)), found.features.mean((2, 3)))
    close(like.std((2, 3)), found.features.std((2, 3)), 1e-3)


@pytest.mark.parametrize('make', [autoencoder, predictor])
def test_a_batch_is_each_image_alone_and_a_second_run_the_first(make):
    net, x = make(), images(3)
    with torch.inference_mode():
        together = net(x)
        assert torch.equal(net(x), together)
        for n in range(3):
            close(net(x[n : n + 1]), together[n : n + 1])


def test_logits_of_a_tile_never_exist_at_once(monkeypatch):
    net = predictor(entries=4096, entries_hq=4096)
    x = images(1, 64, 64)
    with torch.inference_mode():
        wanted = net.predict(x).codes
    monkeypatch.setattr(arch, 'STRIP', 4 * 32 * 8192)  # four rows of codes
    logits = 2 * 4096 * 32 * 32 * 4
    assert peak_bytes(lambda: net(x)) < logits / 3
    assert peak_bytes(lambda: net.predict(x)) > logits
    with torch.inference_mode():
        head, _ = net._read(net.encode(x)[-1], 'knob')
        assert torch.equal(net._codes(head), wanted)


# ---- books ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('hq_input', ['shared', 'residual'])
@pytest.mark.parametrize('fusion', ['add', 'attention', 'weightmap'])
def test_one_hot_weights_are_codes(fusion, hq_input):
    net = predictor(fusion=fusion, hq_input=hq_input)
    with torch.inference_mode():
        codes = net.coded(net.latent(images())).codes
        one_hot = [F.one_hot(code, 8).permute(0, 3, 1, 2).float() for code in codes.unbind(1)]
        for mask in (None, torch.tensor([0.0, 1.0])):
            close(net.embed_weights(one_hot, mask), net.embed(codes, mask))
        close(net.coded(net.latent(images())).z, net.embed(codes))


def test_a_mask_of_zero_shuts_the_second_book_out():
    net, mask = autoencoder(), torch.zeros(2)
    h = net.latent(images())
    first = net.coded(h, mask)
    net.render(first.z).sum().backward()
    assert net.quantize_aesthetic.embedding.weight.grad is None
    net.quantize_aesthetic.embedding.weight.data.add_(1)
    assert torch.equal(net.coded(h, mask).z, first.z)
    assert not torch.equal(net.coded(h).z, first.z)


def test_gradients_pass_the_books_to_the_encoder():
    net = autoencoder(hq_weight=0.5)
    h = net.latent(images()).detach().requires_grad_(True)
    net.coded(h, torch.tensor([0.0, 1.0])).z.sum().backward()
    close(h.grad, torch.tensor([1.0, 1.5]).view(2, 1, 1, 1).expand_as(h))


def test_features_lie_on_a_sphere_of_the_scale():
    h = autoencoder(scale=0.3).latent(images())
    close(h.square().mean(1).sqrt(), torch.full((2, 16, 16), 0.3), 1e-3)
    free = autoencoder(scale=0.0).latent(images())
    assert free.square().mean(1).sqrt().std() > 1e-3


def test_a_single_book():
    net = predictor(entries_hq=None)
    assert net.book_sizes == (8,)
    with torch.inference_mode():
        assert net.predict(images()).codes.shape == (2, 1, 16, 16)
        assert net(images()).shape == (2, 3, 32, 32)


def test_a_few_steps_learn_an_image():
    net = autoencoder(entries=32, entries_hq=32).train()
    x = F.interpolate(images(4, 4, 4), scale_factor=8.0, mode='bilinear')
    optimizer, errors = torch.optim.Adam(net.parameters(), 3e-3), []
    for _ in range(40):
        coded = net.coded(net.latent(x))
        errors.append((net.render(coded.z) - x).abs().mean())
        optimizer.zero_grad()
        (errors[-1] + coded.loss.mean()).backward()
        optimizer.step()
    assert errors[-1] < 0.4 * errors[0]


# ---- the condition -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('condition', CONDITIONS)
def test_a_fresh_condition_changes_no_bit_and_a_trained_one_none_without_a_score(condition):
    net, x = predictor(condition=condition), images()
    with torch.inference_mode():
        wanted = net.predict(x, None)
        for score in (0.0, 0.4, 1.0, NAN, torch.tensor([0.3, NAN])):
            for a, b in zip(net.predict(x, score).logits, wanted.logits):
                assert torch.equal(a, b)
        stirred(net, 'score_embed')
        mixed = net.predict(x, torch.tensor([NAN, 0.6]))
        for a, b, c in zip(net.predict(x, None).logits, wanted.logits, mixed.logits):
            assert torch.equal(a, b)
            close(c[0], b[0])
            assert (c[1] - b[1]).abs().max() > 1e-4
        assert condition == 'adaln_zero' or (mixed.features[1] - wanted.features[1]).abs().max() > 1e-4


def test_none_is_no_condition_and_several_scores_add_up():
    net = predictor(condition='none')
    with torch.inference_mode():
        assert torch.equal(net.predict(images(), 0.1).logits[0], net.predict(images(), None).logits[0])
        net = stirred(predictor(condition='vector_add', scores=2), 'score_embed')
        found = [net.predict(images(1), torch.tensor([s])).features for s in ([NAN, NAN], [0.2, NAN], [0.2, 0.9])]
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])


def test_the_knob_is_the_score_of_a_call_that_gives_none():
    net, x = stirred(predictor(), 'score_embed'), images()
    with torch.inference_mode():
        top, low, none = (net(x, score=s) for s in (1.0, 0.2, None))
        assert torch.equal(net(x), top)
        net.score = 0.2
        assert torch.equal(net(x), low)
        assert torch.equal(net(x, score=torch.tensor([0.2, 0.2])), low)
        net.score = None
        assert torch.equal(net(x), none)
    assert not torch.equal(top, none)


@pytest.mark.parametrize('choose', ['classifier', 'nearest'])
def test_guidance_extrapolates_logits_in_evaluation_only(choose):
    net, x = stirred(predictor(choose=choose, hq_input='shared'), 'score_embed'), images()
    with torch.inference_mode():
        none, scored = net.predict(x, None), net.predict(x, 0.3)
        net.guidance = 2.5
        guided = net.predict(x, 0.3)
        for a, b, c in zip(none.logits, scored.logits, guided.logits):
            wanted = a + 2.5 * (b - a)
            close(c.log_softmax(1), wanted.log_softmax(1), 1e-3)  # distances are equal up to a constant
        assert torch.equal(net.predict(x, None).logits[0], none.logits[0])
        assert torch.equal(net.train().predict(x, 0.3).logits[0], scored.logits[0])
        net.eval().guidance = 0.0
        close(net.predict(x, 0.3).logits[0], none.logits[0])


def test_the_nearest_entry_is_the_one_that_the_books_take():
    for hq_input in ('shared', 'residual'):
        net = predictor(choose='nearest', hq_input=hq_input)
        with torch.inference_mode():
            found = net.predict(images())
            assert torch.equal(found.codes, net.coded(found.features).codes)
            distance = (found.features - net.quantize.lookup(found.codes[:, 0])).square().sum(1) / net.scale**2
            close(found.logits[0].amax(1), -distance, 1e-4)


def test_a_score_outside_is_clamped_and_told_once():
    lines, handler = [], logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())
    get_root_logger().addHandler(handler)
    net = stirred(predictor(condition='vector_add'), 'score_embed')
    with torch.inference_mode():
        for _ in range(2):
            assert torch.equal(net(images(), score=1.7), net(images(), score=1.0))
    get_root_logger().removeHandler(handler)
    assert len(lines) == 1


# ---- the generator and the second decoder --------------------------------------------------------------------------


def test_w_of_zero_is_the_generator_and_the_second_decoder_begins_as_nothing():
    net, x = predictor(), images()
    with torch.inference_mode():
        found = net.predict(x)
        alone = net.render(net.embed(found.codes))
        for net.w in (0.0, 1.0, 0.5):
            assert torch.equal(net.render(net.embed(found.codes), found), alone)
            assert torch.equal(net(x), alone)
        stirred(net, 'fidelity')
        results = []
        for net.w in (0.0, 0.5, 1.0):
            results.append(net(x))
        assert torch.equal(results[0], alone)
        assert (results[2] - alone).abs().max() > 1e-3
        close(results[1] - alone, (results[2] - alone) / 2)


@pytest.mark.parametrize('stage', ['codes', 'fidelity'])
def test_what_learns_in_a_stage(stage):
    net, x = predictor(w=1.0), images()
    net.set_stage(stage)
    found = net.predict(x, torch.tensor([0.2, 0.7]))
    picture = net.render(net.embed_weights([each.softmax(1) for each in found.logits]), found)
    (picture.square().mean() + found.features.square().mean()).backward()
    learned = {key.split('.')[0] for key, p in net.named_parameters() if p.grad is not None}
    wanted = {'encoder', 'before_quant', 'score_embed', 'body', 'norm', 'logits'} if stage == 'codes' else {'fidelity'}
    assert learned == wanted == {key.split('.')[0] for key, p in net.named_parameters() if p.requires_grad}


def test_stages_follow_each_other():
    net = predictor()
    for stage in ('fidelity', 'codes'):
        net.set_stage(stage)
    assert net.encoder.stem.weight.requires_grad
    assert not net.fidelity.last.weight.requires_grad
    assert not net.generator.last.weight.requires_grad


@pytest.mark.parametrize('make', [autoencoder, predictor])
def test_visitors_see_the_sites(make):
    net, seen = make(), {}
    with torch.inference_mode():
        net(images(1), lambda name, y: seen.setdefault(name, y))
    assert list(seen) == list(net.sites)
    for name, site in net.sites.items():
        assert seen[name].shape == (1, site.channels, 32 // site.stride, 32 // site.stride)
    assert net.injection_sites == ('encoder.1',)


# ---- weights -------------------------------------------------------------------------------------------------------


def test_a_predictor_adopts_its_autoencoder():
    source, net, x = autoencoder(), predictor(), images()
    fresh = net.body.merge.weight.clone()
    net.adopt(source)
    with torch.inference_mode():
        assert torch.equal(net.latent(x), source.latent(x))
        codes = source.coded(source.latent(x)).codes
        assert torch.equal(net.render(net.embed(codes)), source.render(source.embed(codes)))
        assert torch.equal(net.body.merge.weight, fresh)
        source.generator.last.bias.add_(1)
        assert not torch.equal(net.generator.last.bias, source.generator.last.bias)


def test_checkpoints_load_strictly(tmp_path):
    source, net = autoencoder(), stirred(predictor(), 'fidelity')
    torch.save({'params': source.state_dict()}, tmp_path / 'one.pth')
    loaded = load_weights(net, tmp_path / 'one.pth')
    total = len(net.state_dict())
    assert (loaded.matched, loaded.fresh) == (len(source.state_dict()), total - len(source.state_dict()))
    assert torch.equal(net.generator.last.weight, source.generator.last.weight)
    torch.save({'params': net.state_dict()}, tmp_path / 'two.pth')
    assert load_weights(predictor(), tmp_path / 'two.pth').matched == total
    without = predictor(residual_decoder=False, condition='none').state_dict()
    torch.save({'params': without}, tmp_path / 'less.pth')
    assert load_weights(net, tmp_path / 'less.pth').matched == len(without)
    for key in ('generator.last.bias', 'body.merge.bias'):
        torch.save({'params': {k: v for k, v in net.state_dict().items() if k != key}}, tmp_path / 'lacking.pth')
        with pytest.raises(CheckpointError, match=rf'Missing in the file: {key}'):
            load_weights(net, tmp_path / 'lacking.pth')
    with pytest.raises(CheckpointError, match=r'Unknown to the network: fidelity'):
        load_weights(predictor(residual_decoder=False), tmp_path / 'two.pth')


# ---- what cannot be ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('more', 'text'),
    [
        ({'stride': 3}, r'a stride of 2, 4, 8, 16, not 3'),
        ({'blocks': [1]}, r'blocks needs 2 whole numbers of at least 0, one a level, not \[1\]'),
        ({'decoder_blocks': [0, -1]}, r'decoder_blocks needs 2 whole numbers'),
        ({'ch_mult': [1, 0]}, r'ch_mult needs 2 whole numbers of at least 1'),
        ({'entries_hq': None, 'fusion': 'weightmap'}, r'fusion weightmap needs two'),
        ({'entries': 0}, r'entries'),
        ({'scale': -1.0}, r'scale'),
    ],
)
@pytest.mark.parametrize('make', [autoencoder, predictor])
def test_layouts_that_cannot_be(make, more, text):
    with pytest.raises(OptionError, match=text):
        make(**more)


@pytest.mark.parametrize(
    ('more', 'text'),
    [
        ({'condition': 'spatial_add'}, r'spatial_add'),
        ({'condition': 'token'}, r'token'),
        ({'condition': 'adaln_zero', 'body': 'conv'}, r'adaln_zero moves layers of attention'),
        ({'condition': 'fourier_film', 'edges': [0.5], 'bins': 2}, r'no bins that edges could bound'),
        ({'condition': 'vector_add', 'edges': [0.5], 'bins': 3}, r'3 bins need 2 increasing edges'),
        ({'heads': 3}, r'3 heads must divide the 16 channels'),
        ({'window': 3}, r'a window of 3 must be even'),
        ({'choose': 'best'}, r'choose'),
        ({'depht': 2}, r"Did you mean 'depth'"),
    ],
)
def test_predictors_that_cannot_be(more, text):
    with pytest.raises(OptionError, match=text):
        predictor(**more)


def test_calls_that_cannot_be():
    net, x = predictor(residual_decoder=False), images()
    with pytest.raises(DataError, match='2 images need 1 scores each'):
        net(x, score=torch.rand(3))
    with pytest.raises(DataError, match='2 books and cannot look up 1'):
        net.embed(torch.zeros(2, 1, 4, 4, dtype=torch.int64))
    with pytest.raises(OptionError, match=r'stages codes and fidelity, not \'three\''):
        net.set_stage('three')
    with pytest.raises(OptionError, match='fidelity needs a second decoder'):
        net.set_stage('fidelity')
    net.w = 0.5
    with pytest.raises(OptionError, match=r'w is 0\.5, but there is no second decoder'):
        net(x)


def test_autoencoders_that_cannot_be_adopted():
    net = predictor()
    with pytest.raises(OptionError, match=r"'quantize\.embedding\.weight' is \(16, 6\) there and \(8, 6\) here"):
        net.adopt(autoencoder(entries=16))
    with pytest.raises(OptionError, match=r"'quantize_aesthetic\.embedding\.weight' is missing there"):
        net.adopt(autoencoder(entries_hq=None))
    with pytest.raises(OptionError, match=r"'weightmap\.weight' is .* there and missing here"):
        net.adopt(autoencoder(fusion='weightmap'))
    with pytest.raises(OptionError, match=r'scale is 0\.5, not'):
        net.adopt(autoencoder(scale=0.5))
    with pytest.raises(OptionError, match='hq_input is shared, not residual'):
        net.adopt(autoencoder(hq_input='shared'))
