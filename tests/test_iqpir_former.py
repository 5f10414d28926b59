"""The predictor of codes for faces: CodeFormer and IQPIR as published, and what a score may change."""

import math

import pytest
import torch
import torch.nn.functional as F

from basicsr.archs import build_network
from basicsr.archs.iqpir_former_arch import IQPIRFormer
from basicsr.checkpoint import load_weights
from basicsr.errors import CheckpointError, DataError, OptionError
from basicsr.network import facts_of
from tests.codes import (
    CODEFORMER,
    CODES,
    FORMER,
    MODES,
    VQ,
    build,
    faces,
    flat_grad,
    literal_former,
    released_autoencoder,
    released_former,
)  # fmt: skip

NAN = math.nan
TAPS = {'enc_taps': {32: 2, 16: 6}, 'gen_taps': {16: 6, 32: 9}, 'heads': 4}  # of the small layout
RELEASED = {
    'codeformer': ({'quantizer': 'nearest', 'score_mode': 'none'}, False, {}, 94_112_707),
    'iqpir': ({}, True, {'score_embed.weight': [10, 65536]}, 95_554_499),
    'several scores': (
        {'scores': 4, 'bins': 20}, True, {f'score_embed.{n}.weight': [20, 65536] for n in range(4)}, 100_142_019,
    ),
}  # fmt: skip


def run(net, x, **more):
    with torch.inference_mode():
        return net(x, **more)


def logits(net, x, score):
    with torch.inference_mode():
        return torch.stack(net.predict(x, score).logits, 1)


def save(path, net, entry='params_ema', **change):
    torch.save({entry: net.state_dict() | change}, path)
    return path


# ---- as published --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', RELEASED)
def test_keys_shapes_and_size_are_the_released_ones(name):
    arguments, dual, tables, size = RELEASED[name]
    with torch.device('meta'):
        net = IQPIRFormer(**arguments)
    assert {k: list(v.shape) for k, v in net.state_dict().items()} == released_former(dual, tables)
    assert sum(p.numel() for p in net.parameters()) == size


@pytest.mark.parametrize('w', [0.0, 0.7])
@pytest.mark.parametrize('adain', [True, False])
def test_codeformer_as_published(w, adain):
    net, x = build(CODEFORMER, w=w, adain=adain), faces()
    with torch.inference_mode():
        wanted, of_codes = literal_former(net.state_dict(), x, **TAPS, w=w, adain=adain)
    torch.testing.assert_close(logits(net, x, None)[:, 0].flatten(2), of_codes.mT, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(run(net, x), wanted, rtol=1e-5, atol=1e-5)
    assert len(of_codes.argmax(-1).unique()) > 2


@pytest.mark.parametrize('w', [0.0, 0.7])
def test_iqpir_as_published(w):
    net, x, scores = build(FORMER, w=w, hq_weight=0.5), faces(3), torch.tensor([0.95, 0.31, 1.0])
    with torch.inference_mode():
        wanted, of_codes = literal_former(net.state_dict(), x, **TAPS, score=scores.tolist(), hq_weight=0.5, w=w)
    common, hq = net.predict(x, scores).logits
    torch.testing.assert_close(common.detach().flatten(2), of_codes[..., 1].mT, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(hq.detach().flatten(2), of_codes[..., 0].mT, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(run(net, x, score=scores), wanted, rtol=1e-5, atol=1e-5)


def test_rows_of_the_head_alternate_between_the_books():
    net, x = build(FORMER), faces()
    before = net.predict(x, 0.5).logits
    net.idx_pred_layer[1].weight.data[2 * 3 + 1] += 1  # entry 3 of the common book
    after = net.predict(x, 0.5).logits
    assert torch.equal(before[1], after[1])
    assert (before[0] != after[0]).flatten(2).any(2)[0].nonzero().flatten().tolist() == [3]
    net.idx_pred_layer[1].weight.data[2 * 5] += 1  # entry 5 of the other
    assert (net.predict(x, 0.5).logits[1] != after[1]).flatten(2).any(2)[0].nonzero().flatten().tolist() == [5]


def test_in_training_moments_are_not_matched_and_nothing_is_random():
    net, x = build(FORMER, adain=True), faces()
    plain = build(FORMER, adain=False)
    assert not torch.equal(run(net, x), run(plain, x))
    assert torch.equal(run(net.train(), x), run(plain, x))
    assert torch.equal(run(net, x), run(net, x))
    torch.testing.assert_close(run(net.eval(), x)[1:], run(net, x[1:]), rtol=1e-5, atol=1e-5)


def test_the_fidelity_knob_and_lambda_may_be_turned():
    net, x = build(FORMER, w=0.0), faces()
    begun = run(net, x)
    net.w = 1.0
    assert (run(net, x) - begun).abs().max() > 1e-3
    net.w, net.hq_weight = 0.0, 0.0
    assert (run(net, x) - begun).abs().max() > 1e-3
    for p in net.quantize_aesthetic.parameters():
        p.data.normal_()
    found = run(net, x)
    assert torch.equal(run(build(FORMER, hq_weight=0.0), x), found)  # then the second book does not matter


def test_one_size_only():
    net = build(FORMER)
    assert (facts_of(net).multiple_of, facts_of(net).min_size) == (2, 1)
    for shape in ((1, 3, 64, 64), (1, 3, 32, 30)):
        with pytest.raises(DataError, match=rf'images of 32 x 32 only, not {shape[2]} x {shape[3]}'):
            net(torch.rand(shape))


def test_features_are_seen_at_the_sites():
    net, x, seen = build(FORMER), faces(), {}
    run(net, x, visit=lambda name, feature: seen.setdefault(name, feature))
    assert list(seen) == list(net.sites) == ['encoder.1', 'encoder.2', 'latent']
    for name, site in net.sites.items():
        assert seen[name].shape == (2, site.channels, 32 // site.stride, 32 // site.stride)
    assert net.injection_sites == ('latent',)
    assert torch.equal(net.read_taps(x)['latent'], seen['latent'])
    assert not torch.equal(run(net, x, visit=lambda n, f: f.flip(-1) if n == 'latent' else f), run(net, x))


# ---- scores --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('mode', MODES[1:])
def test_scores_of_a_batch_are_each_images_own(mode):
    net, x = build(FORMER, score_mode=mode, score_init='normal'), faces(3)
    scores = torch.tensor([0.15, NAN, 0.95])
    found = logits(net, x, scores)
    for n, score in enumerate((0.15, None, 0.95)):
        torch.testing.assert_close(found[n : n + 1], logits(net, x[n : n + 1], score), rtol=1e-4, atol=1e-5)
        assert (found[n] - logits(net, x, 0.55)[n]).abs().max() > 1e-4
    net.score = 0.15
    assert torch.equal(logits(net, x, 'knob'), logits(net, x, 0.15))
    assert torch.equal(run(net, x), run(net, x, score=0.15))
    net.score = None
    assert torch.equal(run(net, x), run(net, x, score=torch.full((3,), NAN)))


def test_scores_at_the_ends_and_beyond(capsys):
    net, x = build(FORMER), faces()
    assert torch.equal(logits(net, x, 1.0), logits(net, x, 0.95))
    assert not capsys.readouterr().err
    assert torch.equal(logits(net, x, -0.2), logits(net, x, 0.0))
    assert torch.equal(logits(net, x, torch.tensor([1.5, 7.0])), logits(net, x, 1.0))
    assert capsys.readouterr().err.count('lies outside [0,1]') == 1
    with pytest.raises(DataError, match=r'2 images need 1 scores each'):
        net.predict(x, torch.rand(3))


def test_several_scores():
    net, x = build(FORMER, scores=2), faces()
    pairs = torch.tensor([[0.1, 0.9], [0.9, 0.1]])
    assert (logits(net, x, pairs) - logits(net, x, pairs.flip(1))).abs().max() > 1e-3
    assert torch.equal(logits(net, x, 0.4), logits(net, x, torch.full((2, 2), 0.4)))


def test_features_have_the_score_in_them_as_released():
    net, x = build(FORMER), faces()
    latent = net.read_taps(x)['latent']
    torch.testing.assert_close(
        net.predict(x, 0.5).features, latent + net.score_embed.weight[5].view(1, *latent.shape[1:])
    )
    assert torch.equal(net.predict(x, None).features, latent)


@pytest.mark.parametrize('mode', MODES[1:])
def test_guidance_goes_on_from_the_logits_without_a_score(mode):
    net, x = build(FORMER, score_mode=mode, score_init='normal'), faces()
    scored, plain = logits(net, x, 0.9), logits(net, x, None)
    net.guidance = 2.0
    torch.testing.assert_close(logits(net, x, 0.9), 2 * scored - plain)
    assert torch.equal(logits(net, x, None), plain)
    net.guidance = 0.0
    torch.testing.assert_close(logits(net, x, 0.9), plain)
    net.guidance = 2.0
    assert torch.equal(logits(net.train(), x, 0.9), scored)


@pytest.mark.parametrize('mode', MODES[1:])
def test_codes_come_to_follow_the_score(mode):
    """An overfit: from one image, codes that differ by the wished quality alone."""
    torch.manual_seed(0)
    small = {'img_size': 16, 'nf': 8, 'emb_dim': 16, 'attn_resolutions': [], 'connect_list': []}
    net, x = build_network({**FORMER, **small, 'score_mode': mode}), torch.rand(1, 3, 16, 16).repeat(3, 1, 1, 1)
    scores, targets = torch.tensor([0.15, 0.55, 0.95]), torch.tensor([1, 4, 6]).view(3, 1, 1).repeat(1, 8, 8)
    net.set_stage('codes')
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], 1e-2)
    for _ in range(40):
        found = net.predict(x, scores).logits
        optimizer.zero_grad()
        sum(F.cross_entropy(each, targets) for each in found).backward()
        optimizer.step()
    agreement = (net.predict(x, scores).codes == targets[:, None]).float().mean()
    assert agreement > 0.95, agreement


# ---- training ------------------------------------------------------------------------------------------------------


def test_what_learns_in_each_stage():
    net = build(FORMER, fusion='attention')
    always = {'encoder', 'position_emb', 'feat_emb', 'ft_layers', 'idx_pred_layer', 'score_embed'}
    for stage, more in (('fidelity', {'fuse_convs_dict'}), ('codes', set())):
        net.set_stage(stage)
        learning = {name.partition('.')[0] for name, p in net.named_parameters() if p.requires_grad}
        assert learning == always | more
    with pytest.raises(OptionError, match=r"the stages codes and fidelity, not 'third'"):
        net.set_stage('third')


def test_gradients_of_codes_and_of_images():
    net, x, scores = build(FORMER, w=1.0).train(), faces(), torch.tensor([0.2, 0.9])
    net.set_stage('fidelity')
    prediction = net.predict(x, scores)
    z = net.embed(prediction.codes)
    through = prediction.features + (z - prediction.features).detach()  # as released
    image = net.render(through, prediction).square().mean()
    for part, reached in (('encoder', True), ('score_embed', True), ('fuse_convs_dict', True), ('ft_layers', False)):
        assert flat_grad(image, net.get_submodule(part)).any() == reached, part
    entropy = sum(F.cross_entropy(each, torch.zeros_like(each[:, 0], dtype=torch.long)) for each in prediction.logits)
    for part in ('encoder', 'score_embed', 'ft_layers', 'idx_pred_layer', 'feat_emb'):
        assert flat_grad(entropy, net.get_submodule(part)).any(), part
    skip = net.render(through.detach(), prediction).mean()
    assert not flat_grad(skip, net.encoder).any()  # features that enter the generator do not teach the encoder


# ---- checkpoints ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('mode', MODES)
def test_a_codeformer_loads_and_is_codeformer_at_lambda_zero(tmp_path, mode):
    old, x = build(CODEFORMER), faces()
    new = build(FORMER, seed=1, score_mode=mode, score_init='normal', hq_weight=0.0)
    loaded = load_weights(new, save(tmp_path / 'codeformer.pth', old))
    assert loaded.matched == len(old.state_dict()) - 1  # all but the head, which is made of it
    head = old.idx_pred_layer[1].weight
    assert torch.equal(new.idx_pred_layer[1].weight[0::2], head)
    assert torch.equal(new.idx_pred_layer[1].weight[1::2], head)
    assert torch.equal(new.quantize_aesthetic.embedding.weight, old.quantize.embedding.weight)
    scores = (None,) if mode == 'token' else (None, 0.0, 0.95, torch.tensor([0.3, NAN]))
    for w in (0.0, 1.0):
        old.w = new.w = w
        for score in scores:
            assert torch.equal(run(new, x, score=score), run(old, x)), score


@pytest.mark.parametrize('mode', ['spatial_add', 'vector_add', 'fourier_film', 'adaln_zero'])
def test_a_condition_that_begins_at_zero_changes_no_bit(mode):
    old, x = build(CODEFORMER), faces()
    new = build_network({**CODEFORMER, 'score_mode': mode, 'score_init': 'zero'}).eval()
    new.load_state_dict(old.state_dict(), strict=False)
    for score in (None, 0.1, torch.tensor([NAN, 0.8])):
        assert torch.equal(run(new, x, score=score), run(old, x))


@pytest.mark.parametrize('mode', MODES[1:])
def test_a_condition_made_neutral_learns_again(tmp_path, mode):
    new = build(FORMER, score_mode=mode)
    load_weights(new, save(tmp_path / 'codeformer.pth', build(CODEFORMER)))
    assert flat_grad(sum(each.square().mean() for each in new.predict(faces(), 0.5).logits), new.score_embed).any()


def test_own_and_released_checkpoints_make_the_round_trip(tmp_path):
    for mode in MODES:
        net = build(FORMER, score_mode=mode, null_score='learned', score_init='normal')
        other = build(FORMER, seed=1, score_mode=mode, null_score='learned')
        assert load_weights(other, save(tmp_path / 'own.pth', net, 'params')).fresh == 0
        assert torch.equal(run(other, faces()), run(net, faces()))
    net = build(FORMER)
    assert (net.score, net.guidance, net.w, net.adain) == (1.0, 1.0, 0.0, True)
    assert not [k for k in net.state_dict() if k in ('score', 'guidance', 'w', 'adain', 'hq_weight')]


@pytest.mark.parametrize('source', ['codeformer', 'iqpir', 'several scores', 'autoencoder', 'autoencoder, two books'])
def test_released_files_at_full_size(source):
    """By keys and shapes only; weights of this size are not made."""
    arguments, dual, tables, _ = RELEASED['several scores' if source == 'several scores' else 'iqpir']
    if source.startswith('autoencoder'):
        keys = released_autoencoder(source.endswith('two books'))
    else:
        keys = released_former(*RELEASED[source][1:3])
    with torch.device('meta'):
        net = IQPIRFormer(**arguments)
        found = net.convert_weights({key: torch.empty(shape) for key, shape in keys.items()})
    assert {k: list(v.shape) for k, v in found.items()} == released_former(dual, tables)


@pytest.mark.parametrize('dual', [True, False])
def test_an_autoencoder_is_adopted_or_loaded(tmp_path, dual):
    kind = {'quantizer': 'dual_codebook' if dual else 'nearest'}
    auto, x = build(VQ, seed=2, **kind), faces()
    taken, read = build(FORMER), build(FORMER)
    taken.adopt(auto)
    loaded = load_weights(read, save(tmp_path / 'vqgan.pth', auto))
    assert loaded.matched == len(auto.state_dict())
    assert all(torch.equal(v, read.state_dict()[k]) for k, v in taken.state_dict().items())
    for key, value in auto.state_dict().items():
        assert torch.equal(taken.state_dict()[key], value)
    begun = build(FORMER)
    for part in ('ft_layers', 'idx_pred_layer', 'score_embed', 'fuse_convs_dict'):
        for a, b in zip(taken.get_submodule(part).parameters(), begun.get_submodule(part).parameters()):
            assert torch.equal(a, b)
    taken.adain = False
    if dual:
        with torch.inference_mode():
            coded = auto.coded(auto.latent(x))
            prediction = taken.predict(x, None)
            assert torch.equal(taken.render(taken.embed(coded.codes), prediction), auto(x))


def test_an_incomplete_or_foreign_file_is_refused(tmp_path):
    old, new = build(CODEFORMER), build(FORMER)
    for lacking in ('ft_layers.1.norm1.bias', 'generator.blocks.3.conv1.weight', 'quantize.embedding.weight'):
        torch.save({k: v for k, v in old.state_dict().items() if k != lacking}, tmp_path / 'w.pth')
        with pytest.raises(CheckpointError, match='Missing in the file: .*' + lacking.replace('.', r'\.')):
            load_weights(new, tmp_path / 'w.pth')
    other = build(CODEFORMER, codebook_size=5)
    with pytest.raises(CheckpointError, match=r"'quantize\.embedding\.weight' is \[5, 32\] in the file and \[8, 32\]"):
        load_weights(new, save(tmp_path / 'w.pth', other))
    with pytest.raises(CheckpointError, match=r'of another network'):
        load_weights(build(CODEFORMER), save(tmp_path / 'w.pth', new))
    text = r'cannot take over VQAutoEncoder: quantize\.embedding\.weight is \[5, 32\] there and \[8, 32\] here'
    with pytest.raises(CheckpointError, match=text):
        new.adopt(build(VQ, codebook_size=5, entries_hq=8))
    assert new.quantize.embedding.weight.shape == (CODES, 32)


def test_an_iqpir_without_a_score_serves_a_conditioned_one(tmp_path):
    old, x = build(FORMER, score_mode='none'), faces()
    new = build(FORMER, seed=1)
    load_weights(new, save(tmp_path / 'w.pth', old))
    assert torch.equal(run(new, x, score=0.7), run(old, x))


@pytest.mark.parametrize(
    ('more', 'text'),
    [
        ({'connect_list': [64]}, r'connect_list has 64; there are features of 32, 16'),
        ({'img_size': 33}, 'need an img_size that 2 divides'),
        ({'ch_mult': []}, '0 resolutions in ch_mult'),
        ({'quantizer': 'nearest', 'fusion': 'attention'}, 'fusion attention needs two'),
        ({'bins': 3, 'edges': [0.5]}, '3 bins need 2 increasing edges'),
        ({'score_mode': 'film'}, r'allowed: none \| spatial_add \| vector_add'),
    ],
)
def test_what_cannot_be_is_refused(more, text):
    with pytest.raises(OptionError, match=text):
        build_network({**FORMER, **more})


def test_heights_may_be_written_as_text_as_in_published_option_files():
    assert list(build_network({**FORMER, 'connect_list': ['16', '32']}).fuse_convs_dict) == ['32', '16']
