"""Helpers of the tests of shards: image files and tar files made on the spot."""

import io
import tarfile

import cv2
import numpy as np

STEMS = ['1', '2', '10', 'a/b', 'a/0001_0.8_0.2', 'a/100%', 'ü/日本', 'x' * 120, 'deep/' * 30 + 'y']


def png(number, size=12):
    pixels = np.random.default_rng(number).integers(0, 255, (size, size, 3), dtype=np.uint8)
    return cv2.imencode('.png', pixels)[1].tobytes()


def fill(folder, stems=STEMS, first=0):
    """Image files, and their content by stem."""
    content = {stem: png(first + i) for i, stem in enumerate(stems)}
    for stem, data in content.items():
        file = folder / f'{stem}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return content


def all_of(reader):
    return {key: reader.get(key) for key in reader.keys}


def pack_tar(path, members, **settings):
    """A tar file of (name, content) by Python's own module."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, 'w', **settings) as archive:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path
