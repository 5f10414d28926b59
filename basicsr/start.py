"""What happens between a checked option file and the first iteration: processes, folder, weights, the opening lines."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, broadcast_object_list
from filelock import FileLock

import basicsr
from basicsr import checkpoint
from basicsr.errors import OptionError, QualIRError
from basicsr.logger import get_root_logger
from basicsr.memory import keep_freed_memory
from basicsr.options import dump, find_file
from basicsr.run_folder import RunFolder
from basicsr.sections import Options

PRECISION = {'fp32': 'no', 'bf16': 'bf16', 'fp16': 'fp16'}


def require_training(options: Options) -> None:
    """Makes sure that the file is one to train by.

    Raises:
        OptionError: It has no section ``train``.
    """
    if options.train is None:
        raise OptionError("This option file has no section 'train'.")


def make_accelerator(options: Options, launcher: str = 'none') -> Accelerator:
    """Joins the other processes, if there are any, and picks device and number format.

    Raises:
        OptionError: The machine or the launch does not fit ``num_gpu``, or the CPU is asked for fp16.
    """
    world_size = int(os.environ.get('WORLD_SIZE', 1))
    if launcher == 'pytorch' and 'RANK' not in os.environ:
        raise OptionError('--launcher pytorch: start with torchrun --nproc_per_node N basicsr/train.py ...')
    cpu = _check_devices(options.top.num_gpu, world_size)
    train = options.train
    precision = train.mixed_precision if train else 'fp32'
    if cpu and precision == 'fp16':
        raise OptionError('train.mixed_precision: fp16 needs a GPU; on a CPU use bf16 or fp32.')
    AcceleratorState._reset_state(reset_partial_state=world_size == 1)  # one process may train several option files
    unused = options.dist.find_unused_parameters or len(options.networks) > 1
    handlers: list[Any] = [DistributedDataParallelKwargs(find_unused_parameters=unused)]
    if world_size > 1:
        handlers.append(InitProcessGroupKwargs(backend=options.dist.backend or ('gloo' if cpu else 'nccl')))
    if cpu and train:
        keep_freed_memory()
    accelerator = Accelerator(cpu=cpu, mixed_precision=PRECISION[precision], kwargs_handlers=handlers)
    deterministic = bool(train and train.deterministic)
    if deterministic != torch.are_deterministic_algorithms_enabled():  # the call alone imports the compiler, 1 s
        torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    return accelerator


def _check_devices(num_gpu: int | str, world_size: int) -> bool:
    """Whether to use the CPU."""
    available = (
        torch.cuda.is_available()
        or (hasattr(torch, 'xpu') and torch.xpu.is_available())
        or torch.backends.mps.is_available()
    )
    if num_gpu == 'auto':
        return not available
    if num_gpu == 0:
        return True
    if not available:
        raise OptionError(f'num_gpu: {num_gpu}, but torch sees no GPU here; write num_gpu: 0 for the CPU, or auto.')
    if num_gpu != world_size:
        start = f'torchrun --nproc_per_node {num_gpu} basicsr/train.py -opt ...'
        raise OptionError(
            f'num_gpu: {num_gpu}, but {world_size} process(es) were started: use {start}, or num_gpu: auto.'
        )
    return False


def run_folder(options: Options) -> RunFolder:
    """Where the run is kept."""
    return RunFolder(Path(options.path.experiments_root) / options.top.name)


def is_resuming(options: Options, folder: RunFolder, auto_resume: bool) -> bool:
    """Whether the run goes on from a state."""
    return options.path.resume_state is not None or (auto_resume and bool(checkpoint.states(folder.training_states)))


@contextmanager
def open_run(
    options: Options, accelerator: Accelerator, folder: RunFolder, auto_resume: bool
) -> Iterator[dict[str, Any] | None]:
    """Claims the run's folder while it lasts, and reads the state to resume from.

    Args:
        options: The checked options.
        accelerator: The processes; rank 0 makes the folder, the others wait for it.
        folder: The folder.
        auto_resume: Whether to go on from the newest state.

    Yields:
        The state, or None.

    Raises:
        OptionError: Another run is in the folder, or ``path.resume_state`` names no state.
        CheckpointError: The state cannot be read.
    """
    resuming = is_resuming(options, folder, auto_resume)
    with ExitStack() as held:  # the process's end, even kill -9, gives the lock back too
        on_main(accelerator, lambda: held.callback(_claim(folder, options, resuming).release))
        found = _find_state(folder, options) if resuming else None
        get_root_logger(folder.root / f'train_{options.top.name}.log', rank=accelerator.process_index)
        if found is not None:
            get_root_logger().info(f'Resuming from {found[1]}, iteration {found[0]["iter"]}.')
            _report_changes(found[0]['options'], options.resolved)
        yield found[0] if found else None


def leave(accelerator: Accelerator) -> None:
    """Ends the group of processes once all are done; one that simply exits may abort while its threads still talk."""
    if accelerator.num_processes > 1:
        accelerator.wait_for_everyone()
        accelerator.end_training()


def on_main(accelerator: Accelerator, work: Callable[[], None]) -> None:
    """Lets rank 0 do something; when it fails, every rank fails with the same sentence."""
    outcome: list[Any] = [None]
    if accelerator.is_main_process:
        try:
            work()
        except QualIRError as error:
            outcome = [(str(error), error.exit_code)]
    if accelerator.num_processes > 1:
        broadcast_object_list(outcome)
    if outcome[0] is not None:
        error = QualIRError(outcome[0][0])
        error.exit_code = outcome[0][1]
        raise error


def load_pretrained(model: Any, options: Options) -> None:
    """Loads the weights that ``path.pretrain_network_*`` names."""
    for letter in model.network_names:
        path = getattr(options.path, f'pretrain_network_{letter}')
        if path is not None:
            strict, key = getattr(options.path, f'strict_load_{letter}'), getattr(options.path, f'param_key_{letter}')
            get_root_logger().info(checkpoint.load_network(model.network(letter), find_file(path), strict, key))


def log_start(options: Options, accelerator: Accelerator, model: Any, datasets: dict[str, Any]) -> None:
    """The opening lines: what runs, from where, on what, with how much."""
    logger = get_root_logger()
    logger.info(f'qualir {basicsr.__version__} from {Path(basicsr.__file__).parent}; torch {torch.__version__}')
    logger.info(
        f'Run {options.top.name}: {accelerator.num_processes} process(es) on {accelerator.device}, '
        f'{torch.get_num_threads()} threads, seed {options.top.manual_seed}'
    )
    for letter in model.network_names:
        count = sum(p.numel() for p in model.network(letter).parameters())
        logger.info(f'network_{letter}: {options.networks[letter]["type"]}, {count:,} parameters')
    for key, dataset in datasets.items():
        logger.info(f'datasets.{key}: {options.datasets[key].block["type"]}, {len(dataset):,} samples')


def _claim(folder: RunFolder, options: Options, resuming: bool) -> FileLock:
    lock = folder.lock()
    archived = folder.prepare(keep=resuming)
    folder.save_options(dump(options))
    if archived is not None:
        get_root_logger().info(f'An older run of this name was kept as {archived}.')
    return lock


def _find_state(folder: RunFolder, options: Options) -> tuple[dict[str, Any], Path] | None:
    if options.path.resume_state is None:
        return folder.newest_state()
    path = Path(options.path.resume_state)
    state = checkpoint.read(path)
    if 'optimizers' not in state or 'rng' not in state:
        raise OptionError(f'path.resume_state: {path} is no state file; weights go into path.pretrain_network_g.')
    return state, path


def _report_changes(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Names every option that differs from those of the saved state: such a run does not repeat the original."""
    before, after = _flat(old), _flat(new)
    changed = [k for k in {**before, **after} if before.get(k) != after.get(k) and k != 'path.resume_state']
    for key in changed:
        get_root_logger().warning(f'Changed since the state was saved: {key}: {before.get(key)} -> {after.get(key)}')


def _flat(values: Any, prefix: str = '') -> dict[str, str]:
    if isinstance(values, dict) and values:
        return {
            k: v
            for key, value in values.items()
            for k, v in _flat(value, f'{prefix}.{key}' if prefix else str(key)).items()
        }
    return {prefix: json.dumps(values)}
