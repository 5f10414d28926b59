"""Advice for option files of BasicSR, NAFNet and Restormer: what a key or type is called here, or why it is gone.

Facts from github.com/XPixelGroup/BasicSR (8d56e3a), megvii-research/NAFNet (2b4af71) and swz30/Restormer (df766d5);
for local statistics, megvii-research/TLC (8e87983).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Advice:
    """What to do about a type of another toolbox.

    Attributes:
        advice: What to write, or why nothing can be written.
        instead: The type that takes its place here; the rest of the block is then checked against that one.
        hopeless: No change to the option file would make it load: the whole method is not offered.
    """

    advice: str
    instead: str | None = None
    hopeless: bool = False


_RGB = 'Remove it: images are RGB in [0,1], and a network that wants another range normalises inside.'
_GAN = 'Remove it: training against a discriminator is not offered.'
_NOISE = 'Remove it: degradations says what is done to an image, such as [{type: Noise, sigma: [15, 50]}].'
_WINDOW = 'Remove it: val.tlc is the side of the window in pixels, by default 1.5 times train_size in other toolboxes.'
_PADDED = 'Remove it: every network pads its input to the multiple it needs.'
_NAFNET = 'Remove it: NAFNet has no such argument (its blocks widen by 2).'

# section or registry (and type) -> key -> advice
KEYS: dict[str, dict[str, str]] = {
    'top': {
        'model': 'Write model_type.',
        'network_G': 'Write network_g.',
        'network_D': _GAN,
        'network_d': _GAN,
        'gpu_ids': 'Write num_gpu, and choose devices by CUDA_VISIBLE_DEVICES.',
        'use_tb_logger': 'Write it in section logger.',
        'find_unused_parameters': 'Write it in section dist_params.',
        'save_img': 'Write it in section val.',
        'suffix': 'Write it in section val.',
        'crop_border': 'Write it in the block of each metric, val.metrics.',
        'is_train': 'Remove it: section train says so.',
        'dist': 'Remove it: start with torchrun.',
    },
    'datasets': {
        'valid': 'Write val.',
        'validation': 'Write val.',
        **{f'test{n}': f'Write test_{n}.' for n in range(10)},
    },
    'dataset': {
        'phase': "Remove it: the block's own key says it (train, val, test).",
        'scale': 'Write it at the left margin.',
        'dataroot': 'Write dataroot_gt (clean) and dataroot_lq (degraded).',
        'dataroot_GT': 'Write dataroot_gt.',
        'dataroot_LQ': 'Write dataroot_lq.',
        'use_flip': 'Write use_hflip.',
        'use_vflip': 'Remove it: use_rot turns by 180 degrees too.',
        'geometric_augs': 'Write use_hflip and use_rot, each with the same value.',
        'n_workers': 'Write num_worker_per_gpu.',
        'num_worker': 'Write num_worker_per_gpu.',
        'batch_size': 'Write batch_size_per_gpu.',
        'prefetch_mode': 'Remove it: loader processes always prefetch (prefetch_factor says how much).',
        'num_prefetch_queue': 'Write prefetch_factor.',
        'pin_memory': 'Remove it: memory is pinned whenever there is a GPU.',
        'persistent_workers': 'Remove it: loader processes live as long as the run.',
        'mean': _RGB,
        'std': _RGB,
        'color': 'Remove it: images are RGB; training on the Y channel alone is not offered.',
        'in_ch': 'Remove it: images are RGB; for gray ones write img_channel in the network that takes it.',
        'sigma_type': _NOISE,
        'sigma_range': _NOISE,
        'sigma_test': _NOISE,
        'meta_info': 'Write meta_info_file.',
        'cache_data': 'Remove it: the system keeps files that are read often in memory.',
    },
    'dataset OnlineDegradationDataset': {
        'dataroot_lq': 'Remove it: the degraded images are made from the clean ones.',
        'filename_tmpl': 'Remove it: there are no files of degraded images.',
        'meta_info_file': 'Remove it: all images of dataroot_gt are used.',
    },
    'arch NAFNet': {'train_size': _WINDOW, 'fast_imp': _WINDOW, 'dw_expand': _NAFNET, 'ffn_expand': _NAFNET},
    'arch NAFNetLocal': {'base_size': _WINDOW, 'fast_imp': 'Remove it: windows are always computed exactly.'},
    'arch Restormer': {'train_size': _WINDOW, 'base_size': _WINDOW, 'fast_imp': _WINDOW, 'padder_size': _PADDED},
    'metric': {'better': 'Remove it: every metric knows which way it points.'},
    'train': {
        'niter': 'Write total_iter.',
        'lr_G': 'Write optim_g: {type: AdamW, lr: ...}.',
        'manual_seed': 'Write it at the left margin.',
        'val_freq': 'Write it in section val.',
        'mixing_augs': "Remove it: mixup is not offered (Restormer's own files leave it off, except for denoising).",
        'mixup': 'Remove it: mixup is not offered.',
        'gan_opt': _GAN,
        'optim_d': _GAN,
        'ldl_opt': _GAN,
        'net_d_iters': _GAN,
        'net_d_init_iters': _GAN,
    },
    'val': {
        'window_size': _PADDED,
        'rgb2bgr': 'Remove it: images are RGB throughout and are written as such.',
        'use_image': 'Remove it: metrics see 8-bit images, but those that take quantize: false.',
        'max_minibatch': 'Write tile_batch.',
        'grids': 'Write tile: auto, or the side of a tile in pixels; without it whole images are validated.',
        'trans_num': 'Write self_ensemble: true in place of 8; without it images are validated as they are.',
    },
    'logger': {'wandb_project': 'Write wandb: {project: ...}.'},
    'path': {
        'root': 'Write experiments_root.',
        'models': 'Remove it: the folder of the run is experiments_root/name.',
        'pretrain_model_g': 'Write pretrain_network_g.',
        'pretrain_model_G': 'Write pretrain_network_g.',
        'pretrain_network_G': 'Write pretrain_network_g.',
        'pretrain_network_d': _GAN,
        'strict_load_d': _GAN,
        'param_key_d': _GAN,
        'strict_load': 'Write strict_load_g.',
        'resume': 'Write resume_state.',
    },
    'dist_params': {'port': 'Remove it: give torchrun --master_port.'},
}


def _hopeless(what: str) -> Advice:
    return Advice(f'{what} is not offered, and no change to this file makes it load.', hopeless=True)


_VIDEO = _hopeless('restoring video')
_FACES = _hopeless('generating faces')
_BLIND = _hopeless("Real-ESRGAN's training on synthetic degradations for blind super-resolution")
_STEREO = _hopeless('super-resolution of stereo pairs')
_DUAL = _hopeless('deblurring from the two views of a dual-pixel sensor')
_SR_GAN = Advice(f'write RestorationModel. {_GAN.removeprefix("Remove it: ").capitalize()}', 'RestorationModel')
_SAME_DATA = Advice('write PairedImageDataset.', 'PairedImageDataset')

# registry -> type -> advice
TYPES: dict[str, dict[str, Advice]] = {
    'model': {
        'SRModel': Advice('write RestorationModel, which also trains networks with scale > 1.', 'RestorationModel'),
        'SwinIRModel': Advice('write RestorationModel.', 'RestorationModel'),
        'ImageCleanModel': Advice('write RestorationModel.', 'RestorationModel'),
        'ImageRestorationModel': Advice(
            'write RestorationModel; NAFNet clips gradients by default, so write train.use_grad_clip: true too.',
            'RestorationModel',
        ),
        'SRGANModel': _SR_GAN,
        'ESRGANModel': _SR_GAN,
        **dict.fromkeys(('EDVRModel', 'VideoBaseModel', 'VideoRecurrentModel'), _VIDEO),
        **dict.fromkeys(('VideoGANModel', 'VideoRecurrentGANModel'), _VIDEO),
        **dict.fromkeys(('StyleGAN2Model', 'HiFaceGANModel'), _FACES),
        **dict.fromkeys(('RealESRGANModel', 'RealESRNetModel'), _BLIND),
    },
    'dataset': {
        'Dataset_PairedImage': _SAME_DATA,
        'PairedImageSRLRDataset': _SAME_DATA,
        'Dataset_GaussianDenoising': Advice(
            'write OnlineDegradationDataset with degradations: [{type: Noise, sigma: [15, 50]}].',
            'OnlineDegradationDataset',
        ),
        'Dataset_DefocusDeblur_DualPixel_16bit': _DUAL,
        'PairedImageSRLRFullImageMemoryDataset': _SAME_DATA,
        'PairedStereoImageDataset': _STEREO,
        **dict.fromkeys(('REDSDataset', 'REDSRecurrentDataset', 'Vimeo90KDataset', 'Vimeo90KRecurrentDataset'), _VIDEO),
        **dict.fromkeys(('VideoTestDataset', 'VideoTestDUFDataset', 'VideoTestVimeo90KDataset'), _VIDEO),
        'VideoRecurrentTestDataset': _VIDEO,
        'FFHQDataset': _FACES,
        **dict.fromkeys(('RealESRGANDataset', 'RealESRGANPairedDataset'), _BLIND),
    },
    'arch': {
        'RestormerLocal': Advice(
            'write Restormer, whose weights are the same, and val.tlc: 1.5 times the training crop, for its windows.',
            'Restormer',
        ),
        'Baseline': Advice('write NAFNet, its successor.', 'NAFNet'),
        'BaselineLocal': Advice('write NAFNet, its successor.', 'NAFNet'),
    },
    'metric': {'calculate_skimage_ssim': Advice('write calculate_ssim_skimage.', 'calculate_ssim_skimage')},
    'loss': {
        'PerceptualLoss': Advice(
            "write {type: FeatureLoss}, whose backbone is installed; it is not VGG's loss, so weigh it anew."
        )
    },
}


def key_advice(kind: str, key: str) -> str | None:
    """What to do about a key that another toolbox knows here, or None.

    Args:
        kind: Section, or registry and type, of its block: ``train``, ``dataset PairedImageDataset``.
        key: The key.
    """
    return KEYS.get(kind, {}).get(key) or KEYS.get(kind.partition(' ')[0], {}).get(key)


def type_advice(registry: str, name: str) -> Advice | None:
    """What a type of another toolbox is called here, or None."""
    return TYPES.get(registry, {}).get(name)
