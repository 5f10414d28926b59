"""Writes peer_keys.json: names and shapes of what the published weight files of benchmarks/peers/networks hold.

python tests/golden/make_peer_keys.py WEIGHTS
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import torch

from benchmarks.peers.networks import PEERS


def main() -> None:
    """Reads each file under the folder of weights, once for files of one network."""
    found = {}
    for name, peer in PEERS.items():
        held = torch.load(Path(sys.argv[1]) / peer.file, map_location='cpu', weights_only=True)
        held = held[peer.inside] if peer.inside else held
        keys = {k: list(v.shape) for k, v in held.items() if not (peer.unused and k.startswith(peer.unused))}
        first = next((n for n, known in found.items() if known == keys), None)
        found[name] = keys if first is None else first
    lines = ',\n'.join(f' {json.dumps(name)}: {json.dumps(keys)}' for name, keys in found.items())
    Path(__file__).with_name('peer_keys.json').write_text(f'{{\n{lines}\n}}\n')


if __name__ == '__main__':
    main()
