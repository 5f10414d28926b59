"""Public data sets of photographs taken under water."""

from __future__ import annotations

from .entries import Entry, Layout, NamedSplit, Part, SeededSplit
from .uieb_split import TEST

FUNIE = 'github.com/rowantseng/FUnIE-GAN-PyTorch, README.md'
UWCNN = 'github.com/saeed-anwar/UWCNN, ReadMe.md'
RUIE = 'listed in github.com/dlut-dimt/Realworld-Underwater-Image-Enhancement-RUIE-Benchmark'
WATERS = ('I', 'IA', 'IB', 'II', 'III', '1', '3', '5', '7', '9')
RANKER = 'dataset/uie_test_list.txt of github.com/RQ-Wu/UnderwaterRanker'
FULL = 'PSNR and SSIM on RGB, at full size or at 256x256: say which'


def _uieb(name: str, count: int, inside: bool) -> Part:
    lq, gt = 'raw-890/raw-890|raw-890', 'reference-890/reference-890|reference-890'
    return Part(name, lq, gt, count, names=TEST if inside else (), split=NamedSplit(TEST, RANKER, inside))


def _lsui(name: str, count: int, inside: bool) -> Part:
    return Part(name, 'input', 'GT|gt', count, split=SeededSplit((400, 4279), inside))


def _euvp(kind: str, train: int, validation: int) -> tuple[Part, Part]:
    base = tuple(f'{paired}/underwater_{kind}' for paired in ('Paired', 'EUVP_Paired'))
    return (
        Part(f'train_{kind}', 'trainA', 'trainB', train, base),
        Part(f'val_{kind}', 'validation', None, validation, base),
    )


def _water(kind: str) -> Part:
    lq, gt = f'type{kind}_data/underwater_type_{kind}', f'type{kind}_data/gt_type_type_{kind}'
    return Part(f'train_{kind.lower()}', lq, gt, 1449, ('.',), r'(\d+)_.*', r'(\d+)_.*')


ENTRIES = (
    Entry(
        'UIEB',
        'underwater',
        'Water-Net, C. Li et al., TIP 2019',
        'https://li-chongyi.github.io/proj_benchmark.html',
        (
            Layout(
                'release',
                (
                    _uieb('train', 800, inside=False),
                    _uieb('test', 90, inside=True),
                    Part('test_challenge', 'challenging-60/challenging-60|challenging-60', None, 60),
                ),
                source='github.com/RQ-Wu/UnderwaterRanker, dataset/dataset.py; challenging-60 in public code',
            ),
        ),
        protocol=FULL,
        sources=('github.com/RQ-Wu/UnderwaterRanker, dataset/: lists of 800 and 90 of the 890 pairs',),
        notes=(
            'The release has no split. The lists of UnderwaterRanker, whose authors include those of UIEB, are taken; '
            'papers that draw their own 90 cannot be compared.',
        ),
    ),
    Entry(
        'LSUI',
        'underwater',
        'U-shape Transformer, L. Peng et al., TIP 2023',
        'https://lintaopeng.github.io/_pages/UIE%20Project%20Page.html',
        (
            Layout(
                'release',
                (_lsui('train', 3879, inside=False), _lsui('test', 400, inside=True)),
                'LSUI',
                'github.com/LintaoPeng/U-shape_Transformer_for_Underwater_Image_Enhancement, README.md and test/',
            ),
        ),
        protocol=FULL,
        licence='MIT for the repository; none stated for the images',
        sources=('arXiv 2111.11843: 4279 pairs', 'the README: 3879 to train with and 400 to test, drawn at random'),
        notes=(
            'The authors draw the 400 at random and publish no list. The draw made here (seed 0) can be repeated, but '
            'it is not theirs.',
        ),
    ),
    Entry(
        'EUVP',
        'underwater',
        'FUnIE-GAN, M. J. Islam et al., RA-L 2020',
        'http://irvlab.cs.umn.edu/resources/euvp-dataset',
        (
            Layout(
                'release',
                (
                    *_euvp('dark', 5550, 570),
                    *_euvp('imagenet', 3700, 1270),
                    *_euvp('scenes', 2185, 130),
                    Part('test', 'Inp', 'GTr', 515, ('test_samples',)),
                    Part('train_poor', 'trainA', None, 3195, ('Unpaired',)),
                    Part('train_good', None, 'trainB', 3140, ('Unpaired',)),
                    Part('val_unpaired', 'validation', None, 330, ('Unpaired',)),
                ),
                source=FUNIE,
            ),
        ),
        protocol='PSNR, SSIM and UIQM at 256x256, over the 515 test pairs',
        sources=(f'{FUNIE}: all counts; trainA are the poor, trainB the good images',),
        degradations=('Underwater',),
    ),
    Entry(
        'UWCNN',
        'underwater',
        'UWCNN, C. Li et al., Pattern Recognition 2020',
        'https://li-chongyi.github.io/proj_underwater_image_synthesis.html',
        (
            Layout(
                'release',
                tuple(_water(kind) for kind in WATERS),
                source='type1_data/{underwater_type_1,gt_type_type_1}/*.bmp, numbered before the first _, as read by '
                'public code; confirmed for the types 1 and 3',
            ),
        ),
        protocol='training set; SSIM, PSNR and MSE',
        licence='for non-commercial use only',
        sources=(f'{UWCNN}: ten water types of 1449 images, 460x620 pixels',),
    ),
    Entry(
        'RUIE',
        'underwater',
        'R. Liu et al., TCSVT 2020',
        'https://github.com/dlut-dimt/Realworld-Underwater-Image-Enhancement-RUIE-Benchmark',
        (
            Layout(
                'release',
                (
                    Part('test_uiqs', 'UIQS', None, 3630, lq_name='([A-E]/.+)'),
                    Part('test_uccs', 'UCCS', None, 300, lq_name='((?:blue|blue-green|green)/.+)'),
                    Part(
                        'test_uhts',
                        'UTTS|UHTS',
                        None,
                        300,
                        lq_name='(pic_[A-E]/JPEGImages/.+)',
                        ignore='.*/Annotations/.*',
                    ),
                ),
                source=RUIE,
            ),
        ),
        protocol='no-reference measures: UIQM, UCIQE',
        licence='not stated',
        sources=(f'{RUIE}: 5 x 726, 3 x 100 and 5 x 60 files',),
    ),
    Entry(
        'U45',
        'underwater',
        'arXiv 1906.06819',
        'https://github.com/IPNUISTlegal/underwater-test-dataset-U45-',
        (
            Layout(
                'release',
                (Part('test', 'upload/U45/U45|U45/U45', None, 45, lq_name=r'(\d+)', names=('{1..45}',)),),
                source='listed in github.com/IPNUISTlegal/underwater-test-dataset-U45-',
            ),
            Layout(
                'folder of its name',
                (Part('test', '.', None, 45, lq_name=r'(\d+)', names=('{1..45}',)),),
                'U45',
                'the same images in one folder',
            ),
        ),
        protocol='no-reference measures: UIQM, UCIQE',
        licence='not stated',
        sources=('45 files listed in the repository; blue, green and haze hold 15 of them each',),
    ),
)
