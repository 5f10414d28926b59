"""The study of benchmarks/quality.py: its statistics, its ladders, that it resumes, and a small run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from basicsr.errors import DataError, QualIRError
from basicsr.image_io import read_image, write_image
from basicsr.iqa import Calibration, Scorer
from benchmarks import peer_figures, quality, quality_gaming, quality_ladders, quality_page, quality_parts
from benchmarks.quality_ladders import LADDERS, ladder_part, photographs, rungs
from benchmarks.quality_parts import Part, fill, shared
from benchmarks.quality_scores import right_pairs, spearman

SAMPLE = Path(__file__).parents[1] / 'datasets/sample/val'


class Contrast(Scorer):
    """Standard deviation of all values; or, turned, its negative."""

    differentiable = True

    def __init__(self, name='contrast', turned=False):
        super().__init__(name, Calibration(0.5, 0, 'test') if turned else Calibration(0, 0.5, 'test'), '1')
        self.calls, self.sign = [], -1 if turned else 1

    def raw(self, images, degraded=None):
        self.calls.append(len(images))
        return images.flatten(1).std(dim=1)


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp('photos')
    for name in ('goat', 'sheep'):
        shutil.copy(SAMPLE / f'{name}.jpg', folder)
    return photographs([folder], side=160)


def test_photographs_are_reduced_to_the_longest_side(photos):
    assert sorted(photos) == ['goat', 'sheep']
    assert max(photos['goat'].shape) == 160
    with pytest.raises(DataError, match='no image'):
        photographs([Path(__file__).parent / 'plugins'])


def test_spearman_is_that_of_scipy():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 6, 40), rng.integers(0, 9, 40)
    assert spearman(first, second) == pytest.approx(spearmanr(first, second).statistic)
    assert spearman([1, 1, 1], [1, 2, 3]) == 0
    assert spearman([1.0, 2.0, 3.0], [10.0, 200.0, 3000.0]) == pytest.approx(1)


def test_pairs_are_counted_with_ties_as_halves():
    assert right_pairs([3, 2, 1]) == 1
    assert right_pairs([1, 2, 3]) == 0
    assert right_pairs([2, 2, 1]) == pytest.approx(2.5 / 3)


@pytest.mark.parametrize('name', LADDERS)
def test_every_ladder_departs_further_from_the_photograph_with_each_step(name, photos):
    ladder = rungs(photos['goat'], LADDERS[name].blocks(), (0, 0))
    assert ladder.shape[0] == 6
    away = (ladder[1:] - ladder[0]).square().mean(dim=(1, 2, 3))
    assert torch.equal(ladder, rungs(photos['goat'], LADDERS[name].blocks(), (0, 0)))
    assert away[0] > 0
    assert (away.diff() > 0).all()


def test_a_part_is_kept_and_only_what_is_missing_is_scored(tmp_path, photos):
    first, second = Contrast(), Contrast('turned', turned=True)
    part = ladder_part('noise', photos, 2)
    stored = fill(part, [first], tmp_path, 1)
    assert first.calls == [6] * 4
    assert fill(part, [first, second], tmp_path, 1)['scores'] == {
        **stored['scores'],
        'turned': stored['scores']['contrast'],
    }
    assert (len(first.calls), len(second.calls)) == (4, 4)
    assert json.loads((tmp_path / 'ladder_noise.json').read_text())['better'] == {'contrast': 1, 'turned': -1}
    first.version = '2'
    fill(part, [first, second], tmp_path, 1)
    assert (len(first.calls), len(second.calls)) == (8, 4)
    fill(ladder_part('noise', photos, 1), [second], tmp_path, 1)
    assert len(second.calls) == 6


def test_processes_give_what_one_gives(tmp_path, photos):
    part = ladder_part('blur', photos, 2)
    one = fill(part, [Contrast()], tmp_path / 'one', 1)
    two = fill(part, [Contrast()], tmp_path / 'two', 2)
    assert one == two
    with pytest.raises(QualIRError, match='ZeroDivisionError'):
        shared(lambda number: 1 / (number - 1), 3, 2)


def test_psnr_goes_with_the_pairs(tmp_path):
    clean = torch.full((3, 8, 8), 100 / 255)
    part = Part('p', {}, 1, lambda _: torch.stack((clean + 51 / 255, clean)), reference=1)
    stored = fill(part, [Contrast()], tmp_path, 1)
    assert stored['psnr'] == [[pytest.approx(20 * np.log10(5), abs=1e-3), None]]


def test_ascent_raises_the_score_and_the_clamped_one_stops_at_its_end(photos):
    _, noisy = quality_gaming.noisy_crop(photos, 0)
    scorer, turned = Contrast(), Contrast('turned', turned=True)
    before = scorer.raw(noisy)
    assert scorer.raw(quality_gaming.ascend(scorer, noisy, 'raw', 5)) > before
    assert scorer.raw(quality_gaming.ascend(turned, noisy, 'raw', 5)) < before
    scorer.calibration = Calibration(0, before.item() / 2, 'test')
    assert torch.equal(quality_gaming.ascend(scorer, noisy, 'clamped', 5), noisy)


def test_the_page_gets_every_table(tmp_path, photos):
    judges = [Contrast(), Contrast('turned', turned=True)]
    for name in ('noise', 'low_light'):
        fill(ladder_part(name, photos, 1), judges, tmp_path / 'parts', 1)
    quality_gaming.play(judges, photos, 1, tmp_path / 'parts', tmp_path / 'scratch', 1)
    quality.clock(judges, photos, tmp_path / 'parts/speed.json')
    found = quality_page.records(tmp_path / 'parts')
    page = tmp_path / 'page.md'
    page.write_text((quality.ROOT / 'docs/quality.md').read_text())
    written = quality_page.write_page(page, found)
    assert written == ['verdict', 'ladders', 'agreement', 'gaming', 'speed']
    figures = quality_page.ladder_figures(found)
    assert figures['low_light']['contrast'] == (pytest.approx(1), 1)  # darkness takes contrast
    assert figures['low_light']['turned'] == (pytest.approx(-1), 0)
    assert '| low light | 1.00 (100) | -1.00 (0) |' in page.read_text()
    assert '| turned | -1.00 |' in quality_page.agreement_table(found)
    games = [g for g in quality_page.gaming_table(found).splitlines() if g.startswith('| contrast')]
    assert len(games) == 2
    quality_page.gaming_picture(tmp_path / 'scratch', ['contrast', 'turned'], tmp_path / 'games.jpg')
    assert (tmp_path / 'games.jpg').stat().st_size < quality_page.LARGEST
    page.write_text('nothing')
    with pytest.raises(DataError, match='no marks'):
        quality_page.write_page(page, found)


def test_real_pairs_and_restored_images_are_found_and_compared(tmp_path, photos):
    clean = read_image(SAMPLE / 'goat.jpg')[:60, :80]
    for number in range(3):
        write_image(tmp_path / f'SOTS/indoor/hazy/{number}_1.png', clean * 0.5 + 0.4)
        write_image(tmp_path / f'SOTS/indoor/gt/{number}.png', clean)
    for number in (0, 2):  # of which the first and the last are asked for
        write_image(tmp_path / f'out/SOTS/good/{number}_1.png', clean * 0.9)
        write_image(tmp_path / f'out/SOTS/bad/{number}_1.png', clean * 0.2 + 0.8)
    part = quality_ladders.pair_part(tmp_path, 'SOTS', tmp_path / 'out', ['good', 'bad'], 2)
    found = {'pairs_sots': fill(part, [Contrast()], tmp_path / 'parts', 1)}
    assert [len(g) for g in found['pairs_sots']['scores']['contrast']] == [4, 2, 4]
    assert '| SOTS (3) | 100 |' in quality_page.pairs_table(found)
    assert '| SOTS (4 outputs of 2 networks) | 1.00 |' in quality_page.gains_table(found)
    (tmp_path / 'SOTS/indoor/gt/2.png').unlink()
    with pytest.raises(DataError, match='2_1'):
        quality_ladders.pair_files(tmp_path, 'SOTS')
    with pytest.raises(DataError, match='LSUI'):
        quality_ladders.pair_files(tmp_path, 'LSUI')


def test_published_networks_are_restored_once_and_scored_by_the_protocol(tmp_path, monkeypatch):
    from benchmarks.peers import networks

    clean = read_image(SAMPLE / 'sheep.jpg')[:48, :64]
    for number in range(2):
        write_image(tmp_path / f'LSUI/input/{number}.png', np.clip(clean + 51 / 255, 0, 1))
        write_image(tmp_path / f'LSUI/GT/{number}.png', clean)
    torch.manual_seed(0)
    file = tmp_path / networks.PEERS['uwcnn'].file
    file.parent.mkdir()
    state = {f'module.{k}': v for k, v in networks.build('uwcnn').state_dict().items()}
    torch.save({'state_dict': state}, file)
    page = tmp_path / 'page.md'
    page.write_text('<!-- peers: begin -->\n<!-- peers: end -->\n')
    command = ['--weights', tmp_path, '--data', tmp_path, '--restored', tmp_path / 'out', '--sets', 'LSUI',
               '--processes', 1, '--json', tmp_path / 'docs/peers.json', '--page', page]  # fmt: skip
    assert peer_figures.main([str(c) for c in command]) == 0
    part = json.loads((tmp_path / 'docs/peers.json').read_text())['LSUI']
    assert (part['protocol'], part['images']) == ('lsui', 2)
    assert 13 < part['degraded']['psnr'] < 15  # 51 levels, but for what is clipped
    assert 'UWCNN variant' in page.read_text()
    made = (tmp_path / 'out/LSUI/uwcnn/0.png').stat().st_mtime_ns
    (tmp_path / 'out/LSUI/uwcnn/1.png').unlink()  # as after a kill
    assert peer_figures.main([str(c) for c in command]) == 0
    assert (tmp_path / 'out/LSUI/uwcnn/0.png').stat().st_mtime_ns == made
    assert (tmp_path / 'out/LSUI/uwcnn/1.png').is_file()
    torch.save({'state_dict': {k: v + 0.01 for k, v in state.items()}}, file)
    networks._loaded.cache_clear()
    assert peer_figures.main([str(c) for c in command]) == 0
    assert (tmp_path / 'out/LSUI/uwcnn/0.png').stat().st_mtime_ns > made
    monkeypatch.delenv('QUALIR_DATA', raising=False)
    assert peer_figures.main(['--weights', str(tmp_path), '--json', str(tmp_path / 'x.json')]) == 2


def test_shares_are_kept_with_six_digits():
    assert quality_parts.rounded(1.23456789) == 1.23457
