"""Ladders of quality: the data sets, the artefacts, and the tool that makes ladders of restored images."""

import json

import cv2
import numpy as np
import pytest
import torch

from basicsr import train
from basicsr.data.ladder_dataset import LadderDataset
from basicsr.data.ranked_folder_dataset import RankedFolderDataset
from basicsr.errors import DataError, OptionError
from basicsr.image_io import read_image, write_image
from basicsr.metrics import calculate_psnr
from basicsr.registry import DEGRADATION_REGISTRY, build
from basicsr.tools import restoration_ladders

from .runs import ROOT

VAL = str(ROOT / 'datasets/sample/val')
NOISE = [{'type': 'Noise', 'sigma': [5, 5]}, {'type': 'Noise', 'sigma': [50, 50]}]
ARTEFACTS = ['OverSharpen', 'OverSmooth', 'ColourShift', 'OverEnhance', 'Ringing', 'NetworkPattern']


def photo():
    return read_image(ROOT / 'datasets/sample/val/goat.jpg')[:128, :160]


@pytest.mark.parametrize('name', ARTEFACTS)
def test_artefacts_grow_with_their_amount(name):
    errors = []
    for amount in (0.1, 0.5, 0.9):
        top = {'OverSmooth': 100, 'NetworkPattern': 40}.get(name, 1.0)
        artefact = build(DEGRADATION_REGISTRY, {'type': name, 'amount': [amount * top] * 2})
        worse = artefact(photo(), np.random.default_rng(4))
        assert worse.shape == photo().shape
        assert worse.dtype == np.float32
        assert worse.min() >= 0
        assert worse.max() <= 1
        errors.append(float(np.abs(worse - photo()).mean()))
    assert 0 < errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize('name', [n for n in ARTEFACTS if n != 'Ringing'])
def test_no_amount_is_no_artefact(name):
    same = build(DEGRADATION_REGISTRY, {'type': name, 'amount': [0, 0]})(photo(), np.random.default_rng(0))
    assert np.allclose(same, photo(), atol=1e-6)


def test_a_colour_shift_keeps_grey_pictures_as_bright():
    grey = np.full((8, 8, 3), 0.3, np.float32)
    shifted = build(DEGRADATION_REGISTRY, {'type': 'ColourShift', 'amount': [0.4, 0.4]})(grey, np.random.default_rng(1))
    gains = np.log2(shifted[0, 0] / 0.3)
    assert gains.mean() == pytest.approx(0, abs=1e-5)
    assert np.sqrt(np.mean(gains**2)) == pytest.approx(0.4, abs=1e-5)


def test_ringing_leaves_the_low_frequencies():
    waves = 0.5 + 0.3 * np.sin(np.arange(128) * 2 * np.pi / 32)
    image = np.repeat(np.tile(waves, (64, 1))[..., None], 3, axis=2).astype(np.float32)
    ringed = build(DEGRADATION_REGISTRY, {'type': 'Ringing', 'amount': [0.5, 0.5]})(image, np.random.default_rng(0))
    assert np.abs(ringed - image)[:, 16:-16].max() < 0.02


def test_artefacts_refuse_unknown_kinds():
    with pytest.raises(OptionError, match='kinds is'):
        build(DEGRADATION_REGISTRY, {'type': 'OverSmooth', 'kinds': []})


def test_a_ladder_goes_down():
    data = LadderDataset(VAL, [NOISE], rungs=4, gt_size=96)
    sample = data.sample(1, np.random.default_rng(3))
    assert sample['lq'].shape == (4, 3, 96, 96)
    assert sample['level'][0] == 0
    assert (sample['level'].diff() > 0).all()
    assert sample['task'] == 'noise'
    scores = [calculate_psnr(v[None], sample['lq'][:1]).item() for v in sample['lq'][1:]]
    assert scores == sorted(scores, reverse=True)


def test_the_rungs_differ_in_strength_alone():
    shifts = [{'type': 'ColourShift', 'amount': [a, a]} for a in (0.1, 0.5)]
    views = LadderDataset(VAL, [shifts], rungs=3, gt_size=64).sample(0, np.random.default_rng(0))['lq']
    gains = [np.log2((v.mean((1, 2)) / views[0].mean((1, 2))).numpy()) for v in views[1:]]
    assert np.corrcoef(gains)[0, 1] > 0.95  # the same direction of colour


def test_validation_shows_strengths_that_training_never_does():
    training = LadderDataset(VAL, [NOISE], rungs=4, gt_size=32)
    validation = LadderDataset(VAL, [NOISE], rungs=4, phase='val', val_size=96)
    seen = {round(v, 6) for i in range(40) for v in training.sample(0, np.random.default_rng(i))['level'].tolist()}
    assert not seen & {round(v, 6) for v in validation[0]['level'][1:].tolist()}
    assert torch.equal(validation[3]['lq'], validation[3]['lq'])
    assert len(validation) == 8


def test_knots_are_joined_by_lines():
    knots = [{'type': 'JPEG', 'quality': [q, q]} for q in (80, 40, 10)]
    data = LadderDataset(VAL, [knots], rungs=2, steps=4, gt_size=32)
    assert [round(d.quality[0]) for d in data.ladders[0]] == [60, 40, 25, 10]


def test_a_prior_makes_the_first_view_imperfect():
    prior = [{'type': 'Blur', 'kinds': ['gaussian'], 'sigma': [3, 3]}]
    rng = np.random.default_rng(5)
    faulty = LadderDataset(VAL, [NOISE], prior=prior, prior_p=1.0, gt_size=64).sample(0, rng)
    assert faulty['perfect'] is False
    plain = LadderDataset(VAL, [NOISE], gt_size=64).sample(0, np.random.default_rng(5))
    assert plain['perfect'] is True
    assert faulty['lq'][0].diff(dim=2).abs().mean() < plain['lq'][0].diff(dim=2).abs().mean()


@pytest.mark.parametrize(
    ('options', 'text'),
    [
        ({'ladders': []}, 'needs one ladder or more'),
        ({'ladders': [NOISE[:1]]}, 'two blocks or more'),
        ({'ladders': [[NOISE[0], {'type': 'Blur'}]]}, "differ in 'type', which has no values between: Noise and Blur"),
        ({'ladders': [[NOISE[0], {'type': 'Noise'}]]}, "differ in 'sigma'"),
        ({'ladders': [[{**k, 'kinds': [c]} for k, c in zip(NOISE, ('grey', 'colour'))]]}, "differ in 'kinds'"),
        ({'ladders': [NOISE], 'prior_p': 0.5}, 'the list prior names no fault'),
        (
            {'ladders': [NOISE], 'prior_tasks': ['noises']},
            "names 'noises', of which it has no ladder. Did you mean noise",
        ),
        ({'ladders': [NOISE], 'rungs': 20}, 'at most steps'),
        ({'ladders': [NOISE], 'zoom': [0.5, 2]}, 'zoom is'),
    ],
)
def test_ladders_that_cannot_be_made(options, text):
    with pytest.raises(OptionError, match=text):
        LadderDataset(VAL, **options)


def ranked_folder(root, versions=5, size=40):
    for name in ('a', 'b'):
        for rank in range(versions):
            write_image(root / name / f'{rank}.png', np.full((size, size, 3), 250 - 40 * rank, np.uint8))
    return str(root)


def test_ranked_folders(tmp_path):
    data = RankedFolderDataset(ranked_folder(tmp_path), rungs=3, gt_size=32)
    assert len(data) == 2
    sample = data.sample(0, np.random.default_rng(0))
    assert sample['lq'].shape == (3, 3, 32, 32)
    assert [round(v.mean().item() * 255) for v in sample['lq']] == [250, 170, 90]
    assert sample['level'].tolist() == [0, 0.5, 1]


def test_ranked_folders_that_cannot_be_used(tmp_path):
    root = ranked_folder(tmp_path, versions=2)
    with pytest.raises(DataError, match='a holds fewer than 3 versions'):
        RankedFolderDataset(root, rungs=3)
    write_image(tmp_path / 'a/1.png', np.zeros((10, 12, 3), np.uint8))
    with pytest.raises(DataError, match='12x10 and 40x40'):
        RankedFolderDataset(root, rungs=2).sample(0, np.random.default_rng(0))


@pytest.fixture(scope='module')
def run_folder(tmp_path_factory):
    """A run of a few iterations that kept its checkpoints."""
    root = tmp_path_factory.mktemp('runs')
    overrides = [
        'num_gpu=0', 'name=tiny', f'path:experiments_root={root}', 'train:total_iter=6', 'val:report=false',
        'logger:save_checkpoint_freq=2', 'network_g:width=4', 'datasets:train:num_worker_per_gpu=0',
        'datasets:train:gt_size=32', 'datasets:val:val_size=48', 'datasets:val:num_worker_per_gpu=0',
    ]  # fmt: skip
    assert train.main(['-opt', 'options/train/iqa/small_restorer.yml', '--force_yml', *overrides]) == 0
    return root / 'tiny'


def test_ladders_of_restored_images(run_folder, tmp_path, capsys):
    photos = tmp_path / 'photos'
    for name in ('goat', 'sheep'):
        write_image(photos / f'{name}.png', cv2.resize(read_image(f'{VAL}/{name}.jpg'), (96, 80)))
    arguments = [
        '--runs',
        str(run_folder),
        '--photos',
        str(photos),
        '--size',
        '64',
        '--rungs',
        '3',
        '--checkpoints',
        '2',
    ]
    assert restoration_ladders.main([*arguments, '-o', str(tmp_path / 'out')]) == 0
    record = json.loads((tmp_path / 'out/ladders.json').read_text())
    for name, rungs in record.items():
        assert len(list((tmp_path / 'out' / name).iterdir())) == len(rungs) == 3
        assert rungs[1]['psnr'] > rungs[2]['psnr']
        assert rungs[1]['ssim'] > rungs[2]['ssim']
    assert len(RankedFolderDataset(str(tmp_path / 'out'), rungs=3)) == len(record)
    assert restoration_ladders.main([*arguments, '-o', str(tmp_path / 'out')]) == 2
    assert 'exists already' in capsys.readouterr().err


def test_a_folder_without_checkpoints_is_refused(tmp_path, capsys):
    assert restoration_ladders.main(['--runs', str(tmp_path), '--photos', VAL, '-o', str(tmp_path / 'out')]) == 2
    assert 'is no run with checkpoints' in capsys.readouterr().err
