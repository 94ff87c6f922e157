"""The field's terms occur where a reader looks for them, and the quaint ones nowhere in help and error texts."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

HOME = Path(__file__).parents[2]
SOURCES = sorted(path for top in ("avcl", "plugins", "scenarios") for path in (HOME / top).rglob("*.py"))

TERMS = """
learning rate · linear warm-up | linear learning-rate warm-up · gradient clipping · weight decay · hyper-parameter
replay buffer · reservoir sampling · replayed clips · num_current · catastrophic forgetting
EMA teacher · EMA decay · update_probability · distillation · feature distillation · embedding drift penalty
most interfered · loss increase · virtual step · edit step size · regularization · decay of the edit step size
loss margin · running mean · standard deviations · mixup of current and replayed clips
audio -> video (a2v) · video -> audio (v2a) · audio-visual correspondence · task boundar · task-free · no labels
deterministic · reproducible · zero-shot retrieval · average and forgetting
found · missing · corrupt · without audio · silent · static · too short · duplicate
reported together, each with its key and allowed values · run folder · resume · print the plan · show the version
invalid value · must be · pre-decode · resumable: rerun the same command
third-party checkpoints · zero-initialize · detected
logs finite values · reads no labels or task ids · no side effects on weights, gradients, optimizer or random state
diagnostics · logged as ``train/<strategy>/<name>``
"""
TERMS = [term.strip() for line in TERMS.strip().splitlines() for term in line.split(" · ")]

QUAINT = """
rate rises · largest norm · past clips · stored beside · fresh (clips?|ones|rows) · as they came
slowly mov · how slowly · share of steps · what holds · held to · harm · worst
(stride|pull|fading|usual|spread): · the usual · familiar · mixtures · trusts
sound to sight · sight to sound · which sound · belongs to which sight · the world changed · sights · mute · still
unreadable · double · (are|is) told · folder to make · goes? on · what is to come · is not allowed · (is|are) needed
decode once · after a stop · other people's · (at|from) zero · what the names tell · finite numbers · blind
leaves the loop · is alive
"""
QUAINT = [word.strip() for line in QUAINT.strip().splitlines() for word in line.split(" · ")]


def docstrings(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """What is documented, and its docstring."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
            yield node, text


def messages(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of help, errors, log lines and table heads: prose in a file that is no docstring, and ``Args:``."""
    tree = ast.parse(path.read_text())
    quiet = set()
    for node, text in docstrings(tree):
        command = isinstance(node, ast.FunctionDef) and any(".command" in ast.unparse(d) for d in node.decorator_list)
        told = text if command else text.partition("\nArgs:\n")[2]
        yield getattr(node, "lineno", 1), " ".join(told.split())
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):  # of an attribute
            quiet.add(id(node.value))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in quiet:
            yield node.lineno, node.value


def first_lines(path: Path) -> Iterator[str]:
    """First lines of the docstrings of a file, and its names of settings."""
    for node, text in docstrings(ast.parse(path.read_text())):
        if not getattr(node, "name", "").startswith("_"):
            yield inspect.cleandoc(text).partition("\n\n")[0].replace("\n", " ")


@pytest.fixture(scope="module")
def readable() -> str:
    """All that a reader sees without reading code: README, help, errors, first lines of docstrings."""
    said = [(HOME / "README.md").read_text()]
    for path in SOURCES:
        said += [text for _, text in messages(path)]
        said += first_lines(path)
    return re.sub(r"\s+", " ", "\n".join(said)).lower()


@pytest.mark.parametrize("term", TERMS)
def test_the_fields_terms_are_found(term: str, readable: str) -> None:
    assert any(form.lower() in readable for form in term.split(" | "))


def test_help_and_errors_speak_the_fields_language() -> None:
    quaint = re.compile(rf"\b(?:{'|'.join(QUAINT)})(?!\w)", re.IGNORECASE)
    found = [
        f"{path.relative_to(HOME)}:{line}: {match[0]!r} in {text!r}"
        for path in SOURCES
        for line, text in messages(path)
        if " " in text.strip() and (match := quaint.search(text))
    ]
    assert not found, "\n".join(found)
