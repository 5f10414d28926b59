"""Public data sets of rain and raindrops."""

from __future__ import annotations

from .entries import Entry, Layout, Part
from .snow import SURVEY

RCDNET = 'github.com/hongwang01/RCDNet, README.md'
RESTORMER = 'github.com/swz30/Restormer, Deraining'
PRENET = 'github.com/csdwren/PReNet, README.md and DerainDataset.py'
AIRNET = 'github.com/XLearning-SCU/2022-CVPR-AirNet, data_dir and data/Train/README.md'
ICST = 'https://www.icst.pku.edu.cn/struct/Projects/joint_rain_removal.html'
ON_Y = 'PSNR and SSIM on the Y channel; all-in-one papers measure on RGB'
SAME = 'norain-{1..%d}'


def _numbered(*names: str) -> str:
    """Rule of an image whose name is one of ``names``, a hyphen and the number of the scene."""
    return rf'(?:{"|".join(names)})-0*(\d+)(?:x2)?'


RAIN, CLEAN = _numbered('rain', 'norain'), _numbered('norain')


def _rain100(kind: str, word: str, train: int) -> Entry:
    """Rain100L or Rain100H: the same folders but for the words."""
    name = f'Rain100{kind}'

    def part(which: str, lq: str, gt: str, count: int | None, *base: str) -> Part:
        numbered = (SAME % count,) if kind == 'L' and which.endswith('small') else ()
        return Part(which.split()[0], lq, gt, count, base or ('.',), RAIN, CLEAN, names=numbered)

    flat = Part('train', '.', '.', train, (f'RainTrain{kind}',), r'rain-0*(\d+)', CLEAN)
    test = Part('test', 'rainy|rain', '.', 100, (name,), RAIN, CLEAN)
    return Entry(
        name,
        'rain',
        'JORDER, W. Yang et al., CVPR 2017',
        ICST,
        (
            Layout(
                'RCDNet',
                (
                    part('train small', 'small/rain', 'small/norain', 1800 if kind == 'H' else 200, 'train'),
                    part('test small', 'small/rain', 'small/norain', 100, 'test'),
                ),
                name,
                f'{RCDNET}; Rain100L listed in github.com/KaneWANG0816/RGR',
            ),
            Layout(
                'website',
                (
                    part('train', 'rain/X2|rain', 'norain', None, f'rain_data_train_{word}'),
                    part('test', 'rain/X2|rain', 'norain', None, f'rain_data_test_{word}'),
                ),
                source='norain-1x2.png to norain-1.png, as read by public code',
            ),
            Layout('PReNet', (flat, test), source=PRENET),
            Layout(
                'plain folders',
                (
                    part('train', 'rain|rainy|input', 'norain|gt|target', None, 'train'),
                    part('test', 'rain|rainy|input', 'norain|gt|target', 100, 'test'),
                ),
                name,
                'the folders that option files of several toolboxes expect',
            ),
            *_airnet(kind),
            Layout(
                'Restormer',
                (Part('test', 'input', 'target', 100, (f'test/{name}', name)),),
                source=f'{RESTORMER}/Options/Deraining_Restormer.yml',
            ),
        ),
        protocol=ON_Y,
        sources=(f'{RCDNET}: 200 (L) and 1800 (H) training pairs, 100 test pairs', PRENET),
        notes=_rain100_notes(kind),
    )


def _airnet(kind: str) -> tuple[Layout, ...]:
    part = Part(
        'train', 'rainy', 'gt', 200, ('Derain', 'Train/Derain'), r'rain-0*(\d+)', CLEAN, names=('rain-{1..200}',)
    )
    return () if kind == 'H' else (Layout('AirNet and PromptIR', (part,), source=AIRNET),)


def _rain100_notes(kind: str) -> tuple[str, ...]:
    revised = (
        'The website has replaced the first release by a revised one, which papers call Rain200 (1800 training and 200 '
        f'test pairs; {SURVEY}); its counts are therefore not checked.'
    )
    overlap = '546 of the 1800 training backgrounds are those of test images; PReNet trains on the other 1254.'
    return (revised, overlap) if kind == 'H' else (revised,)


def _rain13k_test(name: str, count: int) -> Part:
    return Part(f'test_{name.lower().removeprefix("test")}', 'input', 'target', count, (f'test/{name}', name))


ENTRIES = (
    _rain100('L', 'Light', 200),
    _rain100('H', 'Heavy', 1254),
    Entry(
        'Rain13K',
        'rain',
        'MSPFN, K. Jiang et al., CVPR 2020',
        'https://github.com/kuijiang94/MSPFN',
        (
            Layout(
                'Restormer and MPRNet',
                (
                    Part('train', 'input', 'target', 13_712, ('train/Rain13K', 'Rain13K', 'train')),
                    _rain13k_test('Test100', 98),
                    _rain13k_test('Rain100H', 100),
                    _rain13k_test('Rain100L', 100),
                    _rain13k_test('Test1200', 1200),
                    _rain13k_test('Test2800', 2800),
                ),
                source=f'{RESTORMER}/README.md and Options/Deraining_Restormer.yml',
            ),
        ),
        protocol='PSNR and SSIM on the Y channel, of each test set, and the mean of the five',
        sources=(
            f'{SURVEY}: 13,712 training and 4298 test pairs',
            'the test sets are named after their counts; 98 of Test100 is what is left of the 4298',
        ),
    ),
    Entry(
        'Rain1400',
        'rain',
        'deep detail network (DDN), X. Fu et al., CVPR 2017',
        'http://smartdsp.xmu.edu.cn/cvpr2017.html',
        (
            Layout(
                'release',
                (
                    Part(
                        'train',
                        'rainy_image|rainy image',
                        'ground_truth|ground truth',
                        12_600,
                        ('training',),
                        r'(\d+)_\d+',
                        r'(\d+)',
                        900,
                        14,
                        ('{1..900}_{1..14}',),
                    ),
                    Part(
                        'test',
                        'rainy_image|rainy image',
                        'ground_truth|ground truth',
                        1400,
                        ('testing',),
                        r'(\d+)_\d+',
                        r'(\d+)',
                        100,
                        14,
                    ),
                ),
                'rainy_image_dataset|Rain1400|DDN',
                'rainy_image_dataset/{training,testing}, as read by public code',
            ),
            Layout(
                'PReNet',
                (
                    Part(
                        'train',
                        'rainy_image',
                        'ground_truth',
                        12_600,
                        ('Rain12600', 'train/Rain12600'),
                        r'(\d+)_\d+',
                        r'(\d+)',
                        900,
                        14,
                        ('{1..900}_{1..14}',),
                    ),
                    Part(
                        'test',
                        'rainy_image',
                        'ground_truth',
                        1400,
                        ('Rain1400', 'test/Rain1400'),
                        r'(\d+)_\d+',
                        r'(\d+)',
                        100,
                        14,
                    ),
                ),
                source=PRENET,
            ),
        ),
        protocol=ON_Y,
        sources=(f'{RCDNET}: 12600 training and 1400 test pairs', f'{PRENET}: 900 scenes, 14 rains each'),
    ),
    Entry(
        'RainDrop',
        'raindrop',
        'R. Qian et al., CVPR 2018',
        'https://github.com/rui1996/DeRaindrop',
        (
            Layout(
                'release',
                tuple(
                    Part(name, 'data', 'gt', count, (folder, f'{folder}/{folder}'), r'(\d+)_rain', r'(\d+)_clean')
                    for name, folder, count in (
                        ('train', 'train', 861),
                        ('test_a', 'test_a', 58),
                        ('test_b', 'test_b', 239),
                    )
                ),
                'raindrop_data|RainDrop|DeRaindrop',
                '0_rain.png to 0_clean.png, as read by public code',
            ),
        ),
        protocol='PSNR and SSIM on test_a; on the Y channel in the all-weather papers',
        licence='not stated',
        sources=('github.com/rui1996/DeRaindrop, README.md: 861 pairs, test set B 239', f'{SURVEY}: test set A 58'),
        notes=('Test set A is the part of test set B that is well aligned.',),
    ),
    Entry(
        'Outdoor-Rain',
        'rain',
        'heavy rain restoration, R. Li et al., CVPR 2019',
        'https://github.com/liruoteng/HeavyRainRemoval',
        (
            Layout(
                'release',
                (
                    Part(
                        'train',
                        'in|input',
                        'gt',
                        9000,
                        ('train', 'CVPR19RainTrain', 'CVPR19RainTrain/train'),
                        r'(im_\d+)_s\d+_a\d+',
                        r'(im_\d+)',
                        600,
                        15,
                    ),
                    Part(
                        'val',
                        'in|input',
                        'gt',
                        1500,
                        ('test_with_train_param_v5',),
                        r'(im_\d+)_s\d+_a\d+',
                        r'(im_\d+)',
                        None,
                        15,
                    ),
                    Part(
                        'test',
                        'data|in|input',
                        'gt',
                        750,
                        ('test', 'test1', 'CVPR19RainTrain/test'),
                        r'(im_\d+)_s\d+_a\d+',
                        r'(im_\d+)',
                        None,
                        15,
                    ),
                ),
                'Outdoor-Rain|OutdoorRain|CVPR19RainTrain|Heavy_rain_image_cvpr2019',
                'im_0001_s80_a04.png to im_0001.png, as read by public code',
            ),
        ),
        protocol='PSNR and SSIM over the 750 images of Test1; on the Y channel in the all-weather papers',
        licence='not stated',
        sources=(f'{SURVEY}: 9000 training, 1500 validation and 750 test pairs',),
        notes=('15 rains of each scene: five strengths (s) under three atmospheric lights (a).',),
    ),
    Entry(
        'SPA-Data',
        'rain',
        'SPANet, T. Wang et al., CVPR 2019',
        'https://stevewongv.github.io/derain-project.html',
        (
            Layout(
                'release',
                (
                    Part(
                        'train',
                        'real_world',
                        'real_world_gt',
                        638_492,
                        lq_name=r'(\d+)/\1-\d+/\1-\d+_(\d+)_(\d+)',
                        gt_name=r'(\d+)/\1_(\d+)_(\d+)',
                        name_list='real_world.txt',
                    ),
                    Part(
                        'test',
                        'rain',
                        'gt',
                        1000,
                        ('real_test_1000', 'real_test_1000/real_test_1000'),
                        r'(\d+)',
                        r'(\d+)gt',
                        names=('{000..999}',),
                    ),
                ),
                source='real_world/000/000-1/000-1_0_0.png to real_world_gt/000/000_0_0.png, in the test set 000.png '
                'to 000gt.png, as read by public code',
            ),
            Layout(
                'RCDNet',
                (Part('test', 'test/small/rain', 'test/small/norain', 1000),),
                'SPA-Data|spa-data|SPA',
                RCDNET,
            ),
        ),
        protocol=ON_Y,
        licence='three-clause BSD text (License.txt of the repository)',
        sources=(
            f'{RCDNET}: 638492 training and 1000 test pairs',
            'github.com/stevewongv/SPANet, Train_Dataset_README.md and Test_Datset_README.md',
        ),
        notes=(
            'real_world.txt names the training pairs; where it is there, what it names and is not there is missing.',
            'The folder of video 274, frame 14 is laid out differently in the release: --leave_out passes it over.',
        ),
    ),
)
