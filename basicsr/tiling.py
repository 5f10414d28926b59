"""Runs a restoration network on images of any size: whole or in blended tiles, within the memory that there is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from basicsr.appetite import free_memory, is_out_of_memory, peak_bytes
from basicsr.errors import DataError, OptionError, QualIRError
from basicsr.logger import get_root_logger
from basicsr.network import facts_of, pad_to_multiple
from basicsr.tile_plan import Span, plan_axis, round_up
from basicsr.views import VIEWS

Precision = Literal['fp32', 'bf16', 'fp16']
Progress = Callable[[int, int], None]
Take = Callable[[int, Tensor], None]

LARGEST_OVERLAP = 256  # by default; ramps of 224 px: no step above 1/255 while tiles differ by less than 225 levels
OVERLAP_SHARE = 0.4  # of a tile, at most; measured for tiles of 512 px, see docs/tiling.md
CONTEXT_SHARE = 16  # this share of the overlap is thrown away at each end, when a network declares no halo
SMALLEST_TILE = 64  # where halving ends
ALWAYS_WHOLE = 1 << 19  # pixels: smaller images are not worth a measurement
AUTO_BYTES = 2 << 30  # on a CPU larger tiles are not faster, and the whole program stays below 4 GB
PROBE = 128  # side of the tile by which a network's appetite is measured
_DTYPES = {'bf16': torch.bfloat16, 'fp16': torch.float16}


@dataclass(frozen=True)
class Tiling:
    """How an image is cut.

    Attributes:
        size: Largest height and width of a tile in pixels, overlap included; None for the whole image; 'auto' for the
            whole image where it surely fits into memory, otherwise tiles as large as memory allows.
        overlap: Pixels that neighbouring tiles share; None takes two fifths of the tile, 256 at most. A network whose
            declared halo needs more gets more, up to half a tile.
        batch: Tiles in one forward pass.

    Raises:
        OptionError: A value is out of its range, or the overlap is not smaller than the tile.
    """

    size: int | Literal['auto'] | None = 'auto'
    overlap: int | None = None
    batch: int = 1

    def __post_init__(self) -> None:
        pixels = isinstance(self.size, int) and not isinstance(self.size, bool) and self.size > 0
        if not (pixels or self.size in (None, 'auto')):
            raise OptionError(f"Tile size {self.size!r} is not allowed; give pixels, 'auto', or null for whole images.")
        if (self.overlap or 0) < 0 or self.batch < 1:
            raise OptionError(
                f'Tile overlap {self.overlap} and batch {self.batch}: the overlap is 0 or more, the batch 1 or more.'
            )
        if isinstance(self.size, int) and (self.overlap or 0) >= self.size:
            raise OptionError(f'Tile overlap {self.overlap} px must be smaller than the tile, {self.size} px.')


class Restorer:
    """Runs a network on images, the one way for validation, test and inference.

    A network that declares a ``halo`` gets the same result in tiles as on the whole image, as long as twice its halo
    fits into half a tile. In the result of any other network two neighbouring pixels differ by at most
    ``|tile A - tile B| / (ramp + 1)`` more than within either tile, where the ramp is the blended part of the overlap.

    When memory runs out, first the batch, then the tile is halved and the image begun again; the smaller size is kept
    for the images after it, and a warning says so.

    Args:
        net: The network, on ``device`` and in evaluation mode; the attribute ``net`` may be set to another of its kind.
        device: Where it runs.
        tiling: How images are cut.
        self_ensemble: Average over the eight flips and quarter turns, of each tile, in float32.
        precision: Number format of the network's inner computations, by autocast.

    Raises:
        OptionError: The network does not allow the precision or the tile size, or fp16 is asked of a CPU.
    """

    def __init__(
        self, net: nn.Module, device: torch.device | str, tiling: Tiling = Tiling(None), self_ensemble: bool = False,
        precision: Precision = 'fp32',
    ) -> None:  # fmt: skip
        self.net, self.device, self.tiling = net, torch.device(device), tiling
        self.self_ensemble, self.precision = self_ensemble, precision
        self._facts = facts_of(net)
        self._smallest = round_up(max(2 * self._facts.multiple_of, self._facts.min_size), self._facts.multiple_of)
        self._batch = tiling.batch
        self._size = tiling.size if isinstance(tiling.size, int) else None  # largest tile at present, None for whole
        self._by_area = False  # 'auto' has set the size, and an image stays whole when its area fits
        self._asked = self._size or math.inf
        self._check_options()

    def __call__(self, image: Tensor) -> Tensor:
        """Restores images (N,C,H,W) in [0,1], on any device.

        Returns:
            The same shape, or a larger one from a network for super-resolution; float32 (float64 for float64), on the
            restorer's device, not clipped.

        Raises:
            OptionError: The network changes the size and the image is cut into tiles.
            QualIRError: Not even the smallest tile fits into memory.
        """
        source = _TensorSource(image, self.device)
        parts: list[Tensor] = []

        def take(top: int, rows: Tensor) -> None:
            if top == 0:
                shape = (*rows.shape[:2], *source.size_of_all(rows))
                with torch.inference_mode(False):  # an ordinary tensor, of which autograd may make use
                    parts[:] = [torch.empty(shape, dtype=rows.dtype, device=rows.device)]
            parts[0][:, :, top : top + rows.shape[2]] = rows

        self._run(source, take, None)
        return parts[0]

    def pixels(self, pixels: np.ndarray, progress: Progress | None = None) -> np.ndarray:
        """Restores one image in bounded memory: floats are only one row of tiles, rounded as soon as it is finished.

        Args:
            pixels: (H,W,3) uint8 or uint16.
            progress: Is told after each forward pass how many tiles are done, and of how many; when memory runs out,
                it begins again.

        Returns:
            The same shape and type; clipped and rounded to the nearest.

        Raises:
            DataError: The pixels are of another type or shape.
            OptionError: The network changes the size and the image is cut into tiles.
            QualIRError: Not even the smallest tile fits into memory.
        """
        source = _PixelSource(pixels, self.device)
        restored = np.empty_like(pixels, order='C')

        def take(top: int, rows: Tensor) -> None:
            nonlocal restored
            if restored.shape[:2] != source.size_of_all(rows):
                restored = np.empty((*source.size_of_all(rows), pixels.shape[2]), pixels.dtype)
            restored[top : top + rows.shape[2]] = _rounded(rows, source.highest)

        self._run(source, take, progress)
        return restored

    def describe(self) -> str:
        """How images are run, for protocols and logs.

        ``whole images`` or ``tiles of 512 px, overlap 64 px``, and where they apply ``, self-ensemble x8``, ``, bf16``.
        With 'auto', or after memory ran out, ``whole images up to 2.1 megapixels, then tiles of ...``; so ask after the
        images.
        """
        text = 'whole images'
        if self._size is not None:
            text = f'tiles of {self._size} px, overlap {self._overlap(self._size)} px'
            if self._by_area:
                text = f'whole images up to {self._whole_pixels() / 1e6:.1f} megapixels, then {text}'
        ensemble = ', self-ensemble x8' if self.self_ensemble else ''
        return text + ensemble + ('' if self.precision == 'fp32' else f', {self.precision}')

    def _check_options(self) -> None:
        name = type(self.net).__name__
        if self.precision not in ('fp32', *_DTYPES):
            raise OptionError(f"Precision '{self.precision}' is not known; allowed are fp32, bf16 and fp16.")
        if self.precision != 'fp32' and self.precision not in self._facts.half_precision:
            allowed = ', '.join(['fp32', *self._facts.half_precision])
            raise OptionError(f'{name} does not keep its output in {self.precision}; allowed for it: {allowed}.')
        if self.precision == 'fp16' and self.device.type == 'cpu':
            raise OptionError('fp16 needs a GPU; on a CPU use bf16 or fp32.')
        if self._size is None:
            return
        if self._size < self._smallest:
            raise OptionError(f'Tiles of {self._size} px are too small for {name}, which needs {self._smallest} px.')
        self._size -= self._size % self._facts.multiple_of
        if (self.tiling.overlap or 0) >= self._size:
            raise OptionError(
                f'Tile overlap {self.tiling.overlap} px must be smaller than the tile, {self._size} px (the multiple '
                f'of {self._facts.multiple_of} that {name} needs).'
            )
        self._asked = self._size

    def _whole_pixels(self) -> int:
        return max(self._size * self._size, ALWAYS_WHOLE) if self._by_area and self._size is not None else 0

    def _overlap(self, size: int) -> int:
        """Overlap of tiles of a size: what was asked for, or what the halo needs, where it leaves half a tile."""
        wanted = self.tiling.overlap
        if wanted is None:
            wanted = min(LARGEST_OVERLAP, int(size * OVERLAP_SHARE))
        fits = max(size // 2, wanted if size >= self._asked else 0)
        return min(max(wanted, 2 * (self._facts.halo or 0)), fits)

    def _context(self, overlap: int) -> int:
        """Pixels at each inner end of a tile that are thrown away."""
        halo = self._facts.halo
        return halo if halo is not None and 2 * halo <= overlap else overlap // CONTEXT_SHARE

    def _plan(self, source: _Source) -> tuple[list[Span], list[Span]]:
        """The tiles of an image along its height and along its width."""
        height, width, facts = source.height, source.width, self._facts
        size = self._size
        if size is None or height * width <= self._whole_pixels():
            size = round_up(max(height, width, facts.min_size), facts.multiple_of)
        overlap = self._overlap(size)
        rest = (overlap, self._context(overlap), facts.multiple_of, facts.min_size)
        return plan_axis(height, size, *rest), plan_axis(width, size, *rest)

    def _run(self, source: _Source, take: Take, progress: Progress | None) -> None:
        """Hands all rows of the restored image to ``take``, from above; begins again when memory runs out."""
        self._choose_size(source)
        while True:
            rows, columns = self._plan(source)
            try:
                with torch.inference_mode():
                    tiled = self._prepared(source) if len(rows) * len(columns) > 1 else source
                    for top, finished in self._bands(tiled, rows, columns, progress):
                        take(top, finished)
                return
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = next(iter(str(error).splitlines()), type(error).__name__)
            # outside of the handler, for the error's traceback holds the tensors that are in the way
            self._shrink(rows, columns, reason)

    def _prepared(self, source: _Source) -> _Source:
        """The image with what the network computes from all of it, where it does."""
        prepare = getattr(self.net, 'prepare', None)
        if prepare is None:
            return source
        return _TensorSource(prepare(source.cut(0, source.height, 0, source.width)), self.device)

    def _bands(
        self, source: _Source, rows: list[Span], columns: list[Span], progress: Progress | None
    ) -> Iterator[tuple[int, Tensor]]:
        """Finished rows of the image, from above: first row, and (N,C,rows,W)."""
        if len(rows) == len(columns) == 1:
            output = self._tiles(source, rows[0], columns)[0]
            scale = output.shape[-1] // columns[0].stop  # a network for super-resolution is run on whole images
            yield 0, output[..., : source.height * scale, : source.width * scale]
            if progress is not None:
                progress(1, 1)
            return
        done, total = 0, len(rows) * len(columns)
        weights = [torch.tensor(c.weights(), dtype=source.dtype, device=self.device) for c in columns]
        over = None  # rows that the next row of tiles still adds to
        for row in rows:
            band = None
            for first in range(0, len(columns), self._batch):
                chosen = slice(first, first + self._batch)
                outputs = self._tiles(source, row, columns[chosen])
                if band is None:
                    self._check_size(outputs[0], row, columns[0])
                    band = outputs[0].new_zeros((*outputs[0].shape[:2], row.right - row.left, source.width))
                for column, weight, output in zip(columns[chosen], weights[chosen], outputs):
                    kept = output[..., row.left - row.start : row.right - row.start, :]
                    kept = kept[..., column.left - column.start : column.right - column.start]
                    band[..., column.left : column.right].addcmul_(kept, weight)
                done += len(outputs)
                if progress is not None:
                    progress(done, total)
            over = self._blend_rows(band, row, over)
            yield row.left, band[..., : row.right - row.left - row.falling, :]

    def _blend_rows(self, band: Tensor, row: Span, over: Tensor | None) -> Tensor:
        """Weights a row of tiles, adds the one above, and returns what the one below will be added to."""
        weights = torch.tensor(row.weights(), dtype=band.dtype, device=band.device)[:, None]
        if row.rising:
            band[..., : row.rising, :].mul_(weights[: row.rising]).add_(over)
        return band[..., band.shape[2] - row.falling :, :] * weights[len(weights) - row.falling :]

    def _tiles(self, source: _Source, row: Span, columns: list[Span]) -> list[Tensor]:
        """Outputs (N,C,h,w) of tiles of one size, in one forward pass."""
        tiles = [source.cut(row.start, row.stop, c.start, c.stop) for c in columns]
        size = (row.stop - row.start, columns[0].stop - columns[0].start)
        inputs = torch.cat([self._padded(t, size) for t in tiles]) if len(tiles) > 1 else self._padded(tiles[0], size)
        return list(self._forward(inputs).split(tiles[0].shape[0]))

    def _check_size(self, output: Tensor, row: Span, column: Span) -> None:
        height, width = row.stop - row.start, column.stop - column.start
        if output.shape[-2:] != (height, width):
            raise OptionError(
                f'{type(self.net).__name__} turns {width}x{height} pixels into {output.shape[-1]}x{output.shape[-2]}; '
                'only networks that keep the size can be run in tiles.'
            )

    def _padded(self, tile: Tensor, size: tuple[int, int]) -> Tensor:
        """A tile at the image's lower or right border, made as large as the others, as the network itself would."""
        if tile.shape[-2:] == size:
            return tile
        for dim in (-2, -1):
            missing = self._facts.min_size - tile.shape[dim]
            if missing > 0:
                places = np.pad(np.arange(tile.shape[dim]), (0, missing), 'reflect')  # as often as it takes
                tile = tile.index_select(dim, torch.from_numpy(places).to(self.device))
        return pad_to_multiple(tile, self._facts.multiple_of, getattr(self.net, 'pad_mode', 'reflect'))

    def _forward(self, inputs: Tensor) -> Tensor:
        if not self.self_ensemble:
            return self._network(inputs)
        total = None
        for view in VIEWS.values():
            output = view.invert(self._network(view.apply(inputs))) / 8
            total = output if total is None else total.add_(output)
        return total

    def _network(self, inputs: Tensor) -> Tensor:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        half = _DTYPES.get(self.precision)
        with torch.autocast(self.device.type, dtype=half, enabled=half is not None):
            output = self.net(inputs)
        return output.to(inputs.dtype)

    def _choose_size(self, source: _Source) -> None:
        """For 'auto', once: the largest tile that surely fits, from free memory and what the network takes."""
        if self.tiling.size != 'auto' or self._size is not None or source.height * source.width <= ALWAYS_WHOLE:
            return
        free = free_memory(self.device)
        if free is None:
            return
        budget = min(free // 2, AUTO_BYTES) if self.device.type == 'cpu' else free * 3 // 4
        side = int((budget / (self._bytes_per_pixel(source) * self._batch)) ** 0.5)
        self._size, self._by_area = max(side // self._facts.multiple_of * self._facts.multiple_of, self._floor), True

    def _bytes_per_pixel(self, source: _Source) -> float:
        side = max(PROBE, self._smallest)
        probe = torch.full((1, 3, side, side), 0.5, dtype=source.dtype, device=self.device)
        return peak_bytes(lambda: self._forward(probe)) / (side * side)

    @property
    def _floor(self) -> int:
        return round_up(max(SMALLEST_TILE, self._smallest), self._facts.multiple_of)

    def _shrink(self, rows: list[Span], columns: list[Span], reason: str) -> None:
        """Halves the batch, or else the tile, of which this plan did not fit."""
        if self.device.type == 'cuda':
            torch.cuda.empty_cache()
        tried = max(span.stop - span.start for span in (rows[0], columns[0]))
        if self._batch > 1 and len(columns) > 1:
            self._batch //= 2
            self._warn(f'{self._batch} tiles at a time', reason)
        elif tried > self._floor:
            self._size, self._by_area = max(round_up(tried // 2, self._facts.multiple_of), self._floor), False
            self._warn(f'tiles of {self._size} px, overlap {self._overlap(self._size)} px', reason)
        else:
            size = f'{columns[-1].right}x{rows[-1].right}'
            raise QualIRError(
                f'Memory does not suffice for an image of {size} pixels, not even in tiles of {tried} px: {reason}'
            )

    def _warn(self, now: str, reason: str) -> None:
        get_root_logger().warning(f'Memory ran out; going on with {now}, for the images to come too. ({reason})')


class _Source:
    """An image that tiles are cut from.

    Attributes:
        height: Rows of the image.
        width: Columns of the image.
        dtype: Of the tiles: float32 or float64.
    """

    height: int
    width: int
    dtype: torch.dtype

    def cut(self, top: int, bottom: int, left: int, right: int) -> Tensor:
        """Pixels (N,C,h,w) on the device; what lies beyond the image is left out."""
        raise TypeError(f'{type(self).__name__} must say how tiles are cut.')

    def size_of_all(self, rows: Tensor) -> tuple[int, int]:
        """Height and width of the restored image, some rows of which are given: all rows if its size has changed."""
        return (self.height, self.width) if rows.shape[-1] == self.width else tuple(rows.shape[-2:])


class _TensorSource(_Source):
    def __init__(self, image: Tensor, device: torch.device) -> None:
        self.image, self.device = image, device
        self.height, self.width = image.shape[-2:]
        self.dtype = torch.promote_types(image.dtype, torch.float32)

    def cut(self, top: int, bottom: int, left: int, right: int) -> Tensor:
        return self.image[..., top:bottom, left:right].to(self.device, self.dtype, non_blocking=True)


class _PixelSource(_Source):
    """Stays as it is stored; only tiles become floating point, on the device."""

    def __init__(self, pixels: np.ndarray, device: torch.device) -> None:
        if pixels.dtype not in (np.uint8, np.uint16) or pixels.ndim != 3 or 0 in pixels.shape:
            raise DataError(f'Pixels must be (H,W,C) uint8 or uint16, not {pixels.dtype} of shape {pixels.shape}.')
        self.pixels, self.device, self.dtype = pixels, device, torch.float32
        self.height, self.width = pixels.shape[:2]
        self.highest = int(np.iinfo(pixels.dtype).max)

    def cut(self, top: int, bottom: int, left: int, right: int) -> Tensor:
        tile = torch.from_numpy(np.ascontiguousarray(self.pixels[top:bottom, left:right]))
        if self.highest > 255:
            tile = tile.to(torch.float32)  # few operators of a GPU know uint16
        if self.device.type == 'cuda':
            tile = tile.pin_memory()
        tile = tile.to(self.device, non_blocking=True).to(torch.float32) / self.highest
        return tile[None].permute(0, 3, 1, 2)


def _rounded(rows: Tensor, highest: int) -> np.ndarray:
    """(1,C,h,w) as (h,w,C), clipped, scaled and rounded as ``to_uint8`` does; the one transfer per row of tiles."""
    whole = rows[0].clamp(0, 1).mul_(highest).round_().permute(1, 2, 0)
    return whole.to(torch.uint8 if highest == 255 else torch.int32).cpu().numpy()
