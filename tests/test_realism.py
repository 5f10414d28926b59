"""The measure of how real made weather looks: tools/realism.py and what it is made of."""

import json
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from basicsr.errors import DataError, OptionError
from basicsr.tools import realism
from basicsr.tools.realism_folders import Rendering, load, load_synthetic, manifest, merged, named_files, render, scenes
from basicsr.tools.realism_page import encoded, sheet, table
from basicsr.tools.realism_score import (
    VIEWS,
    Effort,
    area,
    comparable,
    crop,
    folds_of,
    halves,
    recognise,
    tell_apart,
    viewed,
)

from .runs import ROOT

QUICK = Effort(crops=96, epochs=5, folds=2, batch=24)
SAMPLE = ROOT / 'datasets/sample'


def noise(count, mean, seed, spread=20, side=96):
    """Photographs of smooth noise around a brightness."""
    rng = np.random.default_rng(seed)
    return {
        f'{seed}_{i}': [np.clip(rng.normal(mean, spread, (side, side, 3)), 0, 255).astype(np.uint8)]
        for i in range(count)
    }


def save(folder, photos):
    for name, images in photos.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f'{name}.png'), images[0])
    return folder


@pytest.fixture
def clean(tmp_path):
    """Four sample photographs in a folder, reduced."""
    folder = tmp_path / 'clean'
    folder.mkdir()
    for file in sorted((SAMPLE / 'val').glob('*.jpg'))[:4]:
        cv2.imwrite(str(folder / f'{file.stem}.png'), cv2.resize(cv2.imread(str(file)), (120, 90)))
    return folder


class TestTellApart:
    def test_dark_and_bright_are_told_apart(self):
        accuracy, auc = tell_apart(noise(8, 60, 0), noise(8, 190, 1), 'photo', 0, QUICK)
        assert accuracy > 0.95
        assert auc > 0.98

    def test_one_distribution_is_not(self):
        found = [tell_apart(noise(12, 120, 2 * s), noise(12, 120, 2 * s + 1), 'colour', s, QUICK)[1] for s in range(3)]
        assert 0.3 < np.mean(found) < 0.7

    def test_texture_does_not_see_brightness_and_colour_does_not_see_grain(self):
        """Each view is blind to what the other is for."""
        dark, bright = noise(8, 100, 0), noise(8, 140, 1)
        fine, coarse = noise(8, 120, 2, spread=8), noise(8, 120, 3, spread=45)
        texture = {
            k: tell_apart(*pair, 'texture', 0, QUICK)[1]
            for k, pair in {'b': (dark, bright), 'g': (fine, coarse)}.items()
        }
        colour = tell_apart(dark, bright, 'colour', 0, QUICK)[1]
        assert texture['g'] > 0.95
        assert colour > 0.95
        assert texture['b'] < 0.75

    def test_a_seed_gives_one_answer_and_another_seed_another(self):
        sets = noise(6, 120, 0), noise(6, 121, 1)
        first, again, other = (tell_apart(*sets, 'colour', seed, QUICK) for seed in (0, 0, 1))
        assert first == again
        assert first != other

    def test_what_marks_a_single_photograph_cannot_be_used(self):
        """Each photograph has a brightness of its own that says nothing of its set: held out, it is guessed at.

        Were crops of one photograph on both sides, the nearest brightness would give the answer.
        """
        photos = [noise(1, mean, i, spread=1) for i, mean in enumerate(np.linspace(20, 230, 16))]
        which = np.random.default_rng(0).permutation(16) % 2
        sets = [{k: v for p, w in zip(photos, which) if w == side for k, v in p.items()} for side in (0, 1)]
        effort = Effort(crops=96, epochs=8, folds=4, batch=24)
        assert np.mean([tell_apart(*sets, 'colour', seed, effort)[0] for seed in range(2)]) < 0.7

    def test_recognise_learns_from_degraded_and_finds_in_real(self):
        scene = noise(8, 100, 0)
        brighter = {k: [np.clip(v[0].astype(int) + 80, 0, 255).astype(np.uint8)] for k, v in scene.items()}
        on_real, on_made = recognise(scene, brighter, noise(8, 185, 5), 'colour', 0, QUICK)
        assert on_real > 0.95
        assert on_made > 0.95
        on_other, _ = recognise(scene, brighter, noise(8, 100, 6), 'colour', 0, QUICK)
        assert 0.2 < on_other < 0.8

    def test_area_counts_ties_half(self):
        assert area(np.array([0.0, 1.0]), np.array([1.0, 2.0])) == pytest.approx(3.5 / 4)


class TestFolds:
    def test_photographs_are_spread_evenly(self):
        one, other = folds_of(list('abcdefgh'), list('ABCDE'), 4, False, np.random.default_rng(0))
        assert np.bincount(one).tolist() == [2, 2, 2, 2]
        assert sorted(np.bincount(other).tolist()) == [1, 1, 1, 2]

    def test_pairs_are_held_out_together(self):
        names = [f'n{i}' for i in range(9)]
        for seed in range(5):
            one, other = folds_of(names, names[::-1], 4, True, np.random.default_rng(seed))
            assert one.tolist() == other[::-1].tolist()

    def test_there_are_no_more_folds_than_photographs(self):
        one, other = folds_of(list('ab'), list('ABCDE'), 4, False, np.random.default_rng(0))
        assert max(one) == max(other) == 1

    def test_halves_share_nothing_and_leave_nothing_out(self):
        photos = noise(7, 100, 0)
        first, second = halves(photos, 3)
        assert set(first) | set(second) == set(photos)
        assert not set(first) & set(second)
        assert len(first) == 3
        assert set(halves(photos, 4)[0]) != set(first)


class TestPreparation:
    def test_photographs_are_reduced_and_never_enlarged(self):
        assert comparable(np.zeros((900, 600, 3), np.uint8)).shape == (448, 299, 3)
        assert comparable(np.zeros((200, 150, 3), np.uint8)).shape == (200, 150, 3)
        assert comparable(np.zeros((20, 300, 3), np.uint8)).shape[0] == 64  # but a crop must fit

    def test_all_go_through_the_same_jpeg(self):
        """The blocks of a file of quality 75 do not tell it from one that was never compressed."""
        plain = cv2.cvtColor(cv2.imread(str(SAMPLE / 'val/goat.jpg')), cv2.COLOR_BGR2RGB)[100:356, 100:356]
        before = comparable(plain)
        assert np.abs(before.astype(int) - plain).mean() > 2
        assert np.abs(comparable(before).astype(int) - before).mean() < 1

    @pytest.mark.parametrize('view', VIEWS)
    def test_crops_are_of_one_size(self, view):
        shape = crop(viewed(noise(1, 100, 0, side=70)['0_0'][0], view), view, np.random.default_rng(0)).shape
        assert shape == {'photo': (64, 64, 3), 'texture': (64, 64, 1), 'colour': (32, 32, 3)}[view]

    def test_copies_of_a_picture_are_one_scene(self):
        image = cv2.imread(str(SAMPLE / 'val/goat.jpg'))
        other = cv2.imread(str(SAMPLE / 'val/sheep.jpg'))
        photos = {'a': [image], 'b': [other], 'c': [cv2.resize(image, (200, 150))], 'd': [image[:, ::-1]]}
        assert scenes(photos) == {'a': 'a', 'b': 'b', 'c': 'a', 'd': 'd'}
        assert {k: len(v) for k, v in merged(photos, scenes(photos)).items()} == {'a': 2, 'b': 1, 'd': 1}


class TestRender:
    def test_files_manifest_and_groups(self, clean, tmp_path):
        about = render(Rendering('rain', [clean]), tmp_path / 'out')
        assert len(about['photographs']) == 8
        assert manifest(tmp_path / 'out') == about
        assert about['degradations'][0]['block'] == {'type': 'Rain'}
        assert 'opacity' in about['degradations'][0]['parameters']
        photos = load_synthetic(tmp_path / 'out')
        assert set(photos) == {f.stem for f in clean.iterdir()}
        assert all(len(copies) == 2 and (copies[0] != copies[1]).any() for copies in photos.values())

    def test_the_same_seed_gives_the_same_bytes(self, clean, tmp_path):
        for name, seed in (('one', 0), ('two', 0)):
            render(Rendering('snow', [clean], seed=seed, variants=1), tmp_path / name)
        one, two = ([f.read_bytes() for f in sorted((tmp_path / n).rglob('*.png'))] for n in ('one', 'two'))
        assert one == two
        render(Rendering('snow', [clean], seed=1, variants=1), tmp_path / 'two')  # in place of the older one
        assert all(a != f.read_bytes() for a, f in zip(one, sorted((tmp_path / 'two').rglob('*.png')), strict=True))

    def test_parameters_of_the_file_are_used(self, clean, tmp_path, write):
        blocks = write('blocks.yml', {'degradations': [{'type': 'Haze', 'beta': [0, 0]}, {'type': 'Rain'}]})
        about = render(Rendering('haze', [clean], degradations=blocks, variants=1), tmp_path / 'out')
        assert [d['block']['type'] for d in about['degradations']] == ['Haze']
        for file in clean.iterdir():  # no haze: only rounding is left
            made = cv2.imread(str(tmp_path / 'out/v0' / file.name)).astype(int)
            assert np.abs(made - cv2.imread(str(file))).max() <= 1

    def test_sizes_follow_the_real_photographs(self, clean, tmp_path):
        real = save(tmp_path / 'real', noise(3, 100, 0, side=100))
        render(Rendering('haze', [clean], like=[real], variants=1), tmp_path / 'out')
        assert {max(cv2.imread(str(f)).shape) for f in (tmp_path / 'out/v0').iterdir()} == {100}
        assert {max(v[0].shape) for v in load([clean], [real]).values()} == {100}

    def test_another_checkout_is_used(self, clean, tmp_path):
        """Of a checkout whose Rain is a blank page, blank pages come."""
        other = tmp_path / 'checkout'
        for name in ('basicsr', 'data'):
            shutil.copytree(ROOT / name, other / name, ignore=shutil.ignore_patterns('__pycache__'))
        (other / 'archs').mkdir()
        file = other / 'data/rain_degradation.py'
        file.write_text(
            file.read_text() + '\n\ndef _blank(self, image, rng):\n    return image * 0\n\n\nRain.__call__ = _blank\n'
        )
        render(Rendering('rain', [clean], checkout=other, variants=1), tmp_path / 'out')
        assert all(cv2.imread(str(f)).max() == 0 for f in (tmp_path / 'out').rglob('*.png'))

    def test_a_folder_of_other_files_is_left_alone(self, clean, tmp_path):
        (tmp_path / 'mine').mkdir()
        (tmp_path / 'mine/text.txt').write_text('mine')
        with pytest.raises(DataError, match='not empty'):
            render(Rendering('rain', [clean]), tmp_path / 'mine')

    @pytest.mark.parametrize(
        ('content', 'words'),
        [
            ([{'type': 'Haze'}], "is of the task 'rain'"),
            ({'rain': 1}, 'must hold a list of blocks'),
            ('[{', 'cannot be read'),
        ],
    )
    def test_wrong_blocks_are_refused(self, clean, tmp_path, write, content, words):
        with pytest.raises(OptionError, match=words):
            render(Rendering('rain', [clean], degradations=write('b.yml', content)), tmp_path / 'out')

    def test_no_checkout_is_refused(self, clean, tmp_path):
        with pytest.raises(OptionError, match='is no checkout'):
            render(Rendering('rain', [clean], checkout=tmp_path), tmp_path / 'out')


class TestCommand:
    def test_score_is_stored_and_replaced(self, clean, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr('basicsr.tools.realism_score.Effort', lambda: Effort(crops=32, epochs=1, folds=2, batch=16))
        monkeypatch.setenv('QUALIR_DATA', str(tmp_path))
        real = save(tmp_path / 'real', noise(4, 100, 0))
        results = tmp_path / 'results.json'
        words = ['score', '--task', 'haze', '--real', str(real), '--clean', str(clean), '--results', str(results)]
        render(Rendering('haze', [clean]), tmp_path / 'made')
        words += ['--synthetic', str(tmp_path / 'made')]
        for label, seeds in (('after', 1), ('before', 2), ('after', 1)):
            given = [*words, '--label', label, '--seeds', str(seeds), '--of', 'noise']
            monkeypatch.setattr(sys, 'argv', ['realism.py', *given])
            assert realism.main(given) == 0
        records = json.loads(results.read_text())
        assert [r['label'] for r in records] == ['before', 'after']
        record = records[0]
        assert record['photographs'] == {'real': 4, 'synthetic': 4, 'clean': 4}
        assert record['seeds'] == [0, 1]
        assert set(record['views']) == {'photo', 'colour'}
        assert set(record['views']['photo']) == {'synthetic', 'clean', 'real', 'recognised'}
        assert len(record['views']['photo']['synthetic']['accuracy']) == 2
        assert '$QUALIR_DATA/real' in record['command']
        assert str(tmp_path) not in record['command']
        assert 'haze, colour: told from real' in capsys.readouterr().out

    @pytest.mark.parametrize(
        ('words', 'message'),
        [
            (['--real', 'nowhere'], 'There is no folder'),
            (['--real', '{empty}'], 'holds no image'),
            (['--real', '{few}'], 'There are 2 real photographs; at least 4 are needed.'),
            (['--real', '{real}', '--views', 'smell'], 'it must list some of photo, texture, colour'),
            (['--real', '{real}', '--seeds', '0'], '--seeds is 0'),
            (['--real', '{real}', '--paired'], 'same names'),
            (['--real', '{real}', '--variants', '0'], '--variants is 0'),
        ],
    )
    def test_wrong_input_is_refused_in_a_sentence(self, clean, tmp_path, capsys, words, message):
        (tmp_path / 'empty').mkdir()
        save(tmp_path / 'few', noise(2, 100, 0))
        save(tmp_path / 'real', noise(4, 100, 0))
        words = [w.format(**{n: tmp_path / n for n in ('empty', 'few', 'real')}) for w in words]
        assert realism.main(['score', '--task', 'haze', '--clean', str(clean), *words]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert 'Traceback' not in error

    def test_it_runs_as_a_script(self, clean, tmp_path):
        command = [sys.executable, str(ROOT / 'tools/realism.py'), 'render', '--task', 'underwater']
        command += ['--clean', str(clean), '--out', str(tmp_path / 'out'), '--variants', '1']
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, '')
        assert len(named_files([tmp_path / 'out'])) == 4


class TestPage:
    def test_sheet_alternates_and_stays_small(self, clean, tmp_path):
        dark = save(tmp_path / 'dark', noise(4, 30, 0))
        bright = save(tmp_path / 'bright', noise(3, 220, 1))
        picture = sheet(dark, [bright], 2, 2, 0)
        assert picture.shape == (3 * 225, 22 + 2 * 300, 3)  # the second row of bright ones cannot be filled
        assert [picture[row * 225 : row * 225 + 225, 40:].mean() < 128 for row in range(3)] == [True, False, True]
        assert len(encoded(picture)) < 400_000
        assert sheet(dark, None, 2, 2, 0).shape[0] == 2 * 225
        assert (sheet(dark, None, 2, 1, 0) == sheet(dark, None, 2, 1, 0)).all()

    def test_too_few_for_a_row_is_refused(self, tmp_path):
        with pytest.raises(DataError, match='too few for a row of 5'):
            sheet(save(tmp_path / 'dark', noise(4, 30, 0)), None, 5, 1, 0)

    def test_table_shows_means_and_leaves_out_what_is_missing(self):
        told = {'accuracy': [0.8, 0.9], 'auc': [0.85, 0.95]}
        views = {
            'photo': {
                'synthetic': told,
                'clean': told,
                'real': told,
                'recognised': {'real': [0.7, 0.8], 'synthetic': [0.9]},
            }
        }
        record = {'label': 'before', 'task': 'low_light', 'of': 'nights', 'photographs': {'real': 9}, 'seeds': [0, 1]}
        text = table([{**record, 'views': views, 'version': 'abc1234'}])
        assert '| low light | nights (9) | photo | 85 ± 7 (0.90) |  | 85 ± 7 (0.90) | 85 ± 7 (0.90) |' in text
        assert '| low light | nights (9) | photo | 0.75 ± 0.07 (0.90) |  |' in text
        assert 'before: commit abc1234' in text
        after = {**record, 'label': 'after', 'views': {'photo': {'synthetic': told}}, 'version': 'abc1235'}
        text = table([{**record, 'views': views, 'version': 'abc1234'}, after])  # the controls of 'before' stay
        assert '| photo | 85 ± 7 (0.90) | 85 ± 7 (0.90) | 85 ± 7 (0.90) | 85 ± 7 (0.90) |' in text

    def test_table_goes_between_the_markers(self, tmp_path, write, capsys):
        results = write('r.json', '[]')
        page = write('page.md', f'above\n{realism.BEGIN}\nformer\n{realism.END}\nbelow\n')
        words = ['table', '--results', str(results), '--page']
        assert realism.main([*words, str(page)]) == 0
        text = page.read_text()
        assert text.startswith('above\n')
        assert text.endswith('\nbelow\n')
        assert 'former' not in text
        assert realism.main([*words, str(write('bare.md', 'text'))]) == 2
        assert 'has no lines' in capsys.readouterr().err

    def test_the_page_holds_the_table_of_the_stored_results(self):
        page = realism.PAGE.read_text(encoding='utf-8')
        inside = page.partition(realism.BEGIN)[2].partition(realism.END)[0].strip()
        assert inside == table(json.loads(realism.RESULTS.read_text(encoding='utf-8')))
