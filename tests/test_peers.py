"""The published networks of benchmarks/peers/networks: names and shapes of their files, and what each computes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.signal import convolve2d

from basicsr.errors import CheckpointError, DataError, MissingWeightsError, OptionError
from benchmarks.peers import networks
from benchmarks.peers.networks import PEERS, cnniqa, gcanet
from tests.golden.recipe import fill
from tests.golden.recipe import image as golden_image

AUTHORS = np.load(Path(__file__).parent / 'golden/peer_networks.npz')
KEYS = json.loads((Path(__file__).parent / 'golden/peer_keys.json').read_text())
VALUES = {  # numbers in the published files, running means among them
    'prenet': 168_963,
    'gcanet_derain': 702_818,
    'gcanet_dehaze': 702_818,
    'aodnet': 1_761,
    'light_dehazenet': 30_187,
    'zero_dce': 79_416,
    'iat': 91_348,
    'uwcnn': 2_027,
    'cnniqa': 724_901,
}


def keys_of(name):
    found = KEYS[name]
    return KEYS[found] if isinstance(found, str) else found


def zeroed(name):
    """A peer's network whose weights are all 0."""
    network = networks.build(name).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.zero_()
    return network


def written(name, folder, state):
    """A weight file in the layout of a peer."""
    peer = PEERS[name]
    held = {f'{peer.prefix}{k}': v for k, v in state.items()}
    file = folder / peer.file
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({peer.inside: held} if peer.inside else held, file)
    return file


@pytest.fixture
def image():
    return torch.rand(1, 3, 40, 37, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize('name', PEERS)
def test_names_and_shapes_are_those_of_the_published_file(name):
    prefix = PEERS[name].prefix
    own = {f'{prefix}{k}': list(v.shape) for k, v in networks.build(name).state_dict().items()}
    assert own == keys_of(name)
    if name in VALUES:
        assert sum(v.numel() for v in networks.build(name).state_dict().values()) == VALUES[name]


@pytest.mark.parametrize('name', AUTHORS.files)
def test_outputs_are_those_of_the_authors_code(name):
    network = fill(networks.build(name).requires_grad_(False)).double().eval()
    for key, value in network.state_dict().items():
        if key.endswith('running_var'):
            value.abs_().add_(0.5)
    shape = (70, 97, 3) if name == 'cnniqa' else (1, 3, 20, 24)
    given = golden_image(shape, 4 if name == 'cnniqa' else 3)
    if name == 'cnniqa':
        given = ((given * 255).round() / 255).permute(2, 0, 1)[None]
    np.testing.assert_allclose(network(given).numpy().squeeze(), AUTHORS[name].squeeze(), atol=1e-6)


@pytest.mark.parametrize('name', [n for n, p in PEERS.items() if p.task != 'score'])
def test_restores_any_size_into_the_unit_range_image_by_image(name, tmp_path):
    torch.manual_seed(0)
    written(name, tmp_path, networks.build(name).state_dict())
    images = torch.rand(2, 3, 33, 46)
    together = networks.restore(name, images, tmp_path)
    assert together.shape == images.shape
    assert 0 <= together.min() <= together.max() <= 1
    torch.testing.assert_close(together[1:], networks.restore(name, images[1:], tmp_path))


def test_prenet_and_zero_dce_add_nothing_when_their_weights_are_zero(image):
    assert torch.equal(zeroed('prenet')(image), image)
    assert torch.equal(zeroed('zero_dce')(image), image)


def test_prenet_runs_six_stages_that_see_the_last_result(image):
    network = zeroed('prenet')
    network.conv[0].bias.fill_(0.5)  # every stage gives the image plus 0.5
    seen = []
    network.conv0.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    assert torch.equal(network(image), image + 0.5)
    assert len(seen) == 6
    assert torch.equal(seen[0], torch.cat((image, image), 1))
    assert torch.equal(seen[1], torch.cat((image, image + 0.5), 1))


def test_zero_dce_applies_its_curves_in_turn(image):
    network, curves = zeroed('zero_dce'), torch.linspace(-0.9, 0.6, 24)
    network.e_conv7.bias.copy_(curves.atanh())
    wanted = image.double()
    for step in range(8):
        wanted = wanted + curves[3 * step : 3 * step + 3].double().view(1, 3, 1, 1) * (wanted**2 - wanted)
    torch.testing.assert_close(network(image).double(), wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize(('name', 'last'), [('aodnet', 'e_conv5'), ('light_dehazenet', 'e_conv_layer8')])
def test_dehazing_by_a_constant_map_stretches_from_white(name, last, image):
    network = zeroed(name)
    network.get_submodule(last).bias.fill_(1.5)
    torch.testing.assert_close(network(image), (1 - 1.5 * (1 - image)).clamp(min=0))


def test_sci_divides_by_the_illumination(image):
    network = zeroed('sci_easy')
    torch.testing.assert_close(network(image), image / (image + 0.5).clamp(max=1))


def test_the_underwater_network_turns_about_its_ambient_light(image):
    network = zeroed('uwcnn')
    network.ANet.block[7].bias.fill_(0.25)
    network.tNet.block[6].bias.fill_(2)
    torch.testing.assert_close(network(image), (2 * image - 0.25).clamp(0, 1))


def test_iat_mixes_colours_and_applies_gamma(image):
    network = zeroed('iat')
    network.local_net.mul_end[0].bias.fill_(0.5)
    matrix = torch.tensor([[1.0, 0.2, 0.0], [0.0, 0.9, 0.0], [0.1, 0.0, 1.1]])
    network.global_net.color_base.copy_(matrix)
    network.global_net.gamma_base.fill_(0.7)
    wanted = (torch.einsum('ij,njhw->nihw', matrix, image * 0.5)).clamp(0, 1) ** 0.7
    torch.testing.assert_close(network(image), wanted)


def test_gcanet_adds_what_it_finds_to_a_hazy_image_and_replaces_a_rainy_one(image):
    for name, wanted in (('gcanet_dehaze', image + 51 / 255), ('gcanet_derain', torch.full_like(image, 0.2))):
        network = zeroed(name)
        network.deconv1.bias.fill_(51)
        torch.testing.assert_close(network(image), wanted)


def test_edges_are_mean_differences_to_the_neighbours():
    ramp = torch.arange(5.0).mul(8).expand(1, 3, 4, 5)
    found = gcanet.edges(ramp)
    assert torch.equal(found[0, 0, 1], torch.tensor([2.0, 4.0, 4.0, 4.0, 2.0]))
    assert torch.equal(gcanet.edges(ramp.mT)[0, 0, :, 1], found[0, 0, 1])


def test_cnniqa_sees_patches_as_its_authors_prepare_them():
    pixels = np.random.default_rng(3).integers(0, 256, (70, 97, 3), np.uint8)
    grey = np.asarray(Image.fromarray(pixels).convert('L')).astype(np.float32) / 255
    kernel = np.ones((3, 3)) / 9
    wanted = []
    for top in range(0, 70 - 32, 32):
        for left in range(0, 97 - 32, 32):
            patch = grey[top : top + 32, left : left + 32]
            mean = convolve2d(patch, kernel, boundary='symm', mode='same')
            square = convolve2d(np.square(patch), kernel, boundary='symm', mode='same')
            wanted.append((patch - mean) / (np.sqrt(np.maximum(square - mean**2, 0)) + 1))
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    found = cnniqa.normalised(cnniqa.grey_patches(image))[0]
    assert found.shape == (6, 32, 32)
    assert np.abs(found.numpy() - np.stack(wanted)).max() < 2e-4  # the published grey is rounded; one level is 0.004


def test_cnniqa_scores_do_not_depend_on_the_batch_and_reach_the_pixels(tmp_path):
    torch.manual_seed(0)
    written('cnniqa', tmp_path, networks.build('cnniqa').state_dict())
    network = networks.load('cnniqa', tmp_path)
    images = torch.rand(3, 3, 65, 80, requires_grad=True)
    scores = network(images)
    assert scores.shape == (3,)
    torch.testing.assert_close(scores[1:2], network(images[1:2]))
    scores.sum().backward()
    assert images.grad[..., :64, :64].abs().sum(dim=(1, 2, 3)).gt(0).all()


def test_weights_too_small_to_be_normal_floats_become_zero(tmp_path):
    state = networks.build('aodnet').state_dict()
    state['e_conv1.bias'] = torch.tensor([1e-42, -1e-25, 1e-12])
    written('aodnet', tmp_path, state)
    assert torch.equal(networks.load('aodnet', tmp_path).e_conv1.bias, torch.tensor([0.0, 0.0, 1e-12]))


def test_missing_and_wrong_weights_are_refused(tmp_path, image):
    with pytest.raises(MissingWeightsError, match=r'dehazer\.pth'):
        networks.restore('aodnet', image, tmp_path)
    state = networks.build('uwcnn').state_dict()
    extra = {**state, 'more.weight': torch.zeros(1)}
    written('uwcnn', tmp_path, extra)
    with pytest.raises(CheckpointError, match=r'more\.weight'):
        networks.load('uwcnn', tmp_path)
    file = written('uwcnn', tmp_path, {k: v for k, v in state.items() if 'tNet' in k})
    with pytest.raises(CheckpointError, match='ANet'):
        networks.load('uwcnn', tmp_path)
    file.write_bytes(b'no weights')
    with pytest.raises(CheckpointError, match='cannot be read'):
        networks.load('uwcnn', tmp_path)


def test_wrong_names_and_shapes_are_refused(tmp_path, image):
    with pytest.raises(OptionError, match='there are prenet'):
        networks.restore('prenett', image, tmp_path)
    with pytest.raises(OptionError, match='judges images'):
        networks.restore('cnniqa', image, tmp_path)
    with pytest.raises(DataError, match='must be'):
        networks.restore('prenet', image[0], tmp_path)
