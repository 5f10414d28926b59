"""Writes metrics_ssim.json: SSIM of scikit-image, and the 3-D SSIM of Restormer's and NAFNet's own BasicSR.

    python3.11 -m venv peer && peer/bin/pip install basicsr==1.4.2 scikit-image==0.26.0
    git clone https://github.com/swz30/Restormer; git clone https://github.com/megvii-research/NAFNet
    peer/bin/python tests/golden/make_metrics_ssim.py Restormer/basicsr/metrics/psnr_ssim.py \
        NAFNet/basicsr/metrics/psnr_ssim.py

Run by its path, so that ``basicsr`` is the installed one. The two repositories' function asks for a GPU;
``Tensor.cuda`` is made to stay on the CPU. It computes in float32, in which sums over 11 x 11 x 11 large levels lose
digits; the rows hold what it gives so (``_float32``) and in float64.
"""

import importlib.util
import json
import sys
from pathlib import Path

import cv2
import skimage
import torch
from peers import import_torchvision
from recipe import DISTORTIONS
from skimage.metrics import structural_similarity

import_torchvision()

from basicsr.metrics.metric_util import to_y_channel  # noqa: E402

HERE = Path(__file__).parent
ASSETS, SAMPLE = HERE.parent / 'assets', HERE.parents[1] / 'datasets' / 'sample' / 'val'
PHOTOS = [
    *(ASSETS / f'{n}.png' for n in ('astronaut', 'coffee', 'rocket')),
    *(SAMPLE / f'{n}.jpg' for n in ('goat', 'river_castle')),
]


def published(path, name):
    spec = importlib.util.spec_from_file_location(f'basicsr.metrics.{name}', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(path):
    img = cv2.imread(str(path))
    return img[:160, :200]


def ssim_skimage(img, img2, gaussian):
    options = {'channel_axis': -1} if img.ndim == 3 else {}
    return float(structural_similarity(img, img2, data_range=255, gaussian_weights=gaussian, **options))


def in_float64(function, *args, **options):
    kept = torch.Tensor.float
    torch.Tensor.float = torch.Tensor.double
    torch.set_default_dtype(torch.float64)
    try:
        return float(function(*args, **options))
    finally:
        torch.Tensor.float = kept
        torch.set_default_dtype(torch.float32)


def main():
    torch.Tensor.cuda = torch.nn.Module.cuda = lambda self: self
    restormer, nafnet = (published(path, f'published_{i}') for i, path in enumerate(sys.argv[1:3]))
    rows = []
    for path in PHOTOS:
        clean = read(path)
        for name, distort in DISTORTIONS.items():
            img = distort(clean)
            y, y2 = (to_y_channel(x)[..., 0] for x in (img, clean))
            rgb = {
                'skimage': ssim_skimage(img, clean, False),
                'skimage_gaussian': ssim_skimage(img, clean, True),
                '3d_restormer': in_float64(restormer.calculate_ssim, img, clean, 0),
                '3d_nafnet_float32': float(nafnet.calculate_ssim(img, clean, 0)),
                '3d_nafnet_cropped': in_float64(nafnet.calculate_ssim, img, clean, 4),
            }
            luma = {
                'skimage': ssim_skimage(y, y2, False),
                '3d_restormer': float(restormer.calculate_ssim(img, clean, 0, test_y_channel=True)),
            }
            rows.append([path.stem, name, rgb, luma])
    source = f'scikit-image {skimage.__version__}; psnr_ssim.py of swz30/Restormer and of megvii-research/NAFNet'
    text = json.dumps({'source': source, 'rows': rows}, separators=(',', ':'))
    (HERE / 'metrics_ssim.json').write_text(text + '\n')


if __name__ == '__main__':
    main()
