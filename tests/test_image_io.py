"""Image files: what goes out comes back, and whatever is damaged is refused with its name."""

import os
import struct
import zlib

import cv2
import numpy as np
import pytest
import torch

from basicsr.errors import DataError
from basicsr.image_io import list_images, read_image, to_tensor, to_uint8, write_image

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
        ('a.png', (4, 4, 4), '3 channels'),
        ('a.png', (4, 4), '3 channels'),
        ('a.png', (0, 4, 3), 'shape'),
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
