"""Small images of all kinds with the pixels that they hold, written and read by Pillow, tifffile and plain Python.

    python tests/golden/make_images.py

Needs Pillow and tifffile, no OpenCV. The result, images.npz, is committed; the script says how it came about.
'index' is JSON: name -> bytes of the file, bytes of its pixels as displayed, shape and dtype of the pixels; 'blob'
holds all of them in that order. A file without pixels is one that is refused.
"""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageCms, ImageOps

HEIGHT, WIDTH = 18, 17
RNG = np.random.default_rng(20261121)
FILES, PIXELS = {}, {}


def noise(channels=3, bits=8):
    """Twelve values over the whole range in random order, since the result is committed."""
    values = RNG.integers(0, 1 << bits, 12).astype(np.uint16 if bits > 8 else np.uint8)
    return RNG.choice(values, (HEIGHT, WIDTH, channels))


def smooth(channels=3):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    planes = [40 + 9 * y, 230 - 14 * x, 20 + 5 * x + 5 * y, 100 + 3 * x + 4 * y]
    return np.stack(planes[:channels], axis=-1).astype(np.uint8)


def flat(pixels):
    return pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels


def upright(pixels, orientation):
    """EXIF 2.32, 4.6.5: where row 0 and column 0 are on the displayed image."""
    turned = pixels.swapaxes(0, 1) if orientation > 4 else pixels
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    return turned[:, ::-1] if orientation in (2, 3, 6, 7) else turned


def keep(name, data, pixels=None):
    FILES[name] = data
    if pixels is not None:
        PIXELS[name] = np.ascontiguousarray(flat(pixels))


def exif(orientation):
    block = Image.Exif()
    block[274] = orientation
    return block.tobytes()


def pillow(name, image, kind, expected=None, **options):
    """Written by Pillow; read by Pillow unless the pixels are known."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    if expected is None:
        expected = np.asarray(ImageOps.exif_transpose(Image.open(file)).convert('RGB' if image.mode != 'L' else 'L'))
    keep(name, file.getvalue(), expected)


def chunk(kind, data):
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def packed(values, depth):
    """Rows of samples as PNG has them, each with filter 0."""
    rows = b''
    for row in values.reshape(len(values), -1):
        bits = ''.join(f'{v:0{depth}b}' for v in row)
        rows += b'\0' + int(bits.ljust(-(-len(bits) // 8) * 8, '0'), 2).to_bytes(-(-len(bits) // 8), 'big')
    return rows


def png(samples, depth, colour, interlaced=False, before=b'', after=b'', parts=1):
    """(H,W,C) samples as a PNG file, put together by hand."""
    height, width = samples.shape[:2]
    starts = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    passes = [samples[y::sy, x::sx] for y, x, sy, sx in starts] if interlaced else [samples]
    data = zlib.compress(b''.join(packed(p, depth) for p in passes if p.size))
    size = -(-len(data) // parts)
    idat = b''.join(chunk(b'IDAT', data[i : i + size]) for i in range(0, len(data), size))
    header = struct.pack('>IIBBBBB', width, height, depth, colour, 0, 0, int(interlaced))
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + before + idat + after + chunk(b'IEND', b'')


def make_png():
    for name, channels, colour in [('grey', 1, 0), ('rgb', 3, 2), ('greyalpha', 2, 4), ('rgba', 4, 6)]:
        for depth in (8, 16):
            for interlaced in (False, True):
                pixels = noise(channels, depth)
                seen = pixels[..., [0, 0, 0, 1]] if channels == 2 else pixels
                ending = '_interlaced.png' if interlaced else '.png'
                keep(f'{name}{depth}{ending}', png(pixels, depth, colour, interlaced), seen)
    for depth in (1, 2, 4):
        levels = noise(1) >> (8 - depth)
        keep(f'grey{depth}.png', png(levels, depth, 0), levels * (255 // ((1 << depth) - 1)))
    for depth in (1, 2, 4, 8):
        index, palette = noise(1) >> (8 - depth), RNG.integers(0, 256, (1 << depth, 3), dtype=np.uint8)
        plte = chunk(b'PLTE', palette.tobytes())
        keep(f'palette{depth}.png', png(index, depth, 3, before=plte), palette[index[..., 0]])
    alpha = np.full((256, 1), 255, np.uint8)
    alpha[:100, 0] = np.arange(100)
    plte += chunk(b'tRNS', alpha[:100].tobytes())
    keep('palette8_alpha.png', png(index, 8, 3, before=plte), np.hstack([palette, alpha])[index[..., 0]])
    pixels = noise(3)
    clear = (pixels == pixels[4, 5]).all(-1, keepdims=True)
    trns = chunk(b'tRNS', struct.pack('>3H', *pixels[4, 5].tolist()))
    keep('rgb8_key.png', png(pixels, 8, 2, before=trns), np.dstack([pixels, np.where(clear, 0, 255).astype(np.uint8)]))
    keep('grey8_key.png', png(pixels[..., :1], 8, 0, before=chunk(b'tRNS', b'\0\7')), pixels[..., :1])
    for name, before, after in [
        (
            'text',
            chunk(b'tEXt', b'Comment\0made by hand') + chunk(b'iTXt', b'Title\0\0\0\0\0x'),
            chunk(b'tEXt', b'a\0b'),
        ),
        (
            'profile',
            chunk(
                b'iCCP', b'p\0\0' + zlib.compress(ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes())
            ),
            b'',
        ),
        ('bomb_in_text', chunk(b'zTXt', b'Comment\0\0' + zlib.compress(bytes(30_000_000), 9)), b''),
        ('bomb_in_profile', chunk(b'iCCP', b'p\0\0' + zlib.compress(b'\1\0\0\0' + bytes(30_000_000), 9)), b''),
        ('gamma', chunk(b'gAMA', struct.pack('>I', 100000)), b''),
    ]:
        keep(f'rgb8_{name}.png', png(pixels, 8, 2, before=before, after=after, parts=5), pixels)
    for o in range(1, 9):
        block = chunk(b'eXIf', exif(o)[6:])
        for name, channels, depth, colour in [('grey', 1, 8, 0), ('rgb', 3, 16, 2), ('rgba', 4, 8, 6)]:
            pixels = noise(channels, depth)
            keep(f'{name}{depth}_turned{o}.png', png(pixels, depth, colour, before=block), upright(pixels, o))
        keep(f'late_turned{o}.png', png(pixels, 8, 6, after=block, parts=3), upright(pixels, o))
    frames = [Image.fromarray(noise(3)) for _ in range(3)]
    for still in (False, True):
        pillow(f'animated_{still}.png', frames[0], 'PNG', np.asarray(frames[0]), save_all=True,
               append_images=frames[1:], default_image=still)  # fmt: skip


def make_jpeg():
    grey, rgb = Image.fromarray(smooth(1)[..., 0]), Image.fromarray(smooth(3))
    pillow('grey.jpg', grey, 'JPEG', quality=95)
    for sampling in (0, 1, 2):
        pillow(f'rgb{sampling}.jpg', rgb, 'JPEG', quality=95, subsampling=sampling)
    pillow('progressive.jpg', rgb, 'JPEG', quality=95, progressive=True)
    pillow('profile.jpg', rgb, 'JPEG', quality=95, icc_profile=bytes(100_000), comment='x')
    pillow('cmyk.jpg', rgb.convert('CMYK'), 'JPEG', quality=100)
    for o in range(1, 9):
        pillow(f'rgb_turned{o}.jpg', rgb, 'JPEG', quality=95, subsampling=0, exif=exif(o))
        pillow(f'grey_turned{o}.jpg', grey, 'JPEG', quality=95, exif=exif(o))
    data = bytearray(FILES['rgb0.jpg'])
    data[data.index(b'\xff\xc0') + 4] = 12
    keep('twelve_bits.jpg', bytes(data))


def make_webp():
    rgb, rgba = noise(3), noise(4)
    pillow('rgb.webp', Image.fromarray(rgb), 'WEBP', rgb, lossless=True)
    pillow('rgba.webp', Image.fromarray(rgba), 'WEBP', rgba, lossless=True, exact=True)
    pillow('lossy.webp', Image.fromarray(smooth(3)), 'WEBP', quality=90)
    file = io.BytesIO()
    Image.fromarray(smooth(4)).save(file, 'WEBP', quality=90)
    keep('lossy_alpha.webp', file.getvalue(), np.asarray(Image.open(file)))
    for o in range(1, 9):
        for name, pixels in (('rgb', rgb), ('rgba', rgba)):
            pillow(f'{name}_turned{o}.webp', Image.fromarray(pixels), 'WEBP', upright(pixels, o), lossless=True,
                   exact=True, exif=exif(o))  # fmt: skip
    frames = [Image.fromarray(noise(4)) for _ in range(3)]
    for frame in frames:
        frame.putalpha(255)
    pillow('animated.webp', frames[0], 'WEBP', np.asarray(frames[0])[..., :3], save_all=True, append_images=frames[1:],
           lossless=True, exact=True)  # fmt: skip


def bmp(rows, bits, packing=0, top_down=False, masks=b'', palette=b'', size=40):
    height = -HEIGHT if top_down else HEIGHT
    offset = 14 + 40 + len(masks) + len(palette) + (size - 40 - len(masks) if size > 40 else 0)
    head = struct.pack('<IiiHHIIiiII', size, WIDTH, height, 1, bits, packing, len(rows), 0, 0, len(palette) // 4, 0)
    head += masks if size == 40 else masks.ljust(size - 40, b'\0')
    return b'BM' + struct.pack('<IHHI', offset + len(rows), 0, 0, offset) + head + palette + rows


def padded(pixels):
    """Rows of a BMP file, the lowest first."""
    rows = np.ascontiguousarray(pixels[::-1]).view(np.uint8).reshape(HEIGHT, -1)
    return np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4))).tobytes()


def make_bmp():
    for mode in ('1', 'L', 'RGB'):
        image = Image.fromarray(noise(3)).convert(mode)
        pillow(f'{mode}.bmp', image, 'BMP', np.asarray(image.convert('L' if mode != 'RGB' else 'RGB')))
    image = Image.fromarray(noise(3)).quantize(200)
    pillow('palette.bmp', image, 'BMP', np.asarray(image.convert('RGB')))
    rgb, rgba = noise(3), noise(4)
    keep('top_down.bmp', bmp(padded(rgb[::-1, :, ::-1]), 24, top_down=True), rgb)
    masks = struct.pack('<4I', 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    keep('rgba.bmp', bmp(padded(rgba[..., [2, 1, 0, 3]]), 32, 3, masks=masks, size=124), rgba)
    keep('rgbx.bmp', bmp(padded(rgba[..., [2, 1, 0, 3]]), 32), rgba[..., :3])
    five = noise(3) >> 3
    words = (five[..., 0].astype(np.uint16) << 10) | (five[..., 1].astype(np.uint16) << 5) | five[..., 2]
    keep('fifteen_bits.bmp', bmp(padded(words), 16), five << 3)
    palette = np.hstack([RNG.integers(0, 256, (256, 3), dtype=np.uint8), np.zeros((256, 1), np.uint8)])
    index = noise(1)[..., 0]
    rows = b''.join(b''.join(bytes([1, v]) for v in row) + b'\0\0' for row in index[::-1]) + b'\0\1'
    keep('rle8.bmp', bmp(rows, 8, 1, palette=palette.tobytes()), palette[index][..., [2, 1, 0]])


def tiff(name, pixels, expected=None, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    keep(name, file.getvalue(), expected)


def make_tiff():
    photo = {1: 'minisblack', 3: 'rgb', 4: 'rgb'}
    for channels in (1, 3, 4):
        alpha = {'extrasamples': ['unassalpha']} if channels == 4 else {}
        for bits in (8, 16):
            for name, options in [
                ('plain', {}),
                ('strips', {'rowsperstrip': 4}),
                ('deflate', {'compression': 'zlib', 'predictor': True, 'rowsperstrip': 5}),
                ('tiles', {'tile': (16, 16), 'compression': 'zlib'}),
                ('bigtiff', {'bigtiff': True}),
                ('motorola', {'byteorder': '>', 'compression': 'zlib'}),
            ]:
                pixels = noise(channels, bits)
                shown = pixels[..., 0] if channels == 1 else pixels
                tiff(f'{name}_{channels}x{bits}.tif', shown, shown, photometric=photo[channels], metadata=None,
                     **options, **alpha)  # fmt: skip
            for o in range(1, 9) if (channels, bits) in ((1, 8), (4, 8), (3, 16)) else ():
                tag = [(274, 'H', 1, o, True)]
                for name, options in (
                    ('strips', {'rowsperstrip': 4}),
                    ('tiles', {'tile': (16, 16), 'compression': 'zlib'}),
                ):
                    tiff(f'{name}_{channels}x{bits}_turned{o}.tif', shown, upright(shown, o), extratags=tag,
                         photometric=photo[channels], metadata=None, **options, **alpha)  # fmt: skip
    for bits in (8, 16):
        grey, rgb = noise(1, bits)[..., 0], noise(3, bits)
        tiff(f'white_is_zero{bits}.tif', grey, (1 << bits) - 1 - grey, photometric='miniswhite', metadata=None)
        tiff(f'pages{bits}.tif', np.stack([rgb, rgb[::-1]]), rgb, photometric='rgb', metadata=None)
        planes = np.ascontiguousarray(rgb.transpose(2, 0, 1))
        tiff(f'planar{bits}.tif', planes, rgb if bits == 8 else None, photometric='rgb', planarconfig='separate',
             metadata=None)  # fmt: skip
        tiff(f'greyalpha{bits}.tif', noise(2, bits), photometric='minisblack', extrasamples=['unassalpha'],
             planarconfig='contig', metadata=None)  # fmt: skip
    for dtype in ('float32', 'float64', 'float16', 'int16', 'int8', 'uint32'):
        tiff(f'{dtype}.tif', noise(1)[..., 0].astype(dtype), photometric='minisblack', metadata=None)
    rgb = Image.fromarray(noise(3))
    for compression in ('raw', 'tiff_lzw', 'tiff_adobe_deflate', 'tiff_deflate', 'packbits'):
        pillow(f'pillow_{compression}.tif', rgb, 'TIFF', np.asarray(rgb), compression=compression)
    pillow('pillow_jpeg.tif', Image.fromarray(smooth(3)), 'TIFF', compression='jpeg', quality=95)
    one = Image.fromarray(noise(1)[..., 0]).convert('1')
    for compression in ('raw', 'group3', 'group4', 'packbits'):
        pillow(f'one_bit_{compression}.tif', one, 'TIFF', np.asarray(one.convert('L')), compression=compression)
    palette = rgb.quantize(200)
    pillow('palette.tif', palette, 'TIFF', np.asarray(palette.convert('RGB')))
    pillow('cmyk.tif', rgb.convert('CMYK'), 'TIFF', np.asarray(rgb))


if __name__ == '__main__':
    make_png()
    make_jpeg()
    make_webp()
    make_bmp()
    make_tiff()
    index, pieces = {}, []
    for name, data in FILES.items():
        pixels = PIXELS.get(name)
        shown = b'' if pixels is None else pixels.tobytes()
        kind = None if pixels is None else [pixels.shape, pixels.dtype.name]
        index[name] = [len(data), len(shown), kind]
        pieces += [data, shown]
    blob = np.frombuffer(b''.join(pieces), np.uint8)
    np.savez_compressed(Path(__file__).with_name('images.npz'), index=json.dumps(index), blob=blob)
