"""Option files of BasicSR, NAFNet and Restormer: each line that must change is named with what to write instead.

The files below hold the keys of published ones; the values are our own.
"""

import re

import pytest
import yaml

from basicsr.errors import OptionError
from basicsr.foreign_options import KEYS, TYPES
from basicsr.options import load
from basicsr.registry import ARCH_REGISTRY, REGISTRIES
from basicsr.schema import fields_of_type, section_fields
from basicsr.sections import (
    DistOptions,
    LoaderOptions,
    LoggerOptions,
    PathOptions,
    TopLevel,
    TrainOptions,
    ValOptions,
)

from .runs import ROOT

PLUGINS = ROOT / 'tests/assets/plugins'
NAFNET = """\
name: deblur
model_type: ImageRestorationModel
scale: 1
num_gpu: 8
manual_seed: 42
datasets:
  train:
    name: a-train
    type: PairedImageDataset
    dataroot_gt: ./datasets/a/sharp.lmdb
    dataroot_lq: ./datasets/a/blur.lmdb
    filename_tmpl: '{}'
    io_backend: {type: lmdb}
    gt_size: 256
    use_flip: true
    use_rot: true
    use_shuffle: true
    num_worker_per_gpu: 4
    batch_size_per_gpu: 4
    dataset_enlarge_ratio: 1
    prefetch_mode: ~
  val:
    name: a-test
    type: PairedImageDataset
    dataroot_gt: ./datasets/a/target.lmdb
    dataroot_lq: ./datasets/a/input.lmdb
    io_backend: {type: lmdb}
network_g:
  type: NAFNetLocal
  width: 32
  enc_blk_nums: [1, 1, 1, 28]
  middle_blk_num: 1
  dec_blk_nums: [1, 1, 1, 1]
path: {pretrain_network_g: ~, strict_load_g: true, resume_state: ~}
train:
  optim_g: {type: AdamW, lr: !!float 1e-3, weight_decay: !!float 1e-3, betas: [0.9, 0.9]}
  scheduler: {type: TrueCosineAnnealingLR, T_max: 200000, eta_min: !!float 1e-7}
  total_iter: 200000
  warmup_iter: -1
  pixel_opt: {type: PSNRLoss, loss_weight: 1, reduction: mean}
val:
  val_freq: !!float 2e4
  save_img: false
  use_image: true
  max_minibatch: 8
  metrics:
    psnr: {type: calculate_psnr, crop_border: 0, test_y_channel: false}
    ssim: {type: calculate_skimage_ssim, crop_border: 0, test_y_channel: false}
logger:
  print_freq: 200
  save_checkpoint_freq: !!float 5e3
  use_tb_logger: true
  wandb: {project: ~, resume_id: ~}
dist_params: {backend: nccl, port: 29500}
"""
RESTORMER = """\
name: derain
model_type: ImageCleanModel
scale: 1
num_gpu: 8
manual_seed: 100
datasets:
  train:
    name: TrainSet
    type: Dataset_PairedImage
    dataroot_gt: ./a/target
    dataroot_lq: ./a/input
    geometric_augs: true
    filename_tmpl: '{}'
    io_backend: {type: disk}
    use_shuffle: true
    num_worker_per_gpu: 8
    batch_size_per_gpu: 8
    mini_batch_sizes: [8, 4]
    iters: [2000, 1000]
    gt_size: 384
    gt_sizes: [128, 160]
    dataset_enlarge_ratio: 1
    prefetch_mode: ~
  val:
    name: ValSet
    type: Dataset_PairedImage
    dataroot_gt: ./b/target
    dataroot_lq: ./b/input
    io_backend: {type: disk}
network_g:
  type: Restormer
  inp_channels: 3
  out_channels: 3
  dim: 48
  num_blocks: [4, 6, 6, 8]
  num_refinement_blocks: 4
  heads: [1, 2, 4, 8]
  ffn_expansion_factor: 2.66
  bias: False
  LayerNorm_type: WithBias
  dual_pixel_task: False
path: {pretrain_network_g: ~, strict_load_g: true, resume_state: ~}
train:
  total_iter: 3000
  warmup_iter: -1
  use_grad_clip: true
  scheduler:
    type: CosineAnnealingRestartCyclicLR
    periods: [1000, 2000]
    restart_weights: [1, 1]
    eta_mins: [0.0003, 0.000001]
  mixing_augs: {mixup: false, mixup_beta: 1.2, use_identity: true}
  optim_g: {type: AdamW, lr: !!float 3e-4, weight_decay: !!float 1e-4, betas: [0.9, 0.999]}
  pixel_opt: {type: L1Loss, loss_weight: 1, reduction: mean}
val:
  window_size: 8
  val_freq: !!float 4e3
  save_img: false
  rgb2bgr: true
  use_image: true
  max_minibatch: 8
  metrics:
    psnr: {type: calculate_psnr, crop_border: 0, test_y_channel: true}
logger: {print_freq: 1000, save_checkpoint_freq: !!float 4e3, use_tb_logger: true, wandb: {project: ~, resume_id: ~}}
dist_params: {backend: nccl, port: 29500}
"""
DENOISING = RESTORMER.replace(
    'type: Dataset_PairedImage\n    dataroot_gt: ./a/target\n    dataroot_lq: ./a/input',
    'type: Dataset_GaussianDenoising\n    sigma_type: constant\n    sigma_range: 25\n    in_ch: 3\n'
    '    dataroot_gt: ./a/target\n    dataroot_lq: none',
).replace(
    'type: Dataset_PairedImage\n    dataroot_gt: ./b/target\n    dataroot_lq: ./b/input',
    'type: Dataset_GaussianDenoising\n    sigma_test: 25\n    in_ch: 3\n'
    '    dataroot_gt: ./b/target\n    dataroot_lq: none',
)
BASICSR = """\
name: sr
model_type: SRGANModel
scale: 2
num_gpu: 1
manual_seed: 10
find_unused_parameters: true
datasets:
  train:
    name: DIV2K
    type: PairedImageDataset
    dataroot_gt: datasets/hr
    dataroot_lq: datasets/lr
    meta_info_file: datasets/meta.txt
    filename_tmpl: '{}'
    io_backend: {type: disk}
    color: y
    gt_size: 96
    use_hflip: true
    use_rot: true
    num_worker_per_gpu: 6
    batch_size_per_gpu: 16
    dataset_enlarge_ratio: 100
    prefetch_mode: ~
  val: {name: Set5, type: PairedImageDataset, dataroot_gt: hr, dataroot_lq: lr, io_backend: {type: disk}}
network_g:
  type: PlainResNet
  num_in_ch: 3
  num_feat: 16
  num_block: 2
  upscale: 2
  res_scale: 0.1
  img_range: 255.
network_d: {type: VGGStyleDiscriminator, num_in_ch: 3, num_feat: 64}
path: {pretrain_network_g: ~, strict_load_g: false, resume_state: ~}
train:
  ema_decay: 0.999
  optim_g: {type: Adam, lr: !!float 1e-4, weight_decay: 0, betas: [0.9, 0.99]}
  optim_d: {type: Adam, lr: !!float 1e-4}
  scheduler: {type: MultiStepLR, milestones: [200000], gamma: 0.5}
  total_iter: 300000
  warmup_iter: -1
  pixel_opt: {type: L1Loss, loss_weight: 1.0, reduction: mean}
  perceptual_opt: {type: PerceptualLoss, layer_weights: {conv5_4: 1}, vgg_type: vgg19}
  gan_opt: {type: GANLoss, gan_type: vanilla, loss_weight: !!float 5e-3}
  net_d_iters: 1
  net_d_init_iters: 0
val:
  val_freq: !!float 5e3
  save_img: false
  pbar: false
  metrics:
    psnr: {type: calculate_psnr, crop_border: 2, test_y_channel: false, better: higher}
logger: {print_freq: 100, save_checkpoint_freq: !!float 5e3, use_tb_logger: true, wandb: {project: ~, resume_id: ~}}
dist_params: {backend: nccl, port: 29500}
"""
FILES = {'nafnet': NAFNET, 'restormer': RESTORMER, 'denoising': DENOISING, 'basicsr': BASICSR}
# What a user does about each line, by the advice that it gives; keys are the places that the messages name.
CHANGES = {
    'nafnet': {
        'model_type': 'RestorationModel',
        'datasets.train.use_flip': 'use_hflip',
        'datasets.train.prefetch_mode': 'drop',
        'val.use_image': 'drop',
        'val.max_minibatch': 'drop',
        'val.metrics.ssim.type': 'calculate_ssim',
        'dist_params.port': 'drop',
    },
    'restormer': {
        'model_type': 'RestorationModel',
        'datasets.train.type': 'PairedImageDataset',
        'datasets.train.geometric_augs': 'drop',
        'datasets.train.prefetch_mode': 'drop',
        'datasets.val.type': 'PairedImageDataset',
        'train.mixing_augs': 'drop',
        'val.window_size': 'drop',
        'val.rgb2bgr': 'drop',
        'val.use_image': 'drop',
        'val.max_minibatch': 'drop',
        'dist_params.port': 'drop',
    },
    'basicsr': {
        'model_type': 'RestorationModel',
        'find_unused_parameters': 'drop',
        'datasets.train.color': 'drop',
        'datasets.train.prefetch_mode': 'drop',
        'network_d': 'drop',
        'train.optim_d': 'drop',
        'train.perceptual_opt.type': {'type': 'FeatureLoss'},
        'train.gan_opt': 'drop',
        'train.net_d_iters': 'drop',
        'train.net_d_init_iters': 'drop',
        'val.metrics.psnr.better': 'drop',
        'dist_params.port': 'drop',
    },
}
NOISE = [{'type': 'Noise', 'sigma': [25, 25]}]
CHANGES['denoising'] = CHANGES['restormer'] | {
    'datasets.train.type': 'OnlineDegradationDataset',
    'datasets.train.degradations': NOISE,
    'datasets.train.sigma_type': 'drop',
    'datasets.train.sigma_range': 'drop',
    'datasets.train.in_ch': 'drop',
    'datasets.train.dataroot_lq': 'drop',
    'datasets.train.filename_tmpl': 'drop',
    'datasets.val.type': 'OnlineDegradationDataset',
    'datasets.val.degradations': NOISE,
    'datasets.val.sigma_test': 'drop',
    'datasets.val.in_ch': 'drop',
    'datasets.val.dataroot_lq': 'drop',
}
IMPORTS = [str(PLUGINS / 'basicsr_style_arch.py')]
ADVICE = re.compile(r'(: write |: remove |\. Write |\. Remove it|\. Did you mean |is missing: )')


def apply(values, changes):
    """Does what the messages advise."""
    for dotted, change in changes.items():
        *path, last = dotted.split('.')
        block = values
        for key in path:
            block = block[key]
        if change == 'drop':
            del block[last]
        elif isinstance(change, dict):
            block.clear()
            block.update(change)
        elif dotted == 'datasets.train.use_flip':
            block[change] = block.pop(last)
        else:
            block[last] = change
    return values


@pytest.mark.parametrize('name', FILES)
def test_every_line_to_change_is_named_and_the_changed_file_loads(write, name):
    file = write(f'{name}.yml', FILES[name])
    with pytest.raises(OptionError) as caught:
        load(file, imports=IMPORTS)
    lines = str(caught.value).splitlines()
    places = [re.match(rf"{re.escape(str(file))}:\d+: (?:key )?'([\w.]+)'", line) for line in lines]
    assert None not in places, lines
    assert sorted(p[1] for p in places) == sorted(CHANGES[name])
    assert [line for line in lines if not ADVICE.search(line)] == []
    for line, place in zip(lines, places):
        written = FILES[name].splitlines()[int(re.search(r'\.yml:(\d+): ', line)[1]) - 1]
        assert place[1].rpartition('.')[2] in written or 'is missing' in line  # the line named is the line meant
    values = apply(yaml.load(FILES[name], Loader=yaml.SafeLoader), CHANGES[name])
    options = load(write('changed.yml', values), imports=IMPORTS)
    assert options.top.model_type == 'RestorationModel'
    assert options.val.val_freq in (20000, 4000, 5000)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'model_type': 'VideoRecurrentModel'}, "'model_type' is VideoRecurrentModel: restoring video is not offered"),
        ({'model_type': 'StyleGAN2Model'}, "'model_type' is StyleGAN2Model: generating faces is not offered"),
        ({'model_type': 'RealESRGANModel', 'gt_usm': True}, "Real-ESRGAN's training on synthetic degradations"),
        (
            {'datasets.train.type': 'REDSRecurrentDataset'},
            "'datasets.train.type' is REDSRecurrentDataset: restoring video",
        ),
        ({'datasets.train.type': 'PairedStereoImageDataset'}, 'super-resolution of stereo pairs is not offered'),
    ],
)
def test_a_method_that_is_not_offered_is_refused_in_one_sentence(write, changes, message):
    values = yaml.load(BASICSR, Loader=yaml.SafeLoader)
    for dotted, value in changes.items():
        *path, last = dotted.split('.')
        block = values
        for key in path:
            block = block[key]
        block[last] = value
    with pytest.raises(OptionError) as caught:
        load(write('own.yml', values), imports=IMPORTS)
    (line,) = str(caught.value).splitlines()
    assert message in line
    assert re.search(r'own\.yml:\d+: ', line)
    assert 'no change to this file makes it load' in line


def test_no_advice_names_a_key_or_type_that_is_not_there():
    sections = {
        'top': TopLevel, 'train': TrainOptions, 'val': ValOptions, 'logger': LoggerOptions, 'path': PathOptions,
        'dist_params': DistOptions,
    }  # fmt: skip
    known = {name: set(section_fields(cls)) for name, cls in sections.items()}
    datasets = {k for n, d in REGISTRIES['dataset'] for k in fields_of_type('dataset', d)}
    known |= {
        'dataset': datasets | set(section_fields(LoaderOptions)),
        'datasets': {'val', *(f'test_{n}' for n in range(10))},
    }
    for kind, keys in KEYS.items():
        for key, advice in keys.items():
            if match := re.match(r'Write (\w+)(?: \(\w+\))?(?: and (\w+))?[.,: ]', advice):
                names = {n for n in match.groups() if n} - {'it'}
                assert names <= known[kind.partition(' ')[0]], (kind, key, advice)
            if match := re.match(r'Write it in section (\w+)', advice):
                assert key in known[match[1]], (kind, key, advice)
            assert re.match(r'(Write|Remove it)\b', advice), (kind, key, advice)
            assert key not in known.get(kind, ()) or kind in ('top', 'path', 'train'), f'{kind}.{key} is a key here'
    for kind, types in TYPES.items():
        registry = REGISTRIES[kind]
        for name, advice in types.items():
            assert name not in registry, f'{name} is offered now: its advice misleads'
            assert advice.instead is None or advice.instead in registry
            assert advice.hopeless or re.match(r'(write|remove) ', advice.advice), (name, advice)


def test_a_type_of_ones_own_with_a_foreign_name_is_taken(write):
    """What another toolbox calls so matters only where nothing here has the name."""
    head = 'from basicsr.registry import ARCH_REGISTRY\n\n\n@ARCH_REGISTRY.register()\n'
    body = 'class Baseline:\n    def __init__(self, width: int = 4):\n        pass\n'
    plugin = write('baseline_own_arch.py', head + body)
    values = apply(yaml.load(NAFNET, Loader=yaml.SafeLoader), CHANGES['nafnet'])
    values['network_g'] = {'type': 'Baseline', 'width': 8}
    try:
        assert load(write('own.yml', values), imports=[str(plugin)]).networks['g'] == {'type': 'Baseline', 'width': 8}
    finally:
        ARCH_REGISTRY._objects.pop('Baseline', None)
