"""A root may be a folder, an LMDB, shards or several of them: the images are the same."""

import pickle
import tarfile

import numpy as np
import pytest

from basicsr.errors import DataError, OptionError
from basicsr.image_io import write_image
from basicsr.image_source import open_source, parts_of
from basicsr.lmdb_make import create

NAMES = ('a.png', 'b.v1.png', 'deep/c.png')


def picture(seed, height=12, width=20, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, (height, width, 3), dtype=dtype)


@pytest.fixture
def folder(tmp_path):
    for i, name in enumerate(NAMES):
        write_image(tmp_path / 'images' / name, picture(i))
    return tmp_path / 'images'


def tar_of(folder, path, ending='.png'):
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, 'w') as tar:
        for name in NAMES:
            tar.add(folder / name, name.replace('.png', ending).replace('.v1', '-v1'))
    return path


def test_folder_lmdb_and_shards_hold_the_same_images(folder, tmp_path):
    create(folder, tmp_path / 'x.lmdb')
    tar_of(folder, tmp_path / 'shards' / '000.tar')
    kinds = {'images': 'disk', 'x.lmdb': 'lmdb', 'shards': 'shards', 'shards/000.tar': 'shards'}
    for place, kind in kinds.items():
        source = open_source(tmp_path / place)
        assert source.kind == kind
        assert [s.replace('-v1', '.v1') for s in source.stems] == ['a', 'b.v1', 'deep/c']
        assert len(source) == 3
        assert source.parts == [3]
        for i, stem in enumerate(source.stems):
            assert stem in source
            np.testing.assert_array_equal(source.pixels(stem), picture(i))
            assert source.info(stem)[:2] == (20, 12)
            assert place in source.path(stem)


def test_what_is_there_is_recognised_and_io_backend_must_agree(folder, tmp_path):
    create(folder, tmp_path / 'x.lmdb')
    assert open_source(folder, io_backend={'type': 'disk'}).kind == 'disk'
    with pytest.raises(OptionError, match=r"io_backend\.type is disk, but '.*x.lmdb' is read as lmdb"):
        open_source(tmp_path / 'x.lmdb', io_backend={'type': 'disk'})


def test_an_lmdb_without_the_usual_ending_is_recognised_by_its_content(folder, tmp_path):
    create(folder, tmp_path / 'x.lmdb')
    (tmp_path / 'x.lmdb').rename(tmp_path / 'renamed')
    assert open_source(tmp_path / 'renamed').kind == 'lmdb'


def test_a_download_beside_the_images_is_passed_over(folder):
    tar_of(folder, folder / 'Rain100L.tar')
    assert open_source(folder).kind == 'disk'


@pytest.mark.parametrize('as_list', [True, False])
def test_several_lmdbs_are_one_source(folder, tmp_path, as_list):
    for name in ('one', 'two'):
        write_image(tmp_path / name / f'{name}.png', picture(7))
        create(tmp_path / name, tmp_path / 'all' / f'{name}.lmdb')
    create(folder, tmp_path / 'all' / 'three.lmdb')
    roots = sorted(str(p) for p in (tmp_path / 'all').iterdir()) if as_list else tmp_path / 'all'
    source = open_source(roots)
    assert source.kind == ('several')
    assert source.stems == ['one', 'a', 'b.v1', 'deep/c', 'two']
    assert source.parts == [1, 3, 1]
    np.testing.assert_array_equal(source.pixels('b.v1'), picture(1))
    assert 'three.lmdb' in source.path('b.v1')
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again.pixels('two'), picture(7))


def test_a_name_in_two_places_is_refused(folder, tmp_path):
    write_image(tmp_path / 'more' / 'a.png', picture(3))
    with pytest.raises(DataError, match=r"Image 'a' is in .*images and in .*more"):
        open_source([str(folder), str(tmp_path / 'more')])


def test_two_endings_of_one_name_are_refused(folder):
    write_image(folder / 'a.bmp', picture(3))
    with pytest.raises(DataError, match='differ only in their ending'):
        open_source(folder)


def test_shards_with_several_fields(folder, tmp_path):
    shards = tmp_path / 'pairs'
    shards.mkdir()
    with tarfile.open(shards / '0.tar', 'w') as tar:
        tar.add(folder / 'a.png', 'x.gt.png')
        tar.add(folder / 'b.v1.png', 'x.lq.png')
    np.testing.assert_array_equal(open_source(shards, 'gt').pixels('x'), picture(0))
    np.testing.assert_array_equal(open_source(shards, 'lq').pixels('x'), picture(1))
    with pytest.raises(DataError, match='depth'):
        open_source(shards, 'depth')


def test_missing_roots_and_images_are_named(folder, tmp_path):
    with pytest.raises(DataError, match='nowhere'):
        open_source(tmp_path / 'nowhere')
    with pytest.raises(DataError, match=r'nowhere\.lmdb'):
        open_source(tmp_path / 'nowhere.lmdb')
    with pytest.raises(OptionError, match='empty'):
        open_source([])
    for action in ('pixels', 'info', 'path'):
        with pytest.raises(DataError, match="holds no image 'z'"):
            getattr(open_source(folder), action)('z')


def test_grey_sources_keep_their_depth(tmp_path):
    depth = picture(0, dtype=np.uint16)[..., 0]
    write_image(tmp_path / 'd' / 'a.png', depth)
    found = open_source(tmp_path / 'd', mode='grey').pixels('a')
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, depth)


def test_parts_of_a_selection(folder, tmp_path):
    for name in ('one', 'two'):
        create(folder if name == 'one' else _copies(tmp_path / name), tmp_path / 'all' / f'{name}.lmdb')
    source = open_source(tmp_path / 'all')
    assert source.parts == [3, 2]
    assert parts_of(source, source.stems) == [3, 2]
    assert parts_of(source, ['a', 'x0', 'x1']) == [1, 2]
    assert parts_of(source, ['x1', 'a']) == [1, 1]
    assert parts_of(source, ['x1', 'a', 'x0']) is None  # it comes back to a part
    assert parts_of(open_source(folder), ['a']) is None  # one part is no part


def _copies(folder):
    for i in range(2):
        write_image(folder / f'x{i}.png', picture(i))
    return folder
