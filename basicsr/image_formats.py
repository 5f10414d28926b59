"""Headers of PNG, JPEG, WebP, BMP and TIFF files: what they declare, checked before anything is decoded.

The readers follow the PNG specification (third edition), ITU T.81 (JPEG), RFC 9649 (WebP), the Windows bitmap headers,
TIFF 6.0 with BigTIFF, and Exif 2.32 for the orientation. They look at slices only, so that the same code reads bytes
in memory and a file on disk, of which it then touches a few kilobytes.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from basicsr.errors import DataError

MAX_PIXELS = 200_000_000  # a larger declared size is refused before a byte is decoded
MAX_SIDE = 1 << 20  # OpenCV's own limit
MAX_ENTRIES = 4096  # of a TIFF directory
TAIL = 128 * 1024  # bytes at the end of a PNG file in which an orientation is looked for
MAX_PACKED_TEXT = 64 * 1024  # bytes of compressed text in a PNG, more of which is cut out: it may unpack to gigabytes
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 16: 8}  # bytes of the TIFF field types that hold whole numbers


class ImageInfo(NamedTuple):
    """What the header of an image declares, as the image is displayed: after its EXIF orientation.

    Attributes:
        width: Pixels from left to right.
        height: Pixels from top to bottom.
        channels: 1 (grey), 3 (RGB) or 4 (RGB and alpha), as ``decode_image`` gives them in the mode 'unchanged'.
        bits: Bits of one value of the decoded array: 8 or 16.
        format: 'png', 'jpeg', 'webp', 'bmp' or 'tiff'.
    """

    width: int
    height: int
    channels: int
    bits: int
    format: str


class Header(NamedTuple):
    """A header as it is stored, and what the decoder has to know."""

    format: str
    width: int
    height: int
    channels: int
    bits: int = 8
    whole: bool = True
    orientation: int = 1  # EXIF: 1 to 8
    inverted: bool = False  # 0 is white
    edits: tuple[tuple[int, int, bytes], ...] = ()  # (start, stop, replacement), in order, before decoding

    @property
    def info(self) -> ImageInfo:
        """The header as the image is displayed."""
        size = (self.height, self.width) if self.orientation > 4 else (self.width, self.height)
        return ImageInfo(*size, self.channels, self.bits, self.format)


class FileBytes:
    """A file that is sliced like bytes; only what is asked for is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self._size)
        self._file.seek(start)
        return self._file.read(max(0, stop - start))


Data = Any  # memoryview or FileBytes: has a length, and slices that are bytes-like


class _Refused(Exception):
    """A sentence without its subject, which is the name of the image."""


def read_header(data: Data, name: object, max_pixels: int = MAX_PIXELS) -> Header:
    """Reads a header and refuses what must not or cannot be decoded.

    Args:
        data: A memoryview of bytes, or ``FileBytes``.
        name: What error messages call the image.
        max_pixels: Largest number of pixels (width times height) that may be declared.

    Raises:
        DataError: The data are empty, cut short, damaged, not an image, too large, or of a kind that is not read.
    """
    if not len(data):
        raise DataError(f"'{name}' is empty (0 bytes).")
    start = bytes(data[:16])
    reader = next((r for pattern, r in _READERS if pattern.match(start)), None)
    if reader is None:
        raise DataError(f"'{name}' is not an image: it does not begin like a PNG, JPEG, WebP, BMP or TIFF file.")
    try:
        header = reader(data)
        _check_size(header.width, header.height, max_pixels)
    except _Refused as refused:
        raise DataError(f"'{name}' {refused}.") from None
    except (struct.error, IndexError):
        header = None
    if header is None or not header.whole:
        raise DataError(f"'{name}' is cut short: the file ends ({len(data)} bytes) before the image does.")
    return header


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise _Refused(f'declares {width}x{height} pixels')
    if width * height > max_pixels:
        limit = f'{max_pixels / 1e6:g}'
        raise _Refused(f'declares {width}x{height} pixels, more than the {limit} million that are allowed')
    if max(width, height) > MAX_SIDE:
        raise _Refused(f'declares {width}x{height} pixels; a side may have {MAX_SIDE}')


# PNG


def _read_png(data: Data) -> Header:
    """Walks all chunks of a file in memory; of a file on disk those before the pixels."""
    kind, width, height, depth, colour = struct.unpack('>4sIIBB', data[12:26])
    if kind != b'IHDR':
        raise _Refused('is damaged: a PNG file begins with its IHDR chunk')
    channels = {0: 1, 2: 3, 3: 3, 4: 4, 6: 4}.get(colour, 3)
    orientation, pixels, end, animation, text = 0, 0, False, [], []
    for start, length, kind in _png_chunks(data):
        stop = start + 12 + length
        if kind == b'IDAT':
            pixels = pixels or start
            if isinstance(data, FileBytes):
                break
        elif kind == b'IEND':
            end = True
            break
        elif kind == b'tRNS' and colour in (2, 3):
            channels = 4
        elif kind == b'eXIf' and not pixels:
            orientation = orientation or exif_orientation(bytes(data[start + 8 : stop - 4]))
        elif kind in (b'acTL', b'fcTL') and not pixels:
            animation.append((start, stop, b''))
        elif kind in (b'zTXt', b'iTXt'):
            text.append((start, stop, b''))
    whole = bool(pixels) and (end or _png_has_end(data, pixels))
    orientation = orientation or _png_late_orientation(data, pixels)
    text = text if sum(stop - start for start, stop, _ in text) > MAX_PACKED_TEXT else []
    edits = tuple(sorted(animation + text))
    return Header('png', width, height, channels, 16 if depth == 16 else 8, whole, orientation, edits=edits)


def _png_chunks(data: Data, position: int = 8) -> Iterator[tuple[int, int, bytes]]:
    """(position, length, kind) of every chunk that lies within the file."""
    stop, unpack = len(data) - 12, struct.Struct('>I4s').unpack
    while position <= stop:
        length, kind = unpack(data[position : position + 8])
        if position + length > stop:
            return
        yield position, length, kind
        position += 12 + length


def _png_has_end(data: Data, pixels: int) -> bool:
    if data[len(data) - 12 :] == b'\x00\x00\x00\x00IEND\xaeB`\x82':
        return True
    return any(kind == b'IEND' for _, _, kind in _png_chunks(data, pixels))


def _png_late_orientation(data: Data, pixels: int) -> int:
    """The orientation of an eXIf chunk after the pixels, if there is one whose checksum holds."""
    tail = bytes(data[max(pixels, len(data) - TAIL) :])
    position = tail.rfind(b'eXIf')
    while position >= 4:
        length = int.from_bytes(tail[position - 4 : position], 'big')
        chunk, check = tail[position : position + 4 + length], tail[position + 4 + length : position + 8 + length]
        if len(check) == 4 and zlib.crc32(chunk) == int.from_bytes(check, 'big'):
            return exif_orientation(chunk[4:])
        position = tail.rfind(b'eXIf', 0, position)
    return 1


def exif_orientation(exif: bytes) -> int:
    """The orientation (1 to 8) that a block of EXIF data declares; 1 where it declares none or cannot be read."""
    exif = exif[6:] if exif[:6] == b'Exif\x00\x00' else exif
    order = {b'II*\x00': '<', b'MM\x00*': '>'}.get(exif[:4])
    if order is None:
        return 1
    try:
        start = struct.unpack_from(f'{order}I', exif, 4)[0]
        for i in range(struct.unpack_from(f'{order}H', exif, start)[0]):
            tag, kind, count, value = struct.unpack_from(f'{order}HHIH', exif, start + 2 + 12 * i)
            if tag == 274:
                return value if kind == 3 and count == 1 and 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


# JPEG


def _read_jpeg(data: Data) -> Header:
    """Walks the segments, since an EXIF thumbnail has a size and an end marker of its own."""
    frame, orientation, position = None, 0, 2
    while True:
        position, kind = _next_marker(data, position)
        if kind == 0xD9:
            raise _Refused('is damaged: the JPEG file ends before its first scan')
        if kind == 0xDA:
            break
        if kind == 0x01 or 0xD0 <= kind <= 0xD8:  # stands alone
            position += 2
            continue
        length = struct.unpack('>H', data[position + 2 : position + 4])[0]
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            if frame:
                raise _Refused('is damaged: the JPEG file declares its size twice')
            frame = struct.unpack('>BHHB', data[position + 4 : position + 10])
        elif kind == 0xE1 and data[position + 4 : position + 10] == b'Exif\x00\x00':
            orientation = orientation or exif_orientation(bytes(data[position + 4 : position + 2 + length]))
        position += 2 + length
    if frame is None:
        raise _Refused('is damaged: the JPEG file does not declare its size')
    bits, height, width, components = frame
    if bits != 8:
        raise _Refused(f'is a JPEG file of {bits} bits; JPEG is read with 8')
    channels = 1 if components == 1 else 3
    return Header('jpeg', width, height, channels, whole=_jpeg_has_end(data, position), orientation=orientation or 1)


def _next_marker(data: Data, position: int) -> tuple[int, int]:
    """Position and kind of the next marker; decoders pass over what stands between segments."""
    first, kind = struct.unpack('BB', data[position : position + 2])
    if first == 0xFF and kind not in (0x00, 0xFF):
        return position, kind
    while position + 2 <= len(data):
        block = bytes(data[position : position + 65536])
        found = re.search(rb'\xff[^\x00\xff]', block)
        if found:
            return position + found.start(), block[found.start() + 1]
        position += len(block) - 1
    raise IndexError(position)


def _jpeg_has_end(data: Data, scan: int) -> bool:
    """Whether there is an end marker after the start of the scan: there it can only be the real one."""
    stop = len(data)
    if data[stop - 2 : stop] == b'\xff\xd9':
        return stop - 2 >= scan
    while stop > scan:
        start = max(scan, stop - 65536)
        if b'\xff\xd9' in bytes(data[start : stop + 1]):
            return True
        stop = start
    return False


# WebP


def _read_webp(data: Data) -> Header:
    whole = struct.unpack('<I', data[4:8])[0] + 8 <= len(data)
    kind = bytes(data[12:16])
    if kind == b'VP8X':
        return _read_extended_webp(data, whole)
    if kind == b'VP8L':
        width, height, alpha = _read_vp8l(data, 20)
        return Header('webp', width, height, 4 if alpha else 3, whole=whole)
    if kind != b'VP8 ':
        raise _Refused('is damaged: its first WebP chunk is none that holds an image')
    width, height = struct.unpack('<HH', data[26:30])
    return Header('webp', width & 0x3FFF, height & 0x3FFF, 3, whole=whole)


def _read_vp8l(data: Data, start: int) -> tuple[int, int, bool]:
    bits = struct.unpack('<xI', data[start : start + 5])[0]
    return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF), bool(bits >> 28 & 1)


def _read_extended_webp(data: Data, whole: bool) -> Header:
    flags, *size = struct.unpack('<B3x6B', data[20:30])
    width, height = (1 + int.from_bytes(bytes(size[i : i + 3]), 'little') for i in (0, 3))
    alpha, orientation, position = bool(flags & 0x10), 1, 30
    while position + 8 <= len(data):
        kind, length = struct.unpack('<4sI', data[position : position + 8])
        if kind == b'VP8L':
            alpha = _read_vp8l(data, position + 8)[2]
        elif kind == b'ALPH':
            alpha = True
        elif kind == b'EXIF':
            orientation = exif_orientation(bytes(data[position + 8 : position + 8 + length]))
            break
        position += 8 + length + length % 2
    return Header('webp', width, height, 4 if alpha else 3, whole=whole, orientation=orientation)


# BMP


def _read_bmp(data: Data) -> Header:
    offset, size = struct.unpack('<II', data[10:18])
    if size == 12:
        width, height, _, bits = struct.unpack('<HHHH', data[18:26])
        packing, colours = 0, 0
    else:
        width, height, _, bits, packing = struct.unpack('<iiHHI', data[18:34])
        colours = struct.unpack('<I', data[46:50])[0]
    needed = offset + (width * bits + 31) // 32 * 4 * abs(height) if packing in (0, 3) else offset + 1
    whole = needed <= len(data)
    channels = 3
    if bits <= 8 and size > 12:
        palette = np.frombuffer(data[14 + size : 14 + size + 4 * min(colours or 1 << bits, 256)], np.uint8)
        palette = palette[: palette.size // 4 * 4].reshape(-1, 4)
        channels = 1 if (palette[:, :1] == palette[:, 1:3]).all() else 3
    elif bits == 32 and packing == 3 and size >= 56:
        channels = 4 if struct.unpack('<I', data[66:70])[0] else 3
    return Header('bmp', width, abs(height), channels, whole=whole)


# TIFF


def _read_tiff(data: Data) -> Header:
    """The first image of a TIFF or BigTIFF file."""
    tags = _TiffTags(data)
    width, height = tags.number(256), tags.number(257)
    samples, bits, kind = tags.number(277, 1), tags.number(258, 1), tags.number(339, 1)
    photometric, orientation = tags.number(262, 1), tags.number(274, 1)
    _check_tiff_kind(tags, samples, bits, kind, photometric)
    channels = 1 if photometric in (0, 1) else 4 if photometric == 2 and samples == 4 else 3
    edits = []
    if photometric == 0:
        edits.append(tags.change(262, 1))
    if orientation != 1:
        edits.append(tags.change(274, 1))
    if channels == 4 and tags.number(338, 0) == 2:  # or else libtiff multiplies the colours by alpha
        edits.append(tags.change(338, 1))
    return Header(
        'tiff',
        width,
        height,
        channels,
        16 if bits == 16 else 8,
        tags.whole(),
        orientation if 1 <= orientation <= 8 else 1,
        photometric == 0,
        tuple(sorted(edits)),
    )


def _check_tiff_kind(tags: _TiffTags, samples: int, bits: int, kind: int, photometric: int) -> None:
    if kind not in (1, 4):
        dtype = {2: 'int', 3: 'float', 5: 'complex int', 6: 'complex'}.get(kind, 'unknown ')
        raise _Refused(f'holds {dtype}{bits} pixels; 8 and 16 bits are read')
    if bits not in (1, 8, 16) and not (bits == 4 and photometric == 3):
        raise _Refused(f'holds pixels of {bits} bits; 8 and 16 bits are read')
    grey = photometric in (0, 1)
    if samples not in ((1,) if grey or photometric == 3 else (3, 4)):
        raise _Refused(f'is a {"grey" if grey else "colour"} TIFF file of {samples} channels, which is not read')
    if bits == 16 and photometric > 2:
        raise _Refused('is a TIFF file of 16 bits that is neither grey nor RGB, which is not read')
    if bits == 16 and samples > 1 and tags.number(284, 1) == 2:
        raise _Refused('is a TIFF file of 16 bits with its colours in separate planes, which is not read')
    if tags.number(322, 0) * tags.number(323, 0) > MAX_PIXELS:
        raise _Refused(f'declares tiles of {tags.number(322)}x{tags.number(323)} pixels')


class _TiffTags:
    """The first directory of a TIFF file."""

    def __init__(self, data: Data) -> None:
        self._data = data
        self._order = '<' if data[:2] == b'II' else '>'
        self._big = struct.unpack(f'{self._order}H', data[2:4])[0] == 43
        start = struct.unpack(*((f'{self._order}Q', data[8:16]) if self._big else (f'{self._order}I', data[4:8])))[0]
        head = data[start : start + (8 if self._big else 2)]
        count = min(struct.unpack(f'{self._order}{"Q" if self._big else "H"}', head)[0], MAX_ENTRIES)
        start += len(head)
        entry = struct.Struct(f'{self._order}HHQ8x' if self._big else f'{self._order}HHI4x')
        directory = data[start : start + count * entry.size]
        if len(directory) < count * entry.size:
            raise IndexError(start)
        self._entries: dict[int, tuple[int, int, int]] = {}  # tag: (type, count, where the value stands)
        for i, (tag, kind, number) in enumerate(entry.iter_unpack(directory)):
            place = start + (i + 1) * entry.size - (8 if self._big else 4)
            self._entries.setdefault(tag, (kind, number, place))

    def values(self, tag: int) -> np.ndarray:
        """All values of a tag of whole numbers; none where the tag is missing."""
        kind, count, place = self._entries.get(tag, (4, 0, 0))
        size = _SIZES.get(kind)
        if size is None:
            raise _Refused(f'is damaged: the TIFF tag {tag} has the type {kind}')
        if count * size > (8 if self._big else 4):
            pointer = f'{self._order}{"Q" if self._big else "I"}'
            place = struct.unpack(pointer, self._data[place : place + struct.calcsize(pointer)])[0]
        raw = self._data[place : place + count * size]
        if len(raw) < count * size:
            raise IndexError(place)
        return np.frombuffer(raw, f'{self._order}u{size}')

    def number(self, tag: int, missing: int | None = None) -> int:
        """The first value of a tag."""
        values = self.values(tag)
        if not values.size and missing is None:
            raise _Refused(f'is damaged: the TIFF tag {tag} is missing')
        return int(values[0]) if values.size else missing

    def change(self, tag: int, value: int) -> tuple[int, int, bytes]:
        """The edit that sets a tag of one value."""
        kind, _, place = self._entries[tag]
        return place, place + _SIZES[kind], value.to_bytes(_SIZES[kind], 'little' if self._order == '<' else 'big')

    def whole(self) -> bool:
        """Whether all strips or tiles lie within the file."""
        offsets, counts = (
            self.values(a) if a in self._entries else self.values(b) for a, b in ((324, 273), (325, 279))
        )
        if not offsets.size or offsets.size != counts.size:
            return bool(offsets.size)
        return int((offsets.astype(np.float64) + counts).max()) <= len(self._data)


def tiff_with_alpha(data: bytes) -> bytes:
    """A classic TIFF file whose fourth channel is declared as alpha; OpenCV leaves open what it is."""
    order = '<' if data[:2] == b'II' else '>'
    start = struct.unpack_from(f'{order}I', data, 4)[0]
    count = struct.unpack_from(f'{order}H', data, start)[0]
    directory = data[start + 2 : start + 2 + 12 * count]
    entries = [directory[i : i + 12] for i in range(0, len(directory), 12)]
    entries.append(struct.pack(f'{order}HHIHxx', 338, 3, 1, 2))  # not multiplied into the colours
    entries.sort(key=lambda entry: struct.unpack_from(f'{order}H', entry))
    data += b'\0' * (len(data) % 2)
    head = data[:4] + struct.pack(f'{order}I', len(data))
    return b''.join([head, data[8:], struct.pack(f'{order}H', len(entries)), *entries, b'\0\0\0\0'])


_READERS: tuple[tuple[re.Pattern[bytes], Callable[[Data], Header]], ...] = (
    (re.compile(rb'\x89PNG\r\n\x1a\n'), _read_png),
    (re.compile(rb'\xff\xd8\xff'), _read_jpeg),
    (re.compile(rb'RIFF....WEBP', re.DOTALL), _read_webp),
    (re.compile(rb'BM'), _read_bmp),
    (re.compile(rb'II[*+]\x00|MM\x00[*+]'), _read_tiff),
)
