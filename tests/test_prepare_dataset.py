"""Public data sets: their layouts are recognised, paired and checked; lists and options can be used as they are."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from basicsr.data import build_dataset
from basicsr.errors import DataError, OptionError
from basicsr.options import dataset_options, load
from basicsr.public_datasets import CATALOGUE, find_entry
from basicsr.public_datasets.check import check
from basicsr.public_datasets.entries import SeededSplit, expand
from basicsr.public_datasets.page import docs_page
from basicsr.public_datasets.uieb_split import TEST
from tools import prepare_dataset

from .public_layouts import BYSTANDERS, CASES
from .runs import ROOT, TINY

LAYOUTS = [(name, layout) for name, layouts in CASES.items() for layout in layouts]
REAL = os.environ.get('QUALIR_DATA')


@cache
def picture(ending, size=2):
    """The bytes of a grey square; without a size, cut short."""
    image = np.full((size or 2, size or 2, 3), 100, np.uint8)
    data = cv2.imencode(ending.lower(), image)[1].tobytes()
    return data if size else data[:-20]


def put(root, *names, size=2):
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)  # it may be linked to the file of another test
        file.write_bytes(picture(file.suffix, size) if file.suffix not in ('.rar', '.txt') else b'')


def make(root, parts):
    """Writes the files of a miniature; returns the pairs of each part as (degraded, clean) below ``root``."""
    pairs = {}
    for part, lines in parts.items():
        pairs[part] = [tuple(line.split(' > ')) for line in lines]
        put(root, *(name for pair in pairs[part] for name in pair))
    return pairs


def pairs_of(match, root):
    """The pairs that were found, in the form of :func:`make`."""
    sides = [(match.lq_root, 'lq'), (match.gt_root, 'gt')]
    return [
        tuple((folder / getattr(pair, side)).relative_to(root).as_posix() for folder, side in sides if folder)
        for pair in match.pairs
    ]


def run(name, root, output, *arguments):
    return prepare_dataset.main([name, '--root', str(root), '--output', str(output), *map(str, arguments)])


@pytest.fixture(scope='module')
def whole_sots(tmp_path_factory):
    """All of SOTS, both halves, in pictures of four pixels."""
    root = tmp_path_factory.mktemp('whole') / 'SOTS'
    for scene in range(1400, 1450):
        put(root, f'indoor/gt/{scene}.png', *(f'indoor/hazy/{scene}_{k}.png' for k in range(1, 11)))
    for number in range(1, 493):
        put(root, f'outdoor/gt/{number:04d}.png', f'outdoor/hazy/{number:04d}_0.8_0.2.jpg')
    put(root, *(f'outdoor/hazy/{number:04d}_0.9_0.12.jpg' for number in range(1, 9)))
    return root


@pytest.fixture
def sots(whole_sots, tmp_path):
    """A copy of it that a test may change."""
    return shutil.copytree(whole_sots, tmp_path / 'in/SOTS', copy_function=os.link)


def test_every_set_has_a_miniature_of_every_layout():
    known = {(entry.name, layout.name) for entry in CATALOGUE for layout in entry.layouts}
    assert known - set(LAYOUTS) == {('LSUI', 'release')}  # which has a test of its own: its split is drawn
    assert set(LAYOUTS) <= known


@pytest.mark.parametrize(('name', 'layout'), LAYOUTS, ids=[f'{n}-{x.split(",")[0]}' for n, x in LAYOUTS])
def test_a_layout_is_recognised_and_paired(name, layout, tmp_path):
    expected = make(tmp_path, CASES[name][layout])
    put(tmp_path, *(f for f in BYSTANDERS.get(name, ()) if layout == 'release'))
    report = check(find_entry(name), tmp_path, measure='all')
    assert report.found.layout.name == layout
    assert {m.part.name: sorted(pairs_of(m, tmp_path)) for m in report.found.matches} == {
        part: sorted(pairs) for part, pairs in expected.items()
    }
    assert report.problems == []
    assert report.found.absent == []


@pytest.mark.parametrize(('name', 'layout'), LAYOUTS, ids=[f'{n}-{x.split(",")[0]}' for n, x in LAYOUTS])
def test_the_options_of_a_layout_are_accepted_and_the_lists_are_read(name, layout, tmp_path):
    expected = make(tmp_path / 'in', CASES[name][layout])
    assert run(name, tmp_path / 'in', tmp_path / 'out', '--allow_partial') == 0
    blocks = yaml.safe_load((tmp_path / f'out/{find_entry(name).name}.yml').read_text())['datasets']
    for key, block in blocks.items():
        assert len(build_dataset(dataset_options(block, key.partition('_')[0])))
    for part, pairs in expected.items():
        text = (tmp_path / f'out/{part}.txt').read_text()
        assert len([line for line in text.splitlines() if not line.startswith('#')]) == len(pairs)


def test_a_whole_copy_ends_with_0_and_its_lists_are_used_as_they_are(sots, tmp_path, capsys):
    before = sorted(sots.rglob('*'))
    assert run('sots', sots.parent, tmp_path / 'out') == 0
    assert "layout 'release'" in capsys.readouterr().out
    assert sorted(sots.rglob('*')) == before
    lines = (tmp_path / 'out/test_outdoor.txt').read_text().splitlines()
    assert lines[0].startswith('# SOTS, test_outdoor: 500 pairs')
    assert f'# dataroot_gt: {(sots / "outdoor/gt").as_posix()}' in lines
    assert '0001.png\t0001_0.9_0.12.jpg' in lines
    assert not (tmp_path / 'out/problems.txt').exists()
    blocks = yaml.safe_load((tmp_path / 'out/SOTS.yml').read_text())['datasets']
    dataset = build_dataset(dataset_options(blocks['test_indoor'], 'test'))
    assert len(dataset) == 500
    sample = dataset[10]
    assert (Path(sample['gt_path']).name, Path(sample['lq_path']).name) == ('1401.png', '1401_1.png')
    assert sample['task'] == 'haze'


def test_the_options_can_be_included(sots, tmp_path):
    run('SOTS', sots, tmp_path / 'out')
    base = {k: v for k, v in TINY.items() if k not in ('datasets', 'train', 'val')}
    base['_base_'] = 'out/SOTS.yml'
    (tmp_path / 'test.yml').write_text(yaml.safe_dump(base))
    assert sorted(load(tmp_path / 'test.yml').datasets) == ['test_indoor', 'test_outdoor']


def test_a_second_run_changes_nothing_and_a_changed_list_is_not_replaced(sots, tmp_path, capsys):
    out = tmp_path / 'out'
    assert run('SOTS', sots, out) == 0
    times = {f: f.stat().st_mtime_ns for f in out.iterdir()}
    assert run('SOTS', sots, out) == 0
    assert {f: f.stat().st_mtime_ns for f in out.iterdir()} == times
    whole = (out / 'test_indoor.txt').read_text()
    (out / 'test_indoor.txt').write_text('mine\n')
    capsys.readouterr()
    assert run('SOTS', sots, out) == 2
    assert "test_indoor.txt' is there with other content; --overwrite replaces it" in capsys.readouterr().err
    assert (out / 'test_indoor.txt').read_text() == 'mine\n'
    assert run('SOTS', sots, out, '--overwrite') == 0
    assert (out / 'test_indoor.txt').read_text() == whole


def test_a_partial_copy_is_reported_and_listed_only_if_asked_for(sots, tmp_path, capsys):
    for name in ('1400_3', '1444_10'):
        (sots / f'indoor/hazy/{name}.png').unlink()
    assert run('SOTS', sots, tmp_path / 'out') == 1
    text = capsys.readouterr().out
    assert ['test_indoor', '498', '500', '2', '0', '0'] in [line.split() for line in text.splitlines()]
    assert 'test_indoor: 2 missing: 1400_3, 1444_10.' in text
    assert '--allow_partial' in text
    assert sorted(f.name for f in (tmp_path / 'out').iterdir()) == ['problems.txt']
    assert run('SOTS', sots, tmp_path / 'out', '--allow_partial') == 0
    assert '498 pairs' in (tmp_path / 'out/test_indoor.txt').read_text()


def test_an_absent_part_is_named_and_parts_can_be_chosen(sots, tmp_path, capsys):
    shutil.rmtree(sots / 'outdoor')
    assert run('SOTS', sots, tmp_path / 'out') == 1
    assert "test_outdoor is not there: no folder 'outdoor/hazy' and 'outdoor/gt'." in capsys.readouterr().out
    assert run('SOTS', sots, tmp_path / 'out', '--parts', 'test_indoor') == 0
    assert run('SOTS', sots, tmp_path / 'out', '--parts', 'indoor') == 2
    assert 'test_indoor, test_outdoor' in capsys.readouterr().err


def test_problems_are_named_and_refused_or_left_out(sots, tmp_path, capsys):
    (sots / 'indoor/gt/1401.png').unlink()  # 10 degraded images without a clean one
    put(sots, 'indoor/hazy/1402_1.png', size=None)  # cut short
    put(sots, 'indoor/gt/1403.png', size=3)  # larger than its 10 degraded images
    put(sots, 'outdoor/hazy/copy of 0001.jpg', 'outdoor/gt/0007.jpg')  # a strange name, and a clean image twice
    assert run('SOTS', sots, tmp_path / 'out') == 2
    text = capsys.readouterr().out
    full = (tmp_path / 'out/problems.txt').read_text()
    kinds = Counter(line.partition('\t')[0] for line in full.splitlines())
    # the outdoor scene 0007 has two hazes, which both lose their clean image
    assert kinds == {'unpaired': 12, 'unreadable': 1, 'size': 10, 'unexpected': 1, 'duplicate': 2, 'missing': 22}
    assert '1402_1.png' in full
    assert "copy of 0001.jpg' (its name does not fit" in text
    assert 'it has 2x2 pixels' in text
    assert '--leave_out' in text
    assert [f.name for f in (tmp_path / 'out').iterdir()] == ['problems.txt']
    assert run('SOTS', sots, tmp_path / 'out', '--leave_out') == 1
    assert run('SOTS', sots, tmp_path / 'out', '--leave_out', '--allow_partial') == 0
    text = (tmp_path / 'out/test_indoor.txt').read_text()
    assert '1402_1.png' not in text
    assert '1402_2.png' in text
    assert '# left out: 21 files' in text


def test_not_every_image_need_be_opened(sots, tmp_path, monkeypatch, capsys):
    put(sots, 'indoor/hazy/1402_1.png', size=None)
    assert run('SOTS', sots, tmp_path / 'out', '--check', 'none') == 0
    assert 'test_indoor: 0 of 500 opened' in capsys.readouterr().out
    monkeypatch.setattr('basicsr.public_datasets.check.SAMPLED', 50)
    report = check(find_entry('SOTS'), sots, 'sample')
    assert [match.measured for match in report.found.matches] == [50, 50]


def test_what_is_not_known_or_not_there_is_refused_in_one_sentence(tmp_path, capsys):
    for arguments, sentence in (
        (['SOT', '--root', tmp_path], "No data set is called 'SOT'; did you mean SOTS"),
        (['SOTS', '--root', tmp_path / 'no'], 'There is no folder'),
        (['SOTS', '--root', tmp_path], 'No layout of SOTS was recognised'),
        (['SOTS'], 'Give the name of a data set and --root DIR, or --list.'),
        (['SOTS', '--root', tmp_path, '--output', tmp_path / 'out'], 'lies in --root'),
    ):
        assert prepare_dataset.main([str(a) for a in arguments]) == 2
        assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_two_copies_are_not_chosen_between(tmp_path):
    for copy in ('SOTS', 'SOTS (1)'):
        put(tmp_path, f'{copy}/indoor/hazy/1400_1.png', f'{copy}/indoor/gt/1400.png')
    with pytest.raises(DataError, match='holds SOTS twice'):
        check(find_entry('SOTS'), tmp_path)


def test_another_set_with_the_same_folders_is_not_taken(tmp_path):
    put(tmp_path, 'CSD/train2500/Snow/1.tif', 'CSD/train2500/Gt/1.tif')
    with pytest.raises(DataError, match='No layout of SRRS'):
        check(find_entry('SRRS'), tmp_path)
    assert check(find_entry('SRRS'), tmp_path / 'CSD').found.pairs == 1  # who names a folder is believed


def test_the_list_of_spa_data_names_what_is_missing(tmp_path):
    put(tmp_path, 'real_world/001/001-1/001-1_0_0.png', 'real_world_gt/001/001_0_0.png')
    lines = ['./real_world/001/001-1/001-1_0_0.png ./real_world_gt/001/001_0_0.png',
             '/real_world/001/001-2/001-2_0_0.png /real_world_gt/001/001_0_0.png']  # fmt: skip
    (tmp_path / 'real_world.txt').write_text('\n'.join(lines))
    match = check(find_entry('SPA-Data'), tmp_path).found.matches[0]
    assert match.lost == ['001/001-2/001-2_0_0']


def test_scenes_with_too_few_images_are_named(tmp_path):
    names = [f'0025_{a}_{b}.jpg' for a in ('0.8', '0.85', '0.9', '0.95', '1') for b in range(7)]
    put(tmp_path / 'OTS', 'clear_images/0025.jpg', *(f'OTS/{name}' for name in names))
    put(tmp_path / 'OTS', 'clear_images/0039.jpg', 'OTS/0039_0.8_0.04.jpg')
    report = check(find_entry('RESIDE-OTS'), tmp_path)
    assert report.found.matches[0].lost == ['0039.jpg: 1 of 35']
    assert report.found.matches[0].missing == 313_950 - 36


def test_a_drawn_split_is_the_same_everywhere_and_says_so(tmp_path):
    put(tmp_path / 'LSUI', *(f'{side}/{n}.jpg' for side in ('input', 'GT') for n in range(1, 108)))
    assert run('LSUI', tmp_path / 'LSUI', tmp_path / 'out', '--allow_partial') == 0
    test, train = (
        {line for line in (tmp_path / f'out/{part}.txt').read_text().splitlines() if '\t' in line}
        for part in ('test', 'train')
    )
    assert (len(test), len(train), len(test & train)) == (10, 97, 0)
    assert '# split: the 400 of 4279 drawn at random (seed 0)' in (tmp_path / 'out/test.txt').read_text()
    # sha256sum of '0:3', '0:1', ... computed with coreutils: the order does not depend on Python's own hash
    hashes = subprocess.run(
        'for n in $(seq 1 20); do printf "%s %s\\n" $(printf "0:$n" | sha256sum | cut -d" " -f1) $n; done | sort',
        shell=True, capture_output=True, text=True, check=True,
    ).stdout.split()[1::2]  # fmt: skip
    assert SeededSplit((5, 20), inside=True).keep(map(str, range(1, 21))) == set(hashes[:5])
    assert len(SeededSplit((400, 4279), inside=True).keep(map(str, range(4279)))) == 400


def test_the_list_of_uieb(tmp_path):
    assert len(set(TEST)) == 90
    names = [*TEST, *(f'7{n:05d}' for n in range(800))]
    put(tmp_path, *(f'{side}/{n}.png' for side in ('raw-890', 'reference-890') for n in names))
    report = check(find_entry('UIEB'), tmp_path)
    assert [(m.part.name, len(m.pairs), m.missing) for m in report.found.matches] == [
        ('train', 800, 0),
        ('test', 90, 0),
    ]


def test_a_set_of_several_training_parts_becomes_a_mixture(tmp_path):
    make(tmp_path / 'in', CASES['EUVP']['release'])
    run('EUVP', tmp_path / 'in', tmp_path / 'out', '--allow_partial')
    text = (tmp_path / 'out/EUVP.yml').read_text()
    train = yaml.safe_load(text)['datasets']['train']
    assert (train['type'], list(train['datasets'])) == ('MixtureDataset', ['dark', 'imagenet', 'scenes'])
    aside = yaml.safe_load(text.partition('and the like:\n')[2].replace('# ', '').replace('#', ''))
    assert {name: block['type'] for name, block in aside.items()} == {
        'train_poor': 'SingleImageDataset', 'train_good': 'OnlineDegradationDataset'
    }  # fmt: skip


def test_lmdbs_are_made_once_and_read_with_the_lists(tmp_path):
    expected = make(tmp_path / 'in', CASES['SOTS']['release'])
    out = tmp_path / 'out'
    assert run('SOTS', tmp_path / 'in', out, '--allow_partial', '--lmdb') == 0
    database = out / 'test_indoor_gt.lmdb/data.mdb'
    time = database.stat().st_mtime_ns
    blocks = yaml.safe_load((out / 'SOTS.yml').read_text())['datasets']
    shutil.move(tmp_path / 'in', tmp_path / 'elsewhere')
    for key, block in blocks.items():
        dataset = build_dataset(dataset_options(block, 'test'))
        assert len(dataset) == len(expected[key])
        assert dataset[0]['gt'].shape == (3, 2, 2)
    shutil.move(tmp_path / 'elsewhere', tmp_path / 'in')
    assert run('SOTS', tmp_path / 'in', out, '--allow_partial', '--lmdb') == 0
    assert database.stat().st_mtime_ns == time


def test_ranges_of_names():
    assert expand(['a{1..3}']) == ['a1', 'a2', 'a3']
    assert expand(['{09..10}_{1..2}', 'x']) == ['09_1', '09_2', '10_1', '10_2', 'x']


def test_counts_add_up():
    """Counts against facts stated apart from them: totals of the papers, scenes times images of each."""
    parts = {(e.name, p.name): p for e in CATALOGUE for p in e.layouts[0].parts}
    total = {e.name: sum(p.count or 0 for p in e.layouts[0].parts) for e in CATALOGUE}
    assert total['Snow100K'] == 100_000 + 1329
    assert total['CSD'] == 10_000
    assert total['Rain13K'] == 13_712 + 4298
    assert total['Rain1400'] == 1000 * 14
    assert total['UIEB'] == 950
    assert total['LSUI'] == 4279
    assert total['FFHQ'] == 70_000
    assert total['CDD-11'] == 1383 * 11
    assert parts['Outdoor-Rain', 'train'].count == 600 * 15
    for part in (p for e in CATALOGUE for layout in e.layouts for p in layout.parts):
        if part.clean and part.per_clean:
            assert part.count == part.clean * part.per_clean
        if part.names and part.count:
            assert len(expand(part.names)) == part.count == len(set(expand(part.names)))


def test_names_are_found_however_they_are_written():
    assert find_entry('rain100l').name == find_entry('Rain-100L').name == 'Rain100L'
    with pytest.raises(OptionError, match='known are Snow100K'):
        find_entry('zzzz')


def test_every_entry_says_where_it_is_known_from():
    for entry in CATALOGUE:
        counted = any(p.count is not None for layout in entry.layouts for p in layout.parts)
        assert entry.sources or not counted, entry.name
        assert all(layout.source for layout in entry.layouts), entry.name


def test_the_page_of_the_docs_is_up_to_date():
    assert (ROOT / 'docs/datasets.md').read_text(encoding='utf-8') == docs_page(), 'run --write-docs'


def test_the_command_as_a_script(tmp_path):
    script = [sys.executable, str(ROOT / 'tools/prepare_dataset.py')]
    done = subprocess.run([*script, '--list'], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == len(CATALOGUE)


@pytest.mark.skipif(REAL is None, reason='QUALIR_DATA is not set: no real images')
@pytest.mark.parametrize(
    ('name', 'below', 'layout', 'counts', 'missing'),
    [
        ('Rain100L', '', 'RCDNet', {'train': 40}, {'train': 160, 'test': 100}),
        ('LOLv1', '', 'release', {'train': 20}, {'train': 465, 'test': 15}),
        ('SOTS', 'SOTS', 'release', {'test_indoor': 30}, {'test_indoor': 470, 'test_outdoor': 500}),
        ('LSUI', '', 'release', {'train': 49, 'test': 5}, {'train': 3830, 'test': 395}),
        ('U45', 'real/underwater', 'folder of its name', {'test': 18}, {'test': 27}),
        ('DICM', 'real/lowlight', 'folder of its name', {'test': 32}, {'test': 37}),
        ('LIME', 'real/lowlight/LIME', 'folder of its name', {'test': 5}, {'test': 5}),
    ],
)
def test_real_copies(name, below, layout, counts, missing, tmp_path, capsys):
    root = Path(REAL, below)
    report = check(find_entry(name), root, 'all')
    assert report.found.layout.name == layout
    assert {m.part.name: len(m.pairs) for m in report.found.matches} == counts
    absent = {part.name: part.count for part, _ in report.found.absent}
    assert {**{m.part.name: m.missing for m in report.found.matches}, **absent} == missing
    assert report.problems == []
    assert run(name, root, tmp_path) == 1
    assert run(name, root, tmp_path, '--allow_partial') == 0
    for key, block in yaml.safe_load((tmp_path / f'{name}.yml').read_text())['datasets'].items():
        dataset = build_dataset(dataset_options(block, key.partition('_')[0]))
        assert len(dataset) == counts[key]
        assert dataset[0]['lq'].shape[0] == 3


@pytest.mark.skipif(REAL is None, reason='QUALIR_DATA is not set: no real images')
def test_real_copies_name_what_is_missing():
    missing = check(find_entry('SOTS'), Path(REAL)).found.matches[0].lost
    assert '1401_1' not in missing
    assert {'1400_1', '1402_10', '1449_10'} <= set(missing)
    assert check(find_entry('LIME'), Path(REAL, 'real/lowlight')).found.matches[0].lost == ['1', '4', '5', '7', '8']
