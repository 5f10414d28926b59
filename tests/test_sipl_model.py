"""SIPL's training: which image is read, what gets gradients, and that it learns and resumes."""

import pytest
import torch

from basicsr.archs import build_network
from basicsr.errors import OptionError
from basicsr.models.sipl_model import SIPLModel

HOST = {'type': 'NAFNet', 'width': 4, 'enc_blk_nums': [1, 1], 'middle_blk_num': 1, 'dec_blk_nums': [1, 1]}
LEVEL = {'size': 16, 'strides': [2], 'heads_fuse': [1], 'heads_inject': [1]}
PIXEL = {'type': 'L1Loss'}


def network(kind='ProxyFusion', **more):
    torch.manual_seed(0)
    net = build_network({'type': kind, 'host': HOST, **(LEVEL if kind == 'ProxyFusion' else {}), **more}).train()
    for p in net.host.parameters():  # fresh blocks are the identity
        p.data.add_(0.05 * torch.randn(p.shape))
    return net


def model(kind='ProxyFusion', **options):
    return SIPLModel({'g': network(kind)}, PIXEL, **options)


def batch(count=2, seed=0):
    rng = torch.Generator().manual_seed(seed)
    lq, gt = torch.rand(2, count, 3, 16, 16, generator=rng)
    return {'lq': lq, 'gt': gt, 'key': [f'image {n}' for n in range(count)]}


def gradients(method, data):
    method.zero_grad()
    sum(v for k, v in method.losses(data).items() if k.startswith('l_')).backward()
    return {k: None if p.grad is None else p.grad.clone() for k, p in method.net_g.named_parameters()}


def test_the_released_step_restores_with_features_of_the_restored_ground_truth():
    method, data = model(), batch()
    net = method.net_g
    with torch.no_grad():
        better = net.shared(data['gt'])()
        wanted = net(data['lq'], privileged=net.privilege(better))
    losses = method.losses(data)
    assert list(losses) == ['l_pix']
    torch.testing.assert_close(losses['l_pix'], (wanted - data['gt']).abs().mean())
    method.source = 'gt'
    with torch.no_grad():
        wanted = net(data['lq'], privileged=net.privilege(data['gt']))
    torch.testing.assert_close(method.losses(data)['l_pix'], (wanted - data['gt']).abs().mean())


@pytest.mark.parametrize('source', ['restored_gt', 'gt'])
@pytest.mark.parametrize('kind', ['ProxyFusion', 'PrivilegedSkips'])
def test_no_gradient_goes_through_the_better_image(kind, source):
    method, data = model(kind, privilege=source), batch()
    assert not any(f.requires_grad for f in method.privileged(data['gt'].requires_grad_()))
    method.losses(data)['l_pix'].backward()
    direct = torch.autograd.grad((torch.zeros_like(data['gt']) - data['gt']).abs().mean(), data['gt'])[0]
    torch.testing.assert_close(data['gt'].grad.abs(), direct.abs())  # that of the comparison alone


def test_all_that_is_added_learns_on_the_released_path():
    found = gradients(model(), batch())
    still = [key for key, g in found.items() if g is None or g.abs().max() == 0]
    assert still == []


def test_the_plain_path_and_the_refinement_are_trained_where_asked_for():
    data = batch()
    method = model(raw_weight=0.5, steps=2, step_weight=0.25)
    losses, net = method.losses(data), method.net_g
    assert list(losses) == ['l_pix', 'l_pix_raw', 'l_pix_step1', 'l_pix_step2']
    with torch.no_grad():
        plain, first, second = net.steps(data['lq'], 2)
    for key, image, weight in (('raw', plain, 0.5), ('step1', first, 0.25), ('step2', second, 0.25)):
        torch.testing.assert_close(losses[f'l_pix_{key}'], weight * (image - data['gt']).abs().mean())
    assert losses['l_pix_raw'].requires_grad
    alone = model(steps=1).losses(data)
    assert list(alone) == ['l_pix', 'l_pix_step1']
    torch.testing.assert_close(alone['l_pix_step1'], 4 * losses['l_pix_step1'])


def test_the_encoder_of_the_degraded_image_runs_once(monkeypatch):
    method, runs = model(raw_weight=1.0, steps=1), []
    host, data = method.net_g.host, batch()
    encode = host.encode
    monkeypatch.setattr(host, 'encode', lambda *args: runs.append(torch.is_grad_enabled()) or encode(*args))
    method.losses(data)
    assert runs.count(True) == 1  # the degraded image
    assert runs.count(False) == 3  # ground truth, its restoration, the plain output


def test_a_random_share_of_the_dictionary_is_mixed_in_and_drawn_alike_for_all_batches():
    method, data = model(random_proxy=True), batch(3)
    method.start_iteration(7)
    share = method._mix(data)
    assert share.shape == (3,)
    assert ((share > 0) & (share < 1)).all()
    assert len(set(share.tolist())) == 3
    assert torch.equal(method._mix({**data, 'key': data['key'][1:], 'lq': data['lq'][1:]}), share[1:])
    method.start_iteration(8)
    assert not torch.equal(method._mix(data), share)
    net = method.net_g
    with torch.no_grad():
        wanted = net.shared(data['lq'])(method.privileged(data['gt']), method._mix(data))
    torch.testing.assert_close(method.losses(data)['l_pix'], (wanted - data['gt']).abs().mean())


def test_it_learns_to_use_what_it_is_handed():
    method, data = model(raw_weight=1.0), batch(1)
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    first = None
    for _ in range(60):
        optimizer.zero_grad()
        losses = method.losses(data)
        first = first or {k: float(v.detach()) for k, v in losses.items()}
        sum(losses.values()).backward()
        optimizer.step()
    last = {k: float(v.detach()) for k, v in losses.items()}
    assert all(last[k] < 0.9 * first[k] for k in first), (first, last)


def test_networks_that_cannot_be_handed_anything_are_refused():
    with pytest.raises(OptionError, match='NAFNet takes no features of a better image; take ProxyFusion'):
        SIPLModel({'g': build_network(HOST)}, PIXEL)
    with pytest.raises(OptionError, match='random_proxy: PrivilegedSkips has no dictionary'):
        model('PrivilegedSkips', random_proxy=True)
