"""Public data sets of haze."""

from __future__ import annotations

from .entries import Entry, Layout, NamedSplit, Part, expand
from .rain import AIRNET
from .snow import SURVEY

RESIDE = 'https://sites.google.com/view/reside-dehaze-datasets'
RESIDE_PAPER = 'RESIDE, B. Li et al., TIP 2019'
CONVIR = 'github.com/c-yn/ConvIR, Dehazing'
FFA = 'github.com/zhilin007/FFA-Net, README.md and net/data_utils.py'
DEHAZEFORMER = 'github.com/IDKiro/DehazeFormer, README.md'
COUNTED = 'counted by public code that unpacks the archives'
INDOOR, OUTDOOR, SCENE = r'(\d+)_\d+', r'(?:part\d+/)?(\d+)_[\d.]+_[\d.]+', r'(\d+)'
TRAINING = r'(\d+)_\d+_[\d.]+'


def _ots(lq: str, gt: str, count: int | None, *base: str, clean: int | None = None) -> Part:
    return Part('train', lq, gt, count, base or ('.',), OUTDOOR, SCENE, clean, 35)


def _its(lq: str, gt: str, base: str = '.') -> Part:
    return Part('train', lq, gt, 13_990, (base,), TRAINING, SCENE, 1399, 10)


def _indoor(lq: str, gt: str, base: str = '.', name: str = 'test_indoor') -> Part:
    return Part(name, lq, gt, 500, (base,), INDOOR, SCENE, 50, 10, ('{1400..1449}_{1..10}',))


def _outdoor(lq: str, gt: str, base: str = '.', name: str = 'test_outdoor') -> Part:
    return Part(name, lq, gt, 500, (base,), OUTDOOR, SCENE, 492)


def _renamed(name: str, folder: str, count: int, names: tuple[str, ...] = ()) -> Part:
    """A part of DehazeFormer's, in which the clean image has the name of the hazy one."""
    return Part(name, 'hazy', 'GT', count, (folder,), names=names)


RESIDE_ENTRIES = (
    Entry(
        'RESIDE-ITS',
        'haze',
        RESIDE_PAPER,
        RESIDE,
        (
            Layout('RESIDE-Standard', (_its('hazy|haze', 'clear|gt|GT'),), 'ITS', f'{FFA}; 1_1_0.90179.png to 1.png'),
            Layout(
                'ITS v2',
                (
                    Part('train', 'ITS_haze', 'ITS_clear', 100_000, ('train',), TRAINING, SCENE, 10_000, 10),
                    Part('val', 'haze', 'clear', 10_000, ('val',), TRAINING, SCENE, 1000, 10),
                ),
                'ITS|ITS_v2',
                COUNTED,
            ),
            Layout('ConvIR', (_its('hazy', 'gt', 'train'),), 'reside-indoor|RESIDE-IN', f'{CONVIR}/ITS/README.md'),
            Layout('DehazeFormer', (_renamed('train', 'train', 13_990),), 'RESIDE-IN|ITS', DEHAZEFORMER),
        ),
        protocol='training set; see SOTS',
        sources=(f'{SURVEY}: 13,990', f'{COUNTED}: 1399 clean images'),
        notes=('FFA-Net cuts the clean images to the size of the hazy ones where they differ; here that is reported.',),
    ),
    Entry(
        'RESIDE-OTS',
        'haze',
        RESIDE_PAPER,
        RESIDE,
        (
            Layout(
                'RESIDE-beta',
                (_ots('haze/OTS|OTS|hazy_images', 'clear/clear_images|clear_images', 313_950, clean=8970),),
                'OTS_ALPHA|OTS|RESIDE',
                f'{COUNTED}: 0025_0.8_0.04.jpg to 0025.jpg',
            ),
            Layout(
                'AirNet and PromptIR',
                (_ots('synthetic', 'original', 72_135, 'Dehaze', 'Train/Dehaze', '.', clean=2061),),
                source=AIRNET,
            ),
            Layout('plain folders', (_ots('hazy|haze', 'clear|gt|GT', None),), 'OTS', FFA),
            Layout('ConvIR', (_ots('hazy', 'gt', None, 'train'),), 'reside-outdoor', f'{CONVIR}/OTS/README.md'),
        ),
        protocol='training set; see SOTS',
        sources=(f'{AIRNET}: 72,135 images of 2061 scenes', f'{COUNTED}: 313,950 images of 8970 scenes'),
        notes=(
            'Papers train on 72,135 images (2061 scenes) or on 313,950 (8970 scenes), 35 of each scene: say which.',
        ),
    ),
    Entry(
        'SOTS',
        'haze',
        RESIDE_PAPER,
        RESIDE,
        (
            Layout(
                'release',
                (
                    _indoor('hazy', 'gt|clear|GT', 'indoor'),
                    _outdoor('hazy', 'gt|clear|GT', 'outdoor'),
                ),
                'SOTS',
                f'{COUNTED}: 1400_1.png to 1400.png, 0001_0.8_0.2.jpg to 0001.png',
            ),
            Layout(
                'ConvIR',
                (
                    _indoor('hazy', 'gt', 'reside-indoor/test'),
                    _outdoor('hazy', 'gt', 'reside-outdoor/test'),
                ),
                source=CONVIR,
            ),
            Layout(
                'DehazeFormer',
                (
                    _renamed('test_indoor', 'RESIDE-IN/test', 500, ('{1400..1449}_{1..10}',)),
                    _renamed('test_outdoor', 'RESIDE-OUT/test', 500),
                ),
                source=f'{DEHAZEFORMER}; RESIDE-IN listed in github.com/square-moon/haze',
            ),
            Layout('AirNet and PromptIR', (_outdoor('input', 'target', 'dehaze'),), source='their test/README.md'),
        ),
        protocol='PSNR and SSIM on RGB, of indoor and outdoor apart',
        sources=(f'{SURVEY}: 500 and 500', f'{COUNTED}: 50 and 492 clean images'),
        notes=('Where the clean images of a copy are larger by a border, they must be cut before they can be paired.',),
    ),
    Entry(
        'RTTS',
        'haze',
        RESIDE_PAPER,
        RESIDE,
        (Layout('release', (Part('test', 'JPEGImages', None, 4322),), 'RTTS', COUNTED),),
        protocol='no-reference measures: FADE, BRISQUE, NIMA, MUSIQ, CLIP-IQA',
        sources=(f'{COUNTED}: 4322',),
    ),
    Entry(
        'URHI',
        'haze',
        RESIDE_PAPER,
        RESIDE,
        (
            Layout(
                'release',
                (
                    Part(
                        'train',
                        'UnannotatedHazyImages/UnannotatedHazyImages|UnannotatedHazyImages|.',
                        None,
                        None,
                        lq_name='([^/]+)',
                    ),
                ),
                'URHI|UnannotatedHazyImages',
                'the folder UnannotatedHazyImages, as read by public code',
            ),
        ),
        protocol='real images for semi-supervised training',
        notes=('No source that could be read confirms the count.',),
    ),
)

ANCUTI = 'C. O. Ancuti et al.'
NTIRE_2020 = 'the split of NTIRE 2020: 01-45, 46-50, 51-55'


def _nh(name: str, first: str, last: str, base: str, lq: str, gt: str) -> Part:
    scenes = tuple(expand([f'{{{first}..{last}}}']))
    split = NamedSplit(scenes, NTIRE_2020)
    names = (f'{{{first}..{last}}}_hazy',)
    return Part(name, lq, gt, len(scenes), (base,), r'(\d+)_hazy', r'(\d+)_GT', names=names, split=split)


def _nh_layout(name: str, lq: str, gt: str, source: str) -> Layout:
    spans = (('train', '01', '45'), ('val', '46', '50'), ('test', '51', '55'))
    return Layout(name, tuple(_nh(n, a, b, '.', lq, gt) for n, a, b in spans), 'NH-HAZE', source)


def _o_haze(name: str, first: str, last: str) -> Part:
    scenes = tuple(expand([f'{{{first}..{last}}}']))
    split = NamedSplit(scenes, 'as in public code: 01-40 and 41-45')
    names = (f'{{{first}..{last}}}_outdoor_hazy',)
    base = ('# O-HAZY NTIRE 2018', '.')
    return Part(
        name, 'hazy', 'GT', len(scenes), base, r'(\d+)_outdoor_hazy', r'(\d+)_outdoor_GT', names=names, split=split
    )  # fmt: skip


REAL_ENTRIES = (
    Entry(
        'RIDCP500',
        'haze',
        'RIDCP, R.-Q. Wu et al., CVPR 2023',
        'https://github.com/RQ-Wu/RIDCP_dehazing',
        (
            Layout(
                'release',
                (Part('train', None, 'rgb_500|clear_images_no_haze_no_dark_500', 500),),
                source='github.com/RQ-Wu/RIDCP_dehazing, README.md and options/RIDCP.yml',
            ),
        ),
        protocol='clean photographs, hazed as they are loaded',
        licence='CC BY-NC 4.0 (the repository)',
        sources=('github.com/RQ-Wu/RIDCP_dehazing, README.md: 500 images and their depths',),
        notes=('Its depth maps are NumPy files (depth_500/*.npy); dataroot_depth takes images.',),
        degradations=('Haze',),
    ),
    Entry(
        'O-HAZE',
        'haze',
        f'{ANCUTI}, CVPRW 2018',
        'https://data.vision.ee.ethz.ch/cvl/ntire18/o-haze/',
        (
            Layout(
                'release',
                (_o_haze('train', '01', '40'), _o_haze('test', '41', '45')),
                'O-HAZE|O_Haze|# O-HAZY NTIRE 2018',
                '01_outdoor_hazy.jpg to 01_outdoor_GT.jpg, as read by public code',
            ),
        ),
        protocol='PSNR and SSIM on RGB, over the last five images',
        sources=(f'{SURVEY}: 45',),
    ),
    Entry(
        'NH-HAZE',
        'haze',
        f'{ANCUTI}, CVPRW 2020',
        'https://data.vision.ee.ethz.ch/cvl/ntire20/nh-haze/',
        (
            _nh_layout('release', '.', '.', 'one folder, 01_hazy.png and 01_GT.png, as listed by public code'),
            _nh_layout('two folders', 'hazy', 'GT', 'the same names, as read by public code'),
        ),
        protocol='PSNR and SSIM on RGB, over the last five images',
        sources=(f'{SURVEY}: 55',),
    ),
    Entry(
        'Dense-Haze',
        'haze',
        f'{ANCUTI}, ICIP 2019',
        'https://data.vision.ee.ethz.ch/cvl/ntire19/dense-haze/',
        (
            Layout(
                'release',
                (Part('test', 'hazy', 'GT', 55, ('.',), r'(\d+)_hazy', r'(\d+)_GT', names=('{01..55}_hazy',)),),
                'Dense_Haze_NTIRE19|Dense-Haze',
                f'Dense_Haze_NTIRE19/{{hazy,GT}}; names as {CONVIR}/ITS/data/data_load.py pairs them',
            ),
        ),
        protocol='PSNR and SSIM on RGB, usually over the last five images',
        sources=('55 in public code that reads the archive',),
        notes=(
            f'The paper speaks of 33 scenes ({SURVEY}), the archive of NTIRE 2019 holds 55. '
            'No source that could be read confirms a split.',
        ),
    ),
)

ENTRIES = (*RESIDE_ENTRIES, *REAL_ENTRIES)
