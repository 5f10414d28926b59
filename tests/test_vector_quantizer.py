"""Books of codes: which entry is found, what gradients flow where, and how two books are joined."""

import pytest
import torch

from basicsr.archs.vector_quantizer import CodeBooks, CrossAttention, VectorQuantizer, straight_through
from basicsr.errors import DataError, OptionError
from tests.codes import flat_grad

FUSIONS = ('add', 'attention', 'weightmap')
INPUTS = ('shared', 'residual')


def features(count=3, grad=True):
    h = torch.randn(count, 8, 4, 5, generator=torch.Generator().manual_seed(3))
    return h.requires_grad_(grad)


def books(**more):
    torch.manual_seed(0)
    net = CodeBooks(**{'entries': 6, 'dim': 8, 'entries_hq': 7, **more})
    for p in net.parameters():
        p.data.normal_()
    return net


def test_the_nearest_entry_is_found():
    book, h = VectorQuantizer(6, 8), features()
    book.embedding.weight.data.normal_()
    found, codes, _ = book(h)
    flat = h.detach().permute(0, 2, 3, 1).reshape(-1, 8)
    wanted = torch.cdist(flat, book.embedding.weight.detach()).argmin(1).view(3, 4, 5)
    assert codes.dtype == torch.int64
    assert torch.equal(codes, wanted)
    assert len(codes.unique()) > 3
    assert torch.equal(found, book.lookup(codes))
    assert torch.equal(found[1, :, 2, 3], book.embedding.weight[codes[1, 2, 3]])
    assert torch.equal(book(found)[1], codes)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(book.nearest(h), codes)


def test_places_are_compared_strip_by_strip(monkeypatch):
    book, h = VectorQuantizer(6, 8), features()
    whole = book.nearest(h)
    monkeypatch.setattr('basicsr.archs.vector_quantizer.STRIP', 7)
    assert torch.equal(book.nearest(h), whole)
    assert len(whole.unique()) > 1


def test_mixed_entries_are_looked_up_ones_where_weights_are_one_hot():
    book = VectorQuantizer(6, 8)
    codes = torch.randint(6, (2, 4, 5))
    weights = torch.nn.functional.one_hot(codes, 6).permute(0, 3, 1, 2).float()
    torch.testing.assert_close(book.mix(weights), book.lookup(codes), rtol=0, atol=0)
    torch.testing.assert_close(book.mix(0.25 * weights), 0.25 * book.lookup(codes))


@pytest.mark.parametrize('legacy', [True, False])
def test_loss_of_each_image_and_the_order_of_its_weights(legacy):
    book, h = VectorQuantizer(6, 8, beta=0.25, legacy_beta=legacy), features()
    found, codes, loss = book(h)
    square = (found - h).detach().square().mean((1, 2, 3))
    torch.testing.assert_close(loss.detach(), 1.25 * square)
    to_features, to_book = torch.autograd.grad(loss.sum(), (h, book.embedding.weight))
    commitment, of_book = (1, 0.25) if legacy else (0.25, 1)
    pull = 2 * (h - found).detach() / h[0].numel()
    torch.testing.assert_close(to_features, commitment * pull)
    wanted = torch.zeros_like(to_book).index_add(0, codes.flatten(), -pull.permute(0, 2, 3, 1).reshape(-1, 8))
    torch.testing.assert_close(to_book, of_book * wanted)


def test_a_fresh_book_is_spread_as_published():
    weight = VectorQuantizer(1024, 256).embedding.weight
    assert weight.abs().max() <= 1 / 1024
    assert weight.abs().max() > 0.9 / 1024
    assert 0.98 < weight.std() * 1024 * 3**0.5 < 1.02


def test_straight_through_is_exact():
    h, found = features(), torch.randn(3, 8, 4, 5, requires_grad=True) * 1e4
    z = straight_through(h, found)
    assert torch.equal(z, found)
    torch.testing.assert_close(torch.autograd.grad((z * found.detach()).sum(), h)[0], found.detach())


@pytest.mark.parametrize('hq_input', INPUTS)
def test_gradients_pass_both_books_and_reach_none(hq_input):
    net, h, mask = books(hq_input=hq_input, hq_weight=0.6), features(), torch.tensor([1.0, 0.0, 1.0])
    z = net.coded(h, mask).z
    probe = torch.randn_like(z)
    scale = (1 + 0.6 * mask).view(-1, 1, 1, 1)
    torch.testing.assert_close(torch.autograd.grad((z * probe).sum(), h, retain_graph=True)[0], scale * probe)
    assert not flat_grad((z * probe).sum(), net).any()


@pytest.mark.parametrize('fusion', FUSIONS)
@pytest.mark.parametrize('hq_input', INPUTS)
def test_a_mask_of_zero_shuts_the_second_book_out(fusion, hq_input):
    net, h, mask = books(fusion=fusion, hq_input=hq_input), features(), torch.tensor([1.0, 0.0, 1.0])
    found, before = net.coded(h, mask), net.coded(h, mask).z.detach()
    # the book, through embed, as in the optimisation of codes
    assert not flat_grad(net.embed(found.codes, mask)[1].square().sum(), net.quantize_aesthetic).any()
    assert flat_grad(net.embed(found.codes, mask).square().sum(), net.quantize_aesthetic).any()
    net.quantize_aesthetic.embedding.weight.data.mul_(-3).add_(1)
    after = net.coded(h, mask).z
    assert torch.equal(after[1], before[1])
    assert torch.equal(after[1], net.quantize(h)[0][1])
    assert not torch.equal(after[0], before[0])
    assert torch.equal(net.coded(h, mask.bool()).z, after)  # a mask may be of any type
    assert torch.equal(net.coded(h, torch.ones(3)).z, net.coded(h).z)


def test_two_books_as_released():
    net, h = books(), features()
    found = net.coded(h)
    (common, code, loss), (hq, hq_code, hq_loss) = net.quantize(h), net.quantize_aesthetic(h)
    torch.testing.assert_close(found.z, common + 0.8 * hq)
    assert torch.equal(found.codes, torch.stack((code, hq_code), 1))
    assert torch.equal(found.loss, torch.stack((loss, hq_loss), 1))
    net.hq_weight = 0.0
    assert torch.equal(net.coded(h).z, common)
    assert list(net.state_dict()) == ['quantize.embedding.weight', 'quantize_aesthetic.embedding.weight']
    assert net.book_sizes == (6, 7)


def test_the_second_book_may_quantise_what_the_first_left():
    net, h = books(hq_input='residual', hq_weight=1.0), features()
    common, code, _ = net.quantize(h)
    hq, hq_code, _ = net.quantize_aesthetic((h - common).detach())
    found = net.coded(h)
    assert torch.equal(found.codes, torch.stack((code, hq_code), 1))
    torch.testing.assert_close(found.z, common + hq)
    assert not flat_grad(found.loss[:, 1].sum(), net.quantize).any()
    assert flat_grad(found.loss[:, 1].sum(), net.quantize_aesthetic).any()


@pytest.mark.parametrize(('fusion', 'entries_hq'), [*((fusion, 7) for fusion in FUSIONS), ('add', None)])
def test_codes_and_weights_stand_for_the_same_features(fusion, entries_hq):
    net, h, mask = books(fusion=fusion, entries_hq=entries_hq), features(), torch.tensor([0.0, 1.0, 1.0])
    found = net.coded(h, mask)
    assert found.codes.shape[1] == found.loss.shape[1] == len(net.book_sizes)
    assert torch.equal(net.embed(found.codes, mask), found.z)
    hot = [
        torch.nn.functional.one_hot(c, n).permute(0, 3, 1, 2).float()
        for c, n in zip(found.codes.unbind(1), net.book_sizes)
    ]
    torch.testing.assert_close(net.embed_weights(hot, mask), found.z)
    with pytest.raises(DataError, match=rf'has {len(net.book_sizes)} books and cannot look up 3 maps'):
        net.embed(found.codes.new_zeros(3, 3, 4, 5))
    with pytest.raises(DataError, match='cannot look up 0 maps'):
        net.embed_weights([])


def test_cross_attention_is_that_of_many_heads():
    torch.manual_seed(1)
    fuse, common, hq = CrossAttention(16), torch.randn(2, 16, 3, 4), torch.randn(2, 16, 3, 4)
    assert fuse.heads == 8
    assert {k.split('.')[0] for k in fuse.state_dict()} == {'norm1', 'norm2', 'q', 'k', 'v', 'proj_out'}
    y = fuse.norm1(hq)
    q, k, v = (z.reshape(2, 8, 2, 12) for z in (fuse.q(fuse.norm2(common)), fuse.k(y), fuse.v(y)))
    affinity = torch.softmax(torch.einsum('nhci,nhcj->nhij', q, k) / 2**0.5, -1)
    found = torch.einsum('nhij,nhcj->nhci', affinity, v).reshape(2, 16, 3, 4)
    torch.testing.assert_close(fuse(common, hq), hq + fuse.proj_out(found))


def test_a_fresh_map_of_weights_begins_as_the_sum():
    torch.manual_seed(0)
    net, h = CodeBooks(6, 8, 7, fusion='weightmap'), features()
    torch.testing.assert_close(net.coded(h).z, net.quantize(h)[0] + 0.8 * net.quantize_aesthetic(h)[0])
    assert flat_grad(net.coded(h).z.square().sum(), net.weightmap).any()


def test_without_books_features_pass():
    net, h = CodeBooks(0, 8), features()
    found = net.coded(h)
    assert found.z is h
    assert (tuple(found.codes.shape), tuple(found.loss.shape), net.book_sizes) == ((3, 0, 4, 5), (3, 0), ())
    with pytest.raises(DataError, match='has 0 books'):
        net.embed(found.codes)


def test_what_cannot_be_is_refused():
    with pytest.raises(OptionError, match='at least 1 entry of at least 1 channel'):
        VectorQuantizer(0, 8)
    with pytest.raises(OptionError, match='fusion attention needs two; there are 6 entries in the first and 0'):
        CodeBooks(6, 8, fusion='attention')
    with pytest.raises(OptionError, match='a second book needs a first'):
        CodeBooks(0, 8, 6)
