"""Small networks of codes for tests, and the published forward passes once more, plainly, from nothing but weights."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from basicsr.archs import build_network

SIDE, CODES, WIDTH = 32, 8, 32
VQ = {
    'type': 'VQAutoEncoder', 'img_size': SIDE, 'nf': 32, 'emb_dim': WIDTH, 'ch_mult': [1, 2], 'res_blocks': 2,
    'attn_resolutions': [16], 'codebook_size': CODES,
}  # fmt: skip
FORMER = VQ | {'type': 'IQPIRFormer', 'dim_embd': 32, 'n_head': 4, 'n_layers': 2, 'connect_list': [32, 16]}
CODEFORMER = FORMER | {'quantizer': 'nearest', 'score_mode': 'none'}
MODES = ('none', 'spatial_add', 'vector_add', 'fourier_film', 'adaln_zero', 'token')
GROUPS = 32


def build(block, seed=0, **more):
    """A network whose weights all do something: none is zero, and features spread over the entries of the books."""
    torch.manual_seed(seed)
    net = build_network({**block, **more}).eval()
    lively(net)
    return net


@torch.no_grad()
def lively(net):
    for name, p in net.named_parameters():
        if name == 'position_emb':
            p.normal_()
        elif 'quantize' in name:
            p.normal_(0, 0.5)
        elif p.dim() == 1:  # biases, and scales of normalisation, which are 1
            p.add_(0.1 * torch.randn_like(p))
    return net


def faces(count=2, seed=5):
    """Images (N,3,32,32) in [0,1], smooth and noisy places side by side."""
    g = torch.Generator().manual_seed(seed)
    coarse = F.interpolate(torch.rand(count, 3, 4, 4, generator=g), size=SIDE, mode='bilinear')
    return (coarse + 0.2 * torch.randn(count, 3, SIDE, SIDE, generator=g)).clamp(0, 1)


def flat_grad(loss, module: nn.Module):
    """Gradients of a module's parameters in one vector, zeros where there is none."""
    grads = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True, retain_graph=True)
    return torch.cat([torch.zeros(p.numel()) if g is None else g.flatten() for p, g in zip(module.parameters(), grads)])


# ---- the published forward passes, from a state dict; CodeFormer, arXiv:2206.11253, and IQPIR, arXiv:2603.29773 -----


def linear(sd, key, x):
    return x @ sd[f'{key}.weight'].t() + sd.get(f'{key}.bias', 0)


def conv(sd, key, x, **more):
    weight = sd[f'{key}.weight']
    return F.conv2d(x, weight, sd[f'{key}.bias'], **{'padding': weight.shape[-1] // 2, **more})


def group_norm(sd, key, x):
    n, c, h, w = x.shape
    y = x.reshape(n, GROUPS, -1)
    y = (y - y.mean(-1, keepdim=True)) / torch.sqrt(y.var(-1, unbiased=False, keepdim=True) + 1e-6)
    return y.reshape(n, c, h, w) * sd[f'{key}.weight'][:, None, None] + sd[f'{key}.bias'][:, None, None]


def swish(x):
    return x * torch.sigmoid(x)


def res_block(sd, key, x):
    y = conv(sd, f'{key}.conv1', swish(group_norm(sd, f'{key}.norm1', x)))
    y = conv(sd, f'{key}.conv2', swish(group_norm(sd, f'{key}.norm2', y)))
    return y + (conv(sd, f'{key}.conv_out', x) if f'{key}.conv_out.weight' in sd else x)


def attention_block(sd, key, x):
    n, c, h, w = x.shape
    y = group_norm(sd, f'{key}.norm', x)
    q, k, v = (conv(sd, f'{key}.{name}', y).reshape(n, c, h * w) for name in 'qkv')
    affinity = torch.softmax(torch.einsum('nci,ncj->nij', q, k) / math.sqrt(c), dim=2)
    return x + conv(sd, f'{key}.proj_out', torch.einsum('nij,ncj->nci', affinity, v).reshape(n, c, h, w))


def block(sd, key, x, up):
    """A block of the encoder or the generator, recognised by what it holds."""
    if f'{key}.norm1.weight' in sd:
        return res_block(sd, key, x)
    if f'{key}.q.weight' in sd:
        return attention_block(sd, key, x)
    if f'{key}.conv.weight' in sd and up:
        return conv(sd, f'{key}.conv', x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    if f'{key}.conv.weight' in sd:
        return conv(sd, f'{key}.conv', F.pad(x, (0, 1, 0, 1)), stride=2, padding=0)
    return conv(sd, key, x) if sd[f'{key}.weight'].dim() == 4 else group_norm(sd, key, x)


def chain(sd, part, x, taps=None, change=None):
    """All blocks of a part; after block n, ``taps[n]`` is noted or ``change[n]`` applied."""
    noted = {}
    for n in range(1 + max(int(key.split('.')[2]) for key in sd if key.startswith(f'{part}.blocks.'))):
        x = block(sd, f'{part}.blocks.{n}', x, part == 'generator')
        if taps and n in taps:
            noted[taps[n]] = x
        if change and n in change:
            x = change[n](x)
    return x, noted


def transformer_layer(sd, key, x, position, heads):
    """A layer on tokens (L,N,D), which is their published order."""
    y = F.layer_norm(x, x.shape[-1:], sd[f'{key}.norm1.weight'], sd[f'{key}.norm1.bias'])
    weights, biases = sd[f'{key}.self_attn.in_proj_weight'].chunk(3), sd[f'{key}.self_attn.in_proj_bias'].chunk(3)
    q, k, v = (z @ w.t() + b for z, w, b in zip((y + position, y + position, y), weights, biases))
    length, n, dim = x.shape
    q, k, v = (z.reshape(length, n, heads, dim // heads) for z in (q, k, v))
    affinity = torch.softmax(torch.einsum('inhd,jnhd->nhij', q, k) / math.sqrt(dim // heads), dim=-1)
    found = torch.einsum('nhij,jnhd->inhd', affinity, v).reshape(length, n, dim)
    x = x + linear(sd, f'{key}.self_attn.out_proj', found)
    y = F.layer_norm(x, x.shape[-1:], sd[f'{key}.norm2.weight'], sd[f'{key}.norm2.bias'])
    return x + linear(sd, f'{key}.linear2', F.gelu(linear(sd, f'{key}.linear1', y)))


def sft(sd, key, enc, dec, w):
    seen = res_block(sd, f'{key}.encode_enc', torch.cat([enc, dec], dim=1))
    scale, shift = (
        conv(sd, f'{key}.{name}.2', F.leaky_relu(conv(sd, f'{key}.{name}.0', seen), 0.2)) for name in ('scale', 'shift')
    )
    return dec + w * (dec * scale + shift)


def moments(x):
    flat = x.reshape(*x.shape[:2], -1)
    return flat.mean(2)[..., None, None], (flat.var(2) + 1e-5).sqrt()[..., None, None]


def literal_former(sd, images, enc_taps, gen_taps, heads, score=None, hq_weight=0.8, w=0.0, adain=True):
    """CodeFormer, or IQPIR where there are two books, on images in [0,1]; taps are block numbers by height.

    Returns:
        The image in [0,1], and the logits (N,L,n) or (N,L,n,2), in which 0 is the high-quality book.
    """
    x, skips = chain(sd, 'encoder', images * 2 - 1, {n: height for height, n in enc_taps.items()})
    n, c, h, _ = x.shape
    if score is not None:
        x = x + sd['score_embed.weight'][[min(int(10 * s), 9) for s in score]].reshape(x.shape)
    tokens = linear(sd, 'feat_emb', x.flatten(2).permute(2, 0, 1))
    for i in range(1 + max(int(key.split('.')[1]) for key in sd if key.startswith('ft_layers.'))):
        tokens = transformer_layer(sd, f'ft_layers.{i}', tokens, sd['position_emb'][:, None], heads)
    norm = 'idx_pred_layer.0'
    tokens = F.layer_norm(tokens, tokens.shape[-1:], sd[f'{norm}.weight'], sd[f'{norm}.bias'])
    logits = linear(sd, 'idx_pred_layer.1', tokens).permute(1, 0, 2)
    books = [sd['quantize.embedding.weight']]
    parts = [logits]
    if 'quantize_aesthetic.embedding.weight' in sd:
        logits = logits.reshape(n, h * h, -1, 2)
        books.append(sd['quantize_aesthetic.embedding.weight'])
        parts = [logits[..., 1], logits[..., 0]]
    found = [F.one_hot(part.argmax(-1), part.shape[-1]).to(book.dtype) @ book for part, book in zip(parts, books)]
    z = found[0] + (hq_weight * found[1] if len(found) == 2 else 0)
    z = z.reshape(n, h, h, c).permute(0, 3, 1, 2)
    if adain:
        (mean, deviation), (wanted_mean, wanted) = moments(z), moments(x)
        z = (z - mean) / deviation * wanted + wanted_mean
    change = {
        place: lambda y, height=height: sft(sd, f'fuse_convs_dict.{height}', skips[height], y, w)
        for height, place in gen_taps.items()
    }
    return (chain(sd, 'generator', z, change=change if w > 0 else None)[0] + 1) / 2, logits


# ---- the released keys and shapes, at 512 x 512 --------------------------------------------------------------------


def res(prefix, channels, out):
    shapes = {'norm1': [channels], 'conv1': [out, channels, 3, 3], 'norm2': [out], 'conv2': [out, out, 3, 3]}
    return named(prefix, shapes | ({'conv_out': [out, channels, 1, 1]} if channels != out else {}))


def attn(prefix, c):
    return named(prefix, {'norm': [c]} | {key: [c, c, 1, 1] for key in ('q', 'k', 'v', 'proj_out')})


def named(prefix, shapes):
    """Weights and biases of layers; a layer's bias is as long as its weight's first side."""
    kinds = {'weight': lambda shape: shape, 'bias': lambda shape: shape[:1]}
    return {f'{prefix}{name}.{kind}': of(shape) for name, shape in shapes.items() for kind, of in kinds.items()}


def released_autoencoder(second_book):
    """Keys and shapes of the released stage I at 512 x 512, block by block as they are numbered there."""
    channels = [64, 64, 128, 128, 256, 256, 512]
    found = named('encoder.blocks.', {'0': [64, 3, 3, 3], '23': [512], '24': [256, 512, 3, 3]})
    found |= named('generator.blocks.', {'0': [512, 256, 3, 3], '23': [64], '24': [3, 64, 3, 3]})
    for part, middle in (('encoder', 20), ('generator', 1)):
        found |= res(f'{part}.blocks.{middle}.', 512, 512) | res(f'{part}.blocks.{middle + 2}.', 512, 512)
        found |= attn(f'{part}.blocks.{middle + 1}.', 512)
    for level, (first, second) in enumerate(((1, 2), (4, 5), (7, 8), (10, 11), (13, 14), (16, 18))):
        c, out = channels[level : level + 2]
        found |= res(f'encoder.blocks.{first}.', c, out) | res(f'encoder.blocks.{second}.', out, out)
        if level < 5:
            found |= named(f'encoder.blocks.{second + 1}.', {'conv': [out, out, 3, 3]})
    levels = ((4, 6), (9, 10), (12, 13), (15, 16), (18, 19), (21, 22))
    for (first, second), c, out in zip(levels, (512, 512, 256, 256, 128, 128), (512, 256, 256, 128, 128, 64)):
        found |= res(f'generator.blocks.{first}.', c, out) | res(f'generator.blocks.{second}.', out, out)
        if first > 4:
            found |= named(f'generator.blocks.{first - 1}.', {'conv': [c, c, 3, 3]})
    for key in ('encoder.blocks.17.', 'encoder.blocks.19.', 'generator.blocks.5.', 'generator.blocks.7.'):
        found |= attn(key, 512)
    books = ('quantize', 'quantize_aesthetic')[: 1 + second_book]
    return found | {f'{book}.embedding.weight': [1024, 256] for book in books}


def released_former(second_book, tables):
    """Keys and shapes of CodeFormer, or of IQPIR; ``tables`` by key, the shapes of those of scores."""
    found = released_autoencoder(second_book) | tables | {'position_emb': [256, 512]}
    found |= named('', {'feat_emb': [512, 256], 'idx_pred_layer.0': [512]})
    found['idx_pred_layer.1.weight'] = [2048 if second_book else 1024, 512]
    for n in range(9):
        layer = {'self_attn.out_proj': [512, 512], 'linear1': [1024, 512], 'linear2': [512, 1024]}
        found |= named(f'ft_layers.{n}.', layer | {'norm1': [512], 'norm2': [512]})
        found |= {
            f'ft_layers.{n}.self_attn.in_proj_{k}': [1536, 512][: 1 + (k == 'weight')] for k in ('weight', 'bias')
        }
    for height, c in ((32, 256), (64, 256), (128, 128), (256, 128)):
        found |= res(f'fuse_convs_dict.{height}.encode_enc.', 2 * c, c)
        places = ('scale.0', 'scale.2', 'shift.0', 'shift.2')
        found |= named(f'fuse_convs_dict.{height}.', {place: [c, c, 3, 3] for place in places})
    return found
