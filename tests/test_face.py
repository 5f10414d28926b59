"""Faces are turned upright, cut out and put back where they were; nothing else of the photograph changes."""

import cv2
import numpy as np
import pytest
import torch

from basicsr import inference
from basicsr.archs import build_network
from basicsr.errors import MissingWeightsError, OptionError
from basicsr.face import TEMPLATE, Face, FaceFinder, FaceRestorer, alignment, cut_out, paste, soft_edges
from basicsr.image_io import read_pixels, write_image

SIDE = 64


def placed(angle, scale, shift, side=SIDE):
    """Landmarks of a face of ``scale`` times the aligned size, turned by degrees, with its corner at ``shift``."""
    cosine, sine = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    return scale * (TEMPLATE * side / 512) @ np.array([[cosine, sine], [-sine, cosine]]) + shift


def photo(height=180, width=240, dtype=np.uint8):
    noise = np.random.default_rng(0).random((height, width, 3), np.float32)
    image = np.clip(0.5 + 4 * (cv2.GaussianBlur(noise, (0, 0), 3) - 0.5), 0, 1)
    return np.rint(image * np.iinfo(dtype).max).astype(dtype)


@pytest.mark.parametrize(('angle', 'scale'), [(0, 1), (35, 1.3), (-160, 0.7)])
def test_the_alignment_takes_landmarks_to_the_template(angle, scale):
    points = placed(angle, scale, (90, 70))
    matrix = alignment(points, SIDE)
    assert np.allclose(points @ matrix[:, :2].T + matrix[:, 2], TEMPLATE * SIDE / 512, atol=1e-9)
    assert np.hypot(*matrix[:, 0]) == pytest.approx(1 / scale)
    wrong = points + np.random.default_rng(1).normal(0, 2, (5, 2))
    found = alignment(wrong, SIDE)
    reference, _ = cv2.estimateAffinePartial2D(wrong, TEMPLATE * SIDE / 512, ransacReprojThreshold=1e9)
    here, there = (np.square(wrong @ m[:, :2].T + m[:, 2] - TEMPLATE * SIDE / 512).sum() for m in (found, reference))
    assert here <= there + 1e-6


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_a_network_that_changes_nothing_gives_the_photograph_back(dtype):
    image, top = photo(dtype=dtype), np.iinfo(dtype).max
    faces = [Face(placed(20, 1.1, (60, 30))), Face(placed(-10, 0.9, (150, 90)))]
    seen = []

    def restore(crop):
        seen.append(crop)
        return crop

    restorer = FaceRestorer(restore, lambda pixels: faces if pixels.dtype == np.uint8 else [], SIDE)
    before = image.copy()
    result = restorer.pixels(image)
    assert np.array_equal(image, before)
    assert restorer.found == 2
    assert [(crop.shape, crop.dtype) for crop in seen] == [((SIDE, SIDE, 3), dtype)] * 2
    assert (result.shape, result.dtype) == (image.shape, dtype)
    assert np.abs(result.astype(float) - image).max() < 0.05 * top  # twice interpolated
    assert np.abs(result.astype(float) - image).mean() < 0.002 * top


def test_only_the_face_changes_and_it_lands_where_it_was():
    image, points = np.full((200, 260, 3), 90, np.uint8), placed(30, 1.5, (120, 40))
    result = FaceRestorer(lambda crop: np.full_like(crop, 250), lambda pixels: [Face(points)], SIDE).pixels(image)
    matrix = alignment(points, SIDE)
    y, x = np.mgrid[:200, :260]
    inside = np.stack([x, y], -1) @ matrix[:, :2].T + matrix[:, 2]  # coordinates in the aligned face
    margin = np.minimum(inside, SIDE - 1 - inside).min(-1)
    assert (result[margin < -1] == 90).all()
    assert (result[margin > 0.1 * SIDE + 1] == 250).all()
    between = result[(margin > 1) & (margin < 0.1 * SIDE - 1)]
    assert between.min() > 90
    assert between.max() < 250
    assert np.abs(np.diff(result[..., 0].astype(int), axis=0)).max() < 60  # no seam


def test_the_cut_out_face_is_upright():
    image, points = np.zeros((200, 260, 3), np.uint8), placed(90, 1.2, (200, 40))
    for x, y in points[:2]:
        cv2.circle(image, (round(x), round(y)), 3, (255, 255, 255), -1)
    face = cut_out(image, alignment(points, SIDE), SIDE)
    for x, y in TEMPLATE[:2] * SIDE / 512:
        assert face[round(y), round(x)].min() > 200
    assert face[SIDE // 2 + 10 :].max() == 0  # eyes above


def test_faces_may_reach_beyond_the_photograph():
    image = photo(100, 100)
    for shift in ((-30, -20), (80, 90), (500, 500)):
        points, before = placed(0, 1, shift), image.copy()
        matrix = alignment(points, SIDE)
        face = cut_out(image, matrix, SIDE)
        paste(image, np.full_like(face, 255), matrix)
        assert np.array_equal(image, before) == (shift == (500, 500))
        image = photo(100, 100)


def test_edges_are_soft_and_symmetric():
    weight = soft_edges(SIDE)
    assert (weight[0] == 0).all()
    assert weight[SIDE // 2, SIDE // 2] == 1
    assert np.array_equal(weight, weight.T)
    assert np.array_equal(weight, weight[::-1, ::-1])


def test_a_photograph_without_a_face_stays_as_it_is_and_that_is_told(capsys):
    image = photo()
    assert np.array_equal(FaceRestorer(lambda crop: 0 * crop, lambda pixels: [], SIDE).pixels(image), image)
    assert 'No face is found' in capsys.readouterr().err


FACES = {
    'type': 'IQPIRFormer', 'img_size': 32, 'nf': 16, 'ch_mult': [1, 2], 'emb_dim': 32, 'res_blocks': 1,
    'attn_resolutions': [], 'codebook_size': 12, 'dim_embd': 16, 'n_head': 2, 'n_layers': 1, 'connect_list': [],
}  # fmt: skip


def restore(folder, *flags):
    torch.manual_seed(0)
    torch.save({'params': build_network(FACES).state_dict(), 'network_g': FACES}, folder / 'f.pth')
    source, target = str(folder / 'a.png'), str(folder / 'out')
    return inference.main(['-m', str(folder / 'f.pth'), '-i', source, '-o', target, '--device', 'cpu', *flags])


def test_an_aligned_face_of_another_size_is_resized_only_if_asked(tmp_path, capsys):
    for shape in ((48, 40), (20, 20)):
        alpha = np.full((*shape, 1), 200, np.uint8)
        write_image(tmp_path / 'a.png', np.concatenate([photo(*shape), alpha], 2))
        assert restore(tmp_path, '--overwrite') == 1
        told = capsys.readouterr().err
        assert f"a.png': {shape[1]}x{shape[0]} pixels: the network takes aligned faces of 32x32" in told
        assert '--aligned' in told
        assert restore(tmp_path, '--aligned', '--overwrite') == 0
        result = read_pixels(tmp_path / 'out/a.png', 'unchanged')
        assert result.shape == (32, 32, 4)
        assert (result[..., 3] == 200).all()


def test_the_command_restores_faces_and_leaves_the_rest(tmp_path, monkeypatch, capsys):
    image, points = photo(), placed(15, 1.2, (100, 60), side=32)
    monkeypatch.setattr('basicsr.face.FaceFinder', lambda weights, device: lambda pixels: [Face(points)])
    write_image(tmp_path / 'a.png', image)
    assert restore(tmp_path, '--faces') == 0
    assert '1 faces' in capsys.readouterr().err
    result, matrix = read_pixels(tmp_path / 'out/a.png'), alignment(points, 32)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    inside = np.stack([x, y], -1) @ matrix[:, :2].T + matrix[:, 2]
    margin = np.minimum(inside, 31 - inside).min(-1)
    assert np.array_equal(result[margin < -1], image[margin < -1])
    assert np.abs(result[margin > 5].astype(int) - image[margin > 5]).mean() > 5


def test_what_is_missing_is_named(tmp_path, monkeypatch, capsys):
    block = {'type': 'NAFNet', 'width': 4, 'enc_blk_nums': [1], 'middle_blk_num': 1, 'dec_blk_nums': [1]}
    torch.save({'params': build_network(block).state_dict(), 'network_g': block}, tmp_path / 'w.pth')
    write_image(tmp_path / 'a.png', photo())
    command = ['-m', str(tmp_path / 'w.pth'), '-i', str(tmp_path / 'a.png'), '-o', str(tmp_path / 'out'), '--faces']
    assert inference.main([*command, '--device', 'cpu']) == 2
    assert 'NAFNet is no network of aligned faces' in capsys.readouterr().err
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(OptionError, match=r'facexlib is not installed: pip install "qualir\[faces\]"'):
        FaceFinder()


def test_the_finder_needs_its_weights_and_finds_in_the_photographs_coordinates(tmp_path, monkeypatch):
    """A detector of facexlib's interface that finds the one red square, in whatever size it is shown."""
    from basicsr import face

    class Detector(torch.nn.Module):
        def __init__(self, network_name, half, device):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(3))

        def detect_faces(self, image, conf_threshold):
            assert min(image.shape[:2]) >= 640
            rows, columns = np.nonzero(image[..., 2] > 200)  # BGR
            centre = [columns.mean() + 0.5, rows.mean() + 0.5]
            points = [c + k for k in (-40, 40, 0, -30, 30) for c in centre]
            return np.array([[0, 0, 1, 1, 0.9, *points], [0, 0, 1, 1, 0.85, *centre * 5]], np.float32)

    monkeypatch.setattr(face, '_retina_face', lambda: Detector)
    with pytest.raises(MissingWeightsError, match='faces'):
        FaceFinder(str(tmp_path))
    torch.save({'module.weight': torch.ones(3)}, tmp_path / face.WEIGHTS)
    finder = FaceFinder(str(tmp_path))
    assert finder.net.weight.tolist() == [1, 1, 1]
    image = np.zeros((160, 320, 3), np.uint8)
    image[60:80, 200:240, 0] = 255
    found = finder(image)
    assert len(found) == 1  # eyes at one place are too near
    assert found[0].confidence == pytest.approx(0.9)
    assert np.allclose(found[0].points[2], (220, 70), atol=0.5)
    assert np.allclose(found[0].points[1] - found[0].points[0], (20, 20), atol=1e-3)  # 80 pixels at four times the size
