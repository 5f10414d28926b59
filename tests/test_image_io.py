"""Image files: what goes out comes back, and whatever is damaged is refused with its name."""

import os
import struct
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from basicsr.errors import DataError
from basicsr.image_io import (
    decode_image,
    encode_image,
    list_images,
    probe_file,
    probe_image,
    read_image,
    read_pixels,
    to_tensor,
    to_uint8,
    write_image,
)

from .golden_images import golden_images

LOSSLESS = {'.png': (8, 16), '.tif': (8, 16), '.bmp': (8,), '.webp': (8,)}
GOLDEN = golden_images()
READ = [name for name, (_, pixels) in GOLDEN.items() if pixels is not None]

FORMATS = {
    'png': [],
    'jpg': [],
    'progressive.jpg': [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
    'webp': [cv2.IMWRITE_WEBP_QUALITY, 80],
    'lossless.webp': [cv2.IMWRITE_WEBP_QUALITY, 101],
    'bmp': [],
    'tif': [],
}


@pytest.fixture
def picture():
    """(37,53,3) RGB uint8 with structure, so that no format shrinks it to nothing."""
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), (53, 37), interpolation=cv2.INTER_CUBIC)
    return cv2.add(smooth, rng.integers(0, 20, (37, 53, 3), dtype=np.uint8))


def encode(picture, name):
    done, data = cv2.imencode('.' + name.rpartition('.')[2], picture[..., ::-1], FORMATS[name])
    assert done
    return data.tobytes()


def chunk(kind, data):
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def png(width, height, rows, depth=8, colour=2):
    """A PNG file put together by hand, independent of OpenCV."""
    header = struct.pack('>IIBBBBB', width, height, depth, colour, 0, 0, 0)
    raw = b''.join(b'\x00' + row for row in rows)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(raw)) + chunk(b'IEND', b'')


@pytest.mark.parametrize('name', ['png', 'bmp', 'tif', 'lossless.webp'])
def test_lossless_formats_come_back_exactly(tmp_path, picture, name):
    file = tmp_path / f'a.{name}'
    file.write_bytes(encode(picture, name))
    image = read_image(file)
    assert image.dtype == np.float32
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, picture.astype(np.float32) / 255)


def test_colours_come_in_the_order_red_green_blue(tmp_path):
    (tmp_path / 'a.png').write_bytes(png(2, 1, [bytes([255, 128, 0, 1, 2, 3])]))
    np.testing.assert_allclose(read_image(tmp_path / 'a.png'), np.array([[[255, 128, 0], [1, 2, 3]]]) / 255, atol=1e-7)


def test_sixteen_bits_are_scaled_by_their_own_maximum(tmp_path):
    values = [65535, 257, 0, 1, 32768, 40000]
    (tmp_path / 'a.png').write_bytes(png(2, 1, [struct.pack('>6H', *values)], depth=16))
    np.testing.assert_allclose(read_image(tmp_path / 'a.png').ravel(), np.array(values) / 65535, rtol=1e-6)


def test_grey_becomes_three_equal_channels(tmp_path):
    (tmp_path / 'a.png').write_bytes(png(3, 2, [bytes([0, 100, 255])] * 2, colour=0))
    image = read_image(tmp_path / 'a.png')
    assert image.shape == (2, 3, 3)
    assert (image == image[..., :1]).all()
    np.testing.assert_allclose(image[0, :, 0], [0, 100 / 255, 1], atol=1e-7)


def test_alpha_is_dropped_and_the_colours_stay(tmp_path):
    (tmp_path / 'a.png').write_bytes(png(1, 1, [bytes([10, 20, 30, 0])], colour=6))
    np.testing.assert_allclose(read_image(tmp_path / 'a.png')[0, 0], np.array([10, 20, 30]) / 255, atol=1e-7)


def test_exif_orientation_is_applied(tmp_path, picture):
    exif = (
        b'Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00'
    )
    data = encode(picture, 'jpg')
    (tmp_path / 'turned.jpg').write_bytes(data[:2] + b'\xff\xe1' + struct.pack('>H', len(exif) + 2) + exif + data[2:])
    (tmp_path / 'plain.jpg').write_bytes(data)
    upright = np.rot90(read_image(tmp_path / 'plain.jpg'), k=-1)  # 6: the top of the scene is at the right
    np.testing.assert_array_equal(read_image(tmp_path / 'turned.jpg'), upright)


@pytest.mark.parametrize('fraction', [0.05, 0.3, 0.6, 0.9, 0.995])
@pytest.mark.parametrize('name', FORMATS)
def test_a_file_cut_short_is_refused_by_name(tmp_path, picture, name, fraction):
    data = encode(picture, name)
    file = tmp_path / f'cut.{name}'
    file.write_bytes(data[: int(len(data) * fraction)])
    with pytest.raises(DataError, match=r'cut\.'):
        read_image(file)


@pytest.mark.parametrize('fraction', [0.7, 0.9])
def test_a_cut_jpeg_is_refused_although_its_thumbnail_has_an_end_marker(tmp_path, picture, fraction):
    thumbnail = encode(picture[::4, ::4].copy(), 'jpg')
    data = encode(np.tile(picture, (6, 6, 1)), 'jpg')
    whole = data[:2] + b'\xff\xe1' + struct.pack('>H', len(thumbnail) + 2) + thumbnail + data[2:]
    (tmp_path / 'a.jpg').write_bytes(whole)
    assert read_image(tmp_path / 'a.jpg').shape == (37 * 6, 53 * 6, 3)
    (tmp_path / 'a.jpg').write_bytes(whole[: int(len(whole) * fraction)])
    with pytest.raises(DataError, match=r"a\.jpg' is cut short"):
        read_image(tmp_path / 'a.jpg')


@pytest.mark.parametrize('name', FORMATS)
def test_bytes_after_the_end_do_no_harm(tmp_path, picture, name):
    (tmp_path / f'a.{name}').write_bytes(encode(picture, name) + b'\x00trailing')
    assert read_image(tmp_path / f'a.{name}').shape == (37, 53, 3)


@pytest.mark.parametrize(
    ('content', 'why'),
    [
        (b'', 'empty'),
        (b'<html>not found</html>', 'not an image'),
        (b'\x89PNG\r\n\x1a\n', 'cut short'),
        (b'\xff\xd8\xff', 'cut short'),
    ],
)
def test_what_is_not_an_image_is_refused(tmp_path, content, why):
    (tmp_path / 'bad.png').write_bytes(content)
    with pytest.raises(DataError, match=why) as error:
        read_image(tmp_path / 'bad.png')
    assert 'bad.png' in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r'no file .*gone\.png'):
        read_image(tmp_path / 'gone.png')


def test_a_folder_is_not_an_image(tmp_path):
    with pytest.raises(DataError, match='cannot be read'):
        read_image(tmp_path)


def test_a_damaged_png_is_refused(tmp_path, picture):
    data = bytearray(encode(picture, 'png'))
    data[len(data) // 2] ^= 0xFF
    (tmp_path / 'hurt.png').write_bytes(data)
    with pytest.raises(DataError, match=r'hurt\.png'):
        read_image(tmp_path / 'hurt.png')


def test_other_depths_are_refused(tmp_path):
    data = cv2.imencode('.tif', np.zeros((4, 4, 3), np.float32))[1]
    (tmp_path / 'a.tif').write_bytes(data.tobytes())
    with pytest.raises(DataError, match='float32 pixels'):
        read_image(tmp_path / 'a.tif')


@pytest.mark.parametrize('name', FORMATS)
def test_the_pixel_limit_is_read_from_the_header(tmp_path, picture, name):
    file = tmp_path / f'a.{name}'
    file.write_bytes(encode(picture, name))
    assert read_image(file, max_pixels=37 * 53).shape == (37, 53, 3)
    with pytest.raises(DataError, match='declares 53x37 pixels'):
        read_image(file, max_pixels=37 * 53 - 1)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path):
    (tmp_path / 'bomb.png').write_bytes(png(100_000, 100_000, []))
    with pytest.raises(DataError, match=r"bomb\.png' declares 100000x100000"):
        read_image(tmp_path / 'bomb.png')


@pytest.mark.parametrize('suffix', ['png', 'bmp', 'tif', 'PNG'])
def test_writing_and_reading_gives_the_same_pixels(tmp_path, picture, suffix):
    file = tmp_path / 'new' / 'folder' / f'a.{suffix}'
    write_image(file, picture)
    np.testing.assert_array_equal(read_image(file), picture.astype(np.float32) / 255)
    assert [f.name for f in file.parent.iterdir()] == [file.name]


def test_a_tensor_is_clipped_and_rounded_to_the_nearest(tmp_path):
    tensor = torch.tensor([-0.5, 0.0, 0.4 / 255, 0.6 / 255, 254.4 / 255, 2.0]).view(1, 2, 3).repeat(3, 1, 1)
    write_image(tmp_path / 'a.png', tensor)
    values = (read_image(tmp_path / 'a.png')[..., 0] * 255).ravel()
    np.testing.assert_allclose(values, [0, 0, 0, 1, 254, 255], atol=1e-4)


def test_uint8_and_tensor_round_trip(picture):
    tensor = to_tensor(picture)
    assert tensor.dtype == torch.float32
    assert tensor.shape == (3, 37, 53)
    assert tensor.is_contiguous()
    np.testing.assert_array_equal(to_uint8(tensor), picture)
    np.testing.assert_array_equal(to_uint8(tensor.bfloat16().float()), to_uint8(tensor.bfloat16()))
    assert to_tensor(picture.astype(np.float32)).max() > 1  # floats are taken as they are
    np.testing.assert_array_equal(to_uint8(picture.astype(np.uint16) * 257), picture)


def test_nothing_half_written_stays_after_an_error(tmp_path, picture, monkeypatch):
    write_image(tmp_path / 'a.png', picture)
    before = (tmp_path / 'a.png').read_bytes()

    def no_space(descriptor):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', no_space)
    with pytest.raises(OSError, match='No space'):
        write_image(tmp_path / 'a.png', 255 - picture)
    assert [f.name for f in tmp_path.iterdir()] == ['a.png']
    assert (tmp_path / 'a.png').read_bytes() == before


@pytest.mark.parametrize(
    ('name', 'shape', 'why'),
    [
        ('a.gif', (4, 4, 3), 'ending'),
        ('a', (4, 4, 3), 'ending'),
        ('a.png', (4, 4, 2), '1, 3 or 4 channels'),
        ('a.png', (4,), '1, 3 or 4 channels'),
        ('a.png', (1, 4, 4, 3), '1, 3 or 4 channels'),
        ('a.png', (0, 4, 3), 'shape'),
        ('a.jpg', (4, 4, 4), 'no alpha'),
    ],
)
def test_what_cannot_be_written_is_said(tmp_path, name, shape, why):
    with pytest.raises(DataError, match=why):
        write_image(tmp_path / name, np.zeros(shape, np.uint8))
    assert not list(tmp_path.iterdir())


def test_a_picture_too_large_for_the_format_is_said(tmp_path):
    with pytest.raises(DataError, match='does not fit'):
        write_image(tmp_path / 'a.webp', np.zeros((2, 17000, 3), np.uint8))


def test_listing_is_recursive_sorted_and_natural(tmp_path, picture):
    for name in ['b10.png', 'b2.PNG', 'a/z.jpg', 'a/y.webp', '.hidden.png', 'notes.txt', 'B1.tiff']:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b'')
    names = [f.relative_to(tmp_path).as_posix() for f in list_images(tmp_path)]
    assert names == ['a/y.webp', 'a/z.jpg', 'B1.tiff', 'b2.PNG', 'b10.png']


def test_listing_follows_links_once(tmp_path):
    (tmp_path / 'real').mkdir()
    (tmp_path / 'real' / 'a.png').write_bytes(b'')
    (tmp_path / 'set').mkdir()
    (tmp_path / 'set' / 'link').symlink_to(tmp_path / 'real')
    (tmp_path / 'real' / 'loop').symlink_to(tmp_path / 'set')
    assert [f.name for f in list_images(tmp_path / 'set')] == ['a.png']


def test_a_missing_or_empty_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=r'no folder .*gone'):
        list_images(tmp_path / 'gone')
    with pytest.raises(DataError, match=r'holds no image; looked for \.png'):
        list_images(tmp_path)


def test_a_mirrored_pixel_becomes_a_tensor():
    """A view with negative strides that NumPy calls contiguous, but torch refuses."""
    pixel = np.ascontiguousarray(np.ones((1, 2, 3), np.float32)[:, ::-1][:, :1])
    assert to_tensor(pixel[::-1]).shape == (3, 1, 1)


@pytest.mark.parametrize('name', READ)
def test_every_kind_of_file_gives_the_pixels_that_other_libraries_give(tmp_path, name):
    data, expected = GOLDEN[name]
    lossy = name.endswith('.jpg') or name in ('lossy.webp', 'lossy_alpha.webp', 'pillow_jpeg.tif')
    pixels = decode_image(data, name, 'unchanged')
    assert (pixels.dtype, pixels.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(pixels.astype(int), expected, atol=2 if lossy else 0)
    colour = pixels[..., :3] if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    np.testing.assert_array_equal(decode_image(data, name), colour)
    grey, luma = decode_image(data, name, 'grey'), colour @ np.array([0.299, 0.587, 0.114])
    assert (grey.dtype, grey.shape) == (expected.dtype, expected.shape[:2])
    np.testing.assert_allclose(grey, luma, atol=4 if lossy or expected.dtype == np.uint16 else 1.01)
    info = probe_image(data, name)
    assert (info.height, info.width) == expected.shape[:2]
    assert info.channels == (1 if expected.ndim == 2 else expected.shape[2])
    assert info.bits == 8 * expected.itemsize
    assert info.format == {'jpg': 'jpeg', 'tif': 'tiff'}.get(name.rpartition('.')[2], name.rpartition('.')[2])
    (tmp_path / name).write_bytes(data)
    assert probe_file(tmp_path / name) == info
    np.testing.assert_array_equal(read_pixels(tmp_path / name, 'unchanged'), pixels)


@pytest.mark.parametrize('name', [name for name in GOLDEN if name not in READ])
def test_what_opencv_would_read_wrongly_is_refused_by_name(name):
    kind = name.partition('.')[0]
    why = {'twelve_bits': '12 bits', 'planar16': 'separate planes', 'uint32': '32 bits'}.get(kind, kind)
    why = '2 channels' if 'greyalpha' in name else why
    for function in (decode_image, probe_image):
        with pytest.raises(DataError, match=f'{name}.*{why}'):
            function(GOLDEN[name][0], name)


def test_the_golden_images_cover_what_they_should():
    assert len(READ) > 200
    assert sum('turned6' in name for name in READ) >= 12
    assert {name.rpartition('.')[2] for name in READ} == {'png', 'jpg', 'webp', 'bmp', 'tif'}


@st.composite
def stored_images(draw):
    """An ending, and an image that it holds without loss."""
    ending = draw(st.sampled_from(sorted(LOSSLESS)))
    bits, channels = draw(st.sampled_from(LOSSLESS[ending])), draw(st.sampled_from([1, 3, 4]))
    height, width = draw(
        st.tuples(st.integers(1, 33), st.integers(1, 33)) | st.sampled_from([(1, 1), (1, 70), (70, 1)])
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (height, width, channels) if channels > 1 else (height, width)
    return ending, rng.integers(0, 1 << bits, shape).astype(np.uint8 if bits == 8 else np.uint16)


@settings(max_examples=200, deadline=None)
@given(stored_images())
def test_lossless_formats_give_back_every_bit(stored):
    ending, pixels = stored
    data = encode_image(pixels, ending)
    info = probe_image(data, 'a')
    assert (info.height, info.width) == pixels.shape[:2]
    assert info.bits == 8 * pixels.itemsize
    mode = 'grey' if pixels.ndim == 2 else 'unchanged'  # WebP stores grey as three equal channels
    back = decode_image(data, 'a', mode)
    if mode == 'unchanged' and ending == '.webp' and pixels.shape[2] == 4 and back.shape[2] == 3:
        assert (pixels[..., 3] == 255).all()  # WebP does not store an alpha channel without holes
        pixels = pixels[..., :3]
    assert back.dtype == pixels.dtype
    np.testing.assert_array_equal(back, pixels)
    if ending != '.webp':
        np.testing.assert_array_equal(decode_image(data, 'a', 'unchanged'), pixels)


@pytest.mark.parametrize('shape', [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4)])
def test_a_tensor_is_written_as_the_array_of_the_same_image(shape):
    image = np.random.default_rng(0).random(shape, dtype=np.float32) * 1.4 - 0.2
    tensor = torch.from_numpy(image if image.ndim == 2 else image.transpose(2, 0, 1).copy())
    for bits, highest in ((8, 255), (16, 65535)):
        expected = np.rint(np.clip(image, 0, 1) * np.float32(highest))
        expected = expected[..., 0] if shape[2:] == (1,) else expected
        for form in (image, tensor):
            pixels = decode_image(encode_image(form, '.png', bits=bits), 'a', 'unchanged')
            assert pixels.dtype == f'uint{bits}'
            np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize('ending', ['.jpg', '.webp', '.bmp'])
def test_sixteen_bits_are_refused_where_they_do_not_fit(tmp_path, ending):
    for image, options in ((np.zeros((4, 4, 3), np.uint16), {}), (np.zeros((4, 4, 3)), {'bits': 16})):
        with pytest.raises(DataError, match=rf"a\{ending}' .* holds 8 bits, and the image has 16"):
            write_image(tmp_path / f'a{ending}', image, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('dtype', [np.int32, np.int8, np.uint64, complex])
def test_numbers_that_no_file_holds_are_refused(dtype):
    with pytest.raises(DataError, match=rf"'photo' .* from {np.dtype(dtype).name}"):
        encode_image(np.zeros((4, 4, 3), dtype), '.png', 'photo')


@pytest.mark.parametrize('options', [{'bits': 12}, {'quality': 0}, {'quality': 101}, {'compression': 10}])
def test_options_out_of_their_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        encode_image(np.zeros((4, 4, 3)), '.png', **options)


def test_the_size_of_a_file_follows_the_options(picture):
    sizes = [len(encode_image(picture, '.png', compression=level)) for level in (0, 1, 9)]
    assert sizes[0] > sizes[1] > sizes[2]
    sizes = [len(encode_image(picture, '.jpg', quality=quality)) for quality in (95, 60, 20)]
    assert sizes[0] > sizes[1] > sizes[2]
    np.testing.assert_array_equal(decode_image(encode_image(picture, '.webp', quality=5), 'a'), picture)
    lossy = encode_image(picture, '.webp', quality=80, lossless=False)
    assert len(lossy) < len(encode_image(picture, '.webp'))
    assert 0 < np.abs(decode_image(lossy, 'a').astype(int) - picture).mean() < 12


def test_decoding_copies_no_encoded_bytes():
    pixels = np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)
    for ending, most in (('.png', 1.2), ('.jpg', 1.2), ('.bmp', 2.2)):  # BMP: a second array for the order of colours
        data = memoryview(b'before' + encode_image(pixels, ending) + b'after')[6:-5]
        decode_image(data, 'a')
        tracemalloc.start()
        decode_image(data, 'a')
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert pixels.nbytes < peak < most * pixels.nbytes, ending


def test_bytes_of_any_buffer_are_taken(picture):
    data = encode_image(picture, '.png')
    for form in (bytearray(data), memoryview(data), np.frombuffer(data, np.uint8), np.frombuffer(data, np.int8)):
        np.testing.assert_array_equal(decode_image(form, 'a'), picture)
    with pytest.raises(ValueError, match="not 'colour'"):
        decode_image(data, 'a', 'colour')


def test_probing_a_file_reads_little_of_it(tmp_path):
    length = 400_000_000
    start = png(10_000, 10_000, [])
    start = start[: start.index(b'IDAT') - 4] + struct.pack('>I', length) + b'IDAT'
    header = struct.pack('<2sIHHIIiiHHIIiiII', b'BM', 0, 0, 0, 54, 40, 10_000, 10_000, 1, 24, 0, 0, 0, 0, 0, 0)
    for name, first, last in (('a.png', start, bytes(4) + chunk(b'IEND', b'')), ('a.bmp', header, b'')):
        with (tmp_path / name).open('wb') as file:  # a file with a hole, which takes no room
            file.write(first)
            file.truncate(len(first) + length)
            file.seek(0, os.SEEK_END)
            file.write(last)
        tracemalloc.start()
        info = probe_file(tmp_path / name)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (info.width, info.height, info.channels) == (10_000, 10_000, 3)
        assert peak < 1_000_000


def test_the_pixel_limit_counts_a_turned_image_as_any_other():
    for name in ('rgb_turned6.jpg', 'rgb16_turned6.png', 'rgba_turned6.webp', 'strips_3x16_turned6.tif'):
        data, expected = GOLDEN[name]
        size = expected.shape[0] * expected.shape[1]
        assert decode_image(data, name, max_pixels=size).size == 3 * size
        with pytest.raises(DataError, match=f'{name}.*17x18'):
            decode_image(data, name, max_pixels=size - 1)


@pytest.mark.parametrize(('width', 'height'), [(0, 5), (5, 0), (0, 0), (2_000_000, 1), (1, 1 << 31)])
def test_sizes_that_no_image_has_are_refused(width, height):
    with pytest.raises(DataError, match=rf"'a' declares {width}x{height} pixels"):
        decode_image(png(width, height, [b'\0' * 3]), 'a')


def test_refusing_a_file_writes_nothing_and_leaves_the_log_level(capfd, picture):
    logging = cv2 if hasattr(cv2, 'getLogLevel') else cv2.utils.logging
    level = logging.getLogLevel()
    data = bytearray(encode_image(picture.astype(np.uint16), '.tif'))
    data[30:300] = b'\xff' * 270
    with pytest.raises(DataError, match="'a' cannot be decoded"):
        decode_image(data, 'a')
    assert capfd.readouterr() == ('', '')
    assert logging.getLogLevel() == level


def test_threads_decode_at_the_same_time(picture):
    logging = cv2 if hasattr(cv2, 'getLogLevel') else cv2.utils.logging
    level, data = logging.getLogLevel(), [encode_image(np.roll(picture, i, axis=0), '.png') for i in range(40)]
    with ThreadPoolExecutor(4) as pool:
        for i, pixels in enumerate(pool.map(lambda d: decode_image(d, 'a'), data)):
            np.testing.assert_array_equal(pixels, np.roll(picture, i, axis=0))
    assert logging.getLogLevel() == level
