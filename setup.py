"""Only builds the native ops; everything else is in pyproject.toml, and how in _build/avcl_build.py."""

import sys
from pathlib import Path

from setuptools import setup

sys.path.insert(0, str(Path(__file__).parent / "_build"))
from avcl_build import native

setup(**native("plugins/stella/ops/csrc", "avcl.plugins.stella.ops"))
