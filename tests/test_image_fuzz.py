"""Damaged images: every one is decoded to pixels or refused by name, and none ends the process.

    python -m tests.test_image_fuzz SEED COUNT

decodes COUNT damaged files of that seed in this process and prints one line each.
"""

import collections
import re
import signal
import struct
import subprocess
import sys
import tempfile
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from basicsr.errors import DataError
from basicsr.image_io import decode_image, encode_image, probe_file, probe_image

from .golden_images import golden_images

COUNT = 1500  # of the test; the seed is fixed, so that it finds the same every time
SECONDS = 20  # of processor time for one file
MEMORY = 4 << 30  # bytes of address space above what the process has before the first file
MODES = ('color', 'grey', 'unchanged')
STARTS = [b'\x89PNG\r\n\x1a\n', b'\xff\xd8\xff\xe0', b'RIFF\x40\0\0\0WEBPVP8X', b'RIFF\x40\0\0\0WEBPVP8 ', b'BM']
STARTS += [
    b'II*\0\x08\0\0\0',
    b'MM\0*\0\0\0\x08',
    b'II+\0\x08\0\0\0',
    b'\xff\xd8\xff\xda',
    b'RIFF\xff\xff\xff\xffWEBPVP8L',
]
NUMBERS = [
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x3FFF,
    14000,
    1 << 24,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
]


def originals():
    """name -> bytes: the golden images, and larger ones of OpenCV with structure."""
    files = {name: data for name, (data, _) in golden_images().items() if 'bomb' not in name}
    rng = np.random.default_rng(7)
    photo = cv2.resize(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8), (97, 61), interpolation=cv2.INTER_CUBIC)
    for ending, options in [
        ('.png', []),
        ('.jpg', [cv2.IMWRITE_JPEG_RST_INTERVAL, 4]),
        ('.jpg', [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
        ('.webp', [cv2.IMWRITE_WEBP_QUALITY, 70]),
        ('.bmp', []),
        ('.tif', []),
    ]:
        files[f'photo{len(files)}{ending}'] = cv2.imencode(ending, photo, options)[1].tobytes()
    return files


def damaged(seed, count):
    """(name, bytes) of ``count`` files; each has one fault or three."""
    rng = np.random.default_rng(seed)
    files = originals()
    by_format = collections.defaultdict(list)
    for name in files:
        by_format[name.rpartition('.')[2]].append(name)
    formats = sorted(by_format)
    for number in range(count):
        name = str(rng.choice(by_format[formats[number % len(formats)]]))
        data = bytearray(files[name])
        kinds = [FAULTS[int(rng.integers(len(FAULTS)))] for _ in range(1 if rng.random() < 0.7 else 3)]
        for kind in kinds:
            other = files[str(rng.choice(list(files)))]
            data = bytearray(kind(data, other, rng))
        if rng.random() < 0.5:
            data = with_right_checksums(data)
        yield f'{number}_{name}', bytes(data)


def somewhere(data, rng):
    """A position, half of the time near the beginning, where the headers are."""
    near = min(len(data), 200) if rng.random() < 0.5 else len(data)
    return int(rng.integers(near)) if near else 0


def flip_bytes(data, other, rng):
    for _ in range(rng.integers(1, 9) if data else 0):
        data[somewhere(data, rng)] ^= int(rng.integers(1, 256))
    return data


def cut_short(data, other, rng):
    return data[: somewhere(data, rng)]


def cut_the_end(data, other, rng):
    return data[: max(0, len(data) - int(rng.integers(1, 24)))]


def leave_out(data, other, rng):
    start = somewhere(data, rng)
    return data[:start] + data[start + int(rng.integers(1, 64)) :]


def repeat(data, other, rng):
    start = somewhere(data, rng)
    return data[:start] + data[start : start + int(rng.integers(1, 300))] * int(rng.integers(2, 9)) + data[start:]


def put_in_noise(data, other, rng):
    start = somewhere(data, rng)
    return data[:start] + rng.bytes(int(rng.integers(1, 64))) + data[start:]


def blank(data, other, rng):
    start, length = somewhere(data, rng), int(rng.integers(1, 64))
    data[start : start + length] = (b'\0', b'\xff')[int(rng.integers(2))] * len(data[start : start + length])
    return data


def odd_number(data, other, rng):
    """A length, size, offset or count of the header becomes zero, or huge."""
    start = somewhere(data, rng)
    width = str(rng.choice(['<H', '>H', '<I', '>I']))
    number = NUMBERS[int(rng.integers(len(NUMBERS)))] & (0xFFFF if width[1] == 'H' else 0xFFFFFFFF)
    data[start : start + struct.calcsize(width)] = struct.pack(width, number)
    return data


def odd_size(data, other, rng):
    """Width and height where the format has them."""
    width, height = (NUMBERS[int(i)] for i in rng.integers(len(NUMBERS), size=2))
    if data[:4] == b'\x89PNG':
        data[16:24] = struct.pack('>II', width, height)
    elif data[:2] == b'BM':
        data[18:26] = struct.pack('<II', width, height)
    elif data[:2] == b'\xff\xd8' and (frame := re.search(rb'\xff[\xc0\xc2]', data)):
        data[frame.start() + 5 : frame.start() + 9] = struct.pack('>HH', height & 0xFFFF, width & 0xFFFF)
    elif data[12:16] == b'VP8X':
        data[24:30] = (width & 0xFFFFFF).to_bytes(3, 'little') + (height & 0xFFFFFF).to_bytes(3, 'little')
    elif data[:2] in (b'II', b'MM'):
        for tag in (b'\0\1\4\0', b'\1\1\4\0', b'\0\1\3\0', b'\1\1\3\0'):
            place = data.find(tag)
            if place >= 0:
                data[place + 8 : place + 12] = struct.pack('<I', width)
    return data


def splice(data, other, rng):
    """The beginning of one file, the end of another."""
    return data[: somewhere(data, rng)] + other[somewhere(other, rng) :]


def join(data, other, rng):
    return data + other


def magic_and_noise(data, other, rng):
    start = STARTS[int(rng.integers(len(STARTS)))]
    return start + (rng.bytes(int(rng.integers(0, 400))) if rng.random() < 0.5 else bytes(data[len(start) :]))


FAULTS = [flip_bytes, cut_short, cut_the_end, leave_out, repeat, put_in_noise, blank, odd_number, odd_number, odd_size]
FAULTS += [splice, join, magic_and_noise]


def with_right_checksums(data):
    """A PNG file whose checksums hold, so that its faults get past them."""
    position = 8
    while data[:4] == b'\x89PNG' and position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], 'big')
        if position + 12 + length > len(data):
            break
        check = zlib.crc32(data[position + 4 : position + 8 + length])
        data[position + 8 + length : position + 12 + length] = struct.pack('>I', check)
        position += 12 + length
    return data


def attempt(function, *args):
    """(result, None), or (None, the sentence with which it was refused)."""
    try:
        return function(*args), None
    except DataError as refused:
        return None, str(refused)


def outcome(name, data, mode, file):
    """'decoded', 'refused', or what is wrong with the answer."""
    file.write_bytes(data)
    pixels, error = attempt(decode_image, data, name, mode)
    info, unread = attempt(probe_image, data, name)
    of_file, unread_file = attempt(probe_file, file)
    if info != of_file or (unread or '').replace(name, file.name) != (unread_file or '').replace(str(file), file.name):
        return f'WRONG: of the bytes {info} {unread!r}, of the file {of_file} {unread_file!r}'
    if unread and unread != error:
        return f'WRONG: probed {unread!r}, decoded {error!r}'
    if error:
        plain = f"'{name}'" in error and '\n' not in error and error.endswith('.')
        return 'refused' if plain else f'WRONG: {error!r}'
    channels = {'color': (3,), 'grey': (), 'unchanged': (info.channels,) if info.channels > 1 else ()}[mode]
    shape = (info.height, info.width, *channels)
    if pixels.dtype != f'uint{info.bits}' or pixels.shape != shape or not pixels.flags.c_contiguous:
        return f'WRONG: {info} decodes to {pixels.dtype} {pixels.shape}'
    return 'decoded'


def packed_texts():
    """Small PNG files whose compressed texts, before or after the pixels, unpack to 316 MB."""
    plain = encode_image(np.zeros((4, 4, 3), np.uint8), '.png')
    packed = zlib.compress(b'a' * 7_900_000, 9)
    for text in (b'iTXtC\0\1\0\0\0' + packed, b'zTXtC\0\0' + packed):
        chunk = struct.pack('>I', len(text) - 4) + text + struct.pack('>I', zlib.crc32(text))
        for place in (plain.index(b'IDAT') - 4, plain.index(b'IEND') - 4):
            yield plain[:place] + 40 * chunk + plain[place:]


def decode_texts():
    """Megabytes that the process grows by."""
    import resource

    files = list(packed_texts())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data in files:
        assert decode_image(data, 'text').shape == (4, 4, 3)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024


def set_limits():
    """A process that takes too much memory is refused more; a timer of processor time ends one that hangs."""
    import resource

    pages = int(Path('/proc/self/statm').read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def decode_all(seed, count):
    """Runs in a process of its own, which a signal ends when a file takes too long."""
    limited = sys.platform == 'linux'
    if limited:
        set_limits()
        print('texts', decode_texts(), flush=True)
    warnings.simplefilter('error')
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, data) in enumerate(damaged(seed, count)):
            print(name, end=' ', flush=True)
            if limited:
                signal.setitimer(signal.ITIMER_PROF, SECONDS)
            print(outcome(name, data, MODES[number % 3], Path(folder, 'file')), flush=True)


@pytest.fixture(scope='module')
def answers():
    command = [sys.executable, '-m', 'tests.test_image_fuzz', '1', str(COUNT)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True, errors='replace', timeout=300
    )
    lines = [line for line in done.stdout.splitlines() if re.match(r'(\d+_|texts )', line)]
    assert done.returncode == 0, f'{done.returncode} at {lines[-1:]}: {done.stderr[-2000:]}'
    return lines


def test_every_damaged_file_gives_pixels_or_an_error_with_its_name(answers):
    answers = [line for line in answers if not line.startswith('texts')]
    assert len(answers) == COUNT
    assert not [line for line in answers if line.split(' ', 1)[1] not in ('decoded', 'refused')]


def test_the_damage_is_neither_fatal_nor_harmless_in_every_format(answers):
    """Otherwise the files above would test one branch only."""
    counts = collections.Counter((a.partition(' ')[0].rpartition('.')[2], a.rpartition(' ')[2]) for a in answers)
    for ending in ('png', 'jpg', 'webp', 'bmp', 'tif'):
        assert counts[ending, 'decoded'] >= 20
        assert counts[ending, 'refused'] >= 50


@pytest.mark.skipif(sys.platform != 'linux', reason='memory is measured in Linux units')
def test_text_that_unpacks_to_gigabytes_is_harmless(answers):
    """OpenCV by itself unpacks and keeps it."""
    assert int(answers[0].removeprefix('texts ')) < 50


def test_the_files_do_not_depend_on_the_run():
    assert list(damaged(3, 20)) == list(damaged(3, 20))
    assert list(damaged(3, 20)) != list(damaged(4, 20))


if __name__ == '__main__':
    decode_all(int(sys.argv[1]), int(sys.argv[2]))
