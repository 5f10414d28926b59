"""Shared by all tests: option files in a temporary folder."""

import pytest
import yaml


@pytest.fixture
def write(tmp_path):
    """Writes a file below the temporary folder, YAML if it is given containers, and returns its path."""

    def write_file(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
        return path

    return write_file
