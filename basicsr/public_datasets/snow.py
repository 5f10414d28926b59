"""Public data sets of snow."""

from __future__ import annotations

from .entries import Entry, Layout, Part

SURVEY = 'survey of Z. Song et al., doi 10.1016/j.neunet.2026.109472'
FOCALNET = 'github.com/c-yn/FocalNet, Desnowing/README.md and data_load.py'


def _subset(home: str) -> Layout:
    """The 2500 training and 2000 test pairs that most papers since FocalNet use."""
    return Layout(
        'subset of FocalNet, SFNet and ConvIR',
        (
            Part('train', 'train2500/Snow', 'train2500/Gt', 2500),
            Part('test', 'test2000/Snow', 'test2000/Gt', 2000),
        ),
        home,
        f'{FOCALNET}; the counts are those in the names of the folders',
    )


def _snow100k_test(size: str, count: int) -> Part:
    folder = f'Snow100K-{size}'
    base = (f'media/jdway/GameSSD/overlapping/test/{folder}', f'jdway/GameSSD/overlapping/test/{folder}')
    return Part(f'test_{size.lower()}', 'synthetic', 'gt', count, (*base, f'test/{folder}', folder))


ENTRIES = (
    Entry(
        'Snow100K',
        'snow',
        'DesnowNet, Y.-F. Liu et al., TIP 2018',
        'https://sites.google.com/view/yunfuliu/desnownet',
        (
            Layout(
                'release',
                (
                    Part('train', 'all/synthetic', 'all/gt', 50_000),
                    _snow100k_test('S', 16_611),
                    _snow100k_test('M', 16_588),
                    _snow100k_test('L', 16_801),
                    Part('test_realistic', 'realistic', None, 1329),
                ),
                source='the three archives of Snow100K, as unpacked by public code',
            ),
            _subset('Snow100K'),
        ),
        protocol='PSNR and SSIM on RGB, over the whole of S, M and L, or over 2000 drawn images: say which',
        sources=(
            f'{SURVEY}: 50,000 training and 50,000 test pairs, S 16,611, L 16,801',
            'github.com/sunshangquan/Histoformer issue 9: 50,000 training pairs, M 16,588',
            'github.com/c-yn/ConvIR issue 7: 1329 realistic images',
        ),
        notes=(
            'The training archives unpack to all/{gt,mask,synthetic}; masks are not used.',
            'The site no longer serves the archives (github.com/IGITUGraz/WeatherDiffusion issue 32).',
        ),
    ),
    Entry(
        'CSD',
        'snow',
        'HDCW-Net, W.-T. Chen et al., ICCV 2021',
        'https://github.com/weitingchen83/ICCV2021-Single-Image-Desnowing-HDCWNet',
        (
            Layout(
                'release',
                (
                    Part('train', 'Snow', 'Gt|gt', 8000, ('Train', 'train')),
                    Part('test', 'Snow', 'Gt|gt', 2000, ('Test', 'test')),
                ),
                'CSD',
                'folders and names as read by public code: CSD/Train/{Snow,Gt,Mask}/1.tif',
            ),
            _subset('CSD'),
        ),
        protocol='PSNR and SSIM on RGB',
        licence='not stated',
        sources=(f'{SURVEY}: 8000 and 2000',),
    ),
    Entry(
        'SRRS',
        'snow',
        'JSTASR, W.-T. Chen et al., ECCV 2020',
        'https://github.com/weitingchen83/JSTASR-DesnowNet-ECCV-2020',
        (
            Layout(
                'release',
                (Part('train', 'Syn', 'gt_new', None),),
                'SRRS|SRRS_15004|SRRS-2021',
                'folders and names as read by public code: SRRS_15004/{Syn,gt_new}, 0.tif to 0.jpg',
            ),
            _subset('SRRS'),
        ),
        protocol='PSNR and SSIM on RGB, over 1000 or 2000 drawn images: say which',
        licence='not stated',
        sources=(f'{SURVEY}: 15,000+; no source gives the exact count',),
        notes=(
            'Several snow patterns share one background, also across the training and the test images of the subset '
            '(github.com/c-yn/SFNet issue 9).',
        ),
    ),
    Entry(
        'RealSnow10K',
        'snow',
        'SnowMaster, J. Lai et al., CVPR 2025',
        'https://alexlai2860.github.io/SnowMaster/',
        (
            Layout(
                'release',
                (Part('train', '.', None, None, ('Snow', '.'), lq_name='([^/]+)'),),
                'RealSnow10K',
                'JPEG files in one folder, as a public script finds them',
            ),
        ),
        protocol='no-reference measures',
        sources=('the paper: over 10,000 images; no source gives the exact count',),
    ),
)
