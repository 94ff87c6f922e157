"""The public names of avcl: all there, loaded on first use, known to type checkers."""

import ast
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

import avcl


def test_every_public_name_is_what_type_checkers_see() -> None:
    seen = {
        alias.asname: node.module
        for node in ast.walk(ast.parse(Path(avcl.__file__).read_text()))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("avcl.")
        for alias in node.names
    }
    assert sorted(seen) == avcl.__all__
    for name, module in seen.items():
        assert getattr(avcl, name) is getattr(import_module(str(module)), name)
        assert name in dir(avcl)
    assert avcl.__version__ == version("avcl")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'avcl' has no attribute 'Strategie'$"):
        avcl.Strategie  # noqa: B018


def test_importing_avcl_and_the_plugin_contract_is_light() -> None:
    code = (
        "import sys, avcl; avcl.hookimpl, avcl.UserError; print({'torch', 'avalanche', 'pydantic'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
