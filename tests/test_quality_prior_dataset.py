"""Every sample knows how good its clean image is, by the image's name alone, and the codes of what it shows."""

import pickle

import numpy as np
import pytest
import torch

from basicsr.code_file import CodeFile, write_codes
from basicsr.data import build_dataloader, build_dataset
from basicsr.errors import DataError, OptionError
from basicsr.explain import explain
from basicsr.image_io import write_image
from basicsr.iqa.scores import quantile, quantile_edges, read_scores
from basicsr.lmdb_make import create
from basicsr.loader import batches

from .runs import ROOT

SIDE = 16
SCORES = {'a/0': 0.1, 'a/1': 0.4, 'b/2': 0.75, 'b/3': 0.9}


def table(path, scores=SCORES, **columns):
    """A table as tools/score_dataset.py writes it, in another order than the images'."""
    names = list(scores)[::-1]
    head = ['imagename', *columns, 'score']
    rows = [[n, *(str(columns[c][n]) for c in columns), str(scores[n])] for n in names]
    path.write_text('\n'.join(','.join(row) for row in [head, *rows]) + '\n')
    return str(path)


@pytest.fixture
def root(tmp_path):
    """Four images in two folders; the brightness of a clean image says which it is."""
    for number, name in enumerate(SCORES):
        ramp = np.tile(np.arange(SIDE, dtype=np.uint8), (SIDE, 1))
        write_image(tmp_path / 'gt' / f'{name}.png', np.dstack([ramp + 40 * number] * 3))
        write_image(tmp_path / 'lq' / f'{name}.png', np.dstack([ramp + 40 * number + 1] * 3))
    table(tmp_path / 's.csv')
    return tmp_path


def paired(root, **more):
    return {'type': 'PairedImageDataset', 'dataroot_gt': str(root / 'gt'), 'dataroot_lq': str(root / 'lq'), **more}


def still(root):
    return paired(root, use_hflip=False, use_rot=False)


def prior(root, inner=None, **more):
    block = {'type': 'QualityPriorDataset', 'phase': 'train', 'dataset': inner or paired(root, gt_size=8)}
    return build_dataset({**block, 'scores': str(root / 's.csv'), **more})


def name_of(sample):
    return list(SCORES)[int(sample['gt'].min() * 255) // 40]


def test_every_sample_has_the_score_of_its_own_clean_image(root):
    data = prior(root)
    assert len(data) == 4
    for index in range(4):
        sample = data[index]
        assert (sample['score'].shape, sample['score'].dtype) == ((), torch.float32)
        assert sample['score'].item() == pytest.approx(SCORES[name_of(sample)])
        assert sample['gt'].shape == (3, 8, 8)


def test_a_batch_of_scores_is_a_vector_in_every_process(root):
    block = {'type': 'QualityPriorDataset', 'phase': 'train', 'dataset': paired(root, gt_size=8)}
    block |= {'scores': str(root / 's.csv'), 'batch_size_per_gpu': 4, 'num_worker_per_gpu': 1}
    loader = build_dataloader(build_dataset(block), block)
    batch = next(iter(batches(loader)))
    assert batch['score'].shape == (4,)
    assert sorted(batch['score'].tolist()) == pytest.approx(sorted(SCORES.values()))


def test_columns_give_several_scores_which_min_max_brings_to_the_unit_interval(root):
    raw = {name: 100 * score - 3 for name, score in SCORES.items()}
    worse = {name: 7 - 5 * score for name, score in SCORES.items()}
    table(root / 's.csv', musiq=raw, niqe=worse)
    with pytest.raises(DataError, match=r"'musiq' run from 7 to 87.*normalize: true"):
        prior(root, columns=['musiq'])
    data = prior(root, columns=['musiq', 'niqe', 'score'], normalize=True, lower_better=['niqe'])
    for index in range(4):
        score = data[index]['score']
        wanted = (SCORES[name_of(data[index])] - 0.1) / 0.8
        assert (score.shape, score.dtype) == ((3,), torch.float32)
        assert score.tolist() == pytest.approx([wanted] * 3, abs=1e-6)
    assert prior(root, columns=['score'])[0]['score'].shape == (1,)
    with pytest.raises(OptionError, match="names 'brisque', which is not in columns"):
        prior(root, columns=['niqe'], normalize=True, lower_better=['brisque'])
    with pytest.raises(OptionError, match='needs normalize'):
        prior(root, columns=['score'], lower_better=['score'])


def test_worse_images_are_left_out_in_every_part_of_the_set(root, capsys):
    data = prior(root, min_score=0.4)
    assert [round(data[i]['score'].item(), 2) for i in range(len(data))] == [0.4, 0.75, 0.9]
    assert '3 of 4 samples, scores 0.4 to 0.9; the best lie above' in capsys.readouterr().err
    with pytest.raises(DataError, match=r'min_score is 0.95, and the best image of the set has 0.9'):
        prior(root, min_score=0.95)
    for side in ('gt', 'lq'):
        for folder in ('a', 'b'):
            create(root / side / folder, root / f'{side}_db' / f'{folder}.lmdb', workers=1)
    table(root / 's.csv', {name[2:]: score for name, score in SCORES.items()})
    inner = {'type': 'PairedImageDataset', 'dataroot_gt': str(root / 'gt_db'), 'dataroot_lq': str(root / 'lq_db')}
    assert prior(root, inner).parts == [2, 2]
    data = prior(root, inner, min_score=0.4)
    assert data.parts == [1, 2]
    assert data[0]['score'].item() == pytest.approx(0.4)


def test_the_best_part_of_the_tables_is_marked(root, capsys):
    data = prior(root, tau_quantile=0.5)
    assert [data[i]['hq_mask'].item() for i in range(4)] == [0, 0, 1, 1]
    assert (data[0]['hq_mask'].shape, data[0]['hq_mask'].dtype) == ((), torch.float32)
    assert 'tau is 0.575' in capsys.readouterr().err
    few = prior(root, tau_quantile=0.5, min_score=0.4)  # the quantile is that of the tables, not of what is kept
    assert [few[i]['hq_mask'].item() for i in range(3)] == [0, 1, 1]
    table(root / 's.csv', other={'a/0': 1.0, 'a/1': 0.3, 'b/2': 0.0, 'b/3': 0.6})
    data = prior(root, tau_quantile=0.7, columns=['score', 'other'])  # means .55, .35, .375, .75
    assert [data[i]['hq_mask'].item() for i in range(4)] == [0, 0, 0, 1]
    assert len(prior(root, min_score=0.5, columns=['score', 'other'])) == 2
    assert 'hq_mask' not in prior(root)[0]


def test_tables_are_joined_and_names_may_lack_their_folder(root):
    two = [table(root / 'x.csv', {'0.png': 0.1, '1.png': 0.4}), table(root / 'y.csv', {'b/2': 0.75, 'b/3': 0.9})]
    data = prior(root, scores=two)
    for index in range(4):
        assert data[index]['score'].item() == pytest.approx(SCORES[name_of(data[index])])
    with pytest.raises(DataError, match=r"'a/0' has a score in another table too"):
        prior(root, scores=[str(root / 's.csv'), table(root / 'z.csv', {'a/0': 0.3})])
    write_image(root / 'gt/b/0.png', np.zeros((SIDE, SIDE, 3), np.uint8))
    write_image(root / 'lq/b/0.png', np.zeros((SIDE, SIDE, 3), np.uint8))
    with pytest.raises(DataError, match=r"'a/0' and 'b/0' would both be '0'"):
        prior(root, scores=two)


def test_an_image_without_a_score_is_named_with_the_table(root):
    path = table(root / 'less.csv', {k: v for k, v in SCORES.items() if k != 'b/2'})
    with pytest.raises(DataError, match=r"'b/2'.*no score in '.*less\.csv'"):
        prior(root, scores=path)
    with pytest.raises(DataError, match='nowhere'):
        prior(root, scores=str(root / 'nowhere.csv'))
    with pytest.raises(OptionError, match='empty list'):
        prior(root, scores=[])


def test_images_made_on_the_fly_and_autoencoders_have_scores_too(root):
    online = {'type': 'OnlineDegradationDataset', 'dataroot_gt': str(root / 'gt')}
    online |= {'degradations': [{'type': 'Noise', 'sigma': [1, 1]}, {'type': 'Blur', 'sigma': [0.1, 0.2]}]}
    data = prior(root, online, phase='val', min_score=0.4)
    assert len(data) == 6  # three photos under two degradations
    for index in range(6):
        assert data[index]['score'].item() == pytest.approx(SCORES[name_of(data[index])])
    assert data[0]['task'] != data[1]['task']
    data = prior(root, {'type': 'SingleImageDataset', 'dataroot_lq': str(root / 'gt'), 'gt_size': 8})
    sample = data[3]
    assert torch.equal(sample['gt'], sample['lq'])
    assert sample['score'].item() == pytest.approx(0.9)


def test_it_is_a_member_of_a_mixture_but_does_not_hold_one(root):
    members = {
        'one': {'type': 'QualityPriorDataset', 'dataset': paired(root, gt_size=8), 'scores': str(root / 's.csv')},
        'two': {'type': 'QualityPriorDataset', 'dataset': paired(root, gt_size=8), 'scores': str(root / 's.csv')},
    }
    mixture = build_dataset({'type': 'MixtureDataset', 'phase': 'train', 'datasets': members, 'repeats': {'one': 2}})
    assert len(mixture) == 12
    assert mixture[11]['score'].item() == pytest.approx(0.9)
    inner = {'type': 'MixtureDataset', 'datasets': {'one': paired(root)}, 'repeats': {'one': 1}}
    with pytest.raises(OptionError, match='wrap each member'):
        prior(root, inner)


def codes_file(root, side=SIDE, names=SCORES):
    """Codes whose value says which image they are of, and whether of its mirror image."""
    codes = {view: {} for view in ('orig', 'hflip')}
    for number, name in enumerate(names):
        for mirrored, view in enumerate(codes):
            codes[view][name] = torch.arange(16).view(1, 4, 4).repeat(2, 1, 1) + 100 * number + 1000 * mirrored
    info = {'image_size': [side, side], 'book_sizes': [4096, 4096]}
    write_codes(root / 'codes.safetensors', codes, info)
    return str(root / 'codes.safetensors')


def test_codes_are_those_of_the_image_as_it_is_shown(root):
    data = prior(root, still(root), codes=codes_file(root), use_hflip=True, gt_size=None)
    seen = set()
    for index in range(4):
        for seed in range(8):
            sample = data.sample(index, np.random.default_rng(seed))
            mirrored = bool(sample['gt'][0, 0, 0] > sample['gt'][0, 0, -1])
            assert (sample['codes'].shape, sample['codes'].dtype) == ((2, 4, 4), torch.int64)
            assert sample['codes'][1, 0, 1].item() == 1 + 100 * index + 1000 * mirrored
            torch.testing.assert_close(sample['lq'] - sample['gt'], torch.full_like(sample['gt'], 1 / 255))
            seen.add(mirrored)
    assert seen == {True, False}
    calm = prior(root, still(root), codes=codes_file(root))
    assert all(calm.sample(1, np.random.default_rng(s))['codes'][0, 0, 0] == 100 for s in range(8))
    val = prior(root, paired(root), codes=codes_file(root), use_hflip=True, phase='val')
    assert all(val.sample(1, np.random.default_rng(s))['codes'][0, 0, 0] == 100 for s in range(8))


def test_codes_do_not_go_with_what_moves_pixels_elsewhere(root):
    path = codes_file(root)
    for moving in ({'use_hflip': True, 'use_rot': False}, {'use_hflip': False, 'use_rot': True}):
        key = next(k for k, v in moving.items() if v)
        with pytest.raises(OptionError, match=f'with codes, write {key}: false'):
            prior(root, paired(root, **moving), codes=path)
    with pytest.raises(OptionError, match='with use_hflip, write use_hflip: false'):
        prior(root, paired(root), use_hflip=True)
    data = prior(root, paired(root, gt_size=8, use_hflip=False, use_rot=False), codes=path)
    with pytest.raises(DataError, match=r'is 8x8, and the codes .* whole images of 16x16 pixels'):
        data[0]
    with pytest.raises(DataError, match=r"'b/3'.*no codes in"):
        prior(root, still(root), codes=codes_file(root, names=list(SCORES)[:3]))
    few = prior(root, still(root), codes=codes_file(root, names=list(SCORES)[2:]), min_score=0.5)
    assert len(few) == 2  # images that are left out need none


def test_the_open_file_stays_behind_when_the_set_is_sent_to_a_process(root):
    data = prior(root, still(root), codes=codes_file(root), use_hflip=True)
    first = data[2]
    again = pickle.loads(pickle.dumps(data))[2]
    assert all(torch.equal(first[k], again[k]) for k in ('lq', 'gt', 'score', 'codes'))


def test_a_file_that_holds_no_codes_is_refused(root):
    from safetensors.torch import save_file

    (root / 'text.safetensors').write_text('no codes')
    save_file({'a': torch.zeros(2)}, root / 'other.safetensors')
    for name, words in (
        ('text', 'cannot be read'),
        ('other', 'is no file of codes'),
        ('none', 'there is no such file'),
    ):
        with pytest.raises(DataError, match=words):
            CodeFile(root / f'{name}.safetensors')
    file = CodeFile(codes_file(root))
    assert (len(file), 'a/0' in file, 'a/9' in file) == (4, True, False)
    assert file.info['book_sizes'] == (4096, 4096)
    with pytest.raises(DataError, match="no codes of 'a/9'"):
        file.get('a/9')


def test_quantiles_for_option_files():
    scores = np.random.default_rng(0).beta(8, 2, 5000)
    edges = quantile_edges(scores.tolist())
    counts, _ = np.histogram(scores, [0, *edges, 1])
    assert len(edges) == 9
    assert counts.min() > 480
    assert counts.max() < 520
    assert (scores > quantile(scores.tolist(), 0.85)).mean() == pytest.approx(0.15, abs=0.001)
    with pytest.raises(DataError, match='cannot be sorted into 10 bins'):
        quantile_edges([0.5] * 100)


def test_the_score_tool_says_what_an_option_file_needs(root, capsys):
    from tools import score_dataset

    rng = np.random.default_rng(0)
    for number in range(12):
        write_image(root / 'many' / f'{number}.png', rng.integers(0, 20 * number + 2, (8, 8, 3), dtype=np.uint8))
    judges = root / 'judges.yml'
    judges.write_text('type: Ensemble\nmembers:\n  - {type: Level}\n')
    command = ['-i', str(root / 'many'), '--scorer', str(judges), '-o', str(root / 'm.csv'), '--device', 'cpu']
    command += ['--num_worker', '1', '--import', str(ROOT / 'tests/plugins/level_scorer.py')]
    for words in ('12 images scored', 'is finished already'):
        assert score_dataset.main(command) == 0
        told = capsys.readouterr().out
        assert words in told
        scores = list(read_scores(root / 'm.csv').values())
        assert f'edges of 10 bins with equally many images: {quantile_edges(scores)}' in told
        assert f'{quantile(scores, 0.85):.4g} (15 %)' in told


def test_it_explains_every_argument():
    text = explain('QualityPriorDataset')
    for name in ('scores', 'tau_quantile', 'columns', 'normalize', 'lower_better', 'min_score', 'codes', 'use_hflip'):
        assert name in text
