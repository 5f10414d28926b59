"""Finds which restored image belongs to which clean and degraded one, and scores them: for ``tools/evaluate.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from basicsr.errors import DataError, QualIRError
from basicsr.evaluation import Measurement
from basicsr.image_io import to_tensor
from basicsr.image_source import ImageSource, open_source
from basicsr.loader import quiet_worker
from basicsr.validation import ImageResult

SHOWN = 5  # names that a message gives
AHEAD = 4  # images that each process prepares before they are asked for


@dataclass(frozen=True)
class Pairing:
    """How names belong together, beside being equal.

    Attributes:
        suffix: What follows the name in restored images: ``_out`` of ``0001_out.png``.
        prefix_end: What follows the name of the clean image where that is only the beginning: ``_`` of ``1400_1``.
    """

    suffix: str = ''
    prefix_end: str | None = None

    def key(self, stem: str) -> str | None:
        """Name of a restored image without the suffix; None if it does not end in it."""
        return stem.removesuffix(self.suffix) if stem.endswith(self.suffix) else None

    def clean(self, key: str, clean: ImageSource) -> str | None:
        """The clean image of a name, if there is one."""
        folder, slash, name = key.rpartition('/')
        names = [key] if self.prefix_end is None else [key, folder + slash + name.split(self.prefix_end)[0]]
        return next((n for n in names if n in clean), None)


@dataclass(frozen=True)
class Item:
    """Names of one restored image and of what it is compared with.

    Attributes:
        key: What tables call it.
        restored: Its stem.
        clean: Stem of the clean image, or None.
        degraded: Stem of the degraded image, or None.
    """

    key: str
    restored: str
    clean: str | None
    degraded: str | None


@dataclass
class Folder:
    """A set of restored images with what they are compared with.

    Attributes:
        name: What tables call it.
        sources: ``restored``, ``clean`` and ``degraded``, as far as given.
        items: The images that can be scored.
        unmatched: Names that found no partner, by what is the matter with them.
    """

    name: str
    sources: dict[str, ImageSource]
    items: list[Item] = field(default_factory=list)
    unmatched: dict[str, list[str]] = field(default_factory=dict)

    def roots(self) -> dict[str, str]:
        """Where the images are."""
        return {kind: source.root for kind, source in self.sources.items()}


@dataclass(frozen=True)
class Problem:
    """An image that could not be scored.

    Attributes:
        key: Its name.
        text: Why.
        fatal: Whether no other image can be scored either.
    """

    key: str
    text: str
    fatal: bool = False


@dataclass(frozen=True)
class Images:
    """What is compared, prepared by the protocol, (1,3,H,W) in [0,1] each.

    Attributes:
        key: Name of the image.
        img: Restored.
        img2: Clean, or None.
        lq: Degraded, or None.
    """

    key: str
    img: torch.Tensor
    img2: torch.Tensor | None
    lq: torch.Tensor | None


Scored = ImageResult | Problem


def open_folder(name: str, roots: dict[str, str], pairing: Pairing) -> Folder:
    """Opens folders or LMDBs and matches their images by name.

    Args:
        name: What tables call the set.
        roots: Of ``restored`` and, where they are compared with, ``clean`` and ``degraded`` images.
        pairing: How names belong together.

    Raises:
        DataError: A root cannot be opened, or not one image found its partner.
    """
    found = Folder(name, {kind: open_source(root, _field(kind)) for kind, root in roots.items()})
    clean, degraded = found.sources.get('clean'), found.sources.get('degraded')
    for stem in found.sources['restored'].stems:
        key = pairing.key(stem)
        partner = pairing.clean(key, clean) if key is not None and clean is not None else None
        if key is None:
            _note(found, f"restored images without the suffix '{pairing.suffix}'", stem)
        elif clean is not None and partner is None:
            _note(found, 'restored images without a clean one', stem)
        elif degraded is not None and key not in degraded:
            _note(found, 'restored images without a degraded one', stem)
        else:
            found.items.append(Item(key, stem, partner, key if degraded is not None else None))
    if not found.items:
        raise DataError(_nothing_text(found))
    for kind in ('clean', 'degraded'):
        used = {getattr(item, kind) for item in found.items}
        for stem in found.sources[kind].stems if kind in found.sources else ():
            if stem not in used:
                _note(found, f'{kind} images without a restored one', stem)
    return found


def _field(kind: str) -> str | None:
    return {'clean': 'gt', 'degraded': 'lq'}.get(kind)


def _note(folder: Folder, matter: str, stem: str) -> None:
    folder.unmatched.setdefault(matter, []).append(stem)


def _nothing_text(folder: Folder) -> str:
    names = {kind: ', '.join(list(source.stems)[:3]) for kind, source in folder.sources.items()}
    told = '; '.join(f"{kind} '{folder.sources[kind].root}': {some} ..." for kind, some in names.items())
    return (
        f'No restored image has a partner of the same name ({told}). Name what follows the name in restored images by '
        '--suffix, or use --gt_by_prefix where 1400_1.png belongs to 1400.png.'
    )


def unmatched_text(folder: Folder) -> list[str]:
    """A line for each kind of names without a partner."""
    lines = []
    for matter, stems in folder.unmatched.items():
        more = ', ...' if len(stems) > SHOWN else ''
        lines.append(f'{folder.name}: {len(stems)} {matter}: {", ".join(stems[:SHOWN])}{more}')
    return lines


class FolderImages(Dataset):
    """Reads and prepares the images of a folder.

    Args:
        folder: The folder.
        measurement: The protocol's.
    """

    def __init__(self, folder: Folder, measurement: Measurement) -> None:
        self.folder, self.measurement = folder, measurement

    def __len__(self) -> int:
        return len(self.folder.items)

    def __getitem__(self, index: int) -> Any:
        item = self.folder.items[index]
        try:
            restored = self._read('restored', item.restored)
            clean, degraded = self._read('clean', item.clean), self._read('degraded', item.degraded)
            prepare = self.measurement.prepared
            if clean is not None:
                self._check_size(restored, clean)
            prepared = [None if image is None else prepare(image) for image in (restored, clean, degraded)]
        except DataError as error:
            return Problem(item.key, str(error))
        return Images(item.key, *prepared)

    def _read(self, kind: str, stem: str | None) -> torch.Tensor | None:
        return None if stem is None else to_tensor(self.folder.sources[kind].pixels(stem)).unsqueeze(0)

    def _check_size(self, restored: torch.Tensor, clean: torch.Tensor) -> None:
        """A restored image is of the clean one's size, or of that which preparing gives the clean one."""
        if restored.shape not in (clean.shape, self.measurement.prepared(clean).shape):
            sizes = [f'{image.shape[-2]} x {image.shape[-1]}' for image in (restored, clean)]
            raise DataError(f'the restored image has {sizes[0]} pixels, the clean one {sizes[1]}')


class FolderScores(FolderImages):
    """Reads, prepares and scores the images of a folder, for worker processes without a GPU."""

    def __getitem__(self, index: int) -> Scored:
        return score(super().__getitem__(index), self.measurement, torch.device('cpu'))


def score(images: Images | Problem, measurement: Measurement, device: torch.device) -> Scored:
    """The scores of one image, or what prevents them."""
    if isinstance(images, Problem):
        return images
    img, img2, lq = (None if x is None else x.to(device) for x in (images.img, images.img2, images.lq))
    try:
        with torch.inference_mode():
            scores = measurement.scores(img, img2, lq)
            before = {} if lq is None else measurement.scores_of_input(lq, img2)
    except QualIRError as error:
        return Problem(images.key, str(error), fatal=not isinstance(error, DataError))
    return ImageResult(images.key, '', scores, before, *images.img.shape[-2:], None)


def score_first(folder: Folder, measurement: Measurement, device: torch.device) -> None:
    """Scores one image, to learn whether metrics can be computed at all, before older results are moved.

    Raises:
        QualIRError: They cannot: weights are not on this machine, say.
    """
    _stop_if_fatal(score(FolderImages(folder, measurement)[0], measurement, device))


def score_folder(
    folder: Folder, measurement: Measurement, device: torch.device, workers: int, done: Callable[[int], None]
) -> Iterator[Scored]:
    """Scores all images of a folder, in their order.

    Args:
        folder: The folder.
        measurement: The protocol's.
        device: Where metrics are computed; processes share the work only on a CPU, elsewhere they only read.
        workers: Number of processes beside this one; 0 works here.
        done: Is called with 1 after each image.

    Raises:
        QualIRError: Metrics cannot be computed, or a process was ended from outside.
    """
    on_cpu = device.type == 'cpu'
    data = (FolderScores if on_cpu else FolderImages)(folder, measurement)
    settings: dict[str, Any] = {'worker_init_fn': quiet_worker, 'prefetch_factor': AHEAD} if workers else {}
    loader = DataLoader(data, batch_size=None, num_workers=workers, collate_fn=_as_it_is, **settings)
    try:
        for found in loader:
            result = found if on_cpu else score(found, measurement, device)
            _stop_if_fatal(result)
            done(1)
            yield result
    except RuntimeError as error:
        if 'DataLoader worker' not in str(error):
            raise
        raise QualIRError(
            'A worker process ended unexpectedly, perhaps for want of memory. Try fewer with --num_worker.'
        ) from error


def _stop_if_fatal(result: Scored) -> None:
    if isinstance(result, Problem) and result.fatal:
        raise QualIRError(result.text)


def _as_it_is(item: Any) -> Any:
    return item
