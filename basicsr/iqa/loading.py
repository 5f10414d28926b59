"""Scorers from an option file, a name, or a block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from basicsr.errors import OptionError
from basicsr.iqa.scorer import Scorer, build_scorer


def load_scorer(spec: str | Path | dict[str, Any]) -> Scorer:
    """Builds a scorer or an ensemble.

    Args:
        spec: A YAML file with a block (``options/iqa/offline.yml``), the type of a scorer (``NIQE``), or a block.

    Raises:
        OptionError: There is no such file or type, or its options are wrong; of a file, with the line.
        MissingWeightsError: Weights are not on this machine; the text says which file goes where.
    """
    return build_scorer(scorer_block(spec))


def scorer_block(spec: str | Path | dict[str, Any]) -> dict[str, Any]:
    """The block of options that :func:`load_scorer` builds from.

    Raises:
        OptionError: There is no such file or type, or a key of a file is wrong.
    """
    if isinstance(spec, dict):
        return spec
    text = str(spec)
    if not text.endswith(('.yml', '.yaml')):
        return {'type': text}
    from basicsr.options import find_file
    from basicsr.schema import Problems, check_typed_block
    from basicsr.yaml_io import read_document

    path = find_file(text)
    if not path.is_file():
        raise OptionError(f"There is no scorer file '{text}' (looked for at '{path.absolute()}').")
    document = read_document(path)
    problems = Problems(document)
    block = check_typed_block(problems, (), document.values, 'scorer', {})
    problems.stop()
    return block
