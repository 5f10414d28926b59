"""Stage I of IQPIR: masks, losses, the adversary's weight and start, use and reset of codes, exact resumption."""

import copy
import json
import math

import pytest
import torch
from torch import nn

from basicsr.errors import DataError, OptionError
from basicsr.models import build_model
from basicsr.models.adaptive_weight import adaptive_weight
from basicsr.models.code_usage import CodeUsage, drawn, perplexity, reseed, used_share
from basicsr.options import load

from .runs import ROOT, differences, run, spawn, state, write_options

PLUGIN = str(ROOT / 'tests/plugins/tiny_codes.py')
GAN = {'type': 'GANLoss', 'gan_type': 'hinge'}
JUDGE = {'type': 'PatchDiscriminator', 'ndf': 4, 'n_layers': 1, 'norm': 'batch'}


def options(changes=None, judge=True, net=None, **train):
    """What changes in the tiny option file."""
    found = {
        'imports': [str(ROOT / 'tests/plugins/tiny.py'), PLUGIN], 'model_type': 'IQPIRVQModel',
        'network_g': {'type': 'TinyAutoEncoder', **(net or {})},
        'datasets.train.type': 'ScoredDataset', 'datasets.val.type': 'ScoredDataset', 'train.tau': 0.5,
    }  # fmt: skip
    if judge:
        found |= {'network_d': JUDGE, 'train.optim_d': {'type': 'Adam', 'lr': 1e-3}, 'train.gan_opt': GAN}
    return {**found, **{f'train.{k}': v for k, v in train.items()}, **(changes or {})}


def method(tmp_path, **kwargs):
    """A training method at iteration 1, with seeded weights."""
    checked = load(write_options(tmp_path, options(**kwargs)))
    torch.manual_seed(0)
    model = build_model(checked)
    nn.init.normal_(model.net_g.quantize.embedding.weight, 0, 0.3)
    if len(model.net_g.book_sizes) > 1:
        nn.init.normal_(model.net_g.quantize_aesthetic.embedding.weight, 0, 0.3)
    model.start_iteration(1)
    return model


def batch(*scores, size=16, seed=1):
    gt = torch.rand(len(scores), 3, size, size, generator=torch.Generator().manual_seed(seed))
    return {'lq': torch.zeros_like(gt), 'gt': gt, 'score': torch.tensor(scores)}


def total(losses):
    return sum(v for k, v in losses.items() if k.startswith('l_'))


def grads(net):
    return {k: None if p.grad is None else p.grad.clone() for k, p in net.named_parameters()}


# ---- masks and losses ------------------------------------------------------------------------------------------------


def test_losses_are_those_of_the_literal_computation(tmp_path):
    model, given = method(tmp_path, judge=False, code_weight=0.5), batch(0.2, 0.9, 0.8)
    found = model.losses(given)
    net = model.net_g
    h = net.latent(given['gt'])
    flat = h.permute(0, 2, 3, 1)
    q_c, q_h = (b.embedding.weight[torch.cdist(flat, b.embedding.weight).argmin(-1)] for b in net.books)
    each = [(flat - q).square().mean((1, 2, 3)) * 1.25 for q in (q_c, q_h)]  # in value commitment and book term agree
    mask = torch.tensor([0.0, 1.0, 1.0])
    z = q_c + 0.8 * mask.view(-1, 1, 1, 1) * q_h
    output = net.render(z.permute(0, 3, 1, 2))
    assert found['l_pix'].item() == pytest.approx((output - given['gt']).abs().mean().item(), rel=1e-5)
    assert found['l_code'].item() == pytest.approx(0.5 * each[0].mean().item(), rel=1e-5)
    assert found['l_code_hq'].item() == pytest.approx(0.5 * each[1][1:].sum().item() / 3, rel=1e-5)
    psnr = [-10 * math.log10((o.clamp(0, 1) - g).square().mean().item()) for o, g in zip(output, given['gt'])]
    assert found['psnr'].item() == pytest.approx(sum(psnr) / 3, rel=1e-5)
    assert found['hq_share'].item() == pytest.approx(2 / 3)


def test_the_masked_loss_may_be_averaged_over_those_that_count(tmp_path):
    given = batch(0.2, 0.9, 0.8, 0.1)
    over_all = method(tmp_path, judge=False).losses(given)['l_code_hq']
    over_active = method(tmp_path, judge=False, hq_norm='active').losses(given)['l_code_hq']
    assert torch.allclose(over_active, 2 * over_all)
    assert method(tmp_path, judge=False, hq_norm='active').losses(batch(0.1, 0.1))['l_code_hq'] == 0


def test_bad_images_teach_the_second_book_nothing(tmp_path):
    model = method(tmp_path, judge=False)
    total(model.losses(batch(0.2, 0.5))).backward()  # exactly tau is not above it
    assert not model.net_g.quantize_aesthetic.embedding.weight.grad.any()
    assert model.net_g.quantize.embedding.weight.grad.any()
    model.zero_grad()
    total(model.losses(batch(0.2, 0.51))).backward()
    assert model.net_g.quantize_aesthetic.embedding.weight.grad.any()


def test_which_images_are_good_enough(tmp_path):
    model = method(tmp_path, judge=False)
    assert model.hq_mask({'score': torch.tensor([0.4, 0.6, math.nan])}).tolist() == [0, 1, 0]
    several = torch.tensor([[0.4, 0.8], [0.9, 0.0], [math.nan, 0.7]])
    assert model.hq_mask({'score': several}).tolist() == [1, 0, 1]
    assert model.hq_mask({'hq_mask': torch.tensor([1.0, 0.0]), 'score': torch.tensor([0.0, 1.0])}).tolist() == [1, 0]
    with pytest.raises(DataError, match='QualityPriorDataset'):
        model.hq_mask({'gt': torch.zeros(1)})
    assert method(tmp_path, judge=False, tau=None).hq_mask({}) is None
    assert method(tmp_path, judge=False, net={'entries_hq': None}).hq_mask({}) is None


def test_without_tau_all_images_use_both_books(tmp_path):
    given = batch(0.1, 0.9)
    found = method(tmp_path, judge=False, tau=None).losses(given)
    wanted = method(tmp_path, judge=False).losses({**given, 'hq_mask': torch.ones(2)})
    for name in ('l_pix', 'l_code', 'l_code_hq'):
        assert torch.equal(found[name], wanted[name])
    assert 'hq_share' not in found


def test_one_book_and_clean_images_alone(tmp_path):
    model = method(tmp_path, judge=False, net={'entries_hq': None})
    given = batch(0.1, 0.9)
    found = model.losses(given)
    assert {k for k in found if k.startswith('l_')} == {'l_pix', 'l_code'}
    assert not any('hq' in k for k in found)
    assert torch.equal(model.losses({'lq': given['gt']})['l_pix'], found['l_pix'])


def test_images_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(DataError, match='multiples of 2: change gt_size'):
        method(tmp_path, judge=False).losses(batch(0.1, size=15))


@pytest.mark.parametrize(
    ('changes', 'text'),
    [
        ({'network_g': {'type': 'TinyNet'}}, 'no autoencoder of codes: it has no latent, coded, render'),
        ({'train.gan_opt': GAN}, 'gan_opt is given without network_d'),
        ({'network_d': JUDGE, 'train.optim_d': {'type': 'Adam'}}, 'network_d is given without gan_opt'),
        ({'train.optim_d': {'type': 'Adam'}}, "'train.optim_d' is given, but there is no block 'network_d'"),
        ({'network_d': JUDGE, 'train.gan_opt': GAN}, "'train.optim_d' is missing"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path, changes, text):
    file = write_options(tmp_path, options(changes, judge=False))
    with pytest.raises(OptionError, match=text):
        build_model(load(file))


# ---- the adversary ---------------------------------------------------------------------------------------------------


def test_the_adaptive_weight_is_the_literal_one():
    torch.manual_seed(0)
    last = nn.Parameter(torch.randn(4, 3))
    x, y = torch.randn(5, 4), torch.randn(5, 3)

    def parts(factor):
        return (x @ last - y).square().mean(), factor * (x @ last).tanh().mean()

    rec, gan = parts(1.0)
    rec_norm, gan_norm = (torch.autograd.grad(v, last, retain_graph=True)[0].norm().item() for v in (rec, gan))
    found = adaptive_weight(rec, gan, last, limit=1e4)
    assert found.item() == pytest.approx(rec_norm / (gan_norm + 1e-4), rel=1e-6)
    assert not found.requires_grad
    assert adaptive_weight(rec, gan, last, limit=0.25).item() == 0.25
    assert adaptive_weight(*parts(1e6), last).item() == pytest.approx(rec_norm / (1e6 * gan_norm), rel=1e-4)
    assert adaptive_weight(*parts(0.0), last, limit=1e9).item() == pytest.approx(rec_norm / 1e-4, rel=1e-5)
    (rec + found * gan).backward()  # both graphs are still there


def test_the_adversarial_loss_begins_when_it_shall(tmp_path):
    model, given = method(tmp_path, disc_start=3), batch(0.2, 0.9)
    for iteration in (1, 2):
        model.start_iteration(iteration)
        found, judged = model.losses(given), model.losses_d(given)
        assert 'l_gan' not in found
        assert found['gan_weight'].isnan()
        assert judged['l_d_real'] == judged['l_d_fake'] == 0
        total(judged).backward()
        assert not any(g.any() for g in grads(model.net_d).values())  # there, but zero
    model.start_iteration(3)
    found, judged = model.losses(given), model.losses_d(given)
    weight, said = found['gan_weight'].item(), found['l_gan'].item()
    assert 0 < weight <= 0.8
    assert said != 0
    assert judged.keys() == {'l_d_real', 'l_d_fake', 'out_d_real', 'out_d_fake'}
    assert judged['l_d_real'] > 0


def test_an_idle_discriminator_stays_as_it_is(tmp_path):
    changes = options({'logger.save_checkpoint_freq': 1, 'logger.keep_last': 0}, disc_start=3, total_iter=4)
    assert run(tmp_path, changes) == 0
    judges = [{k: v for k, v in state(tmp_path, n)['model'].items() if k.startswith('net_d')} for n in (1, 2, 3)]
    assert differences(judges[0], judges[1]) == []
    assert any(d.endswith('weight') for d in differences(judges[1], judges[2]))
    records = [json.loads(x) for x in (tmp_path / 'experiments/tiny/history.jsonl').read_text().splitlines()]
    logged = [r for r in records if r['kind'] == 'train']
    assert ['gan_weight' in r['signals'] for r in logged] == [False, False, True, True]
    assert all({'l_d_real', 'l_d_fake'} <= r['losses'].keys() for r in logged)


@pytest.mark.parametrize('limit', [None, 1.0])
def test_the_weight_of_the_adversarial_loss(tmp_path, limit):
    model, given = method(tmp_path, disc_start=1, gan_weight=0.1, gan_limit=limit), batch(0.2, 0.9)
    model.net_d.eval()
    found = model.losses(given)
    output = model.net_g.render(model.net_g.coded(model.net_g.latent(given['gt']), torch.tensor([0.0, 1.0])).z)
    gan = -model.net_d(output).mean()
    weight = 0.1
    if limit:
        rec = (output - given['gt']).abs().mean()
        norms = [torch.autograd.grad(x, model.net_g.last_layer, retain_graph=True)[0].norm() for x in (rec, gan)]
        weight *= min(1.0, (norms[0] / (norms[1] + 1e-4)).item())
    assert found['gan_weight'].item() == pytest.approx(weight, rel=1e-4)
    assert found['l_gan'].item() == pytest.approx(weight * gan.item(), rel=1e-4)


def test_the_two_players_gradients_do_not_mix(tmp_path):
    """Without the trainer's freezing, the discriminator's losses give the generator nothing at all."""
    model, given = method(tmp_path, disc_start=1), batch(0.2, 0.9)
    losses = model.losses(given)
    judged = model.losses_d(given)
    total(judged).backward()
    assert all(g is None for g in grads(model.net_g).values())
    assert all(g is not None for g in grads(model.net_d).values())
    model.zero_grad(set_to_none=True)
    model.net_d.requires_grad_(False)  # as the trainer does in the generator's turn
    total(losses).backward()
    assert all(g is None for g in grads(model.net_d).values())
    assert all(g is not None for g in grads(model.net_g).values())


def test_the_discriminator_judges_the_images_that_it_was_fooled_with(tmp_path):
    model, given = method(tmp_path, disc_start=1), batch(0.2, 0.9)
    model.net_d.eval()
    model.losses(given)
    kept = model.losses_d(given)
    assert model._rendered == {}
    again = model.losses_d(given)  # not at hand: rendered anew, by the same weights
    for name, value in kept.items():
        assert torch.allclose(value, again[name]), name


# ---- use of codes and resets -----------------------------------------------------------------------------------------


def test_use_and_perplexity_by_hand():
    usage = CodeUsage((4, 3))
    codes = torch.tensor([[[[0, 0, 1]], [[2, 2, 2]]], [[[3, 3, 3]], [[1, 1, 0]]]])  # (N=2, K=2, 1, 3)
    usage.add(codes, torch.tensor([1.0, 0.0]))
    assert [c.tolist() for c in usage.counts] == [[2, 1, 0, 3], [0, 0, 3]]
    usage.add(codes)
    assert [c.tolist() for c in usage.counts] == [[4, 2, 0, 6], [1, 2, 6]]
    assert used_share(usage.counts[0]).item() == 0.75
    shares = [4 / 12, 2 / 12, 6 / 12]
    assert perplexity(usage.counts[0]).item() == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)))
    assert perplexity(torch.tensor([5, 5, 5, 5])).item() == pytest.approx(4)
    assert perplexity(torch.tensor([5, 0])).item() == pytest.approx(1)
    assert used_share(torch.zeros(3)).isnan()
    assert perplexity(torch.zeros(3)).isnan()
    usage.clear(1)
    assert (usage.counts[0].any(), usage.counts[1].any()) == (True, False)


def test_signals_tell_the_use_of_a_whole_window(tmp_path):
    model = method(tmp_path, judge=False, usage_window=2)
    first = model.losses(batch(0.9, 0.1, seed=1))
    assert first['usage_common'].isnan()
    assert first['perplexity_hq'].isnan()
    model.start_iteration(2)
    second = model.losses(batch(0.9, 0.1, seed=2))
    codes = [model.net_g.coded(model.net_g.latent(batch(0.9, 0.1, seed=s)['gt'])).codes for s in (1, 2)]
    common = torch.cat([c[:, 0].flatten() for c in codes]).bincount(minlength=8)
    hq = torch.cat([c[:1, 1].flatten() for c in codes]).bincount(minlength=8)  # of good images only
    for name, counts in (('common', common), ('hq', hq)):
        assert second[f'usage_{name}'].item() == pytest.approx((counts > 0).float().mean().item())
        assert second[f'perplexity_{name}'].item() == pytest.approx(perplexity(counts).item())
    model.start_iteration(3)
    assert not any(c.any() for c in model.recent.counts)


def test_features_are_drawn_without_repetition_as_far_as_they_go():
    features = torch.randn(10, 3)
    few = drawn(features, 6, seed=3)
    assert len({tuple(v) for v in few.tolist()}) == 6
    assert all((features == v).all(1).any() for v in few)
    many = drawn(features, 25, seed=3)
    assert len({tuple(v) for v in many.tolist()}) == 25
    distance = torch.cdist(many, features).min(1)
    assert (distance.values < 0.2).all()
    assert distance.indices.bincount(minlength=10).max() <= 3
    assert torch.equal(drawn(features, 6, seed=3), few)
    assert not torch.equal(drawn(features, 6, seed=4), few)
    assert drawn(features[:0], 4, seed=1).isnan().all()
    features[3] = math.inf
    assert drawn(features, 25, seed=3).isfinite().all()


def test_only_what_shall_be_replaced_is():
    book = torch.zeros(5, 3)
    average = book.clone()
    replaced = torch.tensor([True, False, False, True, False])
    features = torch.rand(2, 3, 4, 4) + 1
    assert reseed([book, average], replaced, features, seed=1)
    assert (book != 0).any(1).tolist() == replaced.tolist()
    assert torch.equal(book, average)
    before = book.clone()
    assert not reseed([book], replaced, features[:0], seed=1)
    assert torch.equal(book, before)


@pytest.mark.parametrize('hq_input', ['shared', 'residual'])
def test_unused_entries_are_put_among_the_features(tmp_path, hq_input):
    model = method(tmp_path, judge=False, net={'hq_input': hq_input}, code_reset=2)
    average = copy.deepcopy(model.net_g)
    model.bind_averages({'g': average})
    net, given = model.net_g, batch(0.9, 0.1)
    with torch.no_grad():
        for book in net.books:
            book.embedding.weight[4:] = 100.0  # nobody's
    for iteration in (1, 2):
        model.start_iteration(iteration)
        model.losses(given)
    used = [c > 0 for c in model.since_reset.counts]
    before = [b.embedding.weight.clone() for b in net.books]
    assert [int((~u[4:]).sum()) for u in used] == [4, 4]
    model.start_iteration(3)
    model.losses(given)
    features = net.latent(given['gt']).permute(0, 2, 3, 1)
    nearest = torch.cdist(features, net.quantize.embedding.weight).argmin(-1)
    rest = features - net.quantize.embedding.weight[nearest] if hq_input == 'residual' else features
    inputs = [features.flatten(0, 2), rest[0].flatten(0, 1)]  # the second one's are of the good image only
    for n, book in enumerate(net.books):
        after = book.embedding.weight
        assert torch.equal(after[used[n]], before[n][used[n]])
        assert (after[~used[n]] < 50).all()
        assert (after[~used[n], None] - inputs[n]).abs().amax(-1).min(1).values.max() < 1e-5
        assert torch.equal(average.books[n].embedding.weight[~used[n]], after[~used[n]])
    assert model.replace == [0, 0]
    assert [int(c.sum()) for c in model.since_reset.counts] == [2 * 64, 64]  # counted anew
    model.start_iteration(4)
    kept = [b.embedding.weight.clone() for b in net.books]
    model.losses(given)
    assert all(torch.equal(a, b.embedding.weight) for a, b in zip(kept, net.books))  # not before iteration 5


def test_the_second_book_waits_for_a_good_image(tmp_path):
    model = method(tmp_path, judge=False, init_from_data=True)
    before = [b.embedding.weight.clone() for b in model.net_g.books]
    model.losses(batch(0.1, 0.2))
    assert not torch.equal(before[0], model.net_g.quantize.embedding.weight)
    assert torch.equal(before[1], model.net_g.quantize_aesthetic.embedding.weight)
    model.start_iteration(2)
    first = model.net_g.quantize.embedding.weight.clone()
    model.losses(batch(0.1, 0.9))
    assert torch.equal(first, model.net_g.quantize.embedding.weight)
    assert not torch.equal(before[1], model.net_g.quantize_aesthetic.embedding.weight)
    assert model.replace == [0, 0]


def test_resets_bring_dead_codes_back_to_life(tmp_path):
    """A book that begins far away is used by one entry only; with resets it is used whole."""
    shares = {}
    for reset in (None, 5):
        model = method(tmp_path, judge=False, code_reset=reset, net={'entries': 32, 'entries_hq': None}, usage_window=5)
        with torch.no_grad():
            model.net_g.quantize.embedding.weight.copy_(10 + torch.arange(32.0)[:, None])
        optimizer = torch.optim.Adam(model.net_g.parameters(), 1e-3)
        for iteration in range(1, 21):
            model.start_iteration(iteration)
            optimizer.zero_grad()
            found = model.losses(batch(0.9, 0.1, seed=iteration))
            total(found).backward()
            optimizer.step()
        shares[reset] = found['usage_common'].item()
    assert shares[None] <= 2 / 32
    assert shares[5] > 0.6


# ---- whole runs ------------------------------------------------------------------------------------------------------

WHOLE = {'disc_start': 4, 'code_reset': 4, 'init_from_data': True, 'usage_window': 5}


def test_a_resumed_run_is_exact(tmp_path):
    changes = options({'logger.save_checkpoint_freq': 7, 'logger.keep_last': 0}, **{**WHOLE, 'usage_window': 12})
    assert run(tmp_path, changes) == 0
    straight = {n: state(tmp_path, n) for n in (7, 12)}
    assert any(c.any() for c in straight[7]['extra']['recent'])
    assert any(c.any() for c in straight[7]['extra']['since_reset'])
    for file in (tmp_path / 'experiments/tiny').glob('*/*12.*'):
        file.unlink()
    assert run(tmp_path, changes, '--auto_resume') == 0
    assert differences(straight[12], state(tmp_path, 12)) == []
    assert differences(straight[7], straight[12]) != []


def test_counts_of_another_book_are_refused(tmp_path):
    model = method(tmp_path, judge=False)
    given = method(tmp_path, judge=False, net={'entries': 16}).extra_state()
    with pytest.raises(ValueError, match='16'):
        model.load_extra_state(given)


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_accumulated_batches_and_bfloat16(tmp_path, precision):
    changes = options(**WHOLE, accum_iter=2, mixed_precision=precision, total_iter=6)
    assert run(tmp_path, changes) == 0
    assert all(torch.isfinite(v).all() for v in state(tmp_path, 6)['model'].values())


def test_a_run_without_a_discriminator_has_one_player(tmp_path):
    assert run(tmp_path, options(judge=False, total_iter=2)) == 0
    assert set(state(tmp_path, 2)['optimizers']) == {'g'}
    assert not (tmp_path / 'experiments/tiny/models/net_d_latest.pth').exists()


def test_two_processes_agree_and_resume(tmp_path):
    """Books are replaced alike on both, counts are those of all images, and resuming repeats the run.

    Wrappers for distributed training share gradients, not weights: books replaced by each for itself would part.
    """
    launcher = (
        '-m', 'torch.distributed.run', '--nproc_per_node=2', '--master_port=0', '--rdzv-backend=c10d',
        '--rdzv-endpoint=localhost:0',
    )  # fmt: skip
    changes = options(
        {
            'logger.save_checkpoint_freq': 7, 'logger.keep_last': 0, 'datasets.train.batch_size_per_gpu': 2,
            'model_type': 'WatchedVQModel',
        },
        **{**WHOLE, 'usage_window': 12},
    )  # fmt: skip
    file = write_options(tmp_path, changes)
    first = spawn(file, launcher=launcher)
    assert first.wait(timeout=240) == 0, first.stderr.read()
    straight = {n: state(tmp_path, n) for n in (7, 12)}
    logged = [json.loads(x) for x in (tmp_path / 'experiments/tiny/history.jsonl').read_text().splitlines()]
    assert [r['signals']['apart'] for r in logged if r['kind'] == 'train'] == [0] * 12
    places = 4 * 8 * 8  # of both processes' images
    assert [int(straight[n]['extra']['recent'][0].sum()) for n in (7, 12)] == [7 * places, 12 * places]
    assert int(straight[7]['extra']['since_reset'][0].sum()) == 3 * places  # 5, 6 and 7
    for path in (tmp_path / 'experiments/tiny').glob('*/*12.*'):
        path.unlink()
    again = spawn(file, '--auto_resume', launcher=launcher)
    assert again.wait(timeout=240) == 0, again.stderr.read()
    assert differences(straight[12], state(tmp_path, 12)) == []
