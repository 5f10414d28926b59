"""Where images come from: a folder, an LMDB, WebDataset shards, or several of them, behind one interface.

An image is asked for by its *stem*: its path below the root without ending, with forward slashes. What is at a root is
recognised, so that an option file changes only its path when a folder becomes an LMDB.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from basicsr.errors import DataError, OptionError
from basicsr.files import state_of
from basicsr.image_io import EXTENSIONS, ImageInfo, decode_image, list_images, probe_file, probe_image, read_pixels

Cache = Literal['none', 'ram', 'memmap']
IoBackend = dict[Literal['type'], Literal['disk', 'lmdb', 'shards']]
Mode = Literal['color', 'grey']
Root = str | Path | Sequence[str]


class ImageSource(ABC):
    """Images by their stem. A source holds no open handle when it is pickled, and may be used after a fork.

    Attributes:
        root: Where the images are, for messages.
        kind: ``disk``, ``lmdb``, ``shards`` or ``several``.
        mode: ``color`` or ``grey``.
        stems: All images, in an order that does not depend on the system.
        parts: How many consecutive stems lie in each file or folder that can be read on its own.
    """

    root: str
    kind: str
    mode: Mode
    stems: Sequence[str]
    parts: list[int]

    @abstractmethod
    def pixels(self, stem: str) -> np.ndarray:
        """The image in its own depth, uint8 or uint16: (H,W,3) RGB, or (H,W) of a grey source.

        It may be a read-only view of a cache.

        Raises:
            DataError: There is no such image, or it cannot be read; the text names it.
        """

    @abstractmethod
    def info(self, stem: str) -> ImageInfo:
        """Size and depth, without decoding.

        Raises:
            DataError: There is no such image, or its header cannot be read.
        """

    @abstractmethod
    def path(self, stem: str) -> str:
        """Where the image is, for messages and samples."""

    @abstractmethod
    def fingerprint(self) -> list[str]:
        """Lines that change when the images do, as far as names, sizes and times of files tell."""

    @abstractmethod
    def __contains__(self, stem: str) -> bool:
        """Whether there is such an image."""

    def __len__(self) -> int:
        return len(self.stems)


class FolderSource(ImageSource):
    """The images of a folder and its sub-folders.

    Args:
        root: The folder.
        mode: ``color`` or ``grey``.

    Raises:
        DataError: The folder is missing or empty, or two files differ only in their ending.
    """

    kind = 'disk'

    def __init__(self, root: str | Path, mode: Mode = 'color') -> None:
        self.root, self.mode = str(root), mode
        self._files: dict[str, Path] = {}
        for file in list_images(root):
            other = self._files.setdefault(stem_of(file, Path(root)), file)
            if other is not file:
                raise DataError(f"'{other}' and '{file}' differ only in their ending; one of them must go.")
        self.stems = list(self._files)
        self.parts = [len(self.stems)]

    def __contains__(self, stem: str) -> bool:
        return stem in self._files

    def pixels(self, stem: str) -> np.ndarray:
        return read_pixels(self._file(stem), self.mode)

    def info(self, stem: str) -> ImageInfo:
        return probe_file(self._file(stem))

    def path(self, stem: str) -> str:
        return str(self._file(stem))

    def fingerprint(self) -> list[str]:
        return [f'{self.mode} {stem} {state_of(file)}' for stem, file in self._files.items()]

    def _file(self, stem: str) -> Path:
        if stem not in self._files:
            raise DataError(f"Folder '{self.root}' holds no image '{stem}'.")
        return self._files[stem]


class RecordReader(Protocol):
    """What an LMDB and shards have in common: encoded images by key, their names with ending, and how they lie."""

    parts: list[int]

    @property
    def keys(self) -> Sequence[str]:
        """All images."""
        ...

    @property
    def names(self) -> Mapping[str, str]:
        """Name with ending of each key."""
        ...

    def get(self, key: str) -> bytes | memoryview:
        """The content of an image file."""
        ...

    def path(self, key: str) -> str:
        """Where an image is, for messages."""
        ...


class RecordSource(ImageSource):
    """Encoded images in an LMDB or in shards.

    Args:
        reader: Gives the bytes of a record by its key.
        kind: ``lmdb`` or ``shards``.
        root: Where the records are.
        mode: ``color`` or ``grey``.
    """

    def __init__(self, reader: RecordReader, kind: str, root: str | Path, mode: Mode = 'color') -> None:
        self.reader, self.kind, self.root, self.mode = reader, kind, str(root), mode
        self.stems = reader.keys  # not copied: shards may hold millions
        self.parts = reader.parts

    def __contains__(self, stem: str) -> bool:
        return stem in self.reader.names

    def pixels(self, stem: str) -> np.ndarray:
        return decode_image(self.reader.get(stem), self.path(stem), self.mode)

    def info(self, stem: str) -> ImageInfo:
        return probe_image(self.reader.get(stem), self.path(stem))

    def path(self, stem: str) -> str:
        return self.reader.path(stem)

    def fingerprint(self) -> list[str]:
        root = Path(self.root)
        files = sorted(f for f in root.iterdir() if f.suffix in ('.mdb', '.txt', '.tar')) if root.is_dir() else [root]
        lines = [f'{self.kind} {self.mode}', *(f'{f.name} {state_of(f)}' for f in files if f.name != 'lock.mdb')]
        return [*lines, *self.stems]


class SeveralSources(ImageSource):
    """Several sources as one, in the order given.

    Args:
        sources: The sources; no stem may be in two of them.
        root: How to name them together.

    Raises:
        DataError: A stem is in two of them.
    """

    kind = 'several'

    def __init__(self, sources: Sequence[ImageSource], root: str) -> None:
        self.sources, self.root, self.mode = list(sources), root, sources[0].mode
        self.stems = [stem for source in sources for stem in source.stems]
        self.parts = [part for source in sources for part in source.parts]
        self._owner = {stem: source for source in sources for stem in source.stems}
        if len(self._owner) < len(self.stems):
            twice = next(stem for stem, count in Counter(self.stems).items() if count > 1)
            places = [source.root for source in sources if twice in source]
            raise DataError(f"Image '{twice}' is in {' and in '.join(places)}; each name may be there once.")

    def __contains__(self, stem: str) -> bool:
        return stem in self._owner

    def pixels(self, stem: str) -> np.ndarray:
        return self._of(stem).pixels(stem)

    def info(self, stem: str) -> ImageInfo:
        return self._of(stem).info(stem)

    def path(self, stem: str) -> str:
        return self._of(stem).path(stem)

    def fingerprint(self) -> list[str]:
        return [line for source in self.sources for line in (source.root, *source.fingerprint())]

    def _of(self, stem: str) -> ImageSource:
        if stem not in self._owner:
            raise DataError(f"There is no image '{stem}' in {self.root}.")
        return self._owner[stem]


def open_source(
    root: Root,
    field: str | None = None,
    mode: Mode = 'color',
    cache: Cache = 'none',
    cache_dir: str | None = None,
    io_backend: IoBackend | None = None,
) -> ImageSource:
    """Opens what is at a root.

    Args:
        root: A folder of images, an LMDB, a folder of WebDataset tar files or of LMDBs, a tar file, or a list of such.
        field: Which images to take from shards that hold several kinds: ``gt`` of ``a.gt.png`` and ``a.lq.png``.
        mode: ``color`` or ``grey``.
        cache: Where decoded images are kept: not at all, in memory, or in a file that later runs find again. Loader
            processes share it.
        cache_dir: Folder for ``memmap``; None takes ``~/.cache/qualir``.
        io_backend: ``{'type': ...}`` as BasicSR has it, which must agree with what is there; None accepts anything.

    Raises:
        DataError: There is nothing at the root, or it cannot be read.
        OptionError: ``io_backend`` names another kind than what is at the root.
    """
    roots = [root] if isinstance(root, str | Path) else list(root)
    sources = [source for r in roots for source in _open(Path(r), field, mode)]
    if not sources:
        raise OptionError('The list of data roots is empty; it must name at least one.')
    if io_backend is not None:
        _check_backend(sources, io_backend)
    source = sources[0] if len(sources) == 1 else SeveralSources(sources, ', '.join(f"'{r}'" for r in roots))
    if cache == 'none':
        return source
    from basicsr.image_cache import CachedSource  # which itself is a source

    return CachedSource(source, cache, cache_dir)


def _open(root: Path, field: str | None, mode: Mode) -> list[ImageSource]:
    if root.suffix == '.lmdb' or (root / 'data.mdb').is_file():
        return [_open_lmdb(root, mode)]
    if _is_shards(root):
        from basicsr.shards import ShardReader

        return [RecordSource(ShardReader(root, field), 'shards', root, mode)]
    databases = sorted(p for p in root.glob('*.lmdb') if p.is_dir()) if root.is_dir() else []
    if databases:
        return [_open_lmdb(p, mode) for p in databases]
    return [FolderSource(root, mode)]


def _open_lmdb(root: Path, mode: Mode) -> ImageSource:
    from basicsr.lmdb_io import LmdbReader

    return RecordSource(LmdbReader(root), 'lmdb', root, mode)


def _is_shards(root: Path) -> bool:
    """A tar file, or a folder of tar files in which no picture and no folder lies: a download may lie beside images."""
    if root.suffix == '.tar':
        return True
    if not root.is_dir() or not any(root.glob('*.tar')):
        return False
    return not any(p.is_dir() or p.suffix.lower() in EXTENSIONS for p in root.iterdir())


def _check_backend(sources: Sequence[ImageSource], io_backend: IoBackend) -> None:
    wanted = io_backend.get('type')
    other = next((s for s in sources if s.kind != wanted), None)
    if other is not None:
        raise OptionError(
            f"io_backend.type is {wanted}, but '{other.root}' is read as {other.kind}; io_backend may be left out, "
            'the kind is recognised.'
        )


def stem_of(file: Path, folder: Path) -> str:
    """Path below ``folder`` without the ending, with forward slashes."""
    return file.relative_to(folder).with_suffix('').as_posix()


def parts_of(source: ImageSource, stems: Sequence[str]) -> list[int] | None:
    """How many consecutive ``stems`` lie in each part of a source; None if they do not keep its order of parts."""
    if len(source.parts) == 1:
        return None
    if stems is source.stems:
        return source.parts
    part = dict(zip(source.stems, np.repeat(np.arange(len(source.parts)), source.parts).tolist()))
    runs = [(number, sum(1 for _ in run)) for number, run in groupby(part[s] for s in stems)]
    in_order = len({number for number, _ in runs}) == len(runs)
    return [count for _, count in runs] if in_order else None
