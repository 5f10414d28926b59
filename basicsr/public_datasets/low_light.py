"""Public data sets of low light."""

from __future__ import annotations

from .entries import Entry, Layout, Part

RETINEXFORMER = 'github.com/caiyuanhao1998/Retinexformer, README.md'
CIDNET = 'github.com/Fediory/HVI-CIDNet, Readme.md'
FLOL = 'github.com/cidautai/FLOL, README.md'
NO_REFERENCE = 'no-reference measures: NIQE, MUSIQ, CLIP-IQA, BRISQUE'
GT_MEAN = 'PSNR and SSIM on RGB, without GT-mean; with it only as a second, labelled figure'
EVAL15 = ('1', '{22..23}', '55', '79', '111', '146', '179', '493', '547', '665', '669', '748', '778', '780')


def _real(name: str, folder: str, count: int) -> Part:
    return Part(name, 'Low', 'Normal', count, (folder, folder.lower()), r'(?:low)?(\d+)', r'(?:normal)?(\d+)')


def _unpaired(
    name: str, about: str, url: str, count: int, rule: str = '([^/]+)', notes: tuple[str, ...] = (), names: str = ''
) -> Entry:
    """One of the five sets without reference that low-light papers share: a folder of its name."""
    part = Part('test', '.', None, count, lq_name=rule, names=(names,) if names else ())
    layout = Layout('folder of its name', (part,), name, CIDNET)
    sources = (f'{FLOL}: {count}',)
    return Entry(name, 'low_light', about, url, (layout,), NO_REFERENCE, sources=sources, notes=notes)


ENTRIES = (
    Entry(
        'LOLv1',
        'low_light',
        'RetinexNet, C. Wei et al., BMVC 2018',
        'https://daooshee.github.io/BMVC2018website/',
        (
            Layout(
                'release',
                (
                    Part('train', 'low', 'high', 485, ('our485',), r'(\d+)', r'(\d+)'),
                    Part('test', 'low', 'high', 15, ('eval15',), r'(\d+)', r'(\d+)', names=EVAL15),
                ),
                source=f'{CIDNET}; listed in github.com/phlong3105/colie_mamba',
            ),
            Layout(
                'Retinexformer',
                (
                    Part('train', 'input', 'target', 485, ('Train', 'train'), r'(\d+)', r'(\d+)'),
                    Part('test', 'input', 'target', 15, ('Test', 'test'), r'(\d+)', r'(\d+)', names=EVAL15),
                ),
                'LOLv1|LOL-v1|LOL_v1',
                RETINEXFORMER,
            ),
        ),
        protocol=GT_MEAN,
        sources=('485 and 15 files counted in github.com/phlong3105/colie_mamba',),
    ),
    Entry(
        'LOLv2-real',
        'low_light',
        'W. Yang et al., TIP 2021',
        'https://github.com/flyywh/CVPR-2020-Semi-Low-Light',
        (
            Layout(
                'release, or renamed as by Retinexformer',
                (_real('train', 'Real_captured/Train', 689), _real('test', 'Real_captured/Test', 100)),
                source=f'{CIDNET}; low00001.png to normal00001.png, renamed 00001.png to 00001.png: {RETINEXFORMER}',
            ),
        ),
        protocol=GT_MEAN,
        sources=(f'{FLOL}: 689 and 100',),
    ),
    Entry(
        'LOLv2-synthetic',
        'low_light',
        'W. Yang et al., TIP 2021',
        'https://github.com/flyywh/CVPR-2020-Semi-Low-Light',
        (
            Layout(
                'release',
                (
                    Part('train', 'Low', 'Normal', 900, ('Synthetic/Train', 'Synthetic/train')),
                    Part('test', 'Low', 'Normal', 100, ('Synthetic/Test', 'Synthetic/test')),
                ),
                source=f'{CIDNET}; r000da54ft.png to r000da54ft.png: {RETINEXFORMER}',
            ),
        ),
        protocol=GT_MEAN,
        sources=(f'{FLOL}: 900 and 100',),
    ),
    _unpaired(
        'DICM',
        'C. Lee et al., TIP 2013',
        'http://mcl.korea.ac.kr/projects/LDR/LDR_TEST_IMAGES_DICM.zip',
        69,
        r'(\d+)',
        ('The copy in github.com/Li-Chongyi/Zero-DCE holds 64 of the 69.',),
        '{01..69}',
    ),
    _unpaired(
        'LIME',
        'X. Guo et al., TIP 2017',
        'http://cs.tju.edu.cn/orgs/vision/~xguo/LIME.htm',
        10,
        r'(\d+)',
        ('1.bmp to 10.bmp, as listed in github.com/Li-Chongyi/Zero-DCE.',),
        '{1..10}',
    ),
    _unpaired('MEF', 'K. Ma et al., TIP 2015', 'http://ivc.uwaterloo.ca/database/MEF/MEF-Database.php', 17),
    _unpaired(
        'NPE',
        'S. Wang et al., TIP 2013',
        'http://blog.sina.com.cn/s/blog_a0a06f190101cvon.html',
        8,
        '([^/]+)',
        ('Some papers add the extensions NPE-ex1 to NPE-ex3 (github.com/baidut/BIMEF): say which.',),
    ),
    _unpaired('VV', 'V. Vonikakis, web page', 'https://sites.google.com/site/vonikakis/datasets', 24),
)
