"""Protocols: what they compute, that a name stands for one thing, and that unlike ones are never averaged."""

import json
import math
import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from basicsr.errors import DataError, OptionError
from basicsr.evaluation import Evaluation, Measurement, check_alike
from basicsr.image_io import read_image, to_tensor, to_uint8
from basicsr.options import from_dict, load
from basicsr.protocols import Protocol, built_in, checked_metrics, named, protocol_of
from basicsr.registry import METRIC_REGISTRY, import_plugins
from basicsr.results import mean_of_sets
from basicsr.validation import ImageResult, ValResult

from .runs import ROOT, TINY
from .test_test_command import make_pairs, read, run_test

PHOTO = sorted((ROOT / 'datasets/sample/val').glob('*.jpg'))[0]
CHANGE = str(ROOT / 'tests/plugins/change_metric.py')
NAMES = [
    'derain-y', 'derain-rgb', 'dehaze-sots', 'denoise-cbsd68', 'lol', 'lol-gtmean', 'snow100k', 'uieb', 'uieb-256',
    'lsui', 'lsui-256', 'cdd11', 'rtts', 'rtts-nima', 'ntire-face',
]  # fmt: skip


def pair(height=101, width=117):
    """A photograph and a noisy, darker version that lies between the 256 levels."""
    clean = to_tensor(read_image(PHOTO)[:height, :width]).unsqueeze(0)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    return (0.8 * clean + 0.03 * noise).clamp(0, 1), clean


def scores(protocol, restored, clean):
    measurement = Measurement(protocol_of(protocol))
    return measurement.scores(measurement.prepared(restored), measurement.prepared(clean))


def matlab_y(image):
    """Y of 8-bit RGB, rounded as MATLAB does: an implementation of its own."""
    levels = to_uint8(image[0]).astype(np.float64)
    return np.floor(16 + levels @ np.array([65.481, 128.553, 24.966]) / 255 + 0.5)


def psnr(a, b, peak=255):
    return 10 * math.log10(peak**2 / np.mean((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2))


def gaussian_ssim(a, b):
    """SSIM of two planes by OpenCV's filter, where the window lies inside."""
    kernel = cv2.getGaussianKernel(11, 1.5)

    def mean(x):
        return cv2.filter2D(x, cv2.CV_64F, kernel @ kernel.T)[5:-5, 5:-5]

    c1, c2, ma, mb = (0.01 * 255) ** 2, (0.03 * 255) ** 2, mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    return np.mean((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))


def test_all_protocols_are_there_with_sources_and_notes():
    known = built_in()
    assert list(known) == NAMES
    for protocol in known.values():
        assert protocol.sources
        assert protocol.notes
        assert protocol.test_sets
        assert protocol.metrics


@pytest.mark.parametrize('name', NAMES)
def test_metrics_of_a_protocol_exist_and_take_their_options(name):
    protocol = named(name)
    assert list(checked_metrics(protocol.metrics, name)) == list(protocol.metrics)
    if any(label.startswith('pyiqa') for label in protocol.metrics):
        pytest.importorskip('pyiqa', reason='pyiqa is not installed, and its weights are not at hand')
    measurement = Measurement(protocol)
    assert list(measurement.higher_better) == list(measurement.needs) == list(protocol.metrics)
    assert any('img2' in n for n in measurement.needs.values()) != (name == 'rtts')


@pytest.mark.skipif(find_spec('pyiqa') is not None, reason='pyiqa is installed here')
@pytest.mark.parametrize('name', ['rtts-nima', 'ntire-face'])
def test_a_package_that_is_not_there_is_named_with_the_metric(name):
    first = next(label for label in named(name).metrics if label.startswith('pyiqa'))
    with pytest.raises(OptionError, match=f"Metric '{first}': .*pyiqa is not installed"):
        Measurement(named(name))


def test_derain_y_is_rounded_luma_of_8_bit_images():
    restored, clean = pair()
    a, b = matlab_y(restored), matlab_y(clean)
    found = scores('derain-y', restored, clean)
    assert found['psnr_y'] == pytest.approx(psnr(a, b), abs=1e-9)
    assert found['ssim_y'] == pytest.approx(gaussian_ssim(a, b), abs=1e-9)


def test_derain_rgb_sees_unrounded_images_cut_to_sixteen():
    restored, clean = pair(101, 117)  # 101 = 6 * 16 + 5, 117 = 7 * 16 + 5: two pixels go at the top and on the left
    a, b = (x[0, :, 2:98, 2:114].permute(1, 2, 0).numpy() for x in (restored, clean))
    found = scores('derain-rgb', restored, clean)['psnr']
    assert found == pytest.approx(psnr(a, b, 1), abs=1e-5)
    rounded = [np.rint(x * 255) for x in (a, b)]
    assert abs(psnr(*rounded) - found) > 1e-4
    assert scores('lol', restored, clean)['psnr'] != pytest.approx(found, abs=1e-2)


def test_256_resizes_as_opencv_does():
    restored, clean = pair(301, 337)
    a, b = (cv2.resize(to_uint8(x[0]), (256, 256)) for x in (restored, clean))
    ours = Measurement(named('uieb-256')).prepared(to_tensor(to_uint8(restored[0])).unsqueeze(0))
    assert np.abs(to_uint8(ours[0]).astype(int) - a).max() <= 1
    small = replace(named('uieb-256'), metrics={'psnr': {'type': 'calculate_psnr'}})
    assert scores(small, restored, clean)['psnr'] == pytest.approx(psnr(a, b), abs=0.02)
    assert scores('lol', restored, clean)['psnr'] != pytest.approx(psnr(a, b), abs=0.1)
    assert named('uieb').metrics == named('uieb-256').metrics


def test_gt_mean_is_another_protocol():
    restored, clean = pair()
    plain, bright = scores('lol', restored, clean), scores('lol-gtmean', restored, clean)
    assert set(plain).isdisjoint(bright)
    assert bright['psnr_gtmean'] > plain['psnr'] + 3
    grey = [cv2.cvtColor(to_uint8(x[0]), cv2.COLOR_RGB2GRAY).mean() for x in (restored, clean)]
    scaled = np.clip(to_uint8(restored[0]) * (grey[1] / grey[0]), 0, 255)
    assert bright['psnr_gtmean'] == pytest.approx(psnr(scaled, to_uint8(clean[0])), abs=0.02)


def test_a_digest_tells_ways_of_scoring_apart_and_nothing_else():
    def digest(name='a', block=None, **more):
        return Protocol(name, {'psnr': {'type': 'calculate_psnr', **(block or {})}}, **more).digest

    same = [digest(), digest('b'), digest(block={'crop_border': 0, 'input_order': 'CHW'}), digest(notes=['a note'])]
    assert len(set(same)) == 1
    other = [
        {'block': {'test_y_channel': True}}, {'block': {'crop_border': 1}}, {'crop_multiple': 8}, {'size': 256},
        {'block': {'quantize': False}},
    ]  # fmt: skip
    assert len({digest(), *(digest(**o) for o in other)}) == len(other) + 1


def test_a_protocol_is_not_changed_from_outside():
    named('lol').metrics['psnr']['crop_border'] = 7
    assert named('lol').metrics['psnr'] == {'type': 'calculate_psnr'}
    blocks = {'psnr': {'type': 'calculate_psnr'}}
    protocol = Protocol('own', blocks)
    blocks['psnr']['crop_border'] = 7
    assert protocol.metrics['psnr'] == {'type': 'calculate_psnr'}
    with pytest.raises(AttributeError):
        protocol.size = 4


def test_a_part_of_a_set_is_told():
    assert named('lol').doubt(15) == ''
    assert '14 images: not a whole test set of lol' in named('lol').doubt(14)
    assert Protocol('own').doubt(14) == ''


# ---- in option files ------------------------------------------------------------------------------------------------

BLOCK = {'name': 'own', 'crop_multiple': 8, 'metrics': {'psnr_y': {'type': 'calculate_psnr', 'test_y_channel': True}}}


def options(**val):
    return {**TINY, 'val': {'val_freq': 4, **val}}


def test_a_name_gives_metrics_and_own_ones_are_added():
    val = from_dict(options(protocol='derain-y', metrics={'psnr': {'type': 'calculate_psnr'}})).val
    protocol = protocol_of(val.protocol, val.metrics)
    assert list(protocol.metrics) == ['psnr_y', 'ssim_y', 'psnr']
    assert protocol.name == 'derain-y + psnr'
    assert protocol.digest != named('derain-y').digest
    assert protocol_of(None, val.metrics).metrics == val.metrics


def test_a_block_is_a_protocol():
    val = from_dict(options(protocol=BLOCK)).val
    protocol = protocol_of(val.protocol)
    assert (protocol.name, protocol.crop_multiple) == ('own', 8)
    assert 'cut to a multiple of 8 px' in str(protocol)
    assert 'Y channel' in str(protocol)


@pytest.mark.parametrize(
    ('val', 'line', 'words'),
    [
        ({'protocol': 'derain_y'}, 3, "'val.protocol': No protocol named 'derain_y'. Did you mean derain-y?"),
        ({'protocol': 7}, 3, "'val.protocol' is 7"),
        (
            {'protocol': 'lol', 'metrics': {'psnr': {'type': 'calculate_psnr'}}},
            5, "protocol lol has a metric 'psnr' already",
        ),
        (
            {'protocol': {'name': 'own', 'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_bordr': 2}}}},
            8, "key 'val.protocol.metrics.psnr.crop_bordr' is not known. Did you mean 'crop_border'?",
        ),
        ({'protocol': {'name': 'own', 'metric': {}}}, 5, "key 'val.protocol.metric' is not known"),
        ({'protocol': {'metrics': {}}}, 3, "key 'val.protocol.name' is missing"),
        ({'protocol': {'name': 'lol'}}, 4, "'lol' is a protocol of the project"),
        (
            {'protocol': {'name': 'own', 'metrics': {'ssim': {'type': 'calculate_psnr'}}}},
            6, "metric 'val.protocol.metrics.ssim' computes psnr",
        ),
        ({'protocol': {'name': 'own', 'crop_multiple': 0}}, 5, "'val.protocol.crop_multiple' is 0"),
    ],
)  # fmt: skip
def test_wrong_protocols_are_refused_with_their_line(write, val, line, words):
    rest = {k: v for k, v in TINY.items() if k not in ('val', 'name')}
    file = write('own.yml', {'name': 'a', 'val': val, **rest})
    with pytest.raises(OptionError) as caught:
        load(file)
    assert f'own.yml:{line}: ' in str(caught.value)
    assert words in str(caught.value)


def test_a_wrong_block_of_a_program_is_refused_too():
    with pytest.raises(OptionError, match=r"key 'sise' is not known\. Did you mean 'size'"):
        protocol_of({'name': 'own', 'sise': 4})
    with pytest.raises(OptionError, match="has a metric 'psnr' already"):
        protocol_of('lol', {'psnr': {'type': 'calculate_psnr'}})
    with pytest.raises(OptionError, match='test_y_chanel'):
        Measurement(Protocol('own', {'psnr': {'type': 'calculate_psnr', 'test_y_chanel': True}}))


# ---- averages -------------------------------------------------------------------------------------------------------


def result(name, values, protocol=None, images='whole images', inputs=None, **more):
    rows = [ImageResult(str(i), '', {'psnr': v}, inputs or {}, 8, 8, 0.1) for i, v in enumerate(values)]
    protocol = protocol or Protocol('', {'psnr': {'type': 'calculate_psnr'}})
    return ValResult(name, 0, 1.0, rows, Evaluation(protocol, images, **more), {'psnr': True})


def test_each_set_counts_once_in_an_average():
    sets = [result('a', [10.0, 20.0], inputs={'psnr': 5.0}), result('b', [30.0], inputs={'psnr': 8.0})]
    assert mean_of_sets(sets) == {'metrics': {'psnr': 22.5}, 'input_metrics': {'psnr': 6.5}}
    assert mean_of_sets([*sets[:1], result('c', [30.0])])['input_metrics'] == {}


@pytest.mark.parametrize(
    ('other', 'words'),
    [
        (
            {'protocol': Protocol('y', {'psnr': {'type': 'calculate_psnr', 'test_y_channel': True}})},
            'metrics (psnr and',
        ),
        ({'protocol': Protocol('c', {'psnr': {'type': 'calculate_psnr'}}, crop_multiple=8)}, 'crop_multiple (1 and 8)'),
        ({'images': 'tiles of 32 px'}, "images ('whole images' and 'tiles of 32 px')"),
        ({'self_ensemble': True}, 'self_ensemble (false and true)'),
    ],
)
def test_unlike_sets_are_not_averaged(other, words):
    with pytest.raises(OptionError) as caught:
        mean_of_sets([result('a', [10.0]), result('b', [30.0], **other)])
    assert 'No average is taken: a and b were scored in unlike ways' in str(caught.value)
    assert words in str(caught.value)


def test_another_name_for_the_same_way_may_be_averaged():
    metrics = {'psnr': {'type': 'calculate_psnr', 'crop_border': 0}}
    assert mean_of_sets([result('a', [10.0]), result('b', [30.0], Protocol('x', metrics))])['metrics'] == {'psnr': 20}
    check_alike({})
    with pytest.raises(OptionError, match='two sets are called a'):
        mean_of_sets([result('a', [10.0]), result('a', [30.0])])


def test_a_test_of_several_sets_ends_with_their_average(tmp_path, capsys):
    block = make_pairs(tmp_path)
    sets = {'test_1': {'name': 'one', **block}, 'test_2': {'name': 'two', **block, 'dataroot_lq': block['dataroot_gt']}}
    assert run_test(tmp_path, {'datasets': sets}, protocol='lol', metrics={}) == 0
    one, two = (read(tmp_path, name)[0]['metrics']['psnr'] for name in ('one', 'two'))
    row = next(line for line in capsys.readouterr().out.splitlines() if 'average' in line)
    assert f'{(one + two) / 2:.4f}' in row


# ---- what validation gives to metrics -------------------------------------------------------------------------------


def test_scores_without_clean_images(tmp_path):
    block = {'type': 'SingleImageDataset', 'dataroot_lq': make_pairs(tmp_path)['dataroot_lq'], 'name': 'pairs'}
    change = {'change': {'type': 'calculate_change', 'gain': 2.0}, 'uciqe': {'type': 'calculate_uciqe'}}
    plugins = [CHANGE, str(ROOT / 'tests/plugins/pooling.py')]
    assert run_test(tmp_path, {'datasets': {'test': block}, 'imports': plugins}, metrics=change) == 0
    record, rows = read(tmp_path)
    assert set(record['metrics']) == {'change', 'uciqe'}
    assert set(record['input_metrics']) == {'uciqe'}  # the change of the input against itself says nothing
    assert record['higher_better'] == {'change': False, 'uciqe': True}
    assert record['metrics']['change'] > 0
    assert all(float(row['uciqe']) != float(row['input_uciqe']) for row in rows)


@pytest.mark.parametrize('val', [{}, {'protocol': 'derain-y', 'metrics': {}}])
def test_what_a_set_lacks_stops_before_any_work(tmp_path, capsys, val):
    block = {'type': 'SingleImageDataset', 'dataroot_lq': make_pairs(tmp_path)['dataroot_lq'], 'name': 'reals'}
    assert run_test(tmp_path, {'datasets': {'test': block}}, **val) == 2
    error = capsys.readouterr().err
    label = 'psnr_y' if val else 'psnr'
    assert f"Data set 'reals' has no clean images, which metric '{label}' (calculate_psnr) compares with." in error
    assert not (tmp_path / 'results').exists()


def test_an_unrounded_score_differs_and_the_saved_image_is_rounded(tmp_path):
    exact = {'psnr_exact': {'type': 'calculate_psnr', 'quantize': False}, 'psnr': {'type': 'calculate_psnr'}}
    assert run_test(tmp_path, metrics=exact, save_img=True) == 0
    record, rows = read(tmp_path)
    assert '8-bit rounding but for psnr_exact' in record['protocol']
    for row in rows:
        saved, clean = (
            read_image(tmp_path / f) for f in (f'results/pool/pairs/{row["key"]}.png', f'gt/{row["key"]}.png')
        )
        assert float(row['psnr']) == pytest.approx(psnr(saved, clean, 1), abs=1e-4)
        assert 1e-6 < abs(float(row['psnr_exact']) - float(row['psnr'])) < 0.1


def test_a_wrong_image_is_named(tmp_path, capsys):
    assert run_test(tmp_path, protocol={'name': 'own', 'crop_multiple': 44}, metrics={}) == 2
    assert "Data set 'pairs', 'a': 41 x 58 pixels cannot be cut to a multiple of 44" in capsys.readouterr().err


def test_a_metric_must_say_which_way_is_better():
    def calculate_bare(img, img2):
        """No mark."""

    METRIC_REGISTRY.register(calculate_bare)
    try:
        with pytest.raises(OptionError, match='calculate_bare does not say which way is better'):
            Measurement(Protocol('own', {'bare': {'type': 'calculate_bare'}}))
    finally:
        del METRIC_REGISTRY._objects['calculate_bare']


def test_the_input_is_scored_where_that_says_something():
    import_plugins([CHANGE])
    metrics = {
        'psnr': {'type': 'calculate_psnr'},
        'uciqe': {'type': 'calculate_uciqe'},
        'change': {'type': 'calculate_change'},
    }
    measurement = Measurement(Protocol('own', metrics))
    lq, gt = pair()
    assert set(measurement.scores_of_input(lq, gt)) == {'psnr', 'uciqe'}
    assert set(measurement.scores_of_input(lq[..., 1:], gt)) == {'uciqe'}
    assert set(measurement.scores(lq, gt, gt)) == set(metrics)
    with pytest.raises(DataError, match="no degraded images, which metric 'change'"):
        measurement.scores(lq, gt)


def test_history_and_record_hold_the_digest(tmp_path):
    assert run_test(tmp_path, protocol='lol', metrics={}) == 0
    record, _ = read(tmp_path)
    assert record['protocol_digest'] == named('lol').digest
    assert record['protocol_parts']['name'] == 'lol'
    assert record['protocol'].startswith(f'protocol lol {named("lol").digest} (psnr: calculate_psnr, RGB')
    log = (tmp_path / 'results/pool/test_pool.log').read_text()
    assert f'(protocol lol {record["protocol_digest"]})' in log
    assert record['protocol'] in log
    assert json.loads(json.dumps(record['protocol_parts'])) == record['protocol_parts']


@pytest.mark.parametrize(
    ('folders', 'protocol', 'label', 'low', 'high'),
    [
        (('Rain100L/train/small/rain', 'Rain100L/train/small/norain'), 'derain-y', 'psnr_y', 25.0, 29.5),
        (('LOLv1/our485/low', 'LOLv1/our485/high'), 'lol', 'psnr', 6.5, 9.0),
    ],
)
def test_inputs_of_real_sets_score_near_their_published_value(folders, protocol, label, low, high):
    """Published for the whole test sets: 26.90 dB on Y for Rain100L, 7.77 dB for LOL eval15; here parts are at hand."""
    if 'QUALIR_DATA' not in os.environ:
        pytest.skip('QUALIR_DATA does not name the folder of real images')
    degraded, clean = (Path(os.environ['QUALIR_DATA']) / f for f in folders)
    found = []
    for file in sorted(degraded.iterdir())[:12]:
        images = [to_tensor(read_image(p)).unsqueeze(0) for p in (file, clean / file.name)]
        found.append(scores(Protocol('psnr alone', {label: named(protocol).metrics[label]}), *images)[label])
    assert low < sum(found) / len(found) < high


def test_the_page_names_every_protocol_with_its_digest():
    page = (ROOT / 'docs/protocols.md').read_text(encoding='utf-8')
    rows = [line for line in page.splitlines() if line.startswith('| `')]
    for name, protocol in built_in().items():
        assert any(f'`{name}`' in row and f'| {protocol.digest} |' in row for row in rows), (name, protocol.digest)
