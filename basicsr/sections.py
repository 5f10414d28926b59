"""The fixed sections of an option file. Each dataclass is its section's schema, documentation and typed value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from basicsr.schema import Block, Range

Count = Annotated[int, Range(1)]
Natural = Annotated[int, Range(0)]


@dataclass
class TopLevel:
    """Keys at the left margin of an option file.

    Attributes:
        name: Name of the run and of its folder under path.experiments_root.
        model_type: Training method, a class of models/.
        description: Free text shown in the log and the report.
        scale: How many times larger the output is than the input; 1 for restoration.
        num_gpu: auto takes a GPU if there is one, 0 forces the CPU, N asks for N processes started by torchrun.
        manual_seed: Seed of every random stream (weights, data order, augmentation).
        imports: Modules or .py files of your own to import first, so that their types are known.
        datasets: One block a data set: train, val, test, or val_NAME and test_NAME for several.
        network_g: The restoration network.
        network_d: The discriminator, for training methods that have one.
        path: Weights to start from and where runs are kept.
        train: Length, optimiser, schedule and losses of training.
        val: How often and by which metrics to validate.
        logger: What is printed, written and kept, and how often.
        dist_params: Settings of distributed training.
    """

    name: str
    model_type: str = 'RestorationModel'
    description: str = ''
    scale: Count = 1
    num_gpu: Literal['auto'] | Natural = 'auto'
    manual_seed: Natural = 0
    imports: list[str] = field(default_factory=list)
    datasets: dict | None = None
    network_g: Annotated[dict, Block('arch')] | None = None
    network_d: Annotated[dict, Block('arch')] | None = None
    path: dict | None = None
    train: dict | None = None
    val: dict | None = None
    logger: dict | None = None
    dist_params: dict | None = None


@dataclass
class PathOptions:
    """Section ``path``.

    Attributes:
        pretrain_network_g: Weight file (.pth or .safetensors) that the network starts from.
        pretrain_network_d: Weight file that the discriminator starts from.
        strict_load_g: Whether every key of the weight file must match the network.
        strict_load_d: Whether every key of the weight file must match the discriminator.
        param_key_g: Which entry of the weight file to take; null takes params_ema, else params, else what is there.
        param_key_d: The same for the discriminator.
        resume_state: State file to resume from; --auto_resume finds the newest of the run's folder.
        experiments_root: Folder that holds the runs.
    """

    pretrain_network_g: str | None = None
    pretrain_network_d: str | None = None
    strict_load_g: bool = True
    strict_load_d: bool = True
    param_key_g: str | None = None
    param_key_d: str | None = None
    resume_state: str | None = None
    experiments_root: str = 'experiments'


@dataclass
class TrainOptions:
    """Section ``train``, beside the keys that the training method's own constructor adds (its losses).

    Attributes:
        total_iter: Number of iterations (optimiser steps).
        optim_g: Optimiser of the network, any class of torch.optim.
        optim_d: Optimiser of the discriminator, for training methods that have one.
        scheduler: Learning-rate schedule; null keeps the rate constant.
        warmup_iter: Iterations over which the rate rises linearly to its start; -1 for none.
        ema_decay: Decay of the moving average of weights and buffers; 0 for none.
        ema_warmup: Whether the decay of iteration t is at most 1 - 1/(t+1): the average follows faster at first.
        accum_iter: Batches whose gradients are added up for one iteration.
        use_grad_clip: Whether to clip the norm of the gradient.
        grad_clip_norm: Largest norm of the gradient when clipped; 0.01 in Restormer and NAFNet.
        mixed_precision: Number format of the forward pass; bf16 and fp16 keep float32 weights.
        channels_last: Whether tensors are laid out NHWC, which is faster for convolutions.
        compile: Whether to compile the network with torch.compile.
        max_nonfinite: How many iterations in a row may be skipped for a non-finite loss or gradient.
        deterministic: Whether to use deterministic kernels only, on a GPU too.
    """

    total_iter: Count
    optim_g: Annotated[dict, Block('optimizer')]
    optim_d: Annotated[dict, Block('optimizer')] | None = None
    scheduler: Annotated[dict, Block('scheduler')] | None = None
    warmup_iter: Annotated[int, Range(-1)] = -1
    ema_decay: Annotated[float, Range(0, 1)] = 0.0
    ema_warmup: bool = False
    accum_iter: Count = 1
    use_grad_clip: bool = False
    grad_clip_norm: Annotated[float, Range(0)] = 0.01
    mixed_precision: Literal['fp32', 'bf16', 'fp16'] = 'fp32'
    channels_last: bool = True
    compile: bool = False
    max_nonfinite: Natural = 10
    deterministic: bool = False


@dataclass
class ValOptions:
    """Section ``val``.

    Attributes:
        val_freq: Iterations between validations; validation also runs after the last iteration.
        save_img: Whether to save the restored images of every validation, or of a test.
        suffix: What a test puts after the name of a saved image, name_suffix.png; null puts nothing.
        protocol: Named way of scoring (derain-y, lol, ...; see docs/protocols.md), or a block that defines one; null
            takes the metrics alone.
        metrics: One block a metric; the label is the metric's name (psnr) or begins with it (psnr_y).
        report: Whether to write report.html when training ends; it saves the images it needs.
        pbar: Whether the live bar counts the images of a validation or test.
        tile: Side of the tiles in pixels; auto takes whole images where they surely fit; null always takes whole ones.
        tile_overlap: Pixels by which neighbouring tiles overlap and are blended; null: 2/5 of a tile, 256 at most.
        tile_batch: Tiles that go through the network at once.
        self_ensemble: Whether to average over 8 turned and mirrored versions of an image, which takes 8 times as long.
        tlc: Side in pixels of a window that replaces the whole image in the network's statistics; null for none.
        precision: Number format of the network; metrics are computed in float32 or finer.
        score: Quality asked of a network with a quality condition, 0 to 1; null takes the network's own, the top.
        guidance: How far the asked quality is exaggerated; 1 is plain, 0 asks for none, others take two passes.
        fidelity: How much a network of codes takes from its input beside the codes, w; null takes the network's own.
        hq_weight: Weight of the high-quality book of a network of codes, lambda; null takes the network's own.
        adain: Whether a network of codes matches its features' statistics to the input's; null takes the network's own.
        refine: Times that a network with privileged features refines its own output; null takes the network's own.
        refeed: Whether each of these takes the output of the one before as its input; null takes the network's own.
        refine_tol: An image is refined no further when that changes it by less, in the mean; null: the network's own.
        refine_by: Scorer, by file, type or block: an image is refined no further when its score falls; null for none.
    """

    val_freq: Count | None = None
    save_img: bool = False
    suffix: str | None = None
    protocol: str | dict | None = None
    metrics: dict[str, Annotated[dict, Block('metric')]] = field(default_factory=dict)
    report: bool = True
    pbar: bool = True
    tile: Literal['auto'] | Count | None = None
    tile_overlap: Natural | None = None
    tile_batch: Count = 1
    self_ensemble: bool = False
    tlc: Count | None = None
    precision: Literal['fp32', 'bf16', 'fp16'] = 'fp32'
    score: Annotated[float, Range(0, 1)] | None = None
    guidance: Annotated[float, Range(0)] = 1.0
    fidelity: Annotated[float, Range(0)] | None = None
    hq_weight: Annotated[float, Range(0)] | None = None
    adain: bool | None = None
    refine: Natural | None = None
    refeed: bool | None = None
    refine_tol: Annotated[float, Range(0)] | None = None
    refine_by: str | Annotated[dict, Block('scorer')] | None = None


@dataclass
class LoggerOptions:
    """Section ``logger``.

    Attributes:
        print_freq: Iterations between log lines.
        save_checkpoint_freq: Iterations between checkpoints.
        keep_last: How many of the newest checkpoints to keep; 0 keeps all.
        milestones: Iterations whose checkpoints are always kept.
        use_tb_logger: Whether to write TensorBoard files under tb_logger/.
        wandb: Weights & Biases settings, off without a project; needs the wandb package.
    """

    print_freq: Count = 100
    save_checkpoint_freq: Count = 5000
    keep_last: Natural = 3
    milestones: list[int] = field(default_factory=list)
    use_tb_logger: bool = False
    wandb: dict[Literal['project', 'entity', 'name', 'mode', 'resume_id'], str | None] | None = None


@dataclass
class DistOptions:
    """Section ``dist_params``.

    Attributes:
        backend: Communication library; null takes nccl on GPUs and gloo on CPUs.
        find_unused_parameters: Whether some parameters get no gradient in some iterations.
    """

    backend: Literal['nccl', 'gloo'] | None = None
    find_unused_parameters: bool = False


@dataclass
class LoaderOptions:
    """Keys of every data set block, beside those of the data set's own constructor.

    Attributes:
        name: Name for the log; the block's key if not given.
        batch_size_per_gpu: Samples a batch and process.
        num_worker_per_gpu: Loader processes per training process; 0 loads in the training process.
        dataset_enlarge_ratio: How many times an epoch goes through the data set.
        use_shuffle: Whether the order is shuffled (training sets).
        shuffle_shards: Shards (tar files, LMDBs) that a process mixes at a time, each process walking its own; null
            shuffles over the whole set.
        prefetch_factor: Batches that each loader process keeps ready.
        start_method: How loader processes are started; null takes Python's own choice for the system.
        on_error: What an unreadable image does: raise stops the run, skip takes the next one and counts.
        gt_sizes: Progressive training: crop size of each stage.
        mini_batch_sizes: Progressive training: batch size of each stage.
        iters: Progressive training: iterations of each stage.
        metrics: Labels of val.metrics and val.protocol that are measured on this set; null measures all of them.
    """

    name: str | None = None
    batch_size_per_gpu: Count = 1
    num_worker_per_gpu: Natural = 2
    dataset_enlarge_ratio: Count = 1
    use_shuffle: bool = True
    shuffle_shards: Count | None = None
    prefetch_factor: Count = 4
    start_method: Literal['fork', 'spawn', 'forkserver'] | None = None
    on_error: Literal['raise', 'skip'] = 'raise'
    gt_sizes: list[Count] | None = None
    mini_batch_sizes: list[Count] | None = None
    iters: list[Count] | None = None
    metrics: list[str] | None = None


@dataclass
class DatasetOptions:
    """A checked data set block.

    Attributes:
        key: Its key under ``datasets``, such as ``val_haze``.
        phase: train, val or test.
        block: Type and constructor arguments.
        loader: How it is loaded.
    """

    key: str
    phase: str
    block: dict[str, Any]
    loader: LoaderOptions

    @property
    def name(self) -> str:
        """Name for logs and result files."""
        return self.loader.name or self.key


@dataclass
class Options:
    """A whole option file, checked and typed.

    Attributes:
        top: The top-level keys.
        networks: Blocks of the networks by letter, ``{'g': {...}}``.
        datasets: The data sets by key.
        path: Section ``path``.
        train: Section ``train``; None when the file only tests.
        model: Arguments of the training method's constructor, without its networks.
        val: Section ``val``.
        logger: Section ``logger``.
        dist: Section ``dist_params``.
        resolved: The file with includes and overrides applied, as plain containers.
    """

    top: TopLevel
    networks: dict[str, dict[str, Any]]
    datasets: dict[str, DatasetOptions]
    path: PathOptions
    train: TrainOptions | None
    model: dict[str, Any]
    val: ValOptions
    logger: LoggerOptions
    dist: DistOptions
    resolved: dict[str, Any]

    def of_phase(self, phase: str) -> list[DatasetOptions]:
        """The data sets of one phase, in the order of the file."""
        return [d for d in self.datasets.values() if d.phase == phase]
