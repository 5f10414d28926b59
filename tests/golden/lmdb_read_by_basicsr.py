"""Prints what BasicSR 1.4.2 of PyPI reads from two LMDBs, lq and gt: its pairs, and a hash of each image it decodes.

    peer/bin/python tests/golden/lmdb_read_by_basicsr.py lq.lmdb gt.lmdb

Run by its path, in the environment that make_basicsr.py describes.
"""

import hashlib
import json
import sys

from peers import import_torchvision

import_torchvision()

from basicsr.data.data_util import paired_paths_from_lmdb  # noqa: E402
from basicsr.utils import FileClient, imfrombytes  # noqa: E402


def main(lq, gt):
    client = FileClient('lmdb', db_paths=[lq, gt], client_keys=['lq', 'gt'])
    rows = []
    for pair in paired_paths_from_lmdb([lq, gt], ['lq', 'gt']):
        images = [imfrombytes(client.get(pair[f'{side}_path'], side)) for side in ('lq', 'gt')]
        rows.append([pair['lq_path'], *(hashlib.sha256(image[..., ::-1].tobytes()).hexdigest() for image in images)])
    sys.stdout.write(json.dumps(rows))


if __name__ == '__main__':
    main(*sys.argv[1:])
