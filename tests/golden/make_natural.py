"""NIQE, BRISQUE and PIQE of the sample photographs, as other programs compute them: natural.json.

    python tests/golden/make_natural.py basicsr
    python tests/golden/make_natural.py pypiqe
    python tests/golden/make_natural.py pyiqa --brisque DIR [--live DIR]

Each run needs the program of its name and fills in its part of the file. ``--brisque`` is the folder ``models`` of the
package brisque 0.2.0 (svm.txt, normalize.pickle), ``--live`` a folder with the files allmodel and allrange of the LIVE
release of BRISQUE. NIQE's model is the one that ships, which is BasicSR's.

pyiqa is run in double precision. In single precision its BRISQUE is off by up to 1, because the fits take the
nearest entry of a table; how far, is recorded. It knows one range of features, that of LIVE: for the other regression
the range is replaced. ``report`` holds what cannot be tested without the files: the agreement with LIVE's regression.
"""

import argparse
import importlib
import importlib.metadata
import json
import pickle
import sys
import tempfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import torch

GOLDEN = Path(__file__).with_name('natural.json')
ROOT = GOLDEN.parents[2]
PHOTOS = sorted((ROOT / 'datasets/sample').glob('*/*.jpg'))
NIQE_MODEL = ROOT / 'basicsr/metrics/parameters/niqe_pris_params.npz'
sys.path.insert(0, str(GOLDEN.parent))


def photo(path):
    """8-bit BGR."""
    return cv2.imread(str(path), cv2.IMREAD_COLOR)


def by_basicsr(_):
    from peers import import_torchvision

    import_torchvision()
    niqe = importlib.import_module('basicsr.metrics.niqe').calculate_niqe
    return {'niqe_basicsr': lambda image: niqe(image, 0)}, ['basicsr', 'scipy', 'numpy']


def by_pypiqe(_):
    piqe = importlib.import_module('pypiqe.piqe').piqe
    return {'piqe': lambda image: float(piqe(image)[0])}, ['pypiqe', 'opencv-python-headless', 'numpy']


def by_pyiqa(args):
    from peers import import_torchvision

    import_torchvision()
    metrics = {'niqe': niqe_of_pyiqa(), 'brisque': brisque_of_pyiqa(*regression(args.brisque / 'svm.txt'))}
    low_high = pickle.loads((args.brisque / 'normalize.pickle').read_bytes())
    found = {
        'niqe': in_double(metrics['niqe']),
        'brisque': lambda image: with_range(low_high, in_double(metrics['brisque']), image),
        'brisque_in_single': lambda image: with_range(low_high, in_single(metrics['brisque']), image),
    }
    if args.live:
        live = brisque_of_pyiqa(*regression(args.live / 'allmodel'))
        found |= {'brisque_live': in_double(live), 'brisque_live_in_single': in_single(live)}
    return found, ['pyiqa', 'torch', 'numpy']


def niqe_of_pyiqa():
    import pyiqa
    from scipy.io import savemat

    with np.load(NIQE_MODEL) as file, tempfile.TemporaryDirectory() as folder:
        path = f'{folder}/niqe.mat'
        savemat(path, {'mu_prisparam': file['mu_pris_param'], 'cov_prisparam': file['cov_pris_param']})
        return pyiqa.create_metric('niqe', device='cpu', pretrained_model_path=path).net


def brisque_of_pyiqa(coefficients, vectors, offset):
    import pyiqa

    with tempfile.TemporaryDirectory() as folder:
        torch.save((coefficients, vectors), f'{folder}/brisque.pth')
        net = pyiqa.create_metric('brisque', device='cpu', pretrained_model_path=f'{folder}/brisque.pth').net
    net.rho = offset
    return net


def regression(path):
    """Coefficients, support vectors and offset of a libsvm model, read without the project's own reader."""
    head, body = path.read_text().split('\nSV\n')
    offset = next(float(line.split()[1]) for line in head.splitlines() if line.startswith('rho'))
    rows = [line.split() for line in body.splitlines()]
    entries = [dict(entry.split(':') for entry in row[1:]) for row in rows]
    vectors = [[float(entry.get(str(i), 0)) for i in range(1, 37)] for entry in entries]
    tensors = [torch.tensor(v, dtype=torch.float64) for v in ([float(row[0]) for row in rows], vectors)]
    return (*tensors, offset)


def with_range(low_high, function, image):
    """Calls a metric while pyiqa scales features by another range."""
    module = importlib.import_module('pyiqa.archs.brisque_arch')
    low, high = (torch.tensor(low_high[k], dtype=torch.float64) for k in ('min_', 'max_'))
    own, module.scale_features = module.scale_features, lambda f: 2 * (f - low.to(f)) / (high - low).to(f) - 1
    try:
        return function(image)
    finally:
        module.scale_features = own


def in_double(net):
    return lambda image: run(net, image, torch.float64)


def in_single(net):
    return lambda image: run(net, image, torch.float32)


def run(net, image, dtype):
    rgb = torch.from_numpy(np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)))[None].to(dtype) / 255
    with torch.no_grad():
        return float(net(rgb))


def agreement_with_live(folder, photos):
    """Largest difference of this project from pyiqa, both with LIVE's regression."""
    sys.path.insert(0, str(ROOT))
    from basicsr.metrics.brisque import calculate_brisque

    path = str(folder / 'allmodel')
    found = [abs(calculate_brisque(photo(ROOT / 'datasets/sample' / n), parameters=path) - v['brisque_live'])
             for n, v in photos.items()]  # fmt: skip
    return max(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('program', choices=['basicsr', 'pypiqe', 'pyiqa'])
    parser.add_argument('--brisque', type=Path)
    parser.add_argument('--live', type=Path)
    args = parser.parse_args()
    if args.program == 'pyiqa' and not args.brisque:
        parser.error('pyiqa needs --brisque')
    torch.set_num_threads(1)
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {'versions': {}, 'report': {}, 'photos': {}}
    metrics, packages = {'basicsr': by_basicsr, 'pypiqe': by_pypiqe, 'pyiqa': by_pyiqa}[args.program](args)
    golden['versions'][args.program] = {p: importlib.metadata.version(p) for p in packages}
    for path in PHOTOS:
        values, image = golden['photos'].setdefault(f'{path.parent.name}/{path.name}', {}), photo(path)
        digest = zlib.crc32(image.tobytes())
        if values.setdefault('crc32', digest) != digest:
            raise SystemExit(f'{path}: this OpenCV decodes other pixels than that of the earlier run.')
        values |= {name: metric(image) for name, metric in metrics.items()}
    for name in [n for n in metrics if n.endswith('_in_single')]:
        off = max(abs(v.pop(name) - v[name.removesuffix('_in_single')]) for v in golden['photos'].values())
        golden['report'][f'{name}: largest difference of pyiqa from itself in double precision'] = off
    if args.live:
        words = "brisque_live: largest difference of this project from pyiqa, with LIVE's regression"
        golden['report'][words] = agreement_with_live(args.live, golden['photos'])
    GOLDEN.write_text(json.dumps(golden, indent=1) + '\n')


if __name__ == '__main__':
    main()
