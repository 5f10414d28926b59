"""A cache gives the same pixels, is shared by processes, and is never trusted more than it deserves."""

import json
import multiprocessing
import pickle
import shutil

import numpy as np
import pytest
import torch

from basicsr import image_cache
from basicsr.data import build_dataset
from basicsr.errors import DataError
from basicsr.image_io import write_image
from basicsr.image_source import open_source
from basicsr.loader import SampleStream, batches, train_loader
from basicsr.options import dataset_options

METHODS = [m for m in ('fork', 'spawn', 'forkserver') if m in multiprocessing.get_all_start_methods()]


def picture(seed, height=30, width=40, dtype=np.uint8, shape=(3,)):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, (height, width, *shape), dtype=dtype)


@pytest.fixture
def folder(tmp_path):
    """Images of several sizes and depths, so that a wrong offset shows."""
    write_image(tmp_path / 'images/a.png', picture(0))
    write_image(tmp_path / 'images/b.png', picture(1, 7, 91, np.uint16))
    write_image(tmp_path / 'images/c.bmp', picture(2, 1, 1))
    write_image(tmp_path / 'images/d.png', picture(3, 51, 13, shape=()))  # grey
    return tmp_path / 'images'


def expected(stem):
    grey = picture(3, 51, 13, shape=())
    images = {'a': picture(0), 'b': picture(1, 7, 91, np.uint16), 'c': picture(2, 1, 1), 'd': np.stack([grey] * 3, 2)}
    return images[stem]


def cached(folder, cache='ram', **arguments):
    return open_source(folder, cache=cache, cache_dir=str(folder.parent / 'cache'), **arguments)


def file_of(folder):
    return next((folder.parent / 'cache').glob('*/cache.bin'))


def forget(folder):
    """Damages the images but not their sizes and times: what is read afterwards comes from the cache."""
    import os

    for file in folder.iterdir():
        state = file.stat()
        file.write_bytes(bytes(state.st_size))
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))


@pytest.mark.parametrize('cache', ['ram', 'memmap'])
def test_the_pixels_are_those_of_the_files(folder, cache):
    source = cached(folder, cache)
    for _ in range(2):
        for stem in source.stems:
            found = source.pixels(stem)
            assert found.dtype == expected(stem).dtype
            np.testing.assert_array_equal(found, expected(stem))
            with pytest.raises(ValueError, match='read-only'):
                found[0, 0] = 0
        forget(folder)
    assert (source.kind, source.parts, source.path('a')) == ('disk', [4], str(folder / 'a.png'))


def test_grey_images_take_a_third(folder):
    grey = picture(0, 30, 40, np.uint16, ())
    write_image(folder.parent / 'depth/a.png', grey)
    source = cached(folder.parent / 'depth', mode='grey')
    np.testing.assert_array_equal(source.pixels('a'), grey)


def test_a_later_run_finds_the_file(folder):
    for stem in cached(folder, 'memmap').stems[:3]:
        cached(folder, 'memmap').pixels(stem)
    forget(folder)
    later = cached(folder, 'memmap')
    for stem in later.stems[:3]:
        np.testing.assert_array_equal(later.pixels(stem), expected(stem))
    with pytest.raises(DataError, match=r'd\.png'):  # it was not asked for in time
        later.pixels('d')


def test_another_file_gets_another_cache(folder):
    cached(folder, 'memmap').pixels('a')
    write_image(folder / 'a.png', picture(9))
    np.testing.assert_array_equal(cached(folder, 'memmap').pixels('a'), picture(9))


@pytest.mark.parametrize('place', ['first', 'middle', 'last'])
def test_a_damaged_cache_is_filled_again(folder, place):
    source = cached(folder, 'memmap')
    source.pixels('a')
    record = source._store.records[0]
    length = 30 * 40 * 3
    at = int(record['offset']) + {'first': 0, 'middle': length // 2, 'last': length - 1}[place]
    with file_of(folder).open('r+b') as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    np.testing.assert_array_equal(cached(folder, 'memmap').pixels('a'), expected('a'))


def test_a_cache_whose_making_was_killed_is_made_again(folder):
    cached(folder, 'memmap').pixels('a')
    file_of(folder).with_suffix('.json').unlink()
    file_of(folder).write_bytes(b'half')
    np.testing.assert_array_equal(cached(folder, 'memmap').pixels('a'), expected('a'))
    facts = json.loads(file_of(folder).with_suffix('.json').read_text())
    assert facts['images'] == 4
    assert facts['bytes'] == file_of(folder).stat().st_size


def test_an_image_that_changes_its_size_meanwhile_is_named(folder):
    source = cached(folder)
    write_image(folder / 'a.png', picture(9, 31, 40))
    with pytest.raises(DataError, match=r"a\.png' has changed since its cache was laid out"):
        source.pixels('a')


def test_too_little_memory_or_disk_is_said_before_any_work(folder, monkeypatch):
    monkeypatch.setattr(image_cache, 'free_memory', lambda device: 1000)
    with pytest.raises(DataError, match=r'cache: ram needs 0\.0 GB for the 4 images .* write cache: memmap'):
        cached(folder)
    usage = shutil.disk_usage(folder)._replace(free=1000)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
    with pytest.raises(DataError, match=r'cache: memmap needs .* name a cache_dir on a larger disk'):
        cached(folder, 'memmap')
    assert not list((folder.parent / 'cache').glob('*/cache.bin'))


def test_a_cache_folder_that_cannot_be_made_is_named(folder):
    (folder.parent / 'cache').write_text('a file')
    with pytest.raises(DataError, match=r'The cache .* cannot be made'):
        cached(folder, 'memmap')


def _read_all(source, answers):
    answers.put([source.pixels(stem).sum(dtype=np.int64) for stem in source.stems])


@pytest.mark.parametrize('cache', ['ram', 'memmap'])
@pytest.mark.parametrize('method', METHODS)
def test_processes_share_a_cache(folder, method, cache):
    """One process decodes, the next one and this one find the pixels, although the files are gone."""
    source = cached(folder, cache)
    context = multiprocessing.get_context(method)
    sums = [int(expected(stem).sum(dtype=np.int64)) for stem in source.stems]
    for _ in range(2):
        answers = context.Queue()
        process = context.Process(target=_read_all, args=(source, answers))
        process.start()
        assert answers.get(timeout=60) == sums
        process.join()
        forget(folder)
    assert [int(source.pixels(stem).sum(dtype=np.int64)) for stem in source.stems] == sums


def test_a_memmap_cache_survives_pickling(folder):
    source = pickle.loads(pickle.dumps(cached(folder, 'memmap')))
    np.testing.assert_array_equal(source.pixels('a'), expected('a'))


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('cache', ['ram', 'memmap'])
def test_training_sees_the_same_samples_with_and_without_a_cache(tmp_path, workers, cache):
    for i in range(5):
        write_image(tmp_path / f'gt/{i}.png', picture(i))
        write_image(tmp_path / f'lq/{i}.png', picture(i + 10))

    def first(kind, count=6):
        block = {
            'type': 'PairedImageDataset', 'dataroot_gt': str(tmp_path / 'gt'), 'dataroot_lq': str(tmp_path / 'lq'),
            'gt_size': 16, 'batch_size_per_gpu': 2, 'num_worker_per_gpu': workers, 'cache': kind,
            'cache_dir': str(tmp_path / 'cache'),
        }  # fmt: skip
        options = dataset_options(block, 'train')
        dataset = build_dataset(options)
        feed = batches(train_loader(dataset, options, SampleStream(len(dataset), options.loader, 0), False))
        return [next(feed) for _ in range(count)]

    for a, b in zip(first('none'), first(cache), strict=True):
        assert a['key'] == b['key']
        assert torch.equal(a['gt'], b['gt'])
        assert torch.equal(a['lq'], b['lq'])
