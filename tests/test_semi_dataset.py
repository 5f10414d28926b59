"""Pairs beside real images in two views: aligned, seen equally often, and fixed by the generator alone."""

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from basicsr.data import build_dataloader, build_dataset
from basicsr.errors import DataError, OptionError
from basicsr.explain import explain
from basicsr.image_io import to_tensor, write_image
from basicsr.loader import batches
from basicsr.options import from_dict
from basicsr.registry import import_plugins

TINY = str(Path(__file__).parent / 'plugins/tiny.py')
STILL = {'real_mode': 'resize', 'use_hflip': False, 'use_rot': False}  # as released


def rng(seed=0):
    return np.random.default_rng(seed)


def picture(seed, height=40, width=56):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def folders(tmp_path):
    """Three pairs of the same content on both sides, and five real images."""
    for i in range(3):
        for side in ('gt', 'lq'):
            write_image(tmp_path / side / f'{i}.png', picture(i))
    for i in range(5):
        write_image(tmp_path / 'real' / 'place' / f'{i}.png', picture(10 + i))
    return tmp_path


def block(folders, strong=(), real=(), **arguments):
    return {
        'type': 'SemiDataset',
        'phase': 'train',
        'paired': {
            'type': 'PairedImageDataset',
            'dataroot_gt': str(folders / 'gt'),
            'dataroot_lq': str(folders / 'lq'),
            'gt_size': 16,
        },
        'real': {'type': 'SingleImageDataset', 'dataroot_lq': str(folders / 'real'), 'gt_size': 24, **dict(real)},
        'strong': list(strong),
        **arguments,
    }


def semi(folders, *arguments, **named):
    return build_dataset(block(folders, *arguments, **named))


def same(a, b):
    assert a.keys() == b.keys()
    return all(torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k] for k in a)


def test_a_sample_holds_pair_and_views(folders):
    sample = semi(folders, [{'type': 'ColabatorAugment'}])[0]
    assert set(sample) == {
        'lq', 'gt', 'lq_path', 'gt_path', 'key', 'real', 'real_strong', 'real_path', 'real_key', 'real_box',
    }  # fmt: skip
    assert sample['lq'].shape == sample['gt'].shape == (3, 16, 16)
    assert sample['real'].shape == sample['real_strong'].shape == (3, 24, 24)
    assert sample['real_strong'].dtype == torch.float32
    assert sample['real_path'].endswith('real/place/0.png')
    assert sample['real_key'] == 'place_0'


def test_the_pair_stays_aligned_and_the_views_show_what_the_box_says(folders):
    data = semi(folders)
    for seed in range(40):
        sample = data.sample(seed % 5, rng(seed))
        assert torch.equal(sample['lq'], sample['gt'])
        assert torch.equal(sample['real'], sample['real_strong'])  # nothing is done, so nothing differs
        top, left, height, width, mirrored, turns = sample['real_box'].tolist()
        window = picture(10 + seed % 5)[top : top + height, left : left + width]
        window = np.rot90(window[:, ::-1] if mirrored else window, turns)
        assert torch.equal(sample['real'], to_tensor(np.ascontiguousarray(window)))


@pytest.mark.parametrize('name', ['ColabatorAugment', 'SemiUIRAugment'])
def test_the_strong_view_is_the_weak_one_under_other_colours(folders, name):
    data, plain = semi(folders, [{'type': name}]), semi(folders)
    changed = 0
    for seed in range(20):
        sample, without = data.sample(seed % 5, rng(seed)), plain.sample(seed % 5, rng(seed))
        for key in ('lq', 'gt', 'real', 'real_box'):  # what is strong moves nothing else
            assert torch.equal(sample[key], without[key])
        changed += not torch.equal(sample['real'], sample['real_strong'])
        assert 0 <= sample['real_strong'].min() <= sample['real_strong'].max() <= 1
    assert changed >= 15


def test_strong_degradations_come_one_after_another(folders):
    black = {'type': 'ColabatorAugment', 'number': 40, 'brightness': [0, 0]}
    kept = {'type': 'SemiUIRAugment', 'p_jitter': 0, 'p_grey': 1.0, 'p_blur': 0}
    sample = semi(folders, [kept]).sample(0, rng())
    assert np.ptp(sample['real_strong'].numpy(), axis=0).max() == 0
    assert semi(folders, [kept, black]).sample(0, rng())['real_strong'].max() == 0


@pytest.mark.parametrize('real', [STILL, {**STILL, 'real_mode': 'fixed_crop'}])
def test_bank_entries_stay_aligned_in_the_still_modes(folders, real):
    data = semi(folders, [{'type': 'ColabatorAugment'}], real)
    for index in range(5):
        views = [data.sample(index, rng(epoch)) for epoch in range(4)]
        assert all(torch.equal(v['real'], views[0]['real']) for v in views)
        assert all(torch.equal(v['real_box'], views[0]['real_box']) for v in views)
        assert len({v['real_strong'].numpy().tobytes() for v in views}) > 1
        assert len({v['lq'].numpy().tobytes() for v in views}) > 1


@pytest.mark.parametrize(('pairs', 'images'), [(7, 3), (3, 7), (4, 4), (1, 9), (9, 1), (10, 4)])
def test_an_epoch_is_the_longer_set_and_shows_the_shorter_equally_often(pairs, images):
    import_plugins([TINY])
    tiny = {'type': 'TinyDataset', 'size': 4}
    data = build_dataset({'type': 'SemiDataset', 'phase': 'train', 'paired': {**tiny, 'length': pairs},
                          'real': {**tiny, 'length': images}, 'strong': []})  # fmt: skip
    assert len(data) == max(pairs, images)
    for workers in (0, 2) if pairs == 7 else (0,):
        opt = {'type': 'TinyDataset', 'phase': 'train', 'num_worker_per_gpu': workers}
        loader = batches(build_dataloader(data, opt, seed=workers))
        epoch = [next(loader) for _ in range(len(data))]
        for key, count in (('key', pairs), ('real_key', images)):
            seen = Counter(batch[key][0] for batch in epoch)
            assert len(seen) == count
            assert max(seen.values()) - min(seen.values()) <= 1


def test_the_generator_alone_decides(folders):
    data, other = (semi(folders, [{'type': 'SemiUIRAugment'}]) for _ in range(2))
    assert same(data.sample(3, rng(4)), other.sample(3, rng(4)))
    assert same(data[2], data[2])
    assert not torch.equal(data.sample(3, rng(4))['real_strong'], data.sample(3, rng(5))['real_strong'])
    assert same(pickle.loads(pickle.dumps(data)).sample(1, rng(6)), data.sample(1, rng(6)))


def test_loader_processes_change_nothing(folders):
    found = []
    for workers in (0, 2):
        opt = block(folders, [{'type': 'ColabatorAugment'}], batch_size_per_gpu=2, num_worker_per_gpu=workers)
        loader = batches(build_dataloader(build_dataset(opt), opt, seed=5))
        found.append([next(loader) for _ in range(4)])
    for here, there in zip(*found):
        assert same(here, there)
    assert found[0][0]['real_box'].shape == (2, 6)
    assert isinstance(found[0][0]['real_key'], list)


def test_one_size_holds_for_both(folders):
    sample = semi(folders, gt_size=20)[0]
    assert sample['lq'].shape == sample['real'].shape == (3, 20, 20)
    sample = semi(folders, (), STILL, gt_size=20).sample(0, rng(), gt_size=28)
    assert sample['gt'].shape == sample['real_strong'].shape == (3, 28, 28)


def test_the_scale_reaches_both(folders):
    for i in range(3):
        write_image(folders / 'gt' / f'{i}.png', np.kron(picture(i), np.ones((2, 2, 1), np.uint8)))
    data = build_dataset({**block(folders), 'scale': 2})
    sample = data.sample(0, rng())
    assert sample['lq'].shape == (3, 8, 8)
    assert torch.equal(sample['gt'][:, ::2, ::2], sample['lq'])
    assert sample['real'].shape == (3, 12, 12)


def test_the_real_images_may_be_a_mixture(folders):
    single = block(folders)['real']
    mixed = {'type': 'MixtureDataset', 'datasets': {'web': single, 'own': single}, 'repeats': {'web': 2}}
    opt = block(folders)
    opt['real'] = mixed
    data = build_dataset(opt)
    assert len(data) == 15
    sample = data[12]
    assert sample['real_key'] == 'own-place_2'
    assert sample['real_box'].shape == (6,)


def test_it_is_a_training_set_only(folders):
    with pytest.raises(OptionError, match='SemiDataset is a training set, not one for val'):
        build_dataset({**block(folders), 'phase': 'val'})


def test_errors_name_the_inner_set(folders):
    opt = block(folders)
    opt['real']['dataroot_lq'] = str(folders / 'nowhere')
    with pytest.raises(DataError, match=r'^datasets\.train\.real: .*nowhere'):
        build_dataset(opt)
    data = semi(folders, gt_size=48)
    with pytest.raises(DataError, match=r"^paired: '.*gt/0\.png' is 56x40 pixels"):
        data.sample(0, rng())
    (folders / 'real/place/1.png').write_bytes(b'')
    opt = block(folders, num_worker_per_gpu=0, use_shuffle=False)
    loader = batches(build_dataloader(build_dataset(opt), opt))
    next(loader)
    with pytest.raises(DataError, match=r"Data set 'train': real: '?.*1\.png.*empty"):
        next(loader)


def test_a_real_set_without_input_and_a_paired_one_without_clean_are_refused(folders):
    opt = block(folders)
    opt['paired'] = opt['real']
    with pytest.raises(DataError, match='paired: the data set gives no gt'):
        build_dataset(opt).sample(0, rng())


def options(folders, **changes):
    train = {k: v for k, v in block(folders, num_worker_per_gpu=0).items() if k != 'phase'}
    return {
        'name': 'semi', 'imports': [TINY], 'network_g': {'type': 'TinyNet'},
        'datasets': {'train': {**train, **changes}},
        'train': {'total_iter': 1, 'optim_g': {'type': 'AdamW'}, 'pixel_opt': {'type': 'L1Loss'}},
    }  # fmt: skip


def test_an_option_file_is_checked_into_its_inner_blocks(folders):
    checked = from_dict(options(folders, strong=[{'type': 'ColabatorAugment', 'bits': [5, 6]}])).datasets['train']
    assert checked.block['strong'][0]['bits'] == (5.0, 6.0)
    assert len(build_dataset(checked)) == 5
    inner = {**block(folders)['real'], 'batch_size_per_gpu': 2, 'relmode': 'crop'}
    with pytest.raises(OptionError) as error:
        from_dict(options(folders, real=inner, strong=[{'type': 'ColabatorAugmnt'}]))
    text = str(error.value)
    assert "'datasets.train.real.batch_size_per_gpu' is not known" in text
    assert "'datasets.train.real.relmode' is not known. Did you mean 'real_mode'?" in text
    assert 'Did you mean ColabatorAugment?' in text


def test_it_is_explained():
    text = explain('SemiDataset')
    for key in ('paired', 'real', 'strong', 'gt_size'):
        assert f'\n  {key} ' in text
    assert 'ColabatorAugment (degradation): ' in text
