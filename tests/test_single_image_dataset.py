"""Images without a partner: what is seen of them, and the box that says so."""

import pickle

import cv2
import numpy as np
import pytest
import torch

from basicsr.data import build_dataloader, build_dataset
from basicsr.errors import DataError, OptionError
from basicsr.image_io import to_tensor, write_image
from basicsr.loader import batches
from basicsr.registry import DATASET_REGISTRY


def make(name='SingleImageDataset', **arguments):
    return DATASET_REGISTRY.get(name)(**arguments)


def rng(seed=0):
    return np.random.default_rng(seed)


def picture(seed, height=40, width=56):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pixels(tensor):
    return np.rint(tensor.numpy().transpose(1, 2, 0) * 255).astype(np.uint8)


def seen_through(image, box):
    """What a box says is seen, by its definition."""
    top, left, height, width, mirrored, turns = box.tolist()
    window = image[top : top + height, left : left + width]
    return np.rot90(window[:, ::-1] if mirrored else window, turns)


@pytest.fixture
def folder(tmp_path):
    for i, name in enumerate(['a.png', 'b.png', 'deep/c.png']):
        write_image(tmp_path / 'lq' / name, picture(i))
    return tmp_path / 'lq'


def single(folder, **arguments):
    return make(dataroot_lq=str(folder), **arguments)


@pytest.mark.parametrize('phase', ['val', 'test'])
def test_validation_gives_whole_images_without_a_clean_one(folder, phase):
    data = single(folder, phase=phase, gt_size=8, real_mode='resize', task='rain')
    assert [s['key'] for s in data] == ['a', 'b', 'deep_c']
    for i, sample in enumerate(data):
        assert set(sample) == {'lq', 'lq_path', 'key', 'task'}
        assert torch.equal(sample['lq'], to_tensor(picture(i)))
        assert sample['lq'].dtype == torch.float32
    assert data[2]['lq_path'].endswith('deep/c.png')
    assert data[2]['task'] == 'rain'
    assert 'task' not in single(folder, phase=phase)[0]


@pytest.mark.parametrize('mode', ['crop', 'fixed_crop'])
@pytest.mark.parametrize('size', [1, 17, 40])
def test_the_box_says_what_is_seen(folder, mode, size):
    data = single(folder, gt_size=size, real_mode=mode)
    turns = set()
    for seed in range(60):
        sample = data.sample(seed % 3, rng(seed))
        assert set(sample) == {'lq', 'lq_path', 'key', 'box'}
        assert sample['lq'].shape == (3, size, size)
        assert sample['box'].dtype == torch.int64
        np.testing.assert_array_equal(pixels(sample['lq']), seen_through(picture(seed % 3), sample['box']))
        turns.add(tuple(sample['box'][4:].tolist()))
    assert turns == {(m, t) for m in (0, 1) for t in range(4)}


def test_random_windows_reach_every_place(folder):
    data = single(folder, gt_size=38, use_hflip=False, use_rot=False)
    boxes = [data.sample(0, rng(s))['box'].tolist() for s in range(300)]
    assert {b[0] for b in boxes} == {0, 1, 2}
    assert {b[1] for b in boxes} == set(range(19))
    assert all(b[2:] == [38, 38, 0, 0] for b in boxes)


def test_a_fixed_window_is_that_of_the_image_alone(folder):
    still = {'real_mode': 'fixed_crop', 'use_hflip': False, 'use_rot': False}
    data, other = single(folder, gt_size=16, **still), single(folder, gt_size=16, **still)
    samples = [[d.sample(i, rng(s)) for s in range(5) for d in (data, other)] for i in range(3)]
    for views in samples:
        assert all(torch.equal(v['lq'], views[0]['lq']) for v in views)
        assert all(torch.equal(v['box'], views[0]['box']) for v in views)
    assert len({tuple(views[0]['box'].tolist()) for views in samples}) == 3


@pytest.mark.parametrize(('interpolation', 'code'), [('cubic', cv2.INTER_CUBIC), ('area', cv2.INTER_AREA)])
def test_resizing_shows_the_whole_image_alike_each_time(folder, interpolation, code):
    data = single(folder, gt_size=24, real_mode='resize', interpolation=interpolation, use_hflip=False, use_rot=False)
    for seed in range(3):
        sample = data.sample(0, rng(seed))
        np.testing.assert_array_equal(pixels(sample['lq']), cv2.resize(picture(0), (24, 24), interpolation=code))
        assert sample['box'].tolist() == [0, 0, 40, 56, 0, 0]


def test_a_resized_image_is_turned_as_the_box_says(folder):
    data = single(folder, gt_size=24, real_mode='resize')
    small = cv2.resize(picture(1), (24, 24), interpolation=cv2.INTER_CUBIC)
    turns = set()
    for seed in range(60):
        sample = data.sample(1, rng(seed))
        assert sample['box'][:4].tolist() == [0, 0, 40, 56]
        mirrored, quarter = sample['box'][4:].tolist()
        np.testing.assert_array_equal(pixels(sample['lq']), np.rot90(small[:, ::-1] if mirrored else small, quarter))
        turns.add((mirrored, quarter))
    assert len(turns) == 8


def test_without_a_size_the_whole_image_is_seen(folder):
    sample = single(folder, use_hflip=False, use_rot=False).sample(0, rng())
    assert torch.equal(sample['lq'], to_tensor(picture(0)))
    assert sample['box'].tolist() == [0, 0, 40, 56, 0, 0]


def test_the_engine_can_override_the_size(folder):
    for mode in ('crop', 'fixed_crop', 'resize'):
        data = single(folder, gt_size=8, real_mode=mode)
        assert data.sample(0, rng(), gt_size=32)['lq'].shape == (3, 32, 32)
    assert single(folder, gt_size=32, scale=2).sample(0, rng())['lq'].shape == (3, 16, 16)


def test_a_size_that_does_not_fit_the_scale_is_refused(folder):
    with pytest.raises(OptionError, match='positive multiple of scale'):
        single(folder, gt_size=9, scale=2)
    with pytest.raises(DataError, match=r"a\.png': gt_size 9 must be a multiple of scale 2"):
        single(folder, gt_size=8, scale=2).sample(0, rng(), gt_size=9)


def test_an_image_smaller_than_the_crop_is_named_with_what_helps(folder):
    with pytest.raises(DataError, match=r"a\.png' is 56x40 pixels and does not fill a crop of 48.*upscale_small: true"):
        single(folder, gt_size=48).sample(0, rng())


@pytest.mark.parametrize('shape', [(40, 56), (7, 90), (47, 47), (3, 2)])
def test_a_small_image_is_enlarged_on_request(tmp_path, shape):
    write_image(tmp_path / 'a.png', picture(0, *shape))
    data = single(tmp_path, gt_size=48, upscale_small=True, use_hflip=False, use_rot=False)
    tops = set()
    for seed in range(20):
        sample = data.sample(0, rng(seed))
        assert sample['lq'].shape == (3, 48, 48)
        factor = 48 / min(shape)
        top, left = sample['box'][:2].tolist()
        assert top + 48 <= np.ceil(shape[0] * factor) + 1e-9
        assert left + 48 <= np.ceil(shape[1] * factor) + 1e-9
        tops.add((top, left))
    assert len(tops) > 1 or abs(shape[0] - shape[1]) <= 1
    large = single(tmp_path, gt_size=2, upscale_small=True, use_hflip=False, use_rot=False).sample(0, rng())
    np.testing.assert_array_equal(pixels(large['lq']), seen_through(picture(0, *shape), large['box']))


def test_16_bit_images_keep_their_depth(tmp_path):
    image = rng().integers(0, 65536, (20, 20, 3), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / 'a.png'), image[..., ::-1])
    lq = single(tmp_path, gt_size=20, use_hflip=False, use_rot=False).sample(0, rng())['lq']
    np.testing.assert_array_equal(np.rint(lq.numpy().transpose(1, 2, 0) * 65535), image)


def test_a_list_chooses_the_images_and_their_order(folder):
    (folder.parent / 'list.txt').write_text('# real photographs\ndeep/c.png\na.png (40,56,3)\n')
    assert single(folder, meta_info_file=str(folder.parent / 'list.txt')).keys == ['deep_c', 'a']
    (folder.parent / 'list.txt').write_text('gone.png\n')
    with pytest.raises(DataError, match=r"images that '.*lq' does not hold: 'gone'"):
        single(folder, meta_info_file=str(folder.parent / 'list.txt'))


def test_several_roots_are_one_set(folder, tmp_path):
    write_image(tmp_path / 'more/d.png', picture(7))
    data = make(dataroot_lq=[str(folder), str(tmp_path / 'more')], phase='val')
    assert data.keys == ['a', 'b', 'deep_c', 'd']
    assert data.parts == [3, 1]


@pytest.mark.parametrize('cache', ['ram', 'memmap'])
@pytest.mark.parametrize('mode', ['crop', 'resize'])
def test_a_cache_changes_nothing(folder, tmp_path, cache, mode):
    plain = single(folder, gt_size=16, real_mode=mode)
    kept = single(folder, gt_size=16, real_mode=mode, cache=cache, cache_dir=str(tmp_path / 'cache'))
    for _ in range(2):
        for i in range(3):
            assert torch.equal(plain.sample(i, rng(i))['lq'], kept.sample(i, rng(i))['lq'])
    (folder / 'a.png').unlink()
    assert torch.equal(kept.sample(0, rng(9))['lq'], kept.sample(0, rng(9))['lq'])
    with pytest.raises(DataError):
        plain.sample(0, rng())


def test_a_missing_folder_and_a_damaged_file_are_named(folder):
    with pytest.raises(DataError, match='nowhere'):
        single(folder / 'nowhere')
    (folder / 'a.png').write_bytes(b'')
    with pytest.raises(DataError, match=r'a\.png.*empty'):
        single(folder, gt_size=8).sample(0, rng())


def test_a_pickled_copy_gives_the_same(folder):
    data = single(folder, gt_size=16)
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy.sample(2, rng(5))['lq'], data.sample(2, rng(5))['lq'])


def test_loader_processes_change_nothing(folder):
    block = {'type': 'SingleImageDataset', 'phase': 'train', 'dataroot_lq': str(folder), 'gt_size': 16,
             'batch_size_per_gpu': 2}  # fmt: skip
    found = []
    for workers in (0, 2):
        opt = {**block, 'num_worker_per_gpu': workers}
        loader = batches(build_dataloader(build_dataset(opt), opt, seed=3))
        found.append([next(loader) for _ in range(4)])
    for here, there in zip(*found):
        assert torch.equal(here['lq'], there['lq'])
        assert torch.equal(here['box'], there['box'])
        assert here['key'] == there['key']
        assert here['box'].shape == (2, 6)
