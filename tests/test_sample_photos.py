"""The photographs that ship with the project: few, small, credited, and split by photograph."""

import re

import cv2
import numpy as np
import pytest

from basicsr.image_io import list_images, read_image

LICENCES = {'CC0-1.0', 'CC-BY-2.0', 'CC-BY-3.0', 'CC-BY-4.0', 'CC-BY-SA-4.0', 'public domain'}


@pytest.fixture(scope='module')
def folder(request):
    return request.config.rootpath / 'datasets' / 'sample'


@pytest.fixture(scope='module')
def rows(folder):
    """The credit table: file, title, author, licence, source, changes, with links reduced to their text."""
    lines = [line for line in (folder / 'README.md').read_text(encoding='utf-8').splitlines() if line.startswith('| `')]
    cells = [[re.sub(r'\[(.*?)\]\(\S+\)', r'\1', c.strip()) for c in line.strip('|').split(' | ')] for line in lines]
    return {c[0].strip('` '): c[1:] for c in cells}


def test_number_and_size(folder):
    assert 24 <= len(list_images(folder / 'train')) <= 28
    assert 6 <= len(list_images(folder / 'val')) <= 8
    assert sum(f.stat().st_size for f in list_images(folder)) < 5_000_000


def test_every_photo_is_a_readable_colour_picture_of_useful_size(folder):
    for file in list_images(folder):
        image = read_image(file)
        height, width = image.shape[:2]
        assert max(height, width) <= 640, file
        assert min(height, width) >= 320, file
        assert image.std() > 0.1, file
        assert np.abs(image[..., 0] - image[..., 2]).mean() > 0.01, file


def test_metadata_is_gone(folder):
    for file in list_images(folder):
        data = file.read_bytes()
        assert not re.search(rb'Exif\x00|ICC_PROFILE|http://ns\.adobe\.com|Photoshop', data), file


def test_every_photo_has_a_credit_and_every_credit_a_photo(folder, rows):
    files = {f.relative_to(folder).as_posix() for f in list_images(folder)}
    assert files == set(rows)


def test_every_credit_is_complete_and_the_licence_free(rows):
    for file, (title, author, licence, source, changes) in rows.items():
        assert title, file
        assert author, file
        assert licence in LICENCES, file
        assert re.search(r'(gcompris-qt-data|lomiri-wallpapers|scikit-image)', source), file
        assert re.search(r'downscaled|saved as', changes), file


def test_no_photo_is_in_both_splits(folder, rows):
    for column in (0, 3):  # title, and source with its file name
        train, val = ({r[column] for f, r in rows.items() if f.startswith(split)} for split in ('train', 'val'))
        assert not train & val
        assert len(train) + len(val) == len(rows)


def test_no_two_photos_are_alike(folder):
    """Neither a copy nor a re-encoded one: thumbnails correlate little between any two files."""
    files = list_images(folder)
    small = np.stack([cv2.resize(read_image(f), (24, 24), interpolation=cv2.INTER_AREA).ravel() for f in files])
    correlation = np.corrcoef(small)
    np.fill_diagonal(correlation, 0)
    assert correlation.max() < 0.9
