"""The autoencoder of discrete codes in its released layout, against the published forward pass written out plainly."""

import pytest
import torch

from basicsr.archs import build_network
from basicsr.archs.vqgan_arch import VQAutoEncoder
from basicsr.checkpoint import load_weights
from basicsr.errors import CheckpointError, OptionError
from basicsr.network import facts_of
from tests.codes import SIDE, VQ, build, chain, faces, flat_grad, released_autoencoder


@pytest.mark.parametrize('dual', [False, True])
def test_keys_shapes_and_size_are_the_released_ones(dual):
    with torch.device('meta'):
        net = VQAutoEncoder(quantizer='dual_codebook' if dual else 'nearest')
    assert {k: list(v.shape) for k, v in net.state_dict().items()} == released_autoencoder(dual)
    assert sum(p.numel() for p in net.parameters()) == (64_002_243 if dual else 63_740_099)


def test_features_are_tapped_where_published():
    with torch.device('meta'):
        net = VQAutoEncoder()
    heights = {512: (2, 21), 256: (5, 18), 128: (8, 15), 64: (11, 12), 32: (14, 9), 16: (18, 6)}
    found = {512 // s: (net.encoder.taps[s], net.generator.taps[s]) for s in net.encoder.taps}
    assert found == heights
    assert net.encoder.widths == net.generator.widths
    assert (net.multiple_of, net.sites['latent'].channels, net.sites['latent'].stride) == (32, 256, 32)


@torch.inference_mode()
def test_encoder_and_generator_are_the_published_ones():
    net, x = build(VQ), faces()
    sd = net.state_dict()
    wanted, _ = chain(sd, 'encoder', 2 * x - 1)
    latent = net.latent(x)
    torch.testing.assert_close(latent, wanted, rtol=1e-5, atol=1e-5)
    books = [sd[f'{name}.embedding.weight'] for name in ('quantize', 'quantize_aesthetic')]
    codes = [torch.cdist(latent.permute(0, 2, 3, 1).reshape(-1, 32), book).argmin(1) for book in books]
    z = (books[0][codes[0]] + 0.8 * books[1][codes[1]]).view(2, 16, 16, 32).permute(0, 3, 1, 2)
    wanted = (chain(sd, 'generator', z)[0] + 1) / 2
    found = net(x)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert len(codes[0].unique()) > 3
    assert torch.equal(net.render(net.embed(net.coded(latent).codes)), found)
    torch.testing.assert_close(net(x[1:]), found[1:], rtol=1e-5, atol=1e-5)  # the batch does not matter


@torch.inference_mode()
def test_images_of_any_size_are_padded_and_cropped():
    net = build(VQ)
    assert facts_of(net).multiple_of == facts_of(net).min_size == 2
    x = torch.rand(1, 3, 19, 25)
    assert net(x).shape == x.shape
    even = torch.cat((x, x[:, :, -2:-1]), 2)
    even = torch.cat((even, even[..., -2:-1]), 3)
    assert torch.equal(net(even)[..., :19, :25], net(x))


@torch.inference_mode()
def test_codes_of_a_mirrored_image_are_not_the_mirrored_codes():
    """Which is why latents are exported for both: the encoder pads below and to the right only."""
    net, x = build(VQ), faces()
    there, back = (net.coded(net.latent(y)).codes for y in (x, x.flip(-1)))
    assert (there != back.flip(-1)).float().mean() > 0.01


def test_everything_learns():
    net, x = build(VQ).train(), faces()
    latent = net.latent(x)
    found = net.coded(latent, torch.tensor([1.0, 0.0]))
    image = (net.render(found.z) - x).square().mean()
    for part in (net.encoder, net.generator):
        assert torch.autograd.grad(image, next(part.parameters()), retain_graph=True)[0].any()
    assert not flat_grad(image, net.quantize).any()
    for n, book in enumerate(net.books):
        assert flat_grad(found.loss[:, n].mean(), book).any()
    assert flat_grad(found.loss.mean(), net.encoder).any()
    assert net.last_layer is net.generator.blocks[-1].weight
    assert tuple(net.last_layer.shape) == (3, 32, 3, 3)


@torch.inference_mode()
def test_without_quantisation_features_reach_the_generator():
    net, x = build(VQ, quantizer='none'), faces()
    torch.testing.assert_close(net(x), net.render(net.latent(x)))
    assert net.book_sizes == ()
    assert not [k for k in net.state_dict() if 'quantize' in k]


@pytest.mark.parametrize('fusion', ['add', 'attention', 'weightmap'])
def test_a_checkpoint_with_one_book_loads_into_a_network_with_two(tmp_path, fusion):
    one, two = build(VQ, quantizer='nearest'), build(VQ, seed=1, fusion=fusion)
    torch.save({'params_ema': one.state_dict()}, tmp_path / 'vqgan.pth')
    loaded = load_weights(two, tmp_path / 'vqgan.pth')
    assert (loaded.matched, loaded.fresh) == (len(one.state_dict()), len(two.state_dict()) - len(one.state_dict()))
    assert torch.equal(two.quantize_aesthetic.embedding.weight, one.quantize.embedding.weight)
    two.hq_weight = 0.0
    with torch.inference_mode():
        assert torch.equal(two(faces()), one(faces()))
    lacking = {k: v for k, v in one.state_dict().items() if k != 'generator.blocks.0.bias'}
    torch.save(lacking, tmp_path / 'lacking.pth')
    with pytest.raises(CheckpointError, match=r'Missing in the file: generator\.blocks\.0\.bias\.$'):
        load_weights(two, tmp_path / 'lacking.pth')
    torch.save({'params': two.state_dict()}, tmp_path / 'two.pth')
    assert load_weights(build(VQ, fusion=fusion), tmp_path / 'two.pth').fresh == 0


def test_books_may_differ_in_size_and_what_cannot_be_is_refused():
    net = build(VQ, entries_hq=5)
    assert net.book_sizes == (8, 5)
    assert net(faces()).shape == (2, 3, SIDE, SIDE)
    with pytest.raises(OptionError, match='VQAutoEncoder: a second book needs a first, and fusion attention needs two'):
        build_network({**VQ, 'quantizer': 'nearest', 'fusion': 'attention'})
    with pytest.raises(OptionError, match='ch_mult is empty'):
        build_network({**VQ, 'ch_mult': []})
