"""The training loop: everything that is the same for every method, once.

A method gives losses; the trainer feeds it, steps its optimisers, averages its weights, logs, validates and saves.
Device, processes and number format come from ``accelerate``.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from basicsr import __version__, checkpoint, rng
from basicsr.compiling import compile_network, compiler_failure, uncompile
from basicsr.ema import Ema
from basicsr.errors import CheckpointError, TrainingError
from basicsr.history import History
from basicsr.loader import SampleStream, batches, check_size, train_loader
from basicsr.logger import ScalarWriters, get_root_logger
from basicsr.loss_log import LOSS, LossLog, scalars_of
from basicsr.optim import build_optimizer, set_learning_rate
from basicsr.progress import RateMeter, TrainingProgress, format_log_line, format_seconds
from basicsr.registry import SCHEDULER_REGISTRY, build
from basicsr.run_folder import RunFolder
from basicsr.sections import Options
from basicsr.signals import StopRequest
from basicsr.utils.misc import processor_name
from basicsr.validation import Validator, ValResult

STATE_FORMAT = 1
DATA_WAIT_WARNING = 0.3  # share of time waiting for data above which the log gives advice
AGREE_EVERY = 10  # iterations between the moments at which ranks compare their stop requests


class Trainer:
    """Trains one method by one option file.

    Args:
        options: The checked options.
        model: The training method.
        datasets: Data sets by their key in the option file.
        accelerator: Device and processes.
        folder: Where the run is kept; nothing is written before :meth:`run`.

    Raises:
        DataError: The training set is smaller than a batch.
        OptionError: The network cannot be run as section ``val`` says.
    """

    def __init__(
        self, options: Options, model: nn.Module, datasets: dict[str, Any], accelerator: Accelerator,
        folder: RunFolder,
    ) -> None:  # fmt: skip
        assert options.train is not None
        self.options, self.train_options, self.accelerator, self.folder = options, options.train, accelerator, folder
        self.logger = get_root_logger()
        self.iteration = 0
        self.model = self._prepare_model(model)
        self.averages = self._make_averages()
        self.optimizers = {
            letter: build_optimizer(getattr(self.train_options, f'optim_{letter}'), model.network(letter).parameters())
            for letter in model.network_names
        }
        scheduler = self.train_options.scheduler
        self.schedule = build(SCHEDULER_REGISTRY, scheduler) if scheduler else None
        self.train_block = options.of_phase('train')[0]
        self.train_set = datasets[self.train_block.key]
        check_size(self.train_set, self.train_block, accelerator.num_processes)
        self.validators = [
            Validator(
                datasets[o.key], o, options.val, folder.visualization, accelerator.device,
                accelerator.process_index, accelerator.num_processes, gather_object,
            )
            for o in options.of_phase('val')
        ]  # fmt: skip
        for validator in self.validators:
            validator.check(self.model.evaluation_network())
        self.best: dict[str, dict[str, float]] = {}
        self.batches: list[dict[str, Any]] = []
        self.lr = math.nan
        self.rate = RateMeter()
        self.loss_log = LossLog(accelerator)
        self._bad_in_row = torch.zeros((), device=accelerator.device)
        self._bad_in_all = torch.zeros((), device=accelerator.device)
        self._bad_told = 0
        self._skipped: set[str] = set()
        self._advised = False
        self.wrapped = accelerator.prepare_model(self.model) if accelerator.num_processes > 1 else self.model

    # ---- the loop -------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Trains to the end.

        Returns:
            0, or 128 plus the signal's number when a signal ended the run after its state was saved.
        """
        total = self.train_options.total_iter
        self._open_records()
        main = self.accelerator.is_main_process
        self.stream = self._make_stream()
        feed = batches(
            train_loader(self.train_set, self.train_block, self.stream, self.accelerator.device.type == 'cuda')
        )
        with StopRequest() as stop, self.scalars, TrainingProgress(total, self.iteration, main) as self.progress:
            self.rate = RateMeter()
            for iteration in range(self.iteration + 1, total + 1):
                self.feed_data([self._next(feed) for _ in range(self.train_options.accum_iter)])
                self.optimize_parameters(iteration)
                self.iteration = iteration
                self._step_done()
                if self._stop_agreed(stop):
                    return self._stopped(stop)
            self._finish()
        return 0

    def feed_data(self, batches: list[dict[str, Any]]) -> None:
        """Takes the batches of the next iteration, one for each accumulated gradient."""
        self.batches = [self._to_device(b) for b in batches]

    def optimize_parameters(self, iteration: int) -> None:
        """One iteration: each player's losses, gradients and step, then the moving averages."""
        self.lr = set_learning_rate(self.optimizers.values(), self.schedule, iteration, self.train_options.warmup_iter)
        self.model.start_iteration(iteration)
        try:
            self._step_players()
        except RuntimeError as error:
            if not self._without_compiler(error):
                raise
            self._step_players()
        for letter, average in self.averages.items():
            average.update(self.model.network(letter), iteration)

    def _step_players(self) -> None:
        for letter, optimizer in self.optimizers.items():
            optimizer.zero_grad(set_to_none=True)
            with self._only(letter):
                self._backward(letter)
            self._step(optimizer)

    def _without_compiler(self, error: RuntimeError) -> bool:
        """Goes on with networks that are not compiled, if the compiler has failed, and says why it did."""
        reason = compiler_failure(error)
        if reason is None or not any(uncompile(self.model.network(k)) for k in self.model.network_names):
            return False
        self.logger.warning(f'train.compile: the network cannot be compiled here and is run as it is: {reason}')
        return True

    def _backward(self, letter: str) -> None:
        for n, batch in enumerate(self.batches, start=1):
            last = n == len(self.batches)
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                with self.accelerator.autocast():
                    losses = self.wrapped(batch, letter)
                total = sum(v for k, v in losses.items() if k.startswith(LOSS))
                # A loss that is not finite can have a finite gradient (L1); times NaN it is caught, on every rank.
                total = total * (1 + 0 * total.detach())
                self.accelerator.backward(total / len(self.batches))
            self.loss_log.add(losses, len(self.batches))

    def _step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clips and steps, unless a gradient is not finite: then the iteration changes nothing."""
        scaler = self.accelerator.scaler
        if scaler is not None:
            scaler.unscale_(optimizer)
        parameters = [p for g in optimizer.param_groups for p in g['params'] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
        if self.train_options.use_grad_clip:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.train_options.grad_clip_norm, norm)
        bad = (~torch.isfinite(norm)).float()
        self._bad_in_all += bad
        self._bad_in_row = (self._bad_in_row + bad) * bad
        if scaler is not None:  # it looks for itself, and lowers its scale
            scaler.step(optimizer)
            scaler.update()
        elif getattr(optimizer, '_step_supports_amp_scaling', False):
            optimizer.found_inf = bad  # a fused optimiser skips on the device: no host sync
            optimizer.step()
        elif not bad:
            optimizer.step()

    def _step_done(self) -> None:
        """Logging, validation and saving that this iteration is due."""
        options, iteration, total = self.options, self.iteration, self.train_options.total_iter
        self.loss_log.step()
        self.progress.update(iteration)
        self.rate.step(sum(len(b['lq']) for b in self.batches) * self.accelerator.num_processes)
        if iteration % options.logger.print_freq == 0 or iteration == total:
            self._log()
        elif self.accelerator.device.type == 'cpu':
            self._check_finite()
        val_freq = options.val.val_freq
        if val_freq and iteration % val_freq == 0 and iteration != total:
            self.validate()
        if iteration % options.logger.save_checkpoint_freq == 0 and iteration != total:
            self.save()

    # ---- validation and saving ------------------------------------------------------------------------------------

    def validate(self, last: bool = False) -> list[ValResult]:
        """Validates on every validation set, keeps the best weights, writes the record.

        Args:
            last: Whether training is over, so that the report's images are saved.
        """
        self.rate.pause()
        self.progress.phase('validating')
        options, results = self.options.val, []
        for validator in self.validators:
            net, report = self.model.evaluation_network(), last and options.report
            result = validator.run(net, self.iteration, options.save_img, report, self._show_image)
            results.append(result)
            self.logger.info(result.line())
            self._keep_best(result)
            if self.accelerator.is_main_process:
                self.history.append(result.record())
                self.scalars.add(self.iteration, {f'{result.dataset}/{k}': v for k, v in result.metrics.items()})
        self.progress.phase(None)
        self.rate.resume()
        return results

    def _show_image(self, done: int, total: int) -> None:
        if self.options.val.pbar:
            self.progress.phase(f'validating, image {done} of {total}')

    def save(self) -> None:
        """Writes weights and state of this iteration, then deletes what is no longer to be kept."""
        self.rate.pause()
        random_streams, extra = gather_object([rng.get_state()]), self.model.extra_state()
        if self.accelerator.is_main_process:
            for letter in self.model.network_names:
                checkpoint.save(self._weights(letter), self.folder.weights(letter, self.iteration))
            checkpoint.save(self._state(random_streams, extra), self.folder.state(self.iteration))
            logger = self.options.logger
            checkpoint.prune(self.folder.models, self.folder.training_states, logger.keep_last, logger.milestones)
        self.accelerator.wait_for_everyone()
        self.rate.resume()

    def _finish(self) -> None:
        if self.validators:
            self.validate(last=True)
        self.save()
        if not self.accelerator.is_main_process:
            return
        for letter in self.model.network_names:
            checkpoint.save(self._weights(letter), self.folder.weights(letter, 'latest'))
        self.logger.info(
            f'End of training at iteration {self.iteration}. Weights: {self.folder.weights("g", "latest")}'
        )
        if self.options.val.report:
            from basicsr.report import write_report

            self.logger.info(f'Report: {write_report(self.folder.root)}')

    def _keep_best(self, result: ValResult) -> None:
        best = self.best.setdefault(result.dataset, {})
        for label, value in result.metrics.items():
            sign = 1 if result.higher_better[label] else -1
            if math.isnan(value) or (label in best and sign * value <= sign * best[label]):
                continue
            best[label] = value
            if self.accelerator.is_main_process:
                path = self.folder.weights('g', f'best_{result.dataset}_{label}')
                checkpoint.save({**self._weights('g'), label: value}, path)

    def _weights(self, letter: str) -> dict[str, Any]:
        weights = {'params': self.model.network(letter).state_dict()}
        if letter in self.averages:
            weights['params_ema'] = self.averages[letter].net.state_dict()
        return {
            **weights, 'iter': self.iteration, f'network_{letter}': self.options.networks[letter],
            'options': self.options.resolved, 'version': __version__,
        }  # fmt: skip

    def _state(self, random_streams: list[dict[str, Any]], extra: dict[str, Any]) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            'format': STATE_FORMAT,
            'version': __version__,
            'iter': self.iteration,
            'model': self.model.state_dict(),
            'averages': {k: a.net.state_dict() for k, a in self.averages.items()},
            'optimizers': {k: o.state_dict() for k, o in self.optimizers.items()},
            'scaler': scaler.state_dict() if scaler is not None else {},
            'extra': extra,
            'best': self.best,
            'rng': random_streams,
            'options': self.options.resolved,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Takes back everything that :meth:`save` wrote.

        Raises:
            CheckpointError: The state is of another network or another optimiser.
        """
        try:
            self.model.load_state_dict(state['model'])
            for letter, average in self.averages.items():
                average.net.load_state_dict(state['averages'][letter])
            for letter, optimizer in self.optimizers.items():
                optimizer.load_state_dict(state['optimizers'][letter])
            self.model.load_extra_state(state['extra'])
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(
                f'The state of iteration {state["iter"]} in {self.folder.root} does not fit these options: '
                f'{" ".join(str(error).split())[:300]}. Resume with the options it was saved with, or give the run '
                'another name.'
            ) from error
        if self.accelerator.scaler is not None and state['scaler']:
            self.accelerator.scaler.load_state_dict(state['scaler'])
        self.iteration, self.best = state['iter'], state['best']
        streams = state['rng']
        if len(streams) != self.accelerator.num_processes:
            self.logger.warning(
                f'Resuming with {self.accelerator.num_processes} processes a run of {len(streams)}: it will not repeat '
                'the original run exactly.'
            )
        rng.set_state(streams[self.accelerator.process_index % len(streams)])

    # ---- parts ----------------------------------------------------------------------------------------------------

    def _prepare_model(self, model: nn.Module) -> Any:
        for letter in model.network_names:
            layout = torch.channels_last if self.train_options.channels_last else torch.contiguous_format
            model.network(letter).to(memory_format=layout)
        return model.to(self.accelerator.device).train()

    def _make_averages(self) -> dict[str, Ema]:
        decay, warmup = self.train_options.ema_decay, self.train_options.ema_warmup
        averages = {'g': Ema(self.model.network('g'), decay, warmup)} if decay > 0 else {}
        self.model.bind_averages({k: a.net for k, a in averages.items()})
        if self.train_options.compile:  # in place, after the copy: keys stay as they are and the average stays plain
            for letter in self.model.network_names:
                compile_network(self.model.network(letter))
        return averages

    def _make_stream(self) -> SampleStream:
        """The samples that come next, after those that the iterations so far have consumed."""
        accum = self.train_options.accum_iter
        return SampleStream(
            len(self.train_set), self.train_block.loader, self.options.top.manual_seed, self.iteration * accum, accum,
            self.accelerator.process_index, self.accelerator.num_processes, getattr(self.train_set, 'parts', None),
        )  # fmt: skip

    @contextmanager
    def _only(self, letter: str) -> Iterator[None]:
        """Freezes the other players, whose gradients nobody would use."""
        others = [
            p for k in self.optimizers if k != letter for p in self.model.network(k).parameters() if p.requires_grad
        ]
        for p in others:
            p.requires_grad_(False)
        try:
            yield
        finally:
            for p in others:
                p.requires_grad_(True)

    def _next(self, feed: Iterator[dict[str, Any]]) -> dict[str, Any]:
        start = time.perf_counter()
        batch = next(feed)
        self.rate.data_wait(time.perf_counter() - start)
        for text in {t for texts in batch.pop('skipped') for t in texts.splitlines()} - self._skipped:
            self._skipped.add(text)
            self.logger.warning(f'Skipped, {len(self._skipped)} so far: {text}')
        return batch

    def _to_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {k: self._move(v) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}

    def _move(self, tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.to(self.accelerator.device, non_blocking=True)
        if tensor.dim() == 4 and self.train_options.channels_last:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return tensor

    # ---- records --------------------------------------------------------------------------------------------------

    def _open_records(self) -> None:
        self.history = History(self.folder.root / 'history.jsonl')
        main, logger = self.accelerator.is_main_process, self.options.logger
        if main:
            self.history.rewind(self.iteration)
            self.history.append({'kind': 'run', 'iter': self.iteration, 'facts': self.facts()})
        name = self.options.top.name
        self.scalars = ScalarWriters(
            self.folder.root.parent.parent / 'tb_logger' / name if main and logger.use_tb_logger else None,
            logger.wandb if main else None, self.iteration, self.folder.root, name, self.options.resolved,
        )  # fmt: skip

    def facts(self) -> dict[str, Any]:
        """What the report says about a run."""
        net, options = self.model.network('g'), self.options
        return {
            'network': options.networks['g']['type'],
            'parameters': sum(p.numel() for p in net.parameters()),
            'description': options.top.description,
            'seed': options.top.manual_seed,
            'machine': f'{_device_name(self.accelerator.device)}, {self.accelerator.num_processes} process(es), '
            f'{torch.get_num_threads()} threads',
            'number format': self.train_options.mixed_precision,
            'versions': f'qualir {__version__}, torch {torch.__version__}, Python {platform.python_version()}',
        }

    def _log(self) -> None:
        self._check_finite()
        (losses, signals), rate = self.loss_log.take(), self.rate.snapshot()
        if not self.accelerator.is_main_process:
            return
        eta = self.rate.eta(self.train_options.total_iter - self.iteration)
        epoch = self.stream.epoch_of((self.iteration - 1) * self.train_options.accum_iter)
        shown = {**losses, **{k: v for k, v in signals.items() if not isinstance(v, list)}}
        self.logger.info(format_log_line(self.options.top.name, epoch, self.iteration, [self.lr], rate, eta, shown))
        self.history.append({
            'kind': 'train', 'iter': self.iteration, 'epoch': epoch, 'losses': losses, 'signals': signals,
            'lr': self.lr, 'images_per_s': rate.images_per_s, 'data_share': rate.data_share,
        })  # fmt: skip
        self.scalars.add(self.iteration, {**scalars_of(losses, signals), 'lr': self.lr})
        self._advise(rate.data_share)
        first = next(iter(losses.items()), ('loss', math.nan))
        self.progress.update(self.iteration, {
            'eta': format_seconds(eta), 'speed': f'{rate.images_per_s:.1f} img/s', first[0]: f'{first[1]:.4f}',
            'lr': f'{self.lr:.2e}', 'waiting for data': f'{rate.data_share:.0%}',
        })  # fmt: skip

    def _advise(self, data_share: float) -> None:
        if data_share > DATA_WAIT_WARNING and not self._advised and self.iteration > 20:
            self._advised = True
            self.logger.warning(
                f'{data_share:.0%} of the time is spent waiting for data: raise num_worker_per_gpu, keep decoded '
                'images (cache: ram or memmap), or cut large photographs into sub-images (tools/create_lmdb.py).'
            )

    def _check_finite(self) -> None:
        """Stops a run whose gradients stay broken; on a GPU this is asked only when the log is due.

        Raises:
            TrainingError: More than ``max_nonfinite`` iterations in a row were skipped.
        """
        bad = int(self._bad_in_all)
        if bad > self._bad_told:
            self._bad_told = bad
            self.logger.warning(f'Loss or gradient was not finite; {bad} iteration(s) so far changed nothing.')
        if int(self._bad_in_row) > self.train_options.max_nonfinite:
            raise TrainingError(
                f'Iteration {self.iteration}: loss or gradient was not finite {int(self._bad_in_row)} times in a row '
                f'(train.max_nonfinite: {self.train_options.max_nonfinite}). Lower the learning rate, clip gradients, '
                'or use fp32. The last checkpoint is from before.'
            )

    def _stop_agreed(self, stop: StopRequest) -> bool:
        """Whether to stop here; with several processes they compare notes now and then, so that all stop together."""
        if self.accelerator.num_processes == 1:
            return bool(stop.signal_number)
        if self.iteration % AGREE_EVERY:
            return False
        stop.signal_number = max(gather_object([stop.signal_number]))
        return bool(stop.signal_number)

    def _stopped(self, stop: StopRequest) -> int:
        self.save()
        self.logger.warning(
            f'Stopped by signal {stop.signal_number} after iteration {self.iteration}; the state is saved. '
            'Go on with --auto_resume.'
        )
        return stop.exit_code


def _device_name(device: torch.device) -> str:
    """The GPU's or processor's name, as far as the system tells."""
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    return f'{processor_name()} ({device.type})'
