"""Public data sets of several degradations at once, and of clean photographs."""

from __future__ import annotations

from .entries import Entry, Layout, Part

KINDS = (
    'low', 'haze', 'rain', 'snow', 'low_haze', 'low_rain', 'low_snow', 'haze_rain', 'haze_snow', 'low_haze_rain',
    'low_haze_snow',
)  # fmt: skip
ONERESTORE = 'github.com/gy65896/OneRestore, README.md'
FFHQ = 'github.com/NVlabs/ffhq-dataset, README.md'
FACES = 'images1024x1024|.'

ENTRIES = (
    Entry(
        'CDD-11',
        'mixed',
        'OneRestore, Y. Guo et al., ECCV 2024',
        'https://github.com/gy65896/OneRestore',
        (
            Layout(
                'release',
                (
                    Part(
                        'train',
                        '.',
                        'clear',
                        13_013,
                        ('train', 'CDD-11_train', 'CDD-11_train/CDD-11_train', 'train/CDD-11_train'),
                        rf'(?:{"|".join(KINDS)})/([^/]+)',
                        clean=1183,
                        per_clean=11,
                        ignore='clear/.*',
                    ),
                    *(Part(f'test_{kind}', kind, 'clear', 200, ('test', 'CDD-11_test')) for kind in KINDS),
                ),
                source=ONERESTORE,
            ),
        ),
        protocol='PSNR and SSIM (7x7 uniform window) on RGB, and the mean over the eleven kinds',
        sources=('a summary of the paper: 13,013 training and 2200 test pairs of 1383 photographs',),
        notes=('Photographs to train with: 13,013 / 11 = 1183; each test list: 2200 / 11 = 200.',),
    ),
    Entry(
        'FFHQ',
        'clean',
        'T. Karras et al., CVPR 2019',
        'https://github.com/NVlabs/ffhq-dataset',
        (
            Layout(
                'release',
                (
                    Part('train', None, FACES, 60_000, gt_name=r'(?:\d{5}/)?([0-5]\d{4})', ignore=r'(?:\d{5}/)?6\d{4}'),
                    Part('val', None, FACES, 10_000, gt_name=r'(?:\d{5}/)?(6\d{4})', ignore=r'(?:\d{5}/)?[0-5]\d{4}'),
                ),
                'FFHQ|ffhq-dataset|images1024x1024',
                FFHQ,
            ),
        ),
        protocol='clean photographs, degraded as they are loaded',
        licence='CC BY-NC-SA 4.0; of the photographs, that of each in the metadata',
        sources=(f'{FFHQ}: 70,000 images, the first 60,000 to train with, images1024x1024/00000/00000.png',),
        degradations=('Haze', 'Rain', 'Snow', 'LowLight', 'Underwater'),
    ),
)
