"""The protocols that are built in: conventions of the papers of each task, where each comes from, what is disputed.

Repositories are cited by owner/name, file, and the commit that was read.
"""

from __future__ import annotations

from basicsr.protocols import Protocol

RESTORMER = 'Restormer, CVPR 2022: swz30/Restormer, {} (df766d5)'
PROMPTIR = 'PromptIR, NeurIPS 2023: va1shn9v/PromptIR, {} (106159a)'
CIDNET = 'HVI-CIDNet, CVPR 2025: Fediory/HVI-CIDNet, measure.py (eb43d7d)'
USHAPE = 'U-shape Transformer, TIP 2023: LintaoPeng/U-shape_Transformer_for_Underwater_Image_Enhancement, {} (41f9897)'
RIDCP = 'RIDCP, CVPR 2023 (FADE, BRISQUE, NIMA on RTTS)'
CORUN = 'CORUN, NeurIPS 2024: cnyvfang/CORUN-Colabator, evaluate.py (b1103fe): BRISQUE and NIMA of pyiqa'
NTIRE = 'NTIRE 2025 challenge, arXiv 2504.14600: zhengchen1999/NTIRE2025_RealWorld_Face_Restoration, eval.py (3b1903d)'
LIST_UNKNOWN = 'The images are told by their count alone: no list or checksum of the test set was at hand.'

PSNR = {'type': 'calculate_psnr'}
SSIM = {'type': 'calculate_ssim'}
RGB = {'psnr': PSNR, 'ssim': SSIM}
LOL_SETS = {'LOL v1 (eval15)': 15, 'LOL v2 real': 100, 'LOL v2 synthetic': 100}
UIEB_SETS = {'UIEB test': 90}
LSUI_SETS = {'LSUI test': 400}
UNDERWATER = {**RGB, 'uciqe': {'type': 'calculate_uciqe'}, 'uiqm': {'type': 'calculate_uiqm'}}


def protocols() -> list[Protocol]:
    """All of them, in the order in which they are listed."""
    return [*_rain(), _haze(), _noise(), *_low_light(), _snow(), *_underwater(), _composite(), *_real_haze(), _faces()]


def _rain() -> list[Protocol]:
    y = {'test_y_channel': True, 'y_rounding': True}
    counts = {'Test100': 98, 'Rain100H': 100, 'Rain100L': 100, 'Test2800': 2800, 'Test1200': 1200}
    return [
        Protocol(
            'derain-y',
            {'psnr_y': {**PSNR, **y}, 'ssim_y': {**SSIM, **y}},
            test_sets=counts,
            sources=[RESTORMER.format('Deraining/evaluate_PSNR_SSIM.m'), 'MPRNet, CVPR 2021: the same script'],
            notes=[
                'Y is that of MATLAB: 16 to 235, rounded to whole levels. BasicSR and most of Python do not round.',
                'The mean of the five sets is the mean of their five means.',
                'PReNet (csdwren/PReNet, statistic/, 6d908d1) and RCDNet convert to double before rgb2ycbcr, so their '
                'Y is not rounded: label it psnr_y with test_y_channel alone.',
                'Figures of networks trained on Rain13K and on the 200 pairs of Rain100L are not comparable.',
                'Test100 has 98 images in this release.',
            ],
        ),
        Protocol(
            'derain-rgb',
            {
                'psnr': {**PSNR, 'quantize': False},
                'ssim_skimage': {'type': 'calculate_ssim_skimage', 'quantize': False},
            },
            crop_multiple=16,
            test_sets={'Rain100L': 100},
            sources=[
                PROMPTIR.format('utils/val_utils.py, utils/dataset_utils.py'),
                'AirNet, CVPR 2022; AdaIR, ICLR 2025; MoCE-IR, CVPR 2025: the same routine',
            ],
            notes=[
                'The all-in-one papers use it for every task (denoising, deraining, dehazing, deblurring, low light).',
                'Input and clean image are cut to a multiple of 16 before the network; the border is never scored.',
                'Saved images have been rounded; only validation and test see the unrounded output.',
                'InstructIR also cuts to 16, but measures SSIM with a Gaussian window and does not clip.',
            ],
        ),
    ]


def _haze() -> Protocol:
    return Protocol(
        'dehaze-sots',
        RGB,
        test_sets={'SOTS indoor': 500, 'SOTS outdoor': 500},
        sources=['RESIDE, TIP 2019', 'FFA-Net, AAAI 2020: zhilin007/FFA-Net, net/metrics.py (6651bcf)'],
        notes=[
            'Indoor and outdoor are two sets and are reported apart; outdoor has 492 scenes for 500 hazy images.',
            'The clean image of 1400_1.png is 1400.png (tools/evaluate.py --gt_by_prefix).',
            'SSIM is disputed: FFA-Net pads the border with zeros; ConvIR shrinks both images by '
            'round(min(H, W) / 256) first (c-yn/ConvIR, Dehazing/OTS/eval.py, 05dcbff); here it is that of BasicSR at '
            'full size.',
            'FFA-Net and ConvIR measure the unrounded output; here it is rounded as its file would be.',
            'DiffUIR resizes clean images to the size of the hazy ones where a release has them larger.',
        ],
    )


def _noise() -> Protocol:
    return Protocol(
        'denoise-cbsd68',
        {'psnr': PSNR},
        test_sets={'CBSD68': 68, 'Kodak24': 24, 'McMaster': 18, 'Urban100': 100},
        sources=[RESTORMER.format('Denoising/evaluate_gaussian_color_denoising.py')],
        notes=[
            'Colour, sigma 15, 25 and 50 apart. The script gives PSNR only.',
            'The noise is part of the data: Restormer seeds NumPy with 0 for each image and neither clips nor rounds '
            'the noisy input. PromptIR clips and truncates it to 8 bits, which lowers the noise and shifts it by half '
            'a level, and draws it in the order of os.listdir: its figures are not exactly reproducible.',
            'All-in-one papers measure with derain-rgb instead; their five-task tables have sigma 25 alone.',
        ],
    )


def _low_light() -> list[Protocol]:
    bright = {label: {**block, 'gt_mean': True} for label, block in RGB.items()}
    return [
        Protocol(
            'lol',
            RGB,
            test_sets=LOL_SETS,
            sources=[CIDNET, 'Retinexformer, ICCV 2023 (PSNR of the unrounded, SSIM of the rounded output)'],
            notes=[
                'Without GT-mean: the headline.',
                '15 images: repeated trainings swing by more than 1 dB; give the mean over at least three seeds.',
                'LPIPS, which HVI-CIDNet adds, needs weights; add it under val.metrics.',
            ],
        ),
        Protocol(
            'lol-gtmean',
            {f'{label}_gtmean': block for label, block in bright.items()},
            test_sets=LOL_SETS,
            sources=[CIDNET + ' with --use_GT_mean', 'KinD, ACM MM 2019; LLFlow, AAAI 2022'],
            notes=[
                'The output is multiplied by the ratio of the mean grey of clean image and output, and clipped. It '
                'uses the clean image, so it must never stand in one column with lol; it is worth several dB.',
                'Retinexformer converts RGB arrays as if they were BGR, which weighs red and blue the other way round.',
            ],
        ),
    ]


def _snow() -> Protocol:
    y = {f'{label}_y': {**block, 'test_y_channel': True} for label, block in RGB.items()}
    return Protocol(
        'snow100k',
        {**RGB, **y},
        test_sets={'Snow100K-S': 16611, 'Snow100K-M': 16588, 'Snow100K-L': 16801},
        sources=[
            'DesnowNet, TIP 2018; RGB by linYDTHU/DesnowNet_Context-Aware_Deep_Network_for_Snow_Removal, issue 2',
            'WeatherDiffusion, TPAMI 2023: IGITUGraz/WeatherDiffusion, calculate_psnr_ssim.py (5f78729): Y, unrounded',
        ],
        notes=[
            'Desnowing papers measure on RGB, all-weather papers on Y: both columns are given, say which is meant.',
            'Many papers use 2000 images of their own drawing, without a list (HDCWNet issue 4, SnowFormer issue 1): '
            'their figures cannot be reproduced. ' + LIST_UNKNOWN,
            'Histoformer feeds BGR to an RGB conversion and uses an 11 x 11 uniform window for SSIM '
            '(sunshangquan/Histoformer, Allweather/compute_psnr.py, 1f045f0).',
            'TransWeather measured before saving, unlike earlier work, as its README says.',
        ],
    )


def _underwater() -> list[Protocol]:
    shared = [
        'UIQM and UCIQE exist in several codes that disagree by scale; compare within this project only.',
        LIST_UNKNOWN,
    ]
    uieb = [
        'The release has 890 pairs and no split. 800/90 is usual, but many papers draw their own 90; '
        'tools/prepare_dataset.py takes the lists of UnderwaterRanker.',
        'Papers resize to 256 x 256, to 512 x 512, or not at all: three protocols, whose numbers must not be mixed.',
    ]
    lsui = ['The authors split 3,879 / 400; some papers draw another 400.']
    small = [
        'The network sees the small image. Images that were restored at full size and are resized afterwards '
        '(tools/evaluate.py) give other numbers.',
        'Resized bilinearly without antialiasing, as cv2.resize does by default.',
    ]
    average = (
        "U-shape averages the PSNR of the three channels, and saves its output stretched to the image's own range; "
        'here PSNR is that of all channels together.'
    )
    wavenet = 'Deep WaveNet: pksvision/Deep-WaveNet-Underwater-Image-Restoration, issue 2: not resized'
    return [
        Protocol('uieb', UNDERWATER, test_sets=UIEB_SETS, sources=['UIEB, TIP 2020', wavenet], notes=uieb + shared),
        Protocol(
            'uieb-256', UNDERWATER, size=256, test_sets=UIEB_SETS, sources=[USHAPE.format('test.ipynb')],
            notes=[*uieb, *small, average, *shared],
        ),
        Protocol(
            'lsui', UNDERWATER, test_sets=LSUI_SETS, sources=[USHAPE.format('README.md: the split')],
            notes=lsui + shared,
        ),
        Protocol(
            'lsui-256', UNDERWATER, size=256, test_sets=LSUI_SETS, sources=[USHAPE.format('test.ipynb')],
            notes=[*lsui, *small, average, *shared],
        ),
    ]  # fmt: skip


def _composite() -> Protocol:
    return Protocol(
        'cdd11',
        {'psnr': PSNR, 'ssim_skimage': {'type': 'calculate_ssim_skimage'}},
        test_sets={'one kind of CDD-11': 200, 'CDD-11': 2200},
        sources=['OneRestore, ECCV 2024: gy65896/OneRestore, img_file/cal_psnr_ssim.py (23a2e6a)'],
        notes=[
            'Each of the 11 kinds has 200 images; the average is the mean of the 11 means.',
            'MoCE-IR does not cut to a multiple of 16 here, unlike in its other tasks.',
        ],
    )


def _real_haze() -> list[Protocol]:
    own = {'fade_ours': {'type': 'calculate_fade'}, 'brisque': {'type': 'calculate_brisque'}}
    nima = {'pyiqa_nima': {'type': 'calculate_pyiqa', 'metric': 'nima'}}
    notes = [
        'No clean images: a score can be raised without a better image; do not train on what is reported here.',
        'RIDCP computed FADE and BRISQUE in MATLAB; BRISQUE differs a little between MATLAB, OpenCV and pyiqa.',
    ]
    return [
        Protocol(
            'rtts', {**own, 'niqe': {'type': 'calculate_niqe'}}, test_sets={'RTTS': 4322}, sources=[RIDCP],
            notes=['What needs no download; also for real rain, snow, low light and water.', *notes],
        ),
        Protocol(
            'rtts-nima', {**own, **nima}, test_sets={'RTTS': 4322}, sources=[RIDCP, CORUN],
            notes=['As published, with NIMA of pyiqa, which needs its weights.', *notes],
        ),
    ]  # fmt: skip


def _faces() -> Protocol:
    networks = ('clipiqa', 'maniqa', 'musiq', 'qalign')
    judged = {f'pyiqa_{name}': {'type': 'calculate_pyiqa', 'metric': name} for name in networks}
    return Protocol(
        'ntire-face',
        {**judged, 'niqe': {'type': 'calculate_niqe'}},
        test_sets={
            'CelebA': 100, 'LFW-Test': 100, 'CelebChild-Test': 50, 'WebPhoto-Test': 100, 'WIDER-Test': 100, 'all': 450,
        },
        sources=[NTIRE],
        notes=[
            'The score of the challenge is CLIPIQA + MANIQA + MUSIQ/100 + Q-Align/5 + max(0, (10 - NIQE)/10) + '
            'max(0, (100 - FID)/100). FID against FFHQ is not computed here, so neither is the score: five columns.',
            'The check of identity (cosine similarity of AdaFace, at least 0.3, 0.5 or 0.6 by set) is not made here.',
            'NIQE here is that of the project, in the convention of MATLAB, which pyiqa follows.',
            'Q-Align needs some 15 GB of memory.',
        ],
    )  # fmt: skip
