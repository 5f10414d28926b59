"""Searching for codes: the likeliest ones are never lost, what is drawn is likely, and the seed alone decides."""

import pytest
import torch

from basicsr.archs import build_network
from basicsr.code_search import CodeSearch, Sampling, mean_ranks
from basicsr.errors import DataError, OptionError
from basicsr.iqa.loading import load_scorer
from basicsr.registry import import_plugins
from basicsr.tiling import Restorer, Tiling

from .runs import ROOT

SIDE, ENTRIES = 16, 12
BLOCK = {
    'type': 'IQPIRFormer', 'img_size': SIDE, 'nf': 16, 'ch_mult': [1, 2], 'emb_dim': 32, 'res_blocks': 1,
    'attn_resolutions': [], 'codebook_size': ENTRIES, 'dim_embd': 16, 'n_head': 2, 'n_layers': 1, 'connect_list': [],
}  # fmt: skip


@pytest.fixture(scope='module', autouse=True)
def _plugins():
    import_plugins([str(ROOT / 'tests/plugins/level_scorer.py')])


@pytest.fixture(scope='module')
def net():
    torch.manual_seed(0)
    built = build_network(BLOCK).eval()
    with torch.no_grad():
        for book in built.books:
            book.embedding.weight.normal_()
        built.idx_pred_layer[1].weight.normal_(std=0.5)
    return built


def judges(*members):
    return load_scorer({'type': 'Ensemble', 'members': [{'type': name} for name in members or ('Level', 'Spread')]})


def images(count=2):
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))


def search(net, **more):
    return CodeSearch(net, judges(), **{'candidates': 8, **more})


def test_nothing_to_choose_from_gives_the_network_itself(net):
    for only in (Sampling(top_k=1), Sampling(certain=1e-6)):
        found = search(net, sampling=only)(images())
        with torch.no_grad():
            assert torch.equal(found, torch.cat([net(image[None]) for image in images()]))


def test_the_winner_is_at_least_as_good_as_the_likeliest_codes_by_mean_rank(net):
    moved = 0
    for number, image in enumerate(images(4)):
        result = search(net, seed=number).search(image[None])
        ranks = mean_ranks(torch.stack([result.scores, result.greedy]))
        assert ranks[0] <= ranks[1]
        with torch.no_grad():
            plain = net(image[None])
        level = 255 * plain.clamp(0, 1).mean()
        torch.testing.assert_close(result.greedy[0], level)
        torch.testing.assert_close(result.greedy[1], -100 * plain.clamp(0, 1).std())
        torch.testing.assert_close(result.scores[0], 255 * result.image.clamp(0, 1).mean())
        assert (result.changed > 0) == (not torch.equal(result.image, plain))
        moved += result.changed > 0
    assert moved > 0


def test_more_candidates_and_more_rounds_find_more(net):
    """With two judges that agree, the level of the winner never falls, and on average rises."""
    both = load_scorer({'type': 'Ensemble', 'members': [{'type': 'Level', 'name': n} for n in ('one', 'two')]})
    gains = {}
    for candidates, rounds in ((2, 1), (16, 1), (16, 4)):
        seeker = CodeSearch(net, both, candidates, rounds)
        results = [seeker.search(image[None]) for image in images(4)]
        gains[candidates, rounds] = sum(float(r.scores[0] - r.greedy[0]) for r in results)
        assert all(r.scores[0] >= r.greedy[0] for r in results)
    assert 0 <= gains[2, 1] < gains[16, 1] < gains[16, 4]


def test_codes_are_drawn_from_the_likeliest_where_the_network_is_unsure(net):
    with torch.no_grad():
        prediction = net.predict(images(1), net.score)
    sure = [logits.softmax(1).amax(1) >= 0.5 for logits in prediction.logits]
    assert 0 < sum(int(s.sum()) for s in sure) < sum(s.numel() for s in sure)
    allowed = [logits.topk(3, 1).indices for logits in prediction.logits]
    rare = Sampling(top_k=3, certain=0.5)
    for rounds, seed in ((1, 0), (1, 1), (3, 2)):
        codes = search(net, rounds=rounds, seed=seed, sampling=rare).search(images(1)).codes
        assert codes.shape == (1, 2, SIDE // 2, SIDE // 2)
        for book in range(2):
            assert (codes[:, book] == prediction.codes[:, book])[sure[book]].all()
            assert (allowed[book] == codes[:, book, None]).any(1).all()


def test_draws_follow_the_probabilities(net):
    from basicsr.code_search import _Task

    task = _Task(search(net, sampling=Sampling(temperature=0.7, certain=1.0)), images(1))
    chances = task.chances()
    counts = [torch.zeros_like(chance) for chance in chances]
    for _ in range(2000):
        for count, choice in zip(counts, task.drawn(chances)):
            count.scatter_add_(0, choice[None], torch.ones_like(count[:1]))
    for count, chance in zip(counts, chances):
        assert (count / 2000 - chance).abs().max() < 0.06
        torch.testing.assert_close(chance.sum(0), torch.ones_like(chance[0]))
    logits = task.prediction.logits[0][0].topk(8, 0).values / 0.7
    torch.testing.assert_close(chances[0], logits.softmax(0))


def test_the_seed_alone_decides_whatever_else_is_in_the_batch(net):
    x = images(3)
    once, again, other = search(net, seed=5)(x), search(net, seed=5)(x), search(net, seed=6)(x)
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert torch.equal(search(net, seed=5)(x[1:2]), once[1:2])
    assert once.shape == x.shape


def test_ranks_share_places_and_equals_go_to_the_nearest():
    scores = torch.tensor([[1.0, 5.0], [3.0, 5.0], [3.0, 2.0], [0.0, 9.0]])
    assert mean_ranks(scores).tolist() == [(2 + 1.5) / 2, (0.5 + 1.5) / 2, (0.5 + 3) / 2, (3 + 0) / 2]


def test_a_tie_keeps_the_likeliest_codes(net):
    """Two judges of opposite minds rank every pair of images equally."""
    opposed = load_scorer({'type': 'Ensemble', 'members': [{'type': 'Level'}, {'type': 'Level', 'name': 'dark'}]})
    seeker = CodeSearch(net, opposed, 6)
    seeker._signs = [1.0, -1.0]
    result = seeker.search(images(1))
    assert result.changed == 0
    assert torch.equal(result.codes, net.predict(images(1), net.score).codes)


def test_a_restorer_runs_it_whole_and_in_tiles():
    torch.manual_seed(0)
    whole = build_network({'type': 'IQPIRG', 'width': 8, 'stride': 2, 'dim': 4, 'entries': 8, 'body': 'conv'}).eval()
    x = torch.rand(1, 3, 25, 40, generator=torch.Generator().manual_seed(1))
    for tiling in (Tiling(None), Tiling(16, 4)):
        restorer = Restorer(whole, 'cpu', tiling)
        plain = restorer(x)
        restorer.net = search(whole)
        found = restorer(x)
        assert found.shape == x.shape
        assert not torch.equal(found, plain)
        restorer.net = search(whole, sampling=Sampling(top_k=1))
        torch.testing.assert_close(restorer(x), plain)
    assert search(whole, rounds=3).describe() == 'best of 8 in 3 rounds by level + spread'


def test_guidance_and_score_of_the_network_count(net):
    score, guidance = net.score, net.guidance
    try:
        net.score, net.guidance = 0.1, 2.0
        low = search(net, sampling=Sampling(top_k=1))(images())
        with torch.no_grad():
            assert torch.equal(low, torch.cat([net(image[None]) for image in images()]))
    finally:
        net.score, net.guidance = score, guidance
    with torch.no_grad():
        assert not torch.equal(low, net(images()))


def test_what_cannot_be_searched_is_refused(net):
    plain = build_network({'type': 'NAFNet', 'width': 4, 'enc_blk_nums': [1], 'middle_blk_num': 1, 'dec_blk_nums': [1]})
    for wrong, words in (
        (lambda: CodeSearch(plain, judges()), 'NAFNet predicts no codes'),
        (lambda: CodeSearch(net, judges('Level')), 'two scorers or more'),
        (lambda: CodeSearch(net, load_scorer('NIQE')), 'niqe must be an ensemble'),
        (lambda: search(net, candidates=1), 'at least 2 candidates'),
        (lambda: Sampling(top_k=0), 'at least 1 entry'),
        (lambda: Sampling(certain=0.0), 'shares above 0'),
    ):
        with pytest.raises(OptionError, match=words):
            wrong()
    with pytest.raises(DataError, match='niqe: needs at least 96 x 96 pixels'):
        CodeSearch(net, judges('NIQE', 'Level'))(images(1))
