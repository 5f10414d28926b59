"""CKDN's training: its two phases and losses, PIPAL and its split, and how far scores agree with opinions."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from basicsr import train
from basicsr.archs.ckdn_arch import CKDN
from basicsr.data.pipal_dataset import TRAIN_TYPES, VAL_TYPES, PIPALDataset
from basicsr.errors import DataError, OptionError
from basicsr.image_io import read_image, to_tensor, write_image
from basicsr.iqa import build_scorer
from basicsr.iqa.agreement import agreement, agreement_on, per_scene, pooled
from basicsr.models.ckdn_model import CKDNModel, elo_expectation

from .runs import ROOT

SIDE = 40
TINY = {'short_side': 40, 'crop': 36}
VIEWS = ('restored', 'lq', 'restored2', 'gt')


# ---- losses -----------------------------------------------------------------------------------------------------


class Fixed(torch.nn.Module):
    """Gives fixed outputs, and keeps what it was called with."""

    def __init__(self):
        super().__init__()
        values = {'dr': (0.5, 0.2), 'fr': (0.6, 0.4), 'nr': (0.9, 0.3), 'delta': (0.1, 0.3)}
        self.out = torch.nn.ParameterDict({k: torch.nn.Parameter(torch.tensor(v)) for k, v in values.items()})

    def forward(self, *images, **options):
        self.called = [image.mean().item() for image in images], options
        return type('Out', (), dict(self.out))


def batch(first=(0.55, 0.10), second=(0.35, 0.50)):
    views = {name: torch.full((2, 3, SIDE, SIDE), 0.1 * k) for k, name in enumerate(VIEWS)}
    return {**views, 'score': torch.tensor(first), 'score2': torch.tensor(second)}


def losses(iteration, **options):
    model = CKDNModel({'g': Fixed()}, **{'rank_iters': 10, **options})
    model.start_iteration(iteration)
    return model, model.losses(batch())


def only(found):
    return {k: v.item() for k, v in found.items() if k.startswith('l_')}


def test_the_first_phase_ranks_and_nothing_else():
    """By hand: 0.5 * mean((nr - t)^2), t = 1 / (1 + 10^((t1 - t2) * 1000 / 400))."""
    model, found = losses(10)
    expected = [1 / (1 + 10 ** ((a - b) * 1000 / 400)) for a, b in ((0.55, 0.35), (0.10, 0.50))]
    assert expected == pytest.approx([0.2403, 0.9091], abs=1e-4)
    wanted = 0.5 * np.mean([(0.9 - expected[0]) ** 2, (0.3 - expected[1]) ** 2])
    assert only(found) == {'l_rank': pytest.approx(wanted, abs=1e-6)}
    means, options = model.net_g.called
    assert means == pytest.approx([0, 0.1, 0.2, 0.3], abs=1e-6)  # restored, degraded, second restoration, pristine
    assert options == {'stop_grad': False}
    assert only(losses(1, rank_weight=2.0)[1])['l_rank'] == pytest.approx(4 * wanted, abs=1e-6)


def test_the_second_phase_regresses_and_distils_as_released():
    _, found = losses(11)
    assert only(found) == {
        'l_dr': pytest.approx((0.05**2 + 0.10**2) / 2, abs=1e-6),
        'l_fr': pytest.approx((0.05**2 + 0.30**2) / 2, abs=1e-6),
        'l_distill': pytest.approx(30 * (0.1**2 + 0.3**2) / 2, abs=1e-6),  # the mean square is squared again
    }
    assert found['delta'].item() == pytest.approx(0.2)
    assert found['ranked'].item() == 1.0


def test_variants_of_the_distillation():
    assert only(losses(11, distill='plain')[1])['l_distill'] == pytest.approx(30 * 0.2, abs=1e-6)
    assert only(losses(11, distill_weight=6.0)[1])['l_distill'] == pytest.approx(6 * 0.05, abs=1e-6)
    assert set(only(losses(11, distill_weight=0.0)[1])) == {'l_dr', 'l_fr'}
    assert losses(11, stop_grad=True)[0].net_g.called[1] == {'stop_grad': True}
    assert 'l_rank' not in losses(1, rank_iters=0)[1]


def test_elo_expectation():
    t = torch.tensor
    assert elo_expectation(t(0.3), t(0.3)).item() == 0.5
    assert elo_expectation(t(0.2), t(0.6)).item() == pytest.approx(10 / 11)  # 400 points ahead
    assert elo_expectation(t(0.0), t(1.0), elo_scale=400).item() == pytest.approx(10 / 11)


def test_each_phase_trains_its_own_parts_and_all_statistics():
    """The ranking leaves the references, csp and fc_ without a gradient, the regression aux_csp and fc1_."""
    net = CKDN(**TINY).train()
    model = CKDNModel({'g': net}, rank_iters=1)
    given = {**batch(), **{name: torch.rand(2, 3, SIDE, SIDE) for name in VIEWS}}
    parts = {}
    for iteration in (1, 2):
        net.zero_grad(set_to_none=True)
        model.start_iteration(iteration)
        sum(v for k, v in model.losses(given).items() if k.startswith('l_')).backward()
        parts[iteration] = {name.partition('.')[0] for name, p in net.named_parameters() if p.grad is not None}
    assert parts[1] == {'qse_1', 'qse_2', 'aux_csp', 'fc1_'}
    assert parts[2] == {'qse_1', 'qse_2', 'dte_1', 'dte_2', 'csp', 'fc_'}
    counts = {part: getattr(net, part)[0].bn1.num_batches_tracked.item() for part in ('dte_2', 'csp', 'aux_csp')}
    assert counts == {'dte_2': 4, 'csp': 2, 'aux_csp': 2}


def test_a_data_set_without_labels_is_refused():
    given = batch()
    del given['score2']
    with pytest.raises(DataError, match="gives no 'score2'"):
        CKDNModel({'g': Fixed()}).losses(given)


# ---- PIPAL ------------------------------------------------------------------------------------------------------


def test_the_published_split_by_distortion():
    """50 kinds to train on and 39 others, of PIPAL's 116; group 06 in neither, group 02 in training only."""
    assert (len(TRAIN_TYPES), len(VAL_TYPES), len(TRAIN_TYPES & VAL_TYPES)) == (50, 39, 0)
    groups = Counter(kind[:2] for kind in TRAIN_TYPES | VAL_TYPES)
    assert groups == {'00': 12, '01': 16, '02': 10, '03': 24, '04': 13, '05': 14}
    assert {kind[:2] for kind in VAL_TYPES} == {'00', '01', '03', '04', '05'}
    assert {'00_00', '00_11', '01_08', '02_09', '03_16', '04_12', '05_12'} <= TRAIN_TYPES
    assert {'00_02', '00_07', '01_09', '03_05', '03_23', '04_00', '05_13'} <= VAL_TYPES


KINDS = ('00_00', '00_01', '00_02', '04_00', '06_01')


@pytest.fixture
def pipal(tmp_path):
    """Three scenes in five versions, in folders as PIPAL has them, and a list of opinions for each scene."""
    rng, crops = np.random.default_rng(0), sorted((ROOT / 'datasets/sample/val').glob('*.jpg'))
    for number, photo in enumerate(crops[:3]):
        scene, clean = f'A000{number}', read_image(photo)[:SIDE, : SIDE + 4]
        write_image(tmp_path / f'images/Train_Ref/{scene}.bmp', clean)
        lines = []
        for rank, kind in enumerate(KINDS):
            worse = np.clip(clean + 0.03 * rank * rng.standard_normal(clean.shape), 0, 1)
            write_image(tmp_path / f'images/Distortion_{rank % 2}/{scene}_{kind}.bmp', worse)
            write_image(tmp_path / f'images/degraded/ref_{scene}_{kind}.bmp', clean * 0.5)
            lines.append(f'{scene}_{kind}.bmp,{1600 - 100 * rank - number}')
        (tmp_path / 'labels').mkdir(exist_ok=True)
        (tmp_path / f'labels/{scene}.txt').write_text('\n'.join(lines) + '\n')
    return {'dataroot_lq': str(tmp_path / 'images'), 'meta_info_file': str(tmp_path / 'labels')}


def test_a_sample_holds_all_that_is_compared(pipal):
    data = PIPALDataset(**pipal)
    assert [rated.name for rated in data.rated] == [f'A000{n}_00_0{k}' for n in range(3) for k in range(2)]
    seen = set()
    for seed in range(20):
        sample = data.sample(3, np.random.default_rng(seed))
        seen.add(round(sample['score2'].item(), 4))
    assert seen == {0.699, 0.599}  # the scene's two restorations, the first one among them
    assert (sample['source'], sample['distortion'], sample['key']) == ('A0001', '00_01', 'A0001_00_01')
    assert sample['score'].item() == pytest.approx((1499 - 900) / 1000)
    assert sample['score'].dtype == torch.float32
    root = Path(pipal['dataroot_lq'])
    places = ('Distortion_1/A0001_00_01', 'degraded/ref_A0001_00_01', None, 'Train_Ref/A0001')
    for name, place in zip(VIEWS, places):
        assert sample[name].shape == (3, SIDE, SIDE + 4)
        if place:
            assert torch.equal(sample[name], to_tensor(read_image(root / f'{place}.bmp')))
    assert torch.equal(data[3]['restored2'], data[3]['restored2'])


def test_phases_see_their_own_distortions_and_scenes(pipal):
    names = {}
    for phase in ('train', 'val'):
        for held_out in (0, 1):
            data = PIPALDataset(**pipal, phase=phase, val_sources=held_out)
            names[phase, held_out] = {rated.name for rated in data.rated}
    assert names['val', 0] == {f'A000{n}_{kind}' for n in range(3) for kind in ('00_02', '04_00')}
    assert names['train', 1] == {f'A000{n}_{kind}' for n in range(2) for kind in ('00_00', '00_01')}
    assert names['val', 1] == {'A0002_00_02', 'A0002_04_00'}
    assert len(PIPALDataset(**pipal, types='all')) == 15


def test_views_are_cut_and_turned_alike(pipal):
    plain = PIPALDataset(**pipal, phase='val', types='all')
    data = PIPALDataset(**pipal, types='all', gt_size=16, use_hflip=True, use_rot=True)
    sample = data.sample(4, np.random.default_rng(3))
    assert sample['lq'].shape == (3, 16, 16)
    assert torch.allclose(sample['lq'], 0.5 * sample['gt'], atol=1 / 255)  # as the whole images are
    whole = plain.sample(4, np.random.default_rng(3))
    assert not torch.equal(sample['gt'], whole['gt'][:, :16, :16])


def test_lists_and_images_that_cannot_be_used(pipal, tmp_path):
    root, labels = pipal['dataroot_lq'], tmp_path / 'x.txt'

    def refused(text, match):
        labels.write_text(text)
        with pytest.raises(DataError, match=match):
            PIPALDataset(root, str(labels))

    refused('A0000_00_00.bmp,1500\nA0000.bmp,1400\n', r"x\.txt:2: 'A0000.bmp,1400' is no line such as")
    refused('A0000_00_00.bmp,good\n', r'x\.txt:1')
    refused('A0000_00_00.bmp,nan\n', r'x\.txt:1')
    refused('A0000_00_00.bmp,1500\nA0000_00_00.bmp,1400\n', r'x\.txt:2.*was rated before')
    refused('A0000_00_02.bmp,1500\n', 'names no image of phase train, types published')
    refused('A0000_00_08.bmp,1500\n', "lacks restored images: 'A0000_00_08'")
    (tmp_path / 'images/degraded/ref_A0000_00_00.bmp').unlink()
    refused('A0000_00_00.bmp,1500\n', "lacks degraded references.*'ref_A0000_00_00'")
    with pytest.raises(DataError, match='cannot be read'):
        PIPALDataset(root, str(tmp_path / 'none.txt'))
    with pytest.raises(OptionError, match='mos_unit is 0'):
        PIPALDataset(root, str(labels), mos_unit=0)


def test_images_of_unlike_sizes_are_refused(pipal, tmp_path):
    write_image(tmp_path / 'images/degraded/ref_A0000_00_00.bmp', np.zeros((20, 20, 3)))
    with pytest.raises(DataError, match='differ in size: 20x20 and 44x40'):
        PIPALDataset(**pipal)[0]


def test_training_by_the_option_file_runs_both_phases(pipal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = [
        'num_gpu=0', 'path:pretrain_network_g=null', 'train:total_iter=2', 'train:rank_iters=1', 'train:accum_iter=2',
        'train:optim_g:lr=1e-3', 'logger:print_freq=1', 'network_g:short_side=40', 'network_g:crop=36',
        'datasets:train:batch_size_per_gpu=2', 'datasets:train:num_worker_per_gpu=0', 'datasets:train:val_sources=1',
        *(f'datasets:train:{k}={v}' for k, v in pipal.items()),
    ]  # fmt: skip
    assert train.main(['-opt', 'options/train/ckdn/ckdn_pipal.yml', '--force_yml', *overrides]) == 0
    run = tmp_path / 'experiments/ckdn_pipal'
    records = [json.loads(line) for line in (run / 'history.jsonl').read_text().splitlines()]
    first, second = [set(r['losses']) for r in records if r['kind'] == 'train']
    assert (first, second) == ({'l_rank'}, {'l_dr', 'l_fr', 'l_distill'})
    scorer = build_scorer({'type': 'CKDNScorer', 'weights': str(run / 'models/net_g_latest.pth')})
    assert scorer.net.crop == 36
    found = agreement_on(scorer, PIPALDataset(**pipal, phase='val', types='all'))
    assert (found['pooled'].images, found['per_scene'].scenes) == (15, 3)
    assert all(-1 <= a.srcc <= 1 for a in found.values())


# ---- agreement --------------------------------------------------------------------------------------------------


def test_agreement_by_hand_and_by_scipy():
    from scipy.stats import kendalltau, pearsonr, spearmanr

    rng = np.random.default_rng(0)
    opinions = rng.random(30)
    scores = opinions + 0.3 * rng.random(30)
    found = pooled(scores, opinions)
    wanted = [test(scores, opinions).statistic for test in (spearmanr, pearsonr, kendalltau)]
    assert [found.srcc, found.plcc, found.krcc] == pytest.approx(wanted)
    short = pooled([1.0, 2.0, 4.0, 3.0], [1.0, 2.0, 3.0, 4.0])  # one of six pairs in the wrong order
    assert (short.krcc, short.srcc, short.plcc) == pytest.approx((4 / 6, 0.8, 0.8))
    assert pooled([1, 2, 3], [10, 200, 3000]).srcc == pytest.approx(1)
    assert pooled([1, 1, 1], [1, 2, 3]).record() == {'srcc': 0.0, 'plcc': 0.0, 'krcc': 0.0, 'images': 3}


def test_scenes_are_averaged_not_pooled():
    """A scorer that knows which scene is good, and has each scene's restorations the wrong way round."""
    opinions = [1.0, 2.0, 3.0, 11.0, 12.0, 13.0]
    scores = [3.0, 2.0, 1.0, 13.0, 12.0, 11.0]
    found = agreement(scores, opinions, ['a', 'a', 'a', 'b', 'b', 'b'])
    assert found['per_scene'].srcc == pytest.approx(-1)
    assert found['per_scene'].record()['scenes'] == 2
    assert found['pooled'].srcc > 0.5
    assert set(agreement(scores, opinions)) == {'pooled'}
    half = per_scene([1.0, 2.0, 2.0, 1.0], [1.0, 2.0, 1.0, 2.0], [0, 0, 1, 1])
    assert (half.srcc, half.images, half.scenes) == (0, 4, 2)
    assert 'mean of 2 scenes' in str(half)


def test_agreement_that_cannot_be_told():
    for scores, opinions in (([1.0], [1.0]), ([1.0, 2.0], [1.0]), ([1.0, float('nan')], [1.0, 2.0])):
        with pytest.raises(DataError, match='two images or more'):
            pooled(scores, opinions)
    with pytest.raises(DataError, match="scene 'b' has one image"):
        per_scene([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], ['a', 'a', 'b'])
    with pytest.raises(DataError, match='names of scenes'):
        per_scene([1.0, 2.0], [1.0, 2.0], ['a'])


def test_scorers_that_count_downwards_are_turned_round(pipal):
    """Noise grows as opinions fall; a scorer whose lower raw score is better must agree, not disagree."""
    data = PIPALDataset(**pipal, phase='val', types='all')
    brisque = build_scorer({'type': 'BRISQUE'})
    assert brisque.calibration.high < brisque.calibration.low
    assert agreement_on(brisque, data)['per_scene'].srcc > 0.3
