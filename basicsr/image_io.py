"""Image files in and out: RGB, float32 in [0,1], with every damaged file refused by name."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import numpy as np
import torch

from basicsr.errors import DataError
from basicsr.files import write_atomically

EXTENSIONS = ('.png', '.jpg', '.jpeg', '.webp', '.bmp', '.tif', '.tiff')
MAX_PIXELS = 200_000_000  # a larger declared size is refused before a byte is decoded
JPEG_QUALITY = 95


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads a PNG, JPEG, WebP, BMP or TIFF file of 8 or 16 bits.

    Grey is repeated to three channels, an alpha channel is dropped, and the EXIF orientation is applied.

    Args:
        path: The file.
        max_pixels: Largest number of pixels (width times height) that its header may declare.

    Returns:
        (H,W,3) RGB float32 in [0,1].

    Raises:
        DataError: The file is missing, empty, cut short, damaged, not an image, too large, or of another bit depth.
    """
    image = _decode(_checked_bytes(Path(path), max_pixels), path)
    if image.dtype not in (np.uint8, np.uint16):
        raise DataError(f"'{path}' holds {image.dtype} pixels; 8 and 16 bits are read.")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.float32) / np.float32(np.iinfo(image.dtype).max)


def write_image(path: str | Path, image: np.ndarray | torch.Tensor) -> None:
    """Writes an 8-bit image atomically: ``path`` is afterwards the old file or the whole new one. Makes the folders.

    Args:
        path: The file; its ending chooses the format.
        image: (H,W,3) array or (3,H,W) tensor, RGB; uint8, or floating point in [0,1] (clipped and rounded).

    Raises:
        DataError: The ending or the shape cannot be written.
        OSError: The disk is full, or the folder cannot be written to.
    """
    path = Path(path)
    if path.suffix.lower() not in EXTENSIONS:
        raise DataError(f"'{path}' cannot be written: its ending must be one of {', '.join(EXTENSIONS)}.")
    pixels = to_uint8(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise DataError(
            f"'{path}' cannot be written from an image of shape {tuple(image.shape)}; it must have 3 channels."
        )
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if path.suffix.lower() in ('.jpg', '.jpeg') else []
    done, encoded = False, None
    with _quiet_opencv(), suppress(cv2.error):  # OpenCV 4 raises where OpenCV 5 says no
        done, encoded = cv2.imencode(path.suffix.lower(), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    if not done or encoded is None:
        raise DataError(
            f"'{path}' cannot be written: an image of {pixels.shape[1]}x{pixels.shape[0]} does not fit the format."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(encoded.tobytes()))


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """An (H,W,C) image as a (C,H,W) float32 tensor; whole numbers are scaled to [0,1], floats kept as they are."""
    if np.issubdtype(image.dtype, np.integer):
        image = image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)
    return torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32, order='C'))


def to_uint8(image: torch.Tensor | np.ndarray) -> np.ndarray:
    """Clips to [0,1], scales by 255 and rounds to the nearest.

    Args:
        image: (C,H,W) tensor or (H,W,C) array; uint8 is passed through, uint16 is scaled from its own range.

    Returns:
        (H,W,C) uint8.
    """
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu().movedim(0, -1)
        image = (image if image.dtype == torch.uint8 else image.float()).numpy()
    if image.dtype == np.uint8:
        return np.ascontiguousarray(image)
    if np.issubdtype(image.dtype, np.integer):
        image = image / np.iinfo(image.dtype).max
    return np.ascontiguousarray(np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8))


def list_images(folder: str | Path) -> list[Path]:
    """The images of a folder and its sub-folders, in an order that does not depend on the system (2 comes before 10).

    Args:
        folder: Where to look; hidden files are passed over.

    Raises:
        DataError: There is no such folder, or no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"There is no folder '{folder}' (looked for at '{folder.absolute()}').")
    files = [f for f in _walk(folder) if f.suffix.lower() in EXTENSIONS and not f.name.startswith('.')]
    if not files:
        raise DataError(
            f"Folder '{folder}' holds no image; looked for {', '.join(EXTENSIONS)}, also in its sub-folders."
        )
    return sorted(files, key=lambda f: _natural(f.relative_to(folder).as_posix()))


def _walk(folder: Path) -> Iterator[Path]:
    """All files below a folder; links to folders are followed, each real folder is entered once."""
    seen = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (Path(root, name) for name in names)


def _natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sorting key: runs of digits count as numbers; the name itself settles what is left."""
    parts = re.split(r'([0-9]+)', name.lower())
    return [(int(p), '') if i % 2 else (-1, p) for i, p in enumerate(parts)], name


def _checked_bytes(path: Path, max_pixels: int) -> np.ndarray:
    """The content of a file that has the header of an image, is not cut short and not too large to decode."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"There is no file '{path}'.") from None
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    if not data:
        raise DataError(f"'{path}' is empty (0 bytes).")
    reader = next((r for start, r in _READERS if re.match(start, data, re.DOTALL)), None)
    if reader is None:
        raise DataError(f"'{path}' is not an image: it does not begin like a PNG, JPEG, WebP, BMP or TIFF file.")
    try:
        width, height, whole = reader(data)
    except (struct.error, IndexError):
        width, height, whole = 1, 1, False
    if width * height > max_pixels:
        limit = f'{max_pixels / 1e6:g}'
        raise DataError(f"'{path}' declares {width}x{height} pixels, more than the {limit} million that are allowed.")
    if not whole:
        raise DataError(f"'{path}' is cut short: the file ends ({len(data)} bytes) before the image does.")
    return np.frombuffer(data, np.uint8)


def _decode(data: np.ndarray, path: str | Path) -> np.ndarray:
    try:
        with _quiet_opencv():
            image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    except cv2.error as error:
        raise DataError(f"'{path}' cannot be decoded: {error.err or error}.") from error
    if image is None:
        raise DataError(
            f"'{path}' cannot be decoded: the file is damaged, cut short or of a kind that OpenCV does not know."
        )
    return image


@contextmanager
def _quiet_opencv() -> Iterator[None]:
    """Keeps OpenCV from writing to stderr what an error of ours will say."""
    set_level = getattr(cv2, 'setLogLevel', None) or cv2.utils.logging.setLogLevel  # OpenCV 4, OpenCV 5
    level = set_level(0)  # silent
    try:
        yield
    finally:
        set_level(level)


# Readers of headers: (width, height, whether the file is whole). Older OpenCV decodes half a JPEG without a word.


def _read_png(data: bytes) -> tuple[int, int, bool]:
    width, height = struct.unpack_from('>II', data, 16)
    position = 8
    while position + 12 <= len(data):
        length, kind = struct.unpack_from('>I4s', data, position)
        position += 12 + length
        if kind == b'IEND':
            return width, height, position <= len(data)
    return width, height, False


def _read_jpeg(data: bytes) -> tuple[int, int, bool]:
    """Walks the segments, since an EXIF thumbnail has a size and an end marker of its own."""
    width = height = 0
    position = 2
    while True:
        while data[position] != 0xFF or data[position + 1] in (0x00, 0xFF):
            position += 1
        kind = data[position + 1]
        if kind == 0xDA:  # start of scan: after it, an end marker can only be the real one
            return width, height, data.find(b'\xff\xd9', position) >= 0
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from('>HH', data, position + 5)
        standalone = kind == 0x01 or 0xD0 <= kind <= 0xD9
        position += 2 if standalone else 2 + struct.unpack_from('>H', data, position + 2)[0]


def _read_webp(data: bytes) -> tuple[int, int, bool]:
    whole = struct.unpack_from('<I', data, 4)[0] + 8 <= len(data)
    kind = data[12:16]
    if kind == b'VP8X':
        width, height = (1 + int.from_bytes(data[i : i + 3], 'little') for i in (24, 27))
        return width, height, whole and len(data) >= 30
    if kind == b'VP8L':
        bits = struct.unpack_from('<I', data, 21)[0]
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF), whole
    width, height = struct.unpack_from('<HH', data, 26)
    return width & 0x3FFF, height & 0x3FFF, whole


def _read_bmp(data: bytes) -> tuple[int, int, bool]:
    old = struct.unpack_from('<I', data, 14)[0] == 12
    width, height = struct.unpack_from('<HH' if old else '<ii', data, 18)
    return abs(width), abs(height), struct.unpack_from('<I', data, 10)[0] < len(data)


def _read_tiff(data: bytes) -> tuple[int, int, bool]:
    """Width and height of the first directory, classic TIFF and BigTIFF."""
    order = '<' if data[:2] == b'II' else '>'
    big = struct.unpack_from(f'{order}H', data, 2)[0] == 43
    start = struct.unpack_from(f'{order}Q' if big else f'{order}I', data, 8 if big else 4)[0]
    count = struct.unpack_from(f'{order}Q' if big else f'{order}H', data, start)[0]
    size = {256: 0, 257: 0}
    for i in range(min(count, 4096)):
        entry = start + (8 if big else 2) + i * (20 if big else 12)
        tag, kind = struct.unpack_from(f'{order}HH', data, entry)
        if tag in size:
            size[tag] = struct.unpack_from(order + {3: 'H', 16: 'Q'}.get(kind, 'I'), data, entry + (12 if big else 8))[
                0
            ]
    return size[256], size[257], True


_READERS = (
    (rb'\x89PNG\r\n\x1a\n', _read_png),
    (rb'\xff\xd8\xff', _read_jpeg),
    (rb'RIFF....WEBP', _read_webp),
    (rb'BM', _read_bmp),
    (rb'II[*+]\x00|MM\x00[*+]', _read_tiff),
)
