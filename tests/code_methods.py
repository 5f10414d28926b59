"""Helpers of the tests of methods that predict codes: small networks of both layouts, batches, methods."""

import copy
import math

import torch

from basicsr.registry import ARCH_REGISTRY, MODEL_REGISTRY, build

SIDE = 32
OF_G = {'width': 8, 'stride': 4, 'dim': 8, 'entries': 12, 'entries_hq': 10}
OF_FACES = {
    'img_size': SIDE, 'nf': 16, 'emb_dim': 16, 'ch_mult': [1, 2], 'res_blocks': 1, 'attn_resolutions': [],
    'codebook_size': 12,
}  # fmt: skip
AUTOENCODERS = {
    'IQPIRG': {'type': 'IQPIRGAutoEncoder', **OF_G},
    'IQPIRFormer': {'type': 'VQAutoEncoder', **OF_FACES},
}
PREDICTORS = {
    'IQPIRG': {'type': 'IQPIRG', **OF_G, 'depth': 2, 'heads': 2, 'window': 4},
    'IQPIRFormer': {
        'type': 'IQPIRFormer', **OF_FACES, 'dim_embd': 32, 'n_head': 4, 'n_layers': 2, 'connect_list': [SIDE],
    },
}  # fmt: skip
READERS = {'IQPIRG': ('body', 'norm', 'logits'), 'IQPIRFormer': ('ft_layers', 'idx_pred_layer', 'position_emb')}
FIDELITY = {'IQPIRG': ('fidelity',), 'IQPIRFormer': ('fuse_convs_dict',)}
BOOKS = ('quantize', 'quantize_aesthetic', 'generator')
COLOURFUL = {'type': 'Colourfulness', 'low': -100, 'high': 300}  # wide, so that nothing is clipped


def autoencoder(kind='IQPIRG', seed=0, **options):
    """An autoencoder of stage I, with books that its features spread over."""
    torch.manual_seed(seed)
    net = build(ARCH_REGISTRY, {**AUTOENCODERS[kind], **options}).eval()
    with torch.no_grad():
        for book in net.books:
            found = net.latent(torch.rand(8, 3, SIDE, SIDE)).permute(0, 2, 3, 1).flatten(0, 2)
            book.embedding.weight.copy_(found[torch.randperm(len(found))[: book.entries]])
    return net.requires_grad_(False)


def saved(folder, kind='IQPIRG', seed=0, **options):
    """The weight file of such an autoencoder."""
    path = folder / f'{kind}_{seed}.pth'
    torch.save(
        {'params': autoencoder(kind, seed, **options).state_dict(), 'network_g': {**AUTOENCODERS[kind], **options}},
        path,
    )
    return path


def predictor(kind='IQPIRG', seed=1, **options):
    """A predictor of codes whose score condition does something."""
    torch.manual_seed(seed)
    net = build(ARCH_REGISTRY, {**copy.deepcopy(PREDICTORS[kind]), **options})
    with torch.no_grad():
        for p in net.score_embed.parameters():
            p.normal_(0, 0.2)
    return net


def method(folder, kind='IQPIRG', model='IQPIRCodeModel', net=None, nets=None, iteration=1, **options):
    """A training method in the midst of its run, with an autoencoder unless ``autoencoder_path`` says otherwise."""
    options = {'autoencoder_path': str(saved(folder, kind)), **options}
    networks = {'g': net or predictor(kind), **(nets or {})}
    torch.manual_seed(2)
    found = build(MODEL_REGISTRY, {'type': model, **copy.deepcopy(options)}, networks=networks).train()
    found.start_iteration(iteration)
    return found


def batch(count=4, seed=3, side=SIDE):
    """Smooth colourful images, and what a blind eye would see of them."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    gt = torch.nn.functional.interpolate(coarse, size=(side, side), mode='bilinear')
    gt = (gt + 0.1 * torch.rand(gt.shape, generator=generator)).clamp(0, 1)
    lq = torch.nn.functional.avg_pool2d(gt, 5, 1, 2)
    scores = torch.linspace(0.15, 0.95, count)
    return {'lq': lq, 'gt': gt, 'key': [f'image{n}' for n in range(count)], 'score': scores}


def part(whole, n):
    """Sample ``n`` of a batch as a batch of one."""
    return {k: v[n : n + 1] for k, v in whole.items()}


def total(losses):
    """What is minimised."""
    return sum(v for k, v in losses.items() if k.startswith('l_'))


def gradients(model, loss):
    """Gradients of a loss by the first part of the parameters' names: sum of absolute values."""
    model.zero_grad()
    loss.backward()
    found = {}
    for name, p in model.net_g.named_parameters():
        size = 0.0 if p.grad is None else float(p.grad.abs().sum())
        found[name.partition('.')[0]] = found.get(name.partition('.')[0], 0.0) + size
    assert all(map(math.isfinite, found.values()))
    return found
