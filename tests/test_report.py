"""The report says what the run's files say, shows it safely, and is one file that needs nothing else."""

import base64
import json
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from basicsr.errors import DataError
from basicsr.history import History
from basicsr.report import duration, elapsed, facts, read_run, summary, write_report
from basicsr.report_figures import brief, gain_of, label, stat
from basicsr.report_images import Example, choose, embed, find_examples, natural_key

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = """
name: sample
description: A test of the report
model_type: RestorationModel
manual_seed: 7
datasets:
  train: {type: PairedImageDataset, dataroot_gt: data/train/gt, gt_size: 96, batch_size_per_gpu: 8}
  val: {type: PairedImageDataset, dataroot_gt: data/val/gt}
network_g: {type: NAFNet, width: 16}
train: {total_iter: 700, optim_g: {type: AdamW, lr: 0.001}, pixel_opt: {type: L1Loss}}
"""
TASKS = {'haze': ['bridge', 'house2', 'house10'], 'rain': ['street']}


def picture(seed, size=(48, 64)):
    small = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC)


def save(folder, name, image):
    folder.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(folder / name), image)


def val(iteration, psnr=21.83, before=15.27, dataset='val', images=None, **more):
    pictures = images or [
        {
            'key': f'{task}_{name}',
            'task': task,
            'metrics': {'psnr': psnr, 'ssim': 0.9},
            'input_metrics': {'psnr': before, 'ssim': 0.7},
        }
        for task, names in TASKS.items()
        for name in names
    ]
    tasks = {t: {'n': len(n), 'metrics': {'psnr': psnr}, 'input_metrics': {'psnr': before}} for t, n in TASKS.items()}
    return {
        'kind': 'val', 'iter': iteration, 'dataset': dataset, 'time': 1000.0 + iteration, 'seconds': 1.0,
        'metrics': {'psnr': psnr, 'ssim': 0.9}, 'input_metrics': {'psnr': before, 'ssim': 0.7}, 'per_task': tasks,
        'images': pictures, 'protocol': 'psnr: RGB, 8-bit, no crop', 'higher_better': {'psnr': True, 'ssim': True},
        **more,
    }  # fmt: skip


def train(iteration, **more):
    return {'kind': 'train', 'iter': iteration, 'time': 1000.0 + iteration, 'losses': {'l_pix': 1 / iteration}, **more}


def write_history(folder, records):
    history = History(folder / 'history.jsonl')
    for record in records:
        history.append(record)


@pytest.fixture
def run(tmp_path):
    """A finished run of four pictures, with everything a report can show."""
    folder = tmp_path / 'experiments' / 'sample'
    start = {'kind': 'run', 'iter': 0, 'time': 1000.0, 'facts': {'parameters': 1234567, 'machine': 'two cores'}}
    logs = [train(i, epoch=i // 100, lr=1e-3, images_per_s=40.0, data_share=0.03) for i in range(100, 701, 100)]
    write_history(folder, [start, *logs[:3], val(350, 19.0), *logs[3:], val(700)])
    (folder / 'sample.yml').write_text(OPTIONS)
    (folder / 'models').mkdir()
    (folder / 'models' / 'net_g_latest.pth').write_bytes(b'')
    for task, names in TASKS.items():
        for seed, name in enumerate(names):
            for what, offset in (('lq', 100), ('gt', 200), ('350', 300), ('700', 400)):
                save(folder / 'visualization' / 'val', f'{task}_{name}_{what}.png', picture(seed + offset))
    return folder


class Page(HTMLParser):
    """Every element with its attributes, the text outside scripts, and the content of scripts and styles."""

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.elements, self.text, self.code, self.open = [], [], {}, []
        self.source = Path(path).read_text(encoding='utf-8')
        self.feed(self.source)
        self.close()
        self.text = re.sub(r'\s+', ' ', ' '.join(self.text))
        self.data = json.loads(self.code['data'])

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in ('script', 'style'):
            self.open.append(dict(attrs).get('id', tag))

    def handle_endtag(self, tag):
        if tag in ('script', 'style'):
            self.open.pop()

    def handle_data(self, data):
        if self.open:
            self.code[self.open[-1]] = self.code.get(self.open[-1], '') + data
        else:
            self.text.append(data)


def decode(url):
    kind, _, content = url.partition(',')
    assert kind == 'data:image/webp;base64'
    return cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), cv2.IMREAD_COLOR)


# --- the page


def test_a_finished_run_is_told_in_one_sentence(run):
    result = 'on 4 pictures it has not seen, the average PSNR rose from 15.3 to 21.8 dB (+6.6).'
    told = f'Trained 700 iterations in 11 min 40 s; {result}'
    assert summary(read_run(run)) == told
    assert told in Page(write_report(run)).text


def test_page_is_one_file_that_asks_the_network_for_nothing(run):
    page = Page(write_report(run))
    for tag, attributes in page.elements:
        for name in ('src', 'href', 'srcset', 'data', 'action'):
            assert attributes.get(name, 'data:').startswith('data:'), (tag, name)
    code = page.code['style'] + page.code['script'] + str(page.data)
    assert not re.search(
        r'@import|url\(|fetch\(|XMLHttpRequest|https?://(?!www\.w3\.org/(2000/svg|1999/xhtml)\b)', code
    )
    policy = next(a['content'] for t, a in page.elements if t == 'meta' and 'http-equiv' in a)
    assert "default-src 'none'" in policy
    assert '{{' not in page.source


def test_examples_are_the_saved_pictures_in_order_of_task_and_name(run):
    page = Page(write_report(run))
    examples = page.data['examples']
    assert [e['key'] for e in examples] == ['haze_bridge', 'haze_house2', 'haze_house10', 'rain_street']
    assert {e['iter'] for e in examples} == {700}
    for url, seed in zip(examples[1]['images'], (101, 401, 201)):
        error = np.abs(decode(url).astype(float) - picture(seed)).mean()
        assert error < 4  # levels of 255: the right picture, but for the compression
    assert examples[1]['main'] == stat('psnr', 15.27, 21.83, True)
    assert '4 of 4 validation pictures: in order of task and name.' in page.text


def test_table_holds_each_task_and_the_mean(run):
    table = re.search(r'<table>.*</table>', Page(write_report(run)).source, re.S)[0]
    rows = [re.sub(r'<[^>]+>', ' ', row).split() for row in re.findall(r'<tr>(.*?)</tr>', table)]
    assert rows[2][:5] == ['haze', '3', '15.27', '21.83', '+6.56']
    assert rows[3][:2] == ['rain', '1']
    assert rows[-1] == [
        'All',
        'pictures',
        '4',
        '15.27',
        '21.83',
        '+6.56',
        'better',
        '0.700',
        '0.900',
        '+0.200',
        'better',
    ]


def test_protocol_facts_and_options_stand_on_the_page(run):
    page = Page(write_report(run))
    for text in (
        'psnr: RGB, 8-bit, no crop',
        'NAFNet (width 16)',
        '1,234,567',
        'two cores',
        'total_iter: 700',
        'A test of the report',
    ):
        assert text in page.text
    known = facts(read_run(run))
    assert known['Seed'] == '7'
    assert known['Losses'] == 'L1Loss'
    assert known['Batch'] == '8 per process, crops of 96 px'
    assert known['Weights'] == 'net_g_latest.pth'
    assert known['Speed'] == '40.0 images/s (median)'


def test_texts_of_users_never_become_markup(tmp_path):
    evil = '<script>alert(1)<!--'
    closing = evil.replace('/', '')
    folder = tmp_path / 'evil'
    image = {'key': evil, 'task': '<b>&amp;', 'metrics': {'psnr': 20.0}, 'input_metrics': {'psnr': 10.0}}
    record = val(5, images=[image], protocol='</script><i>', dataset=closing)
    record['per_task'] = {'</td><u>': {'n': 1, 'metrics': {'psnr': 20.0}, 'input_metrics': {}}}
    write_history(
        folder,
        [{'kind': 'run', 'iter': 0, 'facts': {'<s>': '</dd><s>'}}, train(5, losses={'</script><q>': 1.0}), record],
    )
    (folder / 'x.yml').write_text('name: "</title><em>"\ndescription: "{{data}}</p><strong>"\n')
    for what in ('lq', '5'):
        save(folder / 'visualization' / closing, f'{evil}_{what}.png', picture(1))
    page = Page(write_report(folder))
    tags = [tag for tag, _ in page.elements]
    assert tags.count('script') == 2
    assert tags.count('b') == 1  # the page's own
    assert not {'i', 'u', 's', 'q', 'em', 'strong'} & set(tags)
    assert page.data['examples'][0]['key'] == evil
    assert page.data['examples'][0]['group'] == '<b>&amp;'
    assert '</title><em> · training report' in page.text
    assert '{{data}}</p><strong>' in page.text


def test_empty_run_says_what_is_missing(tmp_path):
    (tmp_path / 'models').mkdir()
    page = Page(write_report(tmp_path))
    for text in (
        'No training iteration has been recorded',
        'no pictures to compare',
        'there are no numbers yet',
        'no option file',
    ):
        assert text in page.text
    assert page.data == {'examples': [], 'charts': []}


def test_run_without_validation_still_shows_its_loss(tmp_path):
    write_history(tmp_path, [train(10), train(20)])
    page = Page(write_report(tmp_path))
    assert 'Trained 20 iterations in 10 s. There has been no validation' in page.text
    assert page.data['charts'][0]['views'][0]['lines'][0]['y'] == [0.1, 0.05]


def test_pictures_without_a_history_are_shown_without_numbers(tmp_path):
    for what in ('lq', '5', '40'):
        save(tmp_path / 'visualization' / 'val', f'a_{what}.png', picture(3))
    (example,) = Page(write_report(tmp_path)).data['examples']
    assert (example['iter'], example['stats'], example['gain'], example['images'][2]) == (40, [], None, None)


def test_report_is_replaced_and_can_be_put_elsewhere(run, tmp_path):
    out = tmp_path / 'elsewhere.html'
    out.write_text('old')
    assert write_report(run, out) == out
    assert out.read_text(encoding='utf-8').startswith('<!doctype html>')
    assert sorted(os.listdir(tmp_path)) == ['elsewhere.html', 'experiments']
    with pytest.raises(DataError, match='cannot be written'):
        write_report(run, tmp_path / 'no' / 'such' / 'folder.html')


# --- sentences


@pytest.mark.parametrize(
    ('records', 'told'),
    [
        ([train(5)], 'Trained 5 iterations. There has been no validation, so nothing can be said about quality.'),
        (
            [val(5, 9.0)],
            'Trained 5 iterations; on the 4 validation pictures, the average PSNR fell from 15.3 to 9.0 dB (−6.3).',
        ),
        ([val(5, 15.29)], 'Trained 5 iterations; on the 4 validation pictures, the average PSNR stayed at 15.3 dB.'),
        (
            [val(5, input_metrics={})],
            'Trained 5 iterations; on the 4 validation pictures, the average PSNR is 21.8 dB.',
        ),
        ([val(5, math.nan)], 'Trained 5 iterations; the last validation gave no finite PSNR.'),
        (
            [val(5, metrics={'lpips': 0.2}, input_metrics={'lpips': 0.45}, higher_better={'lpips': False})],
            'Trained 5 iterations; on the 4 validation pictures, the average LPIPS fell from 0.450 to 0.200 (−0.250).',
        ),
        (
            [val(5, 23.0), val(6, 22.0), val(7, math.nan), val(8, 21.0)],
            'Trained 8 iterations in 3 s; on the 4 validation pictures, the average PSNR rose from 15.3 to 21.0 dB'
            ' (+5.7). It was best at iteration 5, with 23.0 dB.',
        ),
        (
            [
                val(i, metrics={'lpips': v}, input_metrics={}, higher_better={'lpips': False})
                for i, v in ((5, 0.1), (6, 0.2))
            ],
            'Trained 6 iterations in 1 s; on the 4 validation pictures, the average LPIPS is 0.200. '
            'It was best at iteration 5, with 0.100.',
        ),
        (
            [val(5, metrics={})],
            'Trained 5 iterations. There has been no validation, so nothing can be said about quality.',
        ),
    ],
)
def test_summary(tmp_path, records, told):
    write_history(tmp_path, records)
    assert summary(read_run(tmp_path)) == told


@pytest.mark.parametrize(
    ('train_root', 'val_root', 'unseen'),
    [
        ('a/train', 'a/val', True),
        ('a', 'a', False),
        ('a', 'a/val', False),
        ('a/b/', 'a/b', False),
        ('a/x', 'b/x', True),
    ],
)
def test_photos_are_called_unseen_only_where_the_folders_are_apart(run, train_root, val_root, unseen):
    text = OPTIONS.replace('data/train/gt', f'./{train_root}').replace('data/val/gt', f'./{val_root}')
    (run / 'sample.yml').write_text(text)
    assert ('it has not seen' in summary(read_run(run))) == unseen


def test_unfinished_run_names_the_plan(run):
    (run / 'sample.yml').write_text(OPTIONS.replace('total_iter: 700', 'total_iter: 20000'))
    assert summary(read_run(run)).startswith('Trained 700 of 20,000 planned iterations in 11 min 40 s;')


def test_time_between_a_stop_and_a_resume_does_not_count():
    moments = [('run', 0), ('train', 60), ('run', 9000), ('train', 9050), ('val', 9055)]
    assert elapsed([{'kind': k, 'time': t} for k, t in moments]) == 115


def test_duration():
    shown = ['0 s', '59 s', '4 min 12 s', '2 h 05 min', '3 d 4 h']
    assert [duration(s) for s in (0.2, 59, 252, 7500, 3 * 86400 + 4 * 3600)] == shown


def test_numbers_are_written_with_the_digits_that_mean_something():
    assert [brief('psnr', 21.849), brief('psnr', 21.849, fine=True), brief('ssim', 0.91249)] == [
        '21.8 dB',
        '21.85 dB',
        '0.912',
    ]
    assert [brief('musiq', 54.321), brief('psnr', math.inf), brief('psnr', math.nan)] == ['54.3', '∞ dB', '– dB']
    assert [label('psnr'), label('psnr_y')] == ['PSNR', 'PSNR (y)']


@pytest.mark.parametrize(
    ('higher', 'after', 'better'),
    [(True, 2, True), (True, 0, False), (False, 0, True), (None, 2, None), (True, 1, None)],
)
def test_better_follows_the_direction_of_the_metric(higher, after, better):
    assert stat('m', 1, after, higher)['better'] is better


# --- examples


def example(task, key, gain=1.0, dataset='val'):
    entry = {'metrics': {'psnr': 20 + gain}, 'input_metrics': {'psnr': 20.0}}
    return Example(dataset, task, key, 1, (None, Path('x'), None), {}, entry)


@settings(max_examples=80, deadline=None)
@given(
    st.dictionaries(st.sampled_from('abcd'), st.lists(st.floats(-5, 5), min_size=1, max_size=12), min_size=1),
    st.integers(0, 15),
)
def test_choice_is_fair_and_never_hides_the_weakest(gains, limit):
    examples = [example(t, f'{i:02d}', g) for t in sorted(gains) for i, g in enumerate(gains[t])]
    chosen = choose(examples, limit)
    assert chosen == [e for e in examples if e in chosen]  # the order is kept
    assert len(chosen) == min(limit, len(examples))
    if not chosen:
        return
    assert min(e.gain for e in chosen) == min(e.gain for e in examples)
    counts = {t: sum(e.task == t for e in chosen) for t in gains if len(gains[t]) > limit}
    assert max(counts.values(), default=0) - min(counts.values(), default=0) <= 2


def test_choice_takes_the_first_of_each_task_by_name():
    examples = [example('a', str(i)) for i in range(5)] + [
        example('b', str(i), 0.5 if i == 4 else 1.0) for i in range(5)
    ]
    assert [e.task + e.key for e in choose(examples, 5)] == ['a0', 'a1', 'b0', 'b1', 'b4']


def test_weakest_picture_that_was_not_saved_is_named(run):
    pictures = [
        *val(1)['images'],
        {'key': 'rain_worst', 'task': 'rain', 'metrics': {'psnr': 14.0}, 'input_metrics': {'psnr': 15.0}},
    ]
    History(run / 'history.jsonl').append(val(700, images=pictures, per_task={}))
    text = Page(write_report(run)).text
    assert '4 of 5 validation pictures: those that validation saved.' in text
    assert 'The one that gained least, rain_worst (PSNR −1.00 dB), is not among them' in text


def test_lower_is_better_turns_the_gain_round():
    entry = {'metrics': {'lpips': 0.2}, 'input_metrics': {'lpips': 0.5}}
    assert gain_of(entry, {'higher_better': {'lpips': False}}) == pytest.approx(0.3)
    assert gain_of(entry, {}) == pytest.approx(-0.3)
    assert gain_of({'metrics': {'psnr': math.inf}, 'input_metrics': {'psnr': 1.0}}, {}) is None


def test_picture_left_from_before_the_run_was_set_back_is_not_shown(run):
    History(run / 'history.jsonl').rewind(350)
    data = Page(write_report(run)).data
    assert {e['iter'] for e in data['examples']} == {350}
    assert data['examples'][0]['main']['after'] == '19.00'


def test_names_with_numbers_and_folders_are_told_apart(tmp_path):
    for name in ('a_lq', 'a_500', 'a_500_lq', 'a_500_700', 'sub/a_lq', 'sub/a_20', 'lonely_lq', 'notes'):
        file = tmp_path / 'val' / f'{name}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b'')
    found = {e.key: e.iteration for e in find_examples(tmp_path, {})}
    assert found == {'a': 500, 'a_500': 700, 'sub/a': 20}


def test_natural_order():
    assert sorted(['p10', 'p2', 'P1', ''], key=natural_key) == ['', 'P1', 'p2', 'p10']


def test_broken_picture_is_left_out_and_named(run):
    (run / 'visualization' / 'val' / 'rain_street_700.png').write_bytes(b'\x89PNG torn')
    page = Page(write_report(run))
    assert len(page.data['examples']) == 3
    assert 'Left out, because a picture cannot be read: rain_street_700.png.' in page.text


def test_pictures_fit_the_budget_and_share_one_size(tmp_path):
    noise = np.random.default_rng(0)
    examples = []
    for i, size in enumerate([(700, 900), (900, 700), (64, 64)]):
        for what in ('lq', '1', 'gt'):
            save(tmp_path, f'{i}_{what}.png', noise.integers(0, 255, (*size, 3), dtype=np.uint8))
        examples.append(Example('val', '', str(i), 1, tuple(tmp_path / f'{i}_{w}.png' for w in ('lq', '1', 'gt'))))
    large, small = embed(examples), embed(examples, budget=150_000)
    for embedded, budget in ((large, 4_100_000), (small, 150_000)):
        pictures = [[decode(u) for u in row] for row in embedded.urls]
        assert sum(len(base64.b64decode(u.partition(',')[2])) for row in embedded.urls for u in row) <= budget
        sides = [max(p.shape) for row in pictures[:2] for p in row]
        assert min(sides) == max(sides)
        assert pictures[2][0].shape == (64, 64, 3)  # never enlarged
        assert abs(pictures[0][0].shape[0] / pictures[0][0].shape[1] - 7 / 9) < 0.01
    assert max(decode(small.urls[0][0]).shape) < max(decode(large.urls[0][0]).shape) == 900
    assert 'in full size' in large.note
    assert f'reduced to at most {max(decode(small.urls[0][0]).shape)} pixels' in small.note


# --- what cannot be reported


def test_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(DataError, match='is no run folder'):
        write_report(tmp_path)
    with pytest.raises(DataError, match='No such run folder'):
        write_report(tmp_path / 'missing')
    assert os.listdir(tmp_path) == []


def test_damaged_history_is_named(run):
    (run / 'history.jsonl').write_text('oops\n{"kind": "train", "iter": 1}\n')
    with pytest.raises(DataError, match=r'history\.jsonl, line 1'):
        write_report(run)


def test_option_file_that_is_no_yaml_is_shown_as_text(run):
    (run / 'sample.yml').write_text('a: [unfinished')
    page = Page(write_report(run))
    assert 'a: [unfinished' in page.text
    assert 'on the 4 validation pictures' in page.text


@pytest.mark.parametrize(('folder', 'code'), [('sample', 0), ('missing', 2), ('.', 2)])
def test_command_and_its_exit_code(run, folder, code):
    command = [sys.executable, str(ROOT / 'tools/make_report.py'), str(run.parent / folder)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=run)  # from anywhere
    assert result.returncode == code, result.stderr
    if code:
        assert result.stdout == ''
        assert len(result.stderr.splitlines()) == 1
    else:
        assert Path(result.stdout.strip()) == run / 'report.html'
        assert (run / 'report.html').is_file()
