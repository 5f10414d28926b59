"""Several data sets as one: how often each comes, what a sample holds, and what goes wrong where."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from basicsr.data import build_dataloader, build_dataset
from basicsr.data._members import draw_sample
from basicsr.errors import DataError, OptionError
from basicsr.explain import explain
from basicsr.image_io import write_image
from basicsr.loader import batches
from basicsr.options import from_dict, load
from basicsr.registry import import_plugins

from .runs import ROOT

TINY = str(Path(__file__).parent / 'plugins/tiny.py')
PHOTOS = 5144  # BSD400 and WED
SIZES = {'denoise_15': PHOTOS, 'denoise_25': PHOTOS, 'denoise_50': PHOTOS, 'derain': 200, 'dehaze': 72135,
         'deblur': 2103, 'lowlight': 485}  # fmt: skip
EPOCHS = {'promptir_3task_data.yml': 142_431, 'promptir_5task_data.yml': 162_646}  # samples, PromptIR and AdaIR


@pytest.fixture(autouse=True)
def _tiny():
    import_plugins([TINY])


def rng(seed=0):
    return np.random.default_rng(seed)


def tiny(length=3, **arguments):
    return {'type': 'TinyDataset', 'length': length, 'size': 8, **arguments}


def picture(seed, height=40, width=56):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def folders(tmp_path):
    for i in range(3):
        for side in ('gt', 'lq'):
            write_image(tmp_path / side / f'{i}.png', picture(i))
    return tmp_path


def pairs(folders, **arguments):
    roots = {'dataroot_gt': str(folders / 'gt'), 'dataroot_lq': str(folders / 'lq')}
    return {'type': 'PairedImageDataset', **roots, 'gt_size': 16, **arguments}


def mix(datasets, phase='train', **arguments):
    return build_dataset({'type': 'MixtureDataset', 'phase': phase, 'datasets': datasets, **arguments})


def member_of(sample):
    return sample['key'].partition('-')[0]


def options(train):
    return {
        'name': 'mixed', 'imports': [TINY], 'network_g': {'type': 'TinyNet'}, 'datasets': {'train': train},
        'train': {'total_iter': 1, 'optim_g': {'type': 'AdamW'}, 'pixel_opt': {'type': 'L1Loss'}},
    }  # fmt: skip


def with_a_network(fragment, write):
    """A fragment of options/_base, completed to an option file and loaded."""
    rest = {k: v for k, v in options({}).items() if k != 'datasets'}
    return load(write('whole.yml', {'_base_': [str(ROOT / 'options/_base' / fragment)], **rest}))


# How often each member comes


def test_an_epoch_holds_every_sample_as_often_as_asked():
    data = mix({'a': tiny(3), 'b': tiny(5), 'c': tiny(2)}, repeats={'a': 4, 'c': 2})
    assert len(data) == 3 * 4 + 5 + 2 * 2
    seen = Counter(data[i]['key'] for i in range(len(data)))
    assert seen == {
        **{f'a-tiny_{i}': 4 for i in range(3)}, **{f'b-tiny_{i}': 1 for i in range(5)},
        **{f'c-tiny_{i}': 2 for i in range(2)},
    }  # fmt: skip


@pytest.mark.parametrize('file', EPOCHS)
def test_the_published_epochs_have_the_published_length(file, write):
    """The fragments' own repeats, on data sets of the published sizes."""
    train = with_a_network(file, write).datasets['train'].block
    assert list(train['datasets']) == list(SIZES)[: 5 if '3task' in file else 7]
    data = mix({name: tiny(SIZES[name]) for name in train['datasets']}, repeats=train['repeats'])
    assert len(data) == EPOCHS[file]
    assert [name for name, end in zip(data.names, data.ends.tolist()) if member_of(data[end - 1]) != name] == []
    starts = [0, *data.ends.tolist()[:-1]]
    assert [member_of(data[start]) for start in starts] == data.names


def test_repeats_have_random_numbers_of_their_own(folders):
    data = mix({'a': pairs(folders), 'b': tiny()}, repeats={'a': 5})
    views = [data[i]['lq'].numpy().tobytes() for i in range(0, 15, 3)]
    assert {data[i]['key'] for i in range(0, 15, 3)} == {'a-0'}
    assert len(set(views)) == 5
    opt = {'type': 'TinyDataset', 'phase': 'train', 'num_worker_per_gpu': 0}
    loader = batches(build_dataloader(mix({'a': pairs(folders)}, repeats={'a': 6}), opt, seed=1))
    epochs = [next(loader) for _ in range(36)]
    views = [b['lq'].numpy().tobytes() for b in epochs if b['key'] == ['a-0']]
    assert len(views) == len(set(views)) == 12


def test_weights_say_how_likely_each_member_is():
    data = mix({'a': tiny(4), 'b': tiny(50), 'c': tiny(9)}, weights={'a': 3, 'b': 1, 'c': 0}, length=4000)
    assert len(data) == 4000
    seen = Counter(member_of(data[i]) for i in range(4000))
    assert seen['c'] == 0
    assert abs(seen['a'] - 3000) < 5 * np.sqrt(4000 * 0.75 * 0.25)
    inner = Counter(data[i]['key'] for i in range(4000))
    assert all(abs(inner[f'a-tiny_{i}'] - 750) < 130 for i in range(4))
    assert len(inner) == 54


def test_with_weights_the_generator_alone_decides():
    data = mix({'a': tiny(4), 'b': tiny(50)}, weights={'a': 1, 'b': 1}, length=10)
    first, second = data.sample(0, rng(3)), data.sample(7, rng(3))
    assert first['key'] == second['key']
    assert torch.equal(first['lq'], second['lq'])


@pytest.mark.parametrize('phase', ['val', 'test'])
def test_validation_shows_every_sample_once(folders, phase):
    data = mix({'a': pairs(folders), 'b': pairs(folders, task='rain')}, phase)
    assert [s['key'] for s in data] == ['a-0', 'a-1', 'a-2', 'b-0', 'b-1', 'b-2']
    assert [s['task'] for s in data] == ['a'] * 3 + ['rain'] * 3
    assert data[0]['lq'].shape == (3, 40, 56)  # the phase reaches the members
    with pytest.raises(OptionError, match=f'repeats is for training; {phase} shows every sample once'):
        mix({'a': tiny()}, phase, repeats={'a': 2})


# What a sample holds


def test_a_sample_holds_what_all_members_give(folders):
    data = mix({'a': pairs(folders), 'b': tiny(size=16)}, repeats={'a': 1})
    for i in range(6):
        assert set(data[i]) == {'lq', 'gt', 'key', 'task'}
    both = mix({'a': pairs(folders), 'b': pairs(folders)}, repeats={'a': 1})
    assert set(both[0]) == {'lq', 'gt', 'lq_path', 'gt_path', 'key', 'task'}
    opt = {'type': 'TinyDataset', 'phase': 'train', 'batch_size_per_gpu': 6, 'num_worker_per_gpu': 0}
    assert next(batches(build_dataloader(data, opt)))['lq'].shape == (6, 3, 16, 16)


def test_real_images_alone_can_be_mixed(folders):
    real = {'type': 'SingleImageDataset', 'dataroot_lq': str(folders / 'lq'), 'gt_size': 16}
    data = mix({'a': real, 'b': real}, repeats={'a': 1})
    assert set(data[4]) == {'lq', 'lq_path', 'box', 'key', 'task'}


def test_task_is_the_members_own_or_its_name(folders):
    data = mix({'a': pairs(folders), 'b': pairs(folders, task='rain')}, repeats={'a': 1})
    assert [data[i]['task'] for i in (0, 3)] == ['a', 'rain']


def test_keys_of_two_members_never_coincide(folders):
    for side in ('gt', 'lq'):
        write_image(folders / side / 'b-0.png', picture(0))
    data = mix({'a': pairs(folders), 'a_b': pairs(folders)}, 'val')
    assert len({data[i]['key'] for i in range(len(data))}) == 8


def test_one_size_holds_for_all(folders):
    data = mix({'a': pairs(folders), 'b': pairs(folders, gt_size=24)}, repeats={'a': 1})
    assert data[3]['lq'].shape == (3, 24, 24)
    assert all(data.sample(i, rng(), gt_size=12)['lq'].shape == (3, 12, 12) for i in (0, 3))
    data = mix({'a': pairs(folders), 'b': pairs(folders, gt_size=24)}, repeats={'a': 1}, gt_size=20)
    assert all(data[i]['gt'].shape == (3, 20, 20) for i in range(6))


def test_the_scale_reaches_the_members(folders):
    for i in range(3):
        write_image(folders / 'gt' / f'{i}.png', np.kron(picture(i), np.ones((2, 2, 1), np.uint8)))
    data = mix({'a': pairs(folders)}, scale=2, repeats={'a': 1})
    assert data[0]['lq'].shape == (3, 8, 8)


def test_mixtures_can_be_nested(folders):
    inner = {'type': 'MixtureDataset', 'datasets': {'x': pairs(folders), 'y': pairs(folders)}, 'repeats': {'x': 2}}
    data = mix({'a': inner, 'b': pairs(folders)}, repeats={'a': 2, 'b': 1})
    assert len(data) == 9 * 2 + 3
    assert data[6]['key'] == 'a-y-0'
    assert data.parts is None


def test_members_keep_caches_of_their_own(folders, tmp_path):
    kept = {'cache': 'memmap', 'cache_dir': str(tmp_path / 'cache')}
    data = mix({'a': pairs(folders, **kept), 'b': pairs(folders, cache='ram')}, repeats={'a': 1})
    plain = mix({'a': pairs(folders), 'b': pairs(folders)}, repeats={'a': 1})
    expected = [plain.sample(i, rng(i))['lq'] for i in range(6)]
    for _ in range(2):
        assert all(torch.equal(data.sample(i, rng(i))['lq'], expected[i]) for i in range(6))
    for side in ('gt', 'lq'):
        (folders / side / '1.png').unlink()
    assert torch.equal(data.sample(4, rng(4))['lq'], expected[4])
    assert list((tmp_path / 'cache').iterdir())


def test_paths_of_members_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photos = {'type': 'OnlineDegradationDataset', 'dataroot_gt': 'datasets/sample/val', 'gt_size': 16,
              'degradations': [{'type': 'Haze'}]}  # fmt: skip
    assert len(mix({'a': photos, 'b': {**photos, 'dataroot_gt': ['datasets/sample/val']}}, repeats={'a': 3})) == 32


def test_loader_processes_change_nothing(folders):
    found = []
    for workers in (0, 2):
        opt = {
            'type': 'MixtureDataset', 'phase': 'train', 'datasets': {'a': pairs(folders), 'b': tiny(size=16)},
            'weights': {'a': 1, 'b': 2}, 'length': 5, 'batch_size_per_gpu': 2, 'num_worker_per_gpu': workers,
        }  # fmt: skip
        loader = batches(build_dataloader(build_dataset(opt), opt, seed=2))
        found.append([next(loader) for _ in range(5)])
    for here, there in zip(*found):
        assert here['key'] == there['key']
        assert torch.equal(here['lq'], there['lq'])


class GlobalDataset(torch.utils.data.Dataset):
    """A data set as others write it: it draws from the global streams."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {'lq': torch.rand(3, 4, 4) + float(np.random.rand()), 'key': str(index)}


def test_a_member_that_draws_from_the_global_streams_is_repeatable():
    before = torch.get_rng_state()
    first = draw_sample('a', GlobalDataset(), 1, rng(3), None)['lq']
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    assert torch.equal(draw_sample('a', GlobalDataset(), 1, rng(3), None)['lq'], first)
    assert not torch.equal(draw_sample('a', GlobalDataset(), 1, rng(4), None)['lq'], first)


# What is refused, and where


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ({}, 'give either repeats, or weights and length; given: none'),
        ({'repeats': {'a': 1}, 'weights': {'a': 1, 'b': 1}, 'length': 3}, 'given: repeats, weights, length'),
        ({'repeats': {'a': 1}, 'length': 3}, 'given: repeats, length'),
        ({'weights': {'a': 1, 'b': 1}}, 'given: weights'),
        ({'weights': {'a': 1}, 'length': 3}, r'weights must name every member \(a, b\)'),
        ({'weights': {'a': 0, 'b': 0}, 'length': 3}, 'not all may be 0'),
        ({'repeats': {'aa': 2}}, "repeats names 'aa', which is not in datasets. Did you mean a"),
        ({'weights': {'a': 1, 'b': 1, 'z': 1}, 'length': 3}, "weights names 'z', which is not in datasets"),
        ({'repeats': {'a': 0}}, 'at least 1'),
        ({'weights': {'a': -1, 'b': 2}, 'length': 3}, 'at least 0'),
    ],
)
def test_shares_that_say_nothing_are_refused(arguments, words):
    with pytest.raises(OptionError, match=words):
        mix({'a': tiny(), 'b': tiny()}, **arguments)


@pytest.mark.parametrize(
    ('names', 'words'), [([], 'datasets is empty'), (['a/b'], "holds 'a/b'"), (['rain', 'Rain'], 'differ in case only')]
)
def test_names_that_no_file_could_have_are_refused(names, words):
    with pytest.raises(OptionError, match=words):
        mix({name: tiny() for name in names}, repeats={})


def test_errors_name_the_member(folders):
    with pytest.raises(DataError, match=r'^datasets\.train\.datasets\.b: .*nowhere'):
        mix({'a': tiny(), 'b': pairs(folders, dataroot_lq=str(folders / 'nowhere'))}, repeats={'a': 1})
    inner = {'type': 'MixtureDataset', 'datasets': {'x': pairs(folders, dataroot_gt='nowhere')}, 'repeats': {'x': 2}}
    with pytest.raises(DataError, match=r'^datasets\.train\.datasets\.b\.datasets\.x: .*nowhere') as error:
        mix({'a': tiny(), 'b': inner}, repeats={'a': 1})
    assert str(error.value).count('datasets.x') == 1
    with pytest.raises(DataError, match=r'^datasets\.train\.datasets\.b: the data set is empty'):
        mix({'a': tiny(), 'b': tiny(0)}, repeats={'a': 1})
    with pytest.raises(OptionError, match=r'^datasets\.train\.datasets\.b: PairedImageDataset: filename_tmpl is'):
        mix({'a': tiny(), 'b': pairs(folders, filename_tmpl='x')}, repeats={'a': 1})


def test_an_unreadable_image_is_named_with_its_member_and_can_be_skipped(folders):
    (folders / 'lq/1.png').write_bytes(b'')
    data = mix({'a': pairs(folders), 'b': tiny(size=16)}, repeats={'a': 1})
    with pytest.raises(DataError, match=r"^datasets\.a: '?.*lq/1\.png.*empty"):
        data.sample(1, rng())
    opt = {'type': 'TinyDataset', 'phase': 'train', 'num_worker_per_gpu': 0, 'use_shuffle': False}
    loader = batches(build_dataloader(data, {**opt, 'on_error': 'skip'}))
    assert [next(loader)['key'][0] for _ in range(3)] == ['a-0', 'a-2', 'a-2']
    (folders / 'lq/0.png').write_bytes(b'')  # the first readable sample tells what a member gives
    assert len(mix({'a': pairs(folders), 'b': tiny(size=16)}, repeats={'a': 1})) == 6
    (folders / 'lq/2.png').write_bytes(b'')
    with pytest.raises(DataError, match=r'^datasets\.train\.datasets\.a: .*lq/0\.png'):
        mix({'a': pairs(folders), 'b': tiny(size=16)}, repeats={'a': 1})


def test_an_option_file_is_checked_into_the_members(write):
    train = {'type': 'MixtureDataset', 'repeats': {'a': 2}, 'num_worker_per_gpu': 0}
    good = from_dict(options({**train, 'datasets': {'a': tiny()}})).datasets['train']
    assert len(build_dataset(good)) == 6
    bad = {'a': {**tiny(), 'lenght': 3}, 'b': tiny(batch_size_per_gpu=4), 'c': {'type': 'TinyDatset'}}
    file = write('mixed.yml', options({**train, 'datasets': bad}))
    lines = file.read_text().splitlines()
    with pytest.raises(OptionError) as error:
        load(file)
    text = str(error.value)
    for key in ('lenght', 'batch_size_per_gpu'):
        number = next(i for i, line in enumerate(lines, 1) if line.strip().startswith(key))
        assert f'{file}:{number}: ' in text
    assert "'datasets.train.datasets.a.lenght' is not known. Did you mean 'length'?" in text
    assert "'datasets.train.datasets.b.batch_size_per_gpu' is not known" in text
    assert 'Did you mean TinyDataset' in text


def test_an_override_reaches_into_a_member(write):
    file = write('mixed.yml', options({'type': 'MixtureDataset', 'repeats': {'a': 2}, 'datasets': {'a': tiny()}}))
    checked = load(file, ['datasets:train:datasets:a:length=7', 'datasets:train:repeats:a=3'])
    assert len(build_dataset(checked.datasets['train'])) == 21


@pytest.mark.parametrize('file', EPOCHS)
def test_a_fragment_loads_and_takes_the_place_of_a_training_set(file, write, folders):
    """With a network and a length it is a whole option file; only the data itself is put in its place here."""
    checked = with_a_network(file, write).datasets['train']
    assert (checked.block['gt_size'], checked.loader.batch_size_per_gpu) == (128, 8)
    for block in checked.block['datasets'].values():
        roots = {'dataroot_gt': str(folders / 'gt')}
        if block['type'] == 'PairedImageDataset':
            roots['dataroot_lq'] = str(folders / 'lq')
        block.update(roots)
        block.pop('meta_info_file', None)
    data = build_dataset({**checked.block, 'phase': 'train', 'gt_size': 32})
    assert len(data) == 3 * sum(checked.block['repeats'].get(name, 1) for name in data.names)
    ends = data.ends.tolist()
    for name, start in zip(data.names, [0, *ends[:-1]]):
        sample = data[start]
        assert member_of(sample) == name
        assert sample['lq'].shape == sample['gt'].shape == (3, 32, 32)
        if name.startswith('denoise'):
            sigma = float(name.partition('_')[2])
            noise = (sample['lq'] - sample['gt'])[(sample['gt'] > 0.35) & (sample['gt'] < 0.65)] * 255
            assert noise.std().item() == pytest.approx(sigma, rel=0.2)
            levels = sample['lq'] * 255
            torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)


def test_it_is_explained():
    text = explain('MixtureDataset')
    for key in ('datasets', 'repeats', 'weights', 'length', 'gt_size'):
        assert f'\n  {key} ' in text
    assert 'mapping of blocks with a type (dataset)' in text
