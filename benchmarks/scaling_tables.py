"""The tables of docs/scaling.md, from the figures of benchmarks/scaling.py and a plan's parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BEGIN, END = '<!-- scaling: begin -->', '<!-- scaling: end -->'
PER_NODE = 8  # GPUs
SHARD_BYTES = 1e9
SPARE = 1.3  # cores more than decoding alone takes: crops, augmentation, collation


def write_tables(results: dict[str, Any], page: Path) -> None:
    """Replaces what stands between the two marks of a page.

    Args:
        results: What was measured, and under ``plan`` what to plan for.
        page: The page.
    """
    text = page.read_text(encoding='utf-8')
    if BEGIN not in text or END not in text:
        raise SystemExit(f'{page} has no lines {BEGIN} and {END}.')
    parts = [
        facts(results), plan(results['formats'], **results['plan']), formats(results['formats']),
        rates('Reading, one process', results['reading']),
        rates('Several processes, each on its own shards, from memory', results['together']),
        memory(results, results['plan']['photographs']),
    ]  # fmt: skip
    head, tail = text.partition(BEGIN)[0], text.partition(END)[2]
    page.write_text(head + BEGIN + '\n' + '\n\n'.join(parts) + '\n' + END + tail, encoding='utf-8')


def facts(results: dict[str, Any]) -> str:
    """On what this was measured."""
    f = results['facts']
    return (
        f'Measured by `benchmarks/scaling.py` on {f["processor"]}, {f["cores"]} cores, OpenCV {f["opencv"]}, one '
        f'thread a process; {f["photographs"]} photographs of {f["megapixels"]:.2f} megapixels on average, stored as '
        f'{f["stored_images"]} JPEG files of together {f["stored_megabytes"]} MB. For other sizes, scale by the pixels.'
    )


def plan(
    found: dict[str, dict[str, float]], photographs: int, gpus: int, images_per_s: float, images_per_sample: int
) -> str:
    """What a set and a cluster need, by format."""
    rows = []
    for name, entry in found.items():
        stored = photographs * entry.get('per_photo', 1) * entry['bytes']
        reads = images_per_s * images_per_sample
        traffic, decode = reads * entry['bytes'], SPARE * reads / entry['per_s']
        shards = max(gpus, round(stored / SHARD_BYTES))
        cells = [
            f'{stored / 1e12:.2f} TB', f'{shards:,}', f'{shards / gpus:,.0f}', f'{traffic * PER_NODE / 1e6:,.0f} MB/s',
            f'{traffic * gpus / 1e9:,.2f} GB/s', f'{decode:.1f}',
        ]  # fmt: skip
        rows.append([name, *cells])
    heads = ['format', 'size', 'shards of 1 GB', 'shards a GPU', f'disk, node of {PER_NODE} GPUs', f'all {gpus} GPUs',
             'cores a GPU']  # fmt: skip
    note = (
        f'**{photographs:,} photographs, {gpus} GPUs**, each training on {images_per_s:g} samples a second with '
        f'{images_per_sample} images a sample. Size is that of one side of a pair. '
        f'Cores are {SPARE:g} times what decoding takes.'
    )
    return f'{note}\n\n{table(heads, rows)}'


def formats(found: dict[str, dict[str, float]]) -> str:
    """Bytes and decoding rate of each format."""
    heads = ['format', 'kB an image', 'bytes a pixel', 'decoded a second and core', 'megapixels a second and core']
    rows = [
        [name, f'{e["bytes"] / 1e3:,.0f}', f'{e["bytes_per_pixel"]:.2f}', f'{e["per_s"]:,.0f}',
         f'{e["megapixels_per_s"]:,.0f}'] for name, e in found.items()
    ]  # fmt: skip
    return f'**Formats**\n\n{table(heads, rows)}'


def rates(title: str, found: dict[str, dict[str, float]]) -> str:
    """Images and megabytes a second."""
    rows = [[name, f'{e["per_s"]:,.0f}', f'{e["megabytes_per_s"]:,.0f}'] for name, e in found.items()]
    return f'**{title}**\n\n{table(["", "images a second", "MB a second"], rows)}'


def memory(results: dict[str, Any], photographs: int) -> str:
    """Indexes, orders and processes."""
    index, order, loader = results['index'], results['order'], results['loader_megabytes']
    millions = order['samples'] / 1e6
    rows = [
        ['index on disk, a key', f'{index["bytes_per_key"]:.0f} bytes'],
        ['opening shards, a million keys', f'{index["open_s_per_million"]:.2f} s'],
        ['memory of the reader, a million keys', f'{index["reader_megabytes_per_million"]:.0f} MB'],
        ['finding and reading a small image', f'{index["get_microseconds"]:.0f} µs'],
        ['a data set of pairs, a million keys: time', f'{index["dataset_s_per_million"]:.1f} s'],
        ['a data set of pairs, a million keys: memory', f'{index["dataset_megabytes_per_million"]:.0f} MB'],
        [f'the same for {photographs:,}', f'{index["dataset_megabytes_per_million"] * photographs / 1e9:.1f} GB'],
        [f"an epoch's order, {millions:g} million samples, whole set",
         f'{order["whole_epoch_s"]:.2f} s, {order["whole_megabytes"]:.0f} MB a GPU'],
        ["the same with `shuffle_shards: 8`, one of 64 GPUs", f'{1e3 * order["shards_epoch_s"]:.1f} ms'],
        *([f'a loader process, started by {k}: memory of its own', f'{v:.0f} MB'] for k, v in loader.items()),
    ]  # fmt: skip
    return f'**Indexes, order, memory**\n\n{table(["", ""], rows)}'


def table(heads: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [heads, ['---'] * len(heads), *rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)
