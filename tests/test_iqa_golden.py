"""Metrics against the official scores of five distorted TID2013 images: those of the authors' own programs.

The images and scores (ResultsCalibra of IQA-PyTorch) are not part of the project; QUALIR_DATA names where they are.
"""

import csv
import os
from pathlib import Path

import pytest
import torch

from basicsr.image_io import read_image, to_tensor
from basicsr.metrics import calculate_metric

NAMES = ('I03', 'I04', 'I06', 'I08', 'I19')
GREY = (0.298936021293775, 0.587043074451121, 0.114020904255103)  # MATLAB's rgb2gray


@pytest.fixture(scope='module')
def golden():
    root = Path(os.environ.get('QUALIR_DATA', '')) / 'iqa_golden'
    if 'QUALIR_DATA' not in os.environ or not root.is_dir():
        pytest.skip('QUALIR_DATA does not name a folder with iqa_golden.')
    return root


def rows(file):
    with file.open() as stream:
        return {row[0]: [float(v) for v in row[1:]] for row in list(csv.reader(stream))[1:]}


@pytest.fixture(scope='module')
def official(golden):
    return rows(golden / 'results_official.csv')


@pytest.fixture(scope='module')
def images(golden):
    return {side: [to_tensor(read_image(golden / side / f'{n}.bmp'))[None] for n in NAMES]
            for side in ('dist_dir', 'ref_dir')}  # fmt: skip


def grey(image):
    """Whole grey levels as MATLAB gives them, (1,1,H,W) in [0,1]."""
    weights = torch.tensor(GREY, dtype=torch.float64).view(3, 1, 1)
    return ((image.double() * 255 * weights).sum(1, keepdim=True) + 0.5).floor() / 255


def scores(kind, images, references=None, **options):
    found = []
    for number, image in enumerate(images):
        data = {'img': image} if references is None else {'img': image, 'img2': references[number]}
        found.append(float(calculate_metric(data, {'type': f'calculate_{kind}', **options})))
    return found


def test_psnr_is_the_official_one(images, official):
    assert scores('psnr', images['dist_dir'], images['ref_dir']) == pytest.approx(official['psnr'], abs=0.0051)


def test_ssim_of_grey_is_that_of_the_authors_matlab_script(images, official):
    sides = [[grey(i) for i in images[side]] for side in ('dist_dir', 'ref_dir')]
    assert scores('ssim', *sides) == pytest.approx(official['ssim'], abs=6e-5)


def test_piqe_is_the_official_one(images, official):
    assert scores('piqe', images['dist_dir']) == pytest.approx(official['piqe'], abs=0.0051)


def test_entropy_is_the_official_one(images, official):
    assert scores('entropy', images['dist_dir']) == pytest.approx(official['entropy'], abs=6e-5)


def test_niqe_is_near_the_official_one(images, official, golden):
    """MATLAB differs by up to 0.5 %, and by 5 % on I19, which is nearly flat; pyiqa differs there in the same way."""
    found = scores('niqe', images['dist_dir'])
    assert found[:4] == pytest.approx(official['niqe'][:4], rel=0.005)
    assert found[1] == pytest.approx(official['niqe'][1], abs=1e-3)
    pyiqa = rows(golden / 'calibration_summary.csv')['niqe(ours)']
    assert found == pytest.approx(pyiqa, rel=0.003)
