"""Data sets: what belongs together comes together, and what does not is named."""

import cv2
import numpy as np
import pytest
import torch

from basicsr.data.base_dataset import first_few, unique_keys
from basicsr.errors import DataError, OptionError
from basicsr.image_io import read_image, to_tensor, write_image
from basicsr.registry import DATASET_REGISTRY

FIVE = [{'type': t} for t in ('Haze', 'Rain', 'Snow', 'LowLight', 'Underwater')]


def make(name, **arguments):
    return DATASET_REGISTRY.get(name)(**arguments)


def rng(seed=0):
    return np.random.default_rng(seed)


def picture(seed, height=40, width=56):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def folders(tmp_path):
    """Clean and degraded images of the same content, so that any misplaced window shows."""
    for i, name in enumerate(['a.png', 'b.png', 'deep/c.png']):
        write_image(tmp_path / 'gt' / name, picture(i))
        write_image(tmp_path / 'lq' / name, picture(i))
    return tmp_path


def paired(folders, **arguments):
    arguments = {'dataroot_gt': str(folders / 'gt'), 'dataroot_lq': str(folders / 'lq'), **arguments}
    return make('PairedImageDataset', **arguments)


# Pairs


def test_pairs_are_found_in_sub_folders_and_over_endings(folders):
    write_image(folders / 'gt' / 'd.png', picture(9))
    write_image(folders / 'lq' / 'd.bmp', picture(9))
    data = paired(folders, phase='val', task='haze')
    assert len(data) == 4
    assert [s['key'] for s in data] == ['a', 'b', 'd', 'deep_c']
    sample = data[2]
    assert sample['lq_path'].endswith('d.bmp')
    assert sample['gt_path'].endswith('d.png')
    assert sample['task'] == 'haze'
    assert 'task' not in paired(folders)[0]
    torch.testing.assert_close(sample['gt'], to_tensor(picture(9)), rtol=0, atol=0)


def test_validation_gives_whole_images_without_augmentation(folders):
    data = paired(folders, phase='val', gt_size=8)
    for seed in range(4):
        torch.testing.assert_close(data.sample(0, rng(seed), 16)['gt'], to_tensor(picture(0)), rtol=0, atol=0)


@pytest.mark.parametrize('size', [1, 17, 40])
def test_both_sides_get_the_same_window_and_turn(folders, size):
    data = paired(folders, gt_size=size)
    seen = set()
    for seed in range(30):
        sample = data.sample(seed % 3, rng(seed))
        assert sample['gt'].shape == (3, size, size)
        assert sample['gt'].dtype == torch.float32
        assert torch.equal(sample['gt'], sample['lq'])
        seen.add(sample['gt'].numpy().tobytes())
    assert len(seen) > 20


def test_a_crop_is_a_window_of_the_image(folders):
    data = paired(folders, gt_size=12, use_hflip=False, use_rot=False)
    whole = read_image(folders / 'gt' / 'a.png')
    corners = set()
    for seed in range(200):
        crop = data.sample(0, rng(seed))['gt'].numpy().transpose(1, 2, 0)
        found = [(y, x) for y in range(29) for x in range(45) if np.array_equal(whole[y : y + 12, x : x + 12], crop)]
        assert len(found) == 1
        corners.add(found[0])
    assert {c[0] for c in corners} >= {0, 28}  # the last position is reached
    assert min(c[1] for c in corners) == 0 or max(c[1] for c in corners) == 44


def test_all_eight_turns_occur_and_can_be_switched_off(folders):
    whole = picture(0).astype(np.float32) / 255

    def seen(**arguments):
        data = paired(folders, **arguments)
        return {data.sample(0, rng(s))['gt'].numpy().transpose(1, 2, 0).tobytes() for s in range(120)}

    mirrored = whole[:, ::-1]
    every = {np.ascontiguousarray(np.rot90(i, k)).tobytes() for i in (whole, mirrored) for k in range(4)}
    assert seen() == every
    assert seen(use_rot=False) == {whole.tobytes(), np.ascontiguousarray(mirrored).tobytes()}
    assert seen(use_hflip=False) == {np.ascontiguousarray(np.rot90(whole, k)).tobytes() for k in range(4)}
    assert seen(use_hflip=False, use_rot=False) == {whole.tobytes()}


def test_a_smaller_input_keeps_step_with_the_crop(folders):
    """With scale 2 the window of the small image covers the same ground."""
    for name in ('a.png', 'b.png', 'deep/c.png'):
        small = read_image(folders / 'lq' / name)
        write_image(folders / 'gt' / name, np.kron(small, np.ones((2, 2, 1), np.float32)))
    data = paired(folders, gt_size=24, scale=2)
    for seed in range(20):
        sample = data.sample(seed % 3, rng(seed))
        assert sample['lq'].shape == (3, 12, 12)
        torch.testing.assert_close(sample['gt'][:, ::2, ::2], sample['lq'], rtol=0, atol=0)


def test_the_engine_can_override_the_crop_size(folders):
    assert paired(folders, gt_size=8).sample(0, rng(), gt_size=32)['gt'].shape == (3, 32, 32)
    assert paired(folders, gt_size=None).sample(0, rng(), gt_size=32)['lq'].shape == (3, 32, 32)


def test_the_generator_alone_decides(folders):
    data = paired(folders, gt_size=16)
    torch.testing.assert_close(data.sample(0, rng(3))['gt'], paired(folders, gt_size=16).sample(0, rng(3))['gt'])
    torch.testing.assert_close(data[1]['gt'], data[1]['gt'])


def test_a_template_names_the_partner(folders):
    for name in ('a', 'b', 'deep/c'):
        (folders / 'lq' / f'{name}.png').rename(folders / 'lq' / f'{name}x1.png')
    assert [s['lq_path'][-8:] for s in paired(folders, filename_tmpl='{}x1')] == ['/ax1.png', '/bx1.png', '/cx1.png']
    with pytest.raises(OptionError, match='filename_tmpl'):
        paired(folders, filename_tmpl='x1')


def test_a_meta_info_file_chooses_the_images(folders):
    write_image(folders / 'gt' / 'b 2.png', picture(5))
    write_image(folders / 'lq' / 'b 2.png', picture(5))
    (folders / 'meta.txt').write_text('deep/c.png (40,56,3)\n\nb 2.png (40, 56, 3)\na.png\n')
    data = paired(folders, phase='val', meta_info_file=str(folders / 'meta.txt'))
    assert [data[i]['key'] for i in range(3)] == ['deep_c', 'b 2', 'a']


@pytest.mark.parametrize(
    ('content', 'words'), [('gone.png (4,4,3)\n', "gt 'gone'"), ('\n', 'names no image'), (None, 'cannot be read')]
)
def test_a_wrong_meta_info_file_is_named(folders, content, words):
    if content is not None:
        (folders / 'meta.txt').write_text(content)
    with pytest.raises(DataError, match=words) as error:
        paired(folders, meta_info_file=str(folders / 'meta.txt'))
    assert 'meta.txt' in str(error.value)


def test_files_without_a_partner_are_named_with_the_counts(folders):
    for i in range(5):
        write_image(folders / 'gt' / f'lone{i}.png', picture(i))
    write_image(folders / 'lq' / 'odd.png', picture(1))
    with pytest.raises(DataError) as error:
        paired(folders, phase='val')
    text = str(error.value)
    assert text.startswith('The val set does not pair up: 8 clean images')
    assert '4 degraded ones' in text
    assert "gt 'lone0', 'lone1', 'lone2' and 2 more" in text
    assert "lq 'odd'" in text
    assert str(folders / 'lq') in text


def test_two_files_that_differ_only_in_their_ending_are_named(folders):
    write_image(folders / 'gt' / 'a.bmp', picture(0))
    with pytest.raises(DataError, match=r"a\.bmp' and '.*a\.png' differ only"):
        paired(folders)


def test_sizes_that_disagree_name_both_files_and_sizes(folders):
    write_image(folders / 'lq' / 'b.png', picture(1, 20, 30))
    data = paired(folders)
    with pytest.raises(DataError, match=r"gt/b\.png' \(56x40\) must be as large as '.*lq/b\.png' \(30x20\)"):
        data.sample(1, rng())
    with pytest.raises(DataError, match='2 times as large'):
        paired(folders, scale=2).sample(0, rng())


def test_an_image_smaller_than_the_crop_is_named(folders):
    with pytest.raises(DataError, match=r"a\.png' is 56x40 pixels and does not fill a crop of gt_size 48"):
        paired(folders, gt_size=48).sample(0, rng())


@pytest.mark.parametrize('arguments', [{'gt_size': 0}, {'gt_size': 9, 'scale': 2}, {'scale': 0}])
def test_crops_that_cannot_be_are_refused(folders, arguments):
    with pytest.raises(OptionError, match='positive multiple of scale'):
        paired(folders, **arguments)


def test_an_override_that_does_not_fit_the_scale_is_refused(folders):
    write_image(folders / 'gt' / 'a.png', picture(0, 80, 112))
    with pytest.raises(DataError, match='multiple of scale 2'):
        paired(folders, scale=2).sample(0, rng(), gt_size=9)


def test_a_damaged_file_is_named_when_it_is_read(folders):
    (folders / 'lq' / 'a.png').write_bytes(b'')
    with pytest.raises(DataError, match=r'lq/a\.png.*empty'):
        paired(folders).sample(0, rng())


@pytest.mark.parametrize('side', ['dataroot_gt', 'dataroot_lq'])
def test_a_missing_folder_is_named(folders, side):
    with pytest.raises(DataError, match='nowhere'):
        paired(folders, **{side: str(folders / 'nowhere')})


def test_iteration_ends(folders):
    assert len(list(paired(folders))) == 3
    with pytest.raises(IndexError):
        paired(folders)[-1]


# Pairs made on the fly


@pytest.fixture
def photos(tmp_path):
    for i in range(3):
        smooth = cv2.resize(picture(i, 6, 8), (80, 60), interpolation=cv2.INTER_CUBIC)
        write_image(tmp_path / f'photo{i}.png', smooth)
    return tmp_path


def online(photos, **arguments):
    return make('OnlineDegradationDataset', **{'dataroot_gt': str(photos), 'degradations': FIVE, **arguments})


def test_training_draws_every_degradation_and_crops_first(photos):
    data = online(photos, gt_size=32)
    assert len(data) == 3
    samples = [data.sample(i % 3, rng(i)) for i in range(60)]
    assert {s['task'] for s in samples} == {'haze', 'rain', 'snow', 'low_light', 'underwater'}
    assert {s['key'] for s in samples} <= {f'{s["task"]}_photo{i}' for s in samples for i in range(3)}
    for s in samples:
        assert s['gt'].shape == s['lq'].shape == (3, 32, 32)
        assert s['lq'].min() >= 0
        assert s['lq'].max() <= 1
        assert not torch.equal(s['lq'], s['gt'])


def test_the_degraded_image_is_rounded_as_in_a_file(photos):
    lq = online(photos, gt_size=32).sample(0, rng())['lq'] * 255
    torch.testing.assert_close(lq, lq.round(), rtol=0, atol=1e-4)


def test_the_clean_side_is_a_window_of_the_photo(photos):
    whole = read_image(photos / 'photo1.png')
    crop = online(photos, gt_size=20, use_hflip=False, use_rot=False).sample(1, rng(4))['gt'].numpy().transpose(1, 2, 0)
    assert any(np.array_equal(whole[y : y + 20, x : x + 20], crop) for y in range(41) for x in range(61))


def test_validation_shows_every_photo_under_every_degradation_alike_each_time(photos):
    data, again = online(photos, phase='val', gt_size=8), online(photos, phase='val', cache='ram')
    assert len(data) == 15
    keys = []
    for i in range(15):
        first = data.sample(i, rng(i))
        assert first['gt'].shape == (3, 60, 80)
        for other in (data.sample(i, rng(99), 16), data[i], again[i]):
            assert torch.equal(first['lq'], other['lq'])
            assert torch.equal(first['gt'], other['gt'])
            assert first['key'] == other['key']
        keys.append(first['key'])
    assert keys[:5] == ['haze_photo0', 'rain_photo0', 'snow_photo0', 'low_light_photo0', 'underwater_photo0']
    assert len(set(keys)) == 15


def test_two_degradations_of_one_kind_have_keys_of_their_own(photos):
    two = [{'type': 'Haze', 'beta': (0.2, 0.2)}, {'type': 'Haze', 'beta': (2.0, 2.0)}]
    data = online(photos, phase='test', degradations=two)
    assert [data[i]['key'] for i in range(2)] == ['haze_photo0', 'haze_photo0-2']
    assert {data[i]['task'] for i in range(2)} == {'haze'}


def test_validation_photos_are_reduced_on_request(photos):
    assert online(photos, phase='val', val_size=40)[0]['gt'].shape == (3, 30, 40)
    assert online(photos, phase='val', val_size=400)[0]['gt'].shape == (3, 60, 80)


def test_a_cache_serves_photos_that_are_gone(photos):
    data, without = online(photos, gt_size=16, cache='ram'), online(photos, gt_size=16)
    expected = [without.sample(i, rng(i)) for i in range(3)]
    for _ in range(2):
        for i in range(3):
            sample = data.sample(i, rng(i))
            assert torch.equal(sample['gt'], expected[i]['gt'])
            assert torch.equal(sample['lq'], expected[i]['lq'])
        for file in photos.glob('*'):
            file.unlink()
    with pytest.raises(DataError, match=r'photo0\.png'):
        without.sample(0, rng(0))


def test_a_list_selects_photos(photos, tmp_path):
    (tmp_path / 'use.txt').write_text('# two of them\nphoto2.png (60,80,3)\nphoto0\n')
    data = online(photos, phase='val', meta_info_file=str(tmp_path / 'use.txt'))
    assert len(data) == 10
    assert data[0]['gt_path'].endswith('photo2.png')
    (tmp_path / 'use.txt').write_text('photo9.png\n')
    with pytest.raises(DataError, match=r"use\.txt' names images that .* does not hold: 'photo9'"):
        online(photos, meta_info_file=str(tmp_path / 'use.txt'))


class Far:
    """A degradation that shows the depth map it was given."""

    task, uses_depth = 'far', True

    def __call__(self, image, rng, depth=None):
        return np.repeat(depth[..., None], 3, 2).astype(np.float32)


@pytest.mark.parametrize('phase', ['train', 'val'])
def test_depth_maps_are_cut_and_turned_like_the_photo(photos, tmp_path_factory, phase):
    """The depth map is the photo's red channel in 16 bits, so the degraded image must be the clean one's red."""
    depth = tmp_path_factory.mktemp('depth')
    for file in photos.glob('*.png'):
        red = np.rint(read_image(file)[..., 0] * 65535).astype(np.uint16)
        write_image(depth / file.name, red)
    for inverse in (False, True):
        data = online(
            photos, phase=phase, gt_size=20, dataroot_depth=str(depth), inverse_depth=inverse,
            degradations=[{'type': 'Haze'}],
        )  # fmt: skip
        data.degradations = [Far()]
        for seed in range(8):
            sample = data.sample(seed % 3, rng(seed))
            red = sample['gt'][0]
            torch.testing.assert_close(sample['lq'][0], 1 - red if inverse else red, rtol=0, atol=0.003)


class Kept:
    """A degradation that leaves the photograph as it is."""

    task = 'none'

    def __call__(self, image, rng):
        return image


@pytest.mark.parametrize('phase', ['train', 'val'])
def test_inputs_are_made_from_sources_that_are_cut_and_turned_like_the_photo(photos, tmp_path_factory, phase):
    sources = tmp_path_factory.mktemp('sources')
    for file in photos.glob('*.png'):
        write_image(sources / file.name, np.rint(255 - read_image(file) * 255).astype(np.uint8))
    data = online(photos, phase=phase, gt_size=20, dataroot_source=str(sources), degradations=[{'type': 'Haze'}])
    data.degradations = [Kept()]
    for seed in range(8):
        sample = data.sample(seed % 3, rng(seed))
        torch.testing.assert_close(sample['lq'], 1 - sample['gt'], rtol=0, atol=0.003)


def test_sources_that_do_not_fit_are_named(photos, tmp_path_factory):
    sources = tmp_path_factory.mktemp('sources')
    for i in range(3):
        write_image(sources / f'photo{i}.png', np.zeros((5, 5, 3), np.uint8))
    arguments = {'dataroot_source': str(sources), 'degradations': [{'type': 'Haze'}], 'gt_size': 16}
    with pytest.raises(DataError, match=r"Source '.*photo0\.png' is 5x5; the photograph is 80x60"):
        online(photos, **arguments).sample(0, rng())
    with pytest.raises(OptionError, match='dataroot_depth and dataroot_source do not go together'):
        online(photos, **arguments, dataroot_depth=str(sources))
    (sources / 'photo1.png').unlink()
    with pytest.raises(DataError, match="holds no source of 'photo1'"):
        online(photos, **arguments)


def test_depth_maps_that_do_not_fit_are_named(photos, tmp_path_factory):
    depth = tmp_path_factory.mktemp('depth')
    write_image(depth / 'photo0.png', np.zeros((5, 5), np.uint8))
    arguments = {'dataroot_depth': str(depth), 'degradations': [{'type': 'Haze'}], 'gt_size': 16}
    with pytest.raises(DataError, match="holds no depth map of 'photo1', 'photo2'"):
        online(photos, **arguments)
    for i in (1, 2):
        write_image(depth / f'photo{i}.png', np.zeros((5, 5), np.uint8))
    with pytest.raises(DataError, match=r"Depth map '.*photo0\.png' is 5x5; the photograph is 80x60"):
        online(photos, **arguments).sample(0, rng())


def test_a_photo_smaller_than_the_crop_is_named(photos):
    with pytest.raises(DataError, match=r"photo0\.png' is 80x60 pixels"):
        online(photos, gt_size=64).sample(0, rng())


def test_no_degradation_is_refused(photos):
    with pytest.raises(OptionError, match='degradations is empty'):
        online(photos, degradations=[])


def test_an_unknown_degradation_is_refused_with_the_known_ones(photos):
    with pytest.raises(OptionError, match='Did you mean Haze'):
        online(photos, degradations=[{'type': 'Hase'}])


# Names


def test_keys_are_unique_where_names_would_coincide():
    assert unique_keys(['a/b', 'a_b', 'A_B', 'a_b-2']) == ['a_b', 'a_b-2', 'A_B-3', 'a_b-2-2']


def test_long_lists_of_names_are_cut():
    assert first_few(['a']) == "'a'"
    assert first_few(['a', 'b', 'c', 'd']) == "'a', 'b', 'c' and 1 more"
