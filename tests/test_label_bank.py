"""The bank of pseudo-labels against a literal one of lists, and its promises: memory, order, resuming, processes."""

import math
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st

from basicsr.errors import OptionError
from basicsr.models.label_bank import OVERHEAD, LabelBank, Labels

from .literal_bank import FIELDS, Literal, boxes_of, joined, labels_with, random_steps, rows, same
from .runs import ROOT, differences

MB = 2**20
POLICIES = ('topk', 'spread', 'all_better')
KINDS = [(p, r) for p in POLICIES for r in ('weighted', 'sum')]


@pytest.mark.parametrize(('policy', 'rank'), KINDS)
@pytest.mark.parametrize('memory_mb', [1, 3000 / MB])
@pytest.mark.parametrize('size', [1, 3])
def test_equals_a_literal_bank(policy, rank, memory_mb, size):
    for seed in range(6):
        bank = LabelBank(size, policy, rank, memory_mb)
        literal = Literal(size, policy, rank, bank.limit)
        for keys, labels, boxes in random_steps(seed):
            assert same(bank.update(keys, labels, boxes), literal.update(keys, labels, boxes))
            assert list(bank._index) == list(literal.records)
            assert bank.nbytes == sum(map(literal.cost, literal.records)) <= bank.limit
            assert set(bank._rows._length) == set(literal.records)  # nothing is kept for keys that are gone


@pytest.mark.parametrize('policy', POLICIES)
def test_a_batch_equals_its_images_one_after_another(policy):
    together, alone = LabelBank(3, policy, memory_mb=4000 / MB), LabelBank(3, policy, memory_mb=4000 / MB)
    for keys, labels, boxes in random_steps(7, 30):
        found = together.update(keys, labels, boxes)
        each = [alone.update([k], rows(labels, n), boxes[n : n + 1]) for n, k in enumerate(keys)]
        assert same(found, joined(each))
    assert differences(together.state_dict(), alone.state_dict()) == []
    assert together.stats == alone.stats
    assert together.stats['dropped'] > 0


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=4), min_size=1, max_size=5))
def test_topk_never_lowers_the_mean_and_spread_always_holds_the_best(offers):
    topk, spread = LabelBank(2, 'topk'), LabelBank(2, 'spread')
    before, best = -1.0, 0.0
    for scores in offers:
        offer = labels_with([[s, s] for s in scores], scores)
        found = topk.update(['a'], offer)
        full = bool(found.valid.all())
        mean = float(found.scores.nanmean())
        assert not full or mean >= before
        before = mean if full else before
        best = max(best, *scores)
        assert float(found.scores[0, 0]) == float(spread.update(['a'], offer).scores[0, 0]) == best


def test_spread_is_as_wide_as_it_can_be():
    found = LabelBank(3, 'spread').update(['a'], labels_with([[s] for s in (0.9, 0.85, 0.8, 0.5, 0.2)]))
    assert found.scores.tolist() == [pytest.approx([0.9, 0.5, 0.2])]
    assert LabelBank(3, 'topk').update(['a'], labels_with([[0.9], [0.9], [0.1]])).scores.tolist()[0][1] > 0.8


def test_all_better_replaces_only_where_no_member_is_lower():
    bank = LabelBank(1, 'all_better')
    assert bank.update(['a'], labels_with([[0.5, 0.5]])).scores.item() == 0.5
    assert bank.update(['a'], labels_with([[1.0, 0.4]])).scores.item() == 0.5  # the mean is higher, one member is not
    assert bank.update(['a'], labels_with([[0.5, 0.75]])).scores.item() == 0.625
    new = labels_with([[0.5, 0.75]], fill=1.0)
    assert bank.update(['a'], new).images.min() == 1  # equal: the newer, as published


def test_rank_is_the_ensembles_score_or_the_plain_sum():
    offer = labels_with([[0.9, 0.0], [0.5, 0.5]], [0.8, 0.5])
    assert LabelBank(1, rank='weighted').update(['a'], offer).scores.item() == pytest.approx(0.8)
    assert LabelBank(1, rank='sum').update(['a'], offer).scores.item() == 0.5


@pytest.mark.parametrize('policy', ['topk', 'spread'])
def test_the_older_of_equals_stays(policy):
    bank = LabelBank(1, policy)
    bank.update(['a'], labels_with([[0.5]], fill=0.0))
    assert bank.update(['a'], labels_with([[0.5]], fill=1.0)).images.max() == 0


def test_another_box_size_or_grid_voids_what_is_stored():
    bank, low = LabelBank(2), labels_with([[0.25]])
    bank.update(['a'], labels_with([[1.0]]), boxes_of(1))
    assert bank.update(['a'], low, boxes_of(1)).scores.tolist() == [[1.0, 0.25]]
    turned = boxes_of(1)
    turned[0, 5] = 1
    found = bank.update(['a'], low, turned)
    assert found.valid.tolist() == [[True, False]]
    assert found.scores[0, 0] == 0.25
    bank.update(['a'], labels_with([[1.0]]), turned)
    assert bank.update(['a'], labels_with([[0.25]], side=8), turned).valid.tolist() == [[True, False]]
    grid = labels_with([[0.25]], side=8)
    grid.grid = torch.ones(1, 1, 2, 2)
    assert bank.update(['a'], grid, turned).valid.tolist() == [[True, False]]
    assert len(bank) == 1


@pytest.mark.parametrize('policy', POLICIES)
def test_what_is_not_valid_never_enters(policy):
    offer = labels_with([[0.9, 0.9], [0.8, 0.8], [0.7, 0.7], [0.6, 0.6]])
    offer.valid[0, 0] = False
    offer.scores[0, 1] = math.nan
    offer.members[0, 2, 1] = math.nan
    offer.grid[0, 3] = math.nan
    found = LabelBank(3, policy).update(['a'], offer)
    assert not found.valid.any()
    assert found.scores.isnan().all()
    for name in ('images', 'members', 'grid'):
        assert not getattr(found, name).any(), name


def test_no_candidates_is_a_look_at_what_is_held():
    bank = LabelBank(2)
    first = bank.update(['a'], labels_with([[0.5], [0.75]]))
    none = Labels(*(getattr(first, f)[:, :0] for f in FIELDS))
    assert same(bank.update(['a'], none), first)


@pytest.mark.parametrize(('dtype', 'step'), [('uint8', 1 / 510), ('float16', 2**-12), ('float32', 0)])
def test_what_is_given_back_does_not_depend_on_whether_it_is_new(dtype, step):
    bank, offer = LabelBank(2, dtype=dtype), labels_with([[0.5], [0.75]])
    first = bank.update(['a'], offer)
    assert first.images.dtype == torch.float32
    assert (first.images.flip(1) - offer.images).abs().max() <= step + 1e-7
    assert torch.equal(bank.update(['a'], offer).images[:, 0], first.images[:, 0])


def test_what_is_given_back_can_be_changed_without_changing_the_bank():
    bank, offer = LabelBank(1, dtype='float32'), labels_with([[0.5]])
    first = bank.update(['a'], offer)
    kept = first.images.clone()
    first.images.zero_()
    first.grid.zero_()
    offer.images.zero_()
    offer.valid[:] = False
    found = bank.update(['a'], offer)
    assert torch.equal(found.images, kept)
    assert found.grid.min() == 1


def test_gradients_and_low_precision_stay_outside():
    offer = labels_with([[0.5]])
    offer.images.requires_grad_(True)
    offer.scores = offer.scores.bfloat16()
    found = LabelBank(1).update(['a'], offer)
    assert not found.images.requires_grad
    assert found.scores.dtype == torch.float32


def test_channels_last_images_are_stored_as_they_look():
    offer = labels_with([[0.5]])
    plain = LabelBank(1, dtype='float32').update(['a'], offer).images
    offer.images = offer.images[0].to(memory_format=torch.channels_last)[None]
    assert torch.equal(LabelBank(1, dtype='float32').update(['a'], offer).images, plain)


# ---- memory ---------------------------------------------------------------------------------------------------------


def test_what_was_not_seen_for_longest_is_dropped_first():
    one = LabelBank(1)
    one.update(['a'], labels_with([[0.5]]))
    bank = LabelBank(1, memory_mb=3.5 * one.nbytes / MB)
    for key in 'abcad':  # a is seen again, so b goes
        bank.update([key], labels_with([[0.5]]))
    assert list(bank._index) == ['c', 'a', 'd']
    assert bank.nbytes == 3 * one.nbytes
    assert bank.stats == {'images': 3, 'fill': pytest.approx(3 / 3.5, abs=1e-3), 'dropped': 1}
    worse = labels_with([[0.25]])
    assert bank.update(['b'], worse).scores.item() == 0.25  # what was dropped is forgotten
    assert bank.update(['a'], worse).scores.item() == 0.5


GROWTH = """
import psutil, sys, torch
from basicsr.models.label_bank import LabelBank, Labels
torch.set_num_threads(1)
resident = lambda: psutil.Process().memory_info().rss  # not getrusage, whose peak begins with that of the parent
def labels(batch):
    return Labels(torch.rand(batch, 2, 3, 8, 8), torch.rand(batch, 2), torch.rand(batch, 2, 3),
                  torch.rand(batch, 2, 2, 2), torch.ones(batch, 2, dtype=torch.bool))
def fill(bank, images):
    most = peak = 0
    for start in range(0, images, 200):
        bank.update([f'folder/image {start + n:06d}' for n in range(200)], labels(200))
        most, peak = max(most, bank.nbytes), max(peak, resident())
    return most, peak
fill(LabelBank(2, memory_mb=1), 4000)
before = resident()
bank = LabelBank(2, memory_mb=float(sys.argv[1]))
most, peak = fill(bank, 100000)
print(len(bank), most, peak - before)
"""


def test_100000_images_keep_to_the_memory_limit():
    """In a process of its own, whose peak is measured: all that it grows by, the batches included, is accounted for."""
    limit = 48
    command = [sys.executable, '-c', GROWTH, str(limit)]
    images, most, growth = map(int, subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.split())
    payload = 48 + 2 * (4 * 9 + 3 * 64)  # box, numbers, images
    assert images == limit * MB // (payload + OVERHEAD + len('folder/image 000000'))
    assert limit * MB * 0.99 < most <= limit * MB
    assert images * payload < growth <= limit * MB + 4 * MB


def test_a_limit_below_one_image_is_an_error_and_changes_nothing():
    bank = LabelBank(3, memory_mb=0.01)
    bank.update(['a'], labels_with([[0.5]]))
    before = bank.state_dict()
    with pytest.raises(
        OptionError, match=r'may take 0.01 MB, and the 3 label\(s\) of one image of 64x64 pixels take 0.0'
    ):
        bank.update(['a'], labels_with([[0.5]], side=64))
    assert differences(before, bank.state_dict()) == []


def test_rows_leave_no_holes():
    bank = LabelBank(1)
    for n in range(200):
        bank.update([f'{n}'], labels_with([[n / 200]], side=4 + n % 2))
    for n in range(150):
        bank.update([f'{n}'], labels_with([[0.0]], side=6))
    shelves = bank._rows._shelves
    assert sorted(len(s.keys) for s in shelves.values()) == [25, 25, 150]
    for n in range(150, 200):
        found = bank.update([f'{n}'], labels_with([[0.0]], side=4 + n % 2))
        assert found.scores.item() == pytest.approx(n / 200)
        bank.update([f'{n}'], labels_with([[0.0]], side=6))
    assert len(shelves) == 1


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_another_number_of_members_is_an_error():
    bank = LabelBank(1)
    bank.update(['a'], labels_with([[0.5, 0.5]]))
    with pytest.raises(OptionError, match=r'scores of 2 member\(s\), and the scorer now gives 3'):
        bank.update(['b'], labels_with([[0.5, 0.5, 0.5]]))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'images': torch.zeros(1, 1, 1, 4, 4)}, 'images is'),
        ({'members': torch.zeros(1, 2, 2)}, 'members is'),
        ({'grid': torch.zeros(1, 1, 1, 2)}, 'grid is'),
        ({'valid': torch.zeros(2, 1)}, 'valid is'),
    ],
)
def test_shapes_that_do_not_fit(change, message):
    offer = labels_with([[0.5, 0.5]])
    for name, value in change.items():
        setattr(offer, name, value)
    with pytest.raises(ValueError, match=message):
        LabelBank().update(['a'], offer)


def test_keys_boxes_and_options_that_do_not_fit():
    offer = labels_with([[0.5, 0.5]])
    with pytest.raises(ValueError, match='2 keys for 1 images'):
        LabelBank().update(['a', 'b'], offer)
    with pytest.raises(ValueError, match=r'boxes are torch\.float32'):
        LabelBank().update(['a'], offer, torch.zeros(1, 6))
    for options in ({'size': 0}, {'memory_mb': math.nan}, {'policy': 'best'}, {'rank': 'mean'}, {'dtype': 'int8'}):
        with pytest.raises(OptionError, match=f'{next(iter(options))} (is )?'):
            LabelBank(**options)


# ---- saving and resuming --------------------------------------------------------------------------------------------


@pytest.mark.parametrize('dtype', ['uint8', 'float16', 'float32'])
def test_a_saved_bank_goes_on_bit_by_bit(tmp_path, dtype):
    straight, steps = LabelBank(2, memory_mb=6000 / MB, dtype=dtype), list(random_steps(3, 40))
    for step in steps[:20]:
        straight.update(*step)
    torch.save(straight.state_dict(), tmp_path / 'bank')
    resumed = LabelBank(2, memory_mb=6000 / MB, dtype=dtype)
    resumed.load_state_dict(torch.load(tmp_path / 'bank', weights_only=True))
    assert differences(straight.state_dict(), resumed.state_dict()) == []
    assert list(straight._index) == list(resumed._index)
    assert straight.nbytes == resumed.nbytes
    for step in steps[20:]:
        assert same(straight.update(*step), resumed.update(*step))
    assert differences(straight.state_dict(), resumed.state_dict()) == []
    assert straight.stats == resumed.stats


def test_a_state_is_compact_and_does_not_change_with_the_bank(tmp_path):
    bank = LabelBank(1)
    for n in range(100):
        bank.update([f'{n}'], labels_with([[0.5]], side=16))
    state = bank.state_dict()
    torch.save(state, tmp_path / 'bank')
    assert (tmp_path / 'bank').stat().st_size < 100 * (3 * 256 + 200)
    copy = torch.load(tmp_path / 'bank', weights_only=True)
    bank.update(['0'], labels_with([[1.0]], side=16))
    assert differences(state, copy) == []


@pytest.mark.parametrize('change', [{'size': 3}, {'policy': 'spread'}, {'rank': 'sum'}, {'dtype': 'float16'}])
def test_a_state_of_another_kind_is_refused(change):
    bank = LabelBank(2)
    bank.update(['a'], labels_with([[0.5]]))
    other = LabelBank(**{'size': 2, **change})
    with pytest.raises(ValueError, match=f'saved with {next(iter(change))} '):
        other.load_state_dict(bank.state_dict())
    assert len(other) == 0


def test_a_damaged_state_is_refused():
    bank = LabelBank(2)
    bank.update(['a'], labels_with([[0.5]]))
    state = bank.state_dict()
    state['groups'][0]['images'] = state['groups'][0]['images'][:, :1]
    with pytest.raises(ValueError, match='images of the saved bank'):
        LabelBank(2).load_state_dict(state)
    with pytest.raises(KeyError):
        LabelBank(2).load_state_dict({})


def test_a_state_larger_than_the_memory_loses_what_was_not_seen_for_longest():
    bank = LabelBank(1)
    for key in 'abc':
        bank.update([key], labels_with([[0.5]]))
    small = LabelBank(1, memory_mb=(bank.nbytes - 1) / MB)
    small.load_state_dict(bank.state_dict())
    assert list(small._index) == ['b', 'c']
    assert small.nbytes == bank.nbytes * 2 // 3


# ---- several processes ----------------------------------------------------------------------------------------------

KIND = {'size': 2, 'memory_mb': 3000 / MB}


def shares(step):
    """A batch cut in two, as two processes see it; the second may get none."""
    keys, labels, boxes = step
    half = (len(keys) + 1) // 2
    ends = (0, half, len(keys))
    return [(keys[a:b], rows(labels, a, b), boxes[a:b]) for a, b in pairwise(ends)]


def as_process(rank, folder):
    """The second half of a run in two processes, which begins with the state of one, and saves."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', f'file://{folder}/meeting', rank=rank, world_size=2)
    for policy in POLICIES:
        bank = LabelBank(policy=policy, **KIND)
        bank.load_state_dict(torch.load(f'{folder}/{policy}', weights_only=True))
        found = []
        for step in list(random_steps(11, 24))[12:]:
            labels = bank.update(*shares(step)[rank])
            found.append({f: getattr(labels, f).clone() for f in FIELDS})
        own, sizes = len(bank._rows._length), (len(bank), bank.nbytes)
        torch.save({'found': found, 'state': bank.state_dict(), 'own': own, 'sizes': sizes}, f'{folder}/{policy}{rank}')
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one_that_sees_both_batches(tmp_path):
    banks, expected = {policy: LabelBank(policy=policy, **KIND) for policy in POLICIES}, {}
    for policy, bank in banks.items():
        steps = list(random_steps(11, 24))
        for step in steps[:12]:
            bank.update(*step)
        torch.save(bank.state_dict(), tmp_path / policy)
        expected[policy] = [bank.update(*step) for step in steps[12:]]
        assert bank.stats['dropped'] > 0
    mp.spawn(as_process, (str(tmp_path),), nprocs=2)
    for policy, bank in banks.items():
        both = [torch.load(tmp_path / f'{policy}{rank}', weights_only=True) for rank in (0, 1)]
        for first, second, labels in zip(*(r['found'] for r in both), expected[policy], strict=True):
            assert same(joined([Labels(**first), Labels(**second)]), labels)
        assert [r['sizes'] for r in both] == [(len(bank), bank.nbytes)] * 2
        assert sum(r['own'] for r in both) == len(bank) > max(r['own'] for r in both)
        assert differences(both[0]['state'], bank.state_dict()) == []
        assert both[1]['state'] == {}
        alone = LabelBank(policy=policy, **KIND)
        alone.load_state_dict(both[0]['state'])
        assert all(same(alone.update(*step), bank.update(*step)) for step in random_steps(12))
