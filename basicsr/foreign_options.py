"""Advice for option files of BasicSR, NAFNet and Restormer: what each key that differs here is called, or why it is gone."""

from __future__ import annotations

from typing import Any

# (kind of block or section, key) -> advice
KEYS: dict[tuple[str, str], str] = {
    ('dataset', 'dataroot'): 'Write dataroot_gt (clean) and dataroot_lq (degraded).',
    ('dataset', 'io_backend'): 'Remove it: folders and LMDBs are told apart by their path.',
    ('dataset', 'use_flip'): 'Write use_hflip.',
    ('dataset', 'geometric_augs'): 'Write use_hflip: true and use_rot: true.',
    ('dataset', 'num_worker'): 'Write num_worker_per_gpu.',
    ('dataset', 'n_workers'): 'Write num_worker_per_gpu.',
    ('dataset', 'batch_size'): 'Write batch_size_per_gpu.',
    ('dataset', 'prefetch_mode'): 'Remove it: loader processes always prefetch (prefetch_factor says how much).',
    ('dataset', 'num_prefetch_queue'): 'Write prefetch_factor.',
    ('dataset', 'pin_memory'): 'Remove it: memory is pinned whenever there is a GPU.',
    ('dataset', 'mean'): 'Remove it: images are RGB in [0,1]; a network that wants another range normalises inside.',
    ('dataset', 'std'): 'Remove it: images are RGB in [0,1]; a network that wants another range normalises inside.',
    ('dataset', 'color'): 'Remove it: images are RGB.',
    ('dataset', 'sigma_type'): 'Write a degradation of type Noise in an OnlineDegradationDataset.',
    ('dataset', 'sigma_range'): 'Write a degradation of type Noise in an OnlineDegradationDataset.',
    ('dataset', 'in_ch'): 'Remove it: images are RGB.',
    ('metric', 'better'): 'Remove it: every metric knows which way it points.',
    ('metric', 'input_order'): 'Remove it: tensors are (N,3,H,W).',
    ('top', 'gpu_ids'): 'Write num_gpu, and choose devices by CUDA_VISIBLE_DEVICES.',
    ('top', 'use_tb_logger'): 'Write logger.use_tb_logger.',
    ('top', 'model'): 'Write model_type.',
    ('top', 'network_G'): 'Write network_g.',
    ('top', 'find_unused_parameters'): 'Write dist_params.find_unused_parameters.',
    ('train', 'niter'): 'Write total_iter.',
    ('train', 'lr_G'): 'Write optim_g: {type: AdamW, lr: ...}.',
    ('train', 'manual_seed'): 'Write it at the left margin.',
    ('train', 'val_freq'): 'Write val.val_freq.',
    (
        'train',
        'mixing_augs',
    ): 'Remove it: mixup is not offered (Restormer trains its released models with mixup: false).',
    ('train', 'perceptual_opt'): 'Remove it: a perceptual loss comes with the training methods that use one.',
    ('val', 'window_size'): 'Remove it: every network pads its input to the multiple it needs.',
    ('val', 'rgb2bgr'): 'Remove it: images are RGB throughout and are written as such.',
    ('val', 'use_image'): 'Remove it: metrics are always computed on 8-bit images.',
    ('val', 'max_minibatch'): 'Remove it: images are validated one by one, shared out over the processes.',
    ('val', 'suffix'): 'Remove it: images are saved as visualization/<set>/<image>_<iteration>.png.',
    ('val', 'grids'): 'Remove it: whole images are validated.',
    ('val', 'trans_num'): 'Remove it: whole images are validated without self-ensemble.',
    ('logger', 'wandb_project'): 'Write wandb: {project: ...}.',
    ('path', 'root'): 'Write experiments_root.',
    ('path', 'models'): 'Remove it: the folder of the run is experiments_root/name.',
    ('path', 'pretrain_model_g'): 'Write pretrain_network_g.',
    ('path', 'pretrain_model_G'): 'Write pretrain_network_g.',
    ('path', 'pretrain_network_G'): 'Write pretrain_network_g.',
    ('path', 'strict_load'): 'Write strict_load_g.',
    ('path', 'resume'): 'Write resume_state.',
    ('dist_params', 'port'): 'Remove it: give torchrun --master_port.',
    ('datasets', 'valid'): 'Write val.',
}
# (registry, type) -> advice
TYPES: dict[tuple[str, str], str] = {
    ('model', 'ImageCleanModel'): "'ImageCleanModel' (Restormer) is called RestorationModel here.",
    ('model', 'ImageRestorationModel'): "'ImageRestorationModel' (NAFNet) is called RestorationModel here.",
    (
        'model',
        'SRModel',
    ): "'SRModel' (BasicSR) is called RestorationModel here; it also trains networks with scale > 1.",
    ('dataset', 'Dataset_PairedImage'): "'Dataset_PairedImage' (Restormer) is called PairedImageDataset here.",
    ('dataset', 'PairedImageSRLRDataset'): "'PairedImageSRLRDataset' (NAFNet) is called PairedImageDataset here.",
    ('dataset', 'Dataset_GaussianDenoising'): (
        "'Dataset_GaussianDenoising' (Restormer) is an OnlineDegradationDataset here, with a degradation of its own."
    ),
    ('arch', 'NAFNetLocal'): (
        "'NAFNetLocal' is NAFNet with windowed pooling at test time; train with NAFNet, whose weights are the same."
    ),
}


def key_hint(path: tuple[Any, ...], kind: str) -> str | None:
    """What to do about a key that another toolbox knows here, or None."""
    return KEYS.get((kind, str(path[-1])))


def type_hint(registry: str, name: str) -> str | None:
    """What a type of another toolbox is called here, or None."""
    return TYPES.get((registry, name))
