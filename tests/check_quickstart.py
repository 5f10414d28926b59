"""Checks the quickstart's promises on the run it left: ``python tests/check_quickstart.py experiments/quickstart``."""

import json
import sys
from pathlib import Path

SECONDS, MEAN_GAIN = 360, 3.0


def main(folder: Path) -> int:
    """Prints the gain of every task and the time, and returns 0 if the promise held."""
    records = [json.loads(line) for line in (folder / 'history.jsonl').read_text().splitlines()]
    start = next(r['time'] for r in records if r['kind'] == 'run')
    last = [r for r in records if r['kind'] == 'val'][-1]
    seconds = (folder / 'report.html').stat().st_mtime - start
    gains = {t: s['metrics']['psnr'] - s['input_metrics']['psnr'] for t, s in last['per_task'].items()}
    mean = last['metrics']['psnr'] - last['input_metrics']['psnr']
    print(f'{seconds:.0f} s; mean gain {mean:+.2f} dB; ' + ', '.join(f'{t} {g:+.2f}' for t, g in gains.items()))
    return 0 if seconds <= SECONDS and mean >= MEAN_GAIN and min(gains.values()) > 0 and len(gains) == 5 else 1


if __name__ == '__main__':
    sys.exit(main(Path(sys.argv[1])))
