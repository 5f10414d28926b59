"""The study of benchmarks/qualitynet.py, in small, and what its figures count."""

import json
import shutil

import numpy as np
import pytest
import torch

from basicsr.image_io import read_image, to_uint8, write_image
from basicsr.iqa import build_scorer
from benchmarks import quality_ladders, qualitynet

from .runs import ROOT


def test_a_small_study(tmp_path, monkeypatch):
    photos = tmp_path / 'photos'
    for name in ('goat', 'sheep'):
        write_image(photos / f'{name}.png', read_image(ROOT / f'datasets/sample/val/{name}.jpg')[:160, :200])
    ranked = tmp_path / 'ladders/goat_Haze'
    for rank in range(3):
        image = read_image(photos / 'goat.png')
        noise = np.random.default_rng(rank).normal(0, 0.1 * rank, image.shape)
        write_image(ranked / f'{rank}.png', to_uint8(np.clip(image + noise, 0, 1)))
    monkeypatch.delenv('QUALIR_DATA', raising=False)
    monkeypatch.setattr(qualitynet, 'SAMPLE', photos)
    monkeypatch.setattr(qualitynet, 'COMPARED', ('QualityNet', 'NIQE'))
    page = tmp_path / 'page.md'
    shutil.copy(ROOT / 'docs/quality.md', page)
    result = tmp_path / 'result.json'
    arguments = [
        '--ladders',
        str(tmp_path / 'ladders'),
        '--output',
        str(result),
        '--page',
        str(page),
        '--processes',
        '2',
    ]
    assert qualitynet.main(arguments) == 0
    found = json.loads(result.read_text())
    assert found['photos'] == 2
    assert set(found['ranked']) == set(quality_ladders.LADDERS)
    assert found['ranked']['noise']['right']['qualitynet'] > 0.9
    assert found['restored_ladders']['right']['qualitynet'] == 1
    assert 'clean' in found['types']
    text = page.read_text()
    assert (
        '| noise | ' in text.split('<!-- qualitynet: unseen begin -->')[1].split('<!-- qualitynet: unseen end -->')[0]
    )


def test_what_was_measured_is_kept_for_the_same_heads_only(tmp_path):
    told = {'photos': 2, 'versions': {'qualitynet': 'a'}}
    (tmp_path / 'r.json').write_text(json.dumps({**told, 'ranked': {'x': 1}}))
    assert qualitynet._stored(tmp_path / 'r.json', told)['ranked'] == {'x': 1}
    other = {'photos': 2, 'versions': {'qualitynet': 'b'}}
    assert qualitynet._stored(tmp_path / 'r.json', other) == other
    assert qualitynet._stored(tmp_path / 'none.json', told) == told


def test_real_photographs_are_told_by_what_they_are_called():
    text = qualitynet.real_table({'real_types': {'haze': {'clean': 3, 'haze': 1}}})
    assert '| haze | 4 | 1 (25%) | clean 3 |' in text


def test_types_are_counted_for_each_strength():
    groups = [['clean', 'clean', 'noise'], ['blur', 'noise', 'noise']]
    ranked = {name: {'types': groups} for name in qualitynet.TYPED}
    found = qualitynet._types(ranked)
    assert found['clean']['all'] == 0.5
    assert found['noise'] == {'all': 0.75, 'visible': 1.0}
    assert found['haze']['visible'] == 0


def test_pairs_count_where_psnr_and_ssim_agree(tmp_path):
    clean = read_image(ROOT / 'datasets/sample/val/goat.jpg')[:96, :96]
    noisy = clean + np.random.default_rng(0).normal(0, 0.1, clean.shape)
    files = [tmp_path / f'{n}.png' for n in ('clean', 'same', 'noisy')]
    for file, image in zip(files, (clean, clean + 1 / 255, noisy)):
        write_image(file, to_uint8(np.clip(image, 0, 1)))
    with torch.no_grad():
        votes = qualitynet._votes(files, [build_scorer({'type': 'QualityNet'})])
    # clean and the brighter copy differ by nothing in SSIM: only the two pairs with the noisy image count
    assert [v['clean'] for v in votes] == [True, False]
    assert all(v['qualitynet'] for v in votes)
    assert qualitynet._rate([], 'qualitynet') is None


@pytest.mark.parametrize('found', [None, 0.875])
def test_shares_are_told_in_percent(found):
    assert qualitynet._percent(found) == ('-' if found is None else '87.5')
