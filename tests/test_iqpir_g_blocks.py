"""Parts of IQPIR-G: windows as the paper describes them, and a second decoder that begins as nothing."""

import torch
from torch import nn

from basicsr.archs.iqpir_g_blocks import Body, Encoder, FidelityDecoder, Generator, WindowBlock, nearness


def close(found, wanted, atol=1e-5):
    torch.testing.assert_close(found, wanted, rtol=0, atol=atol)


def test_windows_are_those_of_a_plain_reading_of_the_paper():
    torch.manual_seed(0)
    for shifted in (False, True):
        block = WindowBlock(8, 2, 4, shifted).double()
        torch.nn.init.normal_(block.bias)
        x = torch.randn(1, 7, 10, 8).double()
        with torch.no_grad():
            close(block._attention(x), plain_windows(block, x), 1e-12)


def plain_windows(block, x):
    """One token at a time; tokens outside of the features have keys and values of zero."""
    _, height, width, channels = x.shape
    size, side, begin = channels // block.heads, block.window, -block.shift
    q, k, v = block.qkv(x[0]).split(channels, -1)
    result = torch.zeros_like(x)
    for i in range(height):
        for j in range(width):
            top, left = ((place - begin) // side * side + begin for place in (i, j))
            for head in range(block.heads):
                part = slice(head * size, (head + 1) * size)
                scores, values = [], []
                for a in range(top, top + side):
                    for b in range(left, left + side):
                        inside = 0 <= a < height and 0 <= b < width
                        score = q[i, j, part] @ k[a, b, part] / size**0.5 if inside else torch.zeros(()).double()
                        offset = (i - a + side - 1) * (2 * side - 1) + j - b + side - 1
                        scores.append(score + block.bias[offset, head])
                        values.append(v[a, b, part] if inside else torch.zeros(size).double())
                result[0, i, j, part] = torch.stack(scores).softmax(0) @ torch.stack(values)
    return block.proj(result)


def test_a_change_of_zero_is_none_and_moves_norms_and_gates():
    torch.manual_seed(0)
    block, x = WindowBlock(8, 2, 4, False), torch.randn(2, 5, 6, 8)
    change = torch.zeros(2, 6, 1, 8)
    with torch.no_grad():
        close(block(x, change), block(x))
        change[1, (2, 5)] = -1.0  # gates of zero
        found = block(x, change)
        assert torch.equal(found[1], x[1])
        close(found[0], block(x)[0])
        change[0, 0], change[0, 1] = 0.3, 0.5
        y = x + block._attention(block.norm1(x) * 1.5 + 0.3)
        y = y + block.fc2(nn.functional.gelu(block.fc1(block.norm2(y))))
        close(block(x, change)[0], y[0])


def test_every_second_block_is_shifted():
    assert [block.shift for block in Body('swin', 8, 4, 2, 6).blocks] == [0, 3, 0, 3]


def test_levels_of_encoder_generator_and_second_decoder_fit():
    widths, blocks = [4, 6, 10], [1, 0, 1]
    features = Encoder(widths, blocks)(torch.rand(1, 3, 16, 24))
    assert [tuple(f.shape[1:]) for f in features] == [(4, 16, 24), (6, 8, 12), (10, 4, 6)]
    drawn = Generator(5, widths, blocks).features(torch.rand(1, 5, 4, 6))
    assert [f.shape for f in drawn] == [f.shape for f in features[::-1]]
    second = FidelityDecoder(widths, blocks)
    assert torch.equal(second(drawn, features[::-1]), torch.zeros(1, 3, 16, 24))
    nn.init.normal_(second.last.weight)
    for n in range(3):  # every skip counts
        changed = [f + 1 if n == k else f for k, f in enumerate(features[::-1])]
        assert (second(drawn, changed) - second(drawn, features[::-1])).abs().max() > 1e-3


def test_nearness_is_a_squared_distance_under_autocast_too():
    x, book = torch.rand(2, 5, 3, 4), torch.rand(7, 5)
    wanted = -(x[:, None] - book[:, :, None, None]).square().sum(2)
    close(nearness(x, book), wanted)
    with torch.autocast('cpu', torch.bfloat16):
        close(nearness(x, book), wanted)
