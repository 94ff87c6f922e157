"""YAML and --set become nested settings; a mistake is told with its place."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avcl.config.bundled import bundled_files
from avcl.config.files import dump_config, read_config
from avcl.errors import UserError


def read(tmp_path, text, *sets):
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return read_config(path, sets)


def mistake(tmp_path, text, *sets):
    with pytest.raises(UserError) as caught:
        read(tmp_path, text, *sets)
    return str(caught.value).replace(f"{tmp_path}/", "")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((text, float(text)) for text in ("1e-4", "-1E+3", "5.", ".5")),
        *((text, int(text, 0)) for text in ("12", "-3", "10_000", "0x1F", "0")),
        *((text, None) for text in ("null", "~", "")),
        *((text, text) for text in ("no", "on", "16:9", "2024-01-31", "1.2.3", "e5")),
        *(("true", True), ("False", False), ("'1e-4'", "1e-4"), ("[1, 1e-2, x]", [1, 0.01, "x"]), ("{a: 1}", {"a": 1})),
    ],
)
def test_plain_values_are_those_of_yaml_1_2(tmp_path, text, value):
    for tree in (read(tmp_path, f"key: {text}\n"), read_config(None, [f"key={text}"])):
        assert tree == {"key": value}
        assert type(tree["key"]) is type(value)


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        *((text, {}) for text in ("", "\n", "# nothing yet\n", "---\n", "{}")),
        (
            "a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: *a\n",
            {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}, "c": {"x": 1, "y": 2}},
        ),
    ],
)
def test_empty_files_and_merge_keys_are_fine(tmp_path, text, tree):
    assert read(tmp_path, text) == tree


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{key}: &{key} [{', '.join([f'*{last}'] * 9)}]\n" for last, key in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: {c: 1\n", "run.yaml:3:1: not valid YAML: while parsing a flow mapping expected ',' or '}'"),
        ("seed: a: b\n", "run.yaml:1:8: not valid YAML: mapping values are not allowed here"),
        ("a:\n\tb: 1\n", "run.yaml:2:1: not valid YAML: while scanning for the next token found character '\\t'"),
        ("seed: 1\na: 2\nseed: 3\n", "run.yaml:3:1: not valid YAML: the key 'seed' is given twice, first on line 1"),
        ("a:\n  b: 1\n  b: 1\n", "run.yaml:3:3: not valid YAML: the key 'b' is given twice, first on line 2"),
        ("? [a]\n: 1\n", "run.yaml:1:3: not valid YAML: while constructing a mapping found unhashable key"),
        ("a: 1\n---\nb: 2\n", "run.yaml:2:1: not valid YAML: expected a single document in the stream"),
        ("a: !!python/object:os.system x\n", "run.yaml:1:4: not valid YAML: could not determine a constructor"),
        ("a: \x00\n", "run.yaml:1:1: not valid YAML: unacceptable character #x0000: special characters"),
        ("a: !!int x\n", "run.yaml:1:4: not valid YAML: the value does not fit int (invalid literal for int()"),
        (f"a: {'9' * 5000}\n", "run.yaml:1:4: not valid YAML: the value does not fit int (Exceeds the limit"),
        ("a: &a\n  b: *a\n", "run.yaml:1:4: not valid YAML: the alias holds itself"),
        ("a: [&a [1], *a, *a]\nb: &b {c: &c [x, *b]}\n", "run.yaml:2:4: not valid YAML: the alias holds itself"),
        (BOMB, "run.yaml:6:4: not valid YAML: the aliases stand for more than 100,000 values"),
        ("a: " + "[" * 3000, "run.yaml:1:1: not valid settings: nested too deeply"),
        ("- a\n", "run.yaml: invalid value ['a']: must be a mapping of settings"),
        ("er\n", "run.yaml: invalid value 'er': must be a mapping of settings"),
        ("--set seed", "--set seed: must be key=value, as in learner.lr=1e-4"),
        ("--set =3", "--set =3: must be key=value, as in learner.lr=1e-4"),
        ("--set a..b=3", "--set a..b=3: must be key=value, as in learner.lr=1e-4"),
        ("--set strategy.2.alpha=1", "--set strategy.2.alpha: '2' is not a place in a list of 2; the first one is 0"),
        ("--set strategy.alpha=1", "--set strategy.alpha: 'alpha' is not a place in a list of 2; the first one is 0"),
        ("--set seed.x=1", "--set seed.x: 7 has no settings, so 'x' cannot be set"),
        ("--set seed=[1", "--set seed=[1: not valid YAML: while parsing a flow sequence expected ',' or ']', but got"),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path, text, line):
    file, *sets = ("seed: 7\nstrategy: [er, derpp]\n", text[6:]) if text.startswith("--set ") else (text,)
    told = mistake(tmp_path, file, *sets)
    assert told.startswith(line)
    assert "\n" not in told


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"^nowhere\.yaml: no such file$"):
        read_config("nowhere.yaml")
    with pytest.raises(UserError, match=r": cannot be read as a text file: .*Is a directory"):
        read_config(tmp_path)
    (tmp_path / "clip.mp4").write_bytes(b"\x00\xff\xfe")
    with pytest.raises(UserError, match=r"clip\.mp4: cannot be read as a text file: 'utf-8' codec"):
        read_config(tmp_path / "clip.mp4")


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        (["seed=3"], {"seed": 3}),
        (["scenario.tasks=2"], {"scenario": {"name": "synthetic", "tasks": 2}}),
        (["backbone.size=tiny"], {"backbone": {"name": "cav-mae", "size": "tiny"}}),
        (["strategy.1.alpha=0.5"], {"strategy": [{"name": "er"}, {"name": "derpp", "alpha": 0.5}]}),
        (["strategy.0.memory.capacity=9"], {"strategy": [{"name": "er", "memory": {"capacity": 9}}, "derpp"]}),
        (["strategy=[er, finetune]"], {"strategy": ["er", "finetune"]}),
        (["strategy=er", "strategy.a=4", "strategy.a=6"], {"strategy": {"name": "er", "a": 6}}),
        (["learner.betas=[0.9, 0.95]", "learner.lr=1e-4"], {"learner": {"betas": [0.9, 0.95], "lr": 1e-4}}),
        (["out="], {"out": None}),
        (["out=a=b"], {"out": "a=b"}),
    ],
)
def test_assignments_change_settings(tmp_path, assignments, expected):
    text = "scenario: {name: synthetic, tasks: 4}\nbackbone: cav-mae\nstrategy: [{name: er}, derpp]\n"
    assert read(tmp_path, text, *assignments) == read(tmp_path, text) | expected


def test_a_file_says_what_differs_from_its_base(tmp_path):
    text = "scenario: {name: folder, root: x}\nbackbone: cav-mae\nstrategy: {name: stella, alpha: 1}\n"
    (tmp_path / "all.yaml").write_text(text + "learner: {lr: 1, epochs: 2}\n")
    text = "scenario: {root: y}\nbackbone: {size: tiny}\nstrategy: {name: er, replay: 3}\n"
    text += "base: all\nlearner: {lr: null}\n"
    assert read(tmp_path, text, "learner.epochs=3") == {
        "scenario": {"name": "folder", "root": "y"},
        "backbone": {"name": "cav-mae", "size": "tiny"},
        "strategy": {"name": "er", "replay": 3},
        "learner": {"lr": None, "epochs": 3},
    }
    (tmp_path / "all.yaml").write_text("base: run\nseed: 3\n")  # not the one beside it, which is based on this file
    for base, line in [
        ("all.yaml", "all.yaml: base: run is based on this file; a base must not lead back"),
        ("3", "run.yaml: base: invalid value 3: must be the name of a run file"),
        ("rum", "run.yaml: base: rum: no such file, nor a bundled run file; did you mean 'run'?"),
    ]:
        assert mistake(tmp_path, f"base: {base}\n") == line
    # the bundled one of its own name
    assert read(tmp_path, "base: run\nseed: 3\n") == read_config(bundled_files()["run"]) | {"seed": 3}


# PyYAML writes these three line breaks of Unicode unescaped and reads them back as others
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x85\u2028\u2029\ufeff"))
plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, derandomize=True)
@given(st.dictionaries(text, plain_values | st.sampled_from(["1e-4", "no", "16:9", "0x1", "<<", "~"]), max_size=4))
def test_what_is_dumped_loads_as_it_was(tmp_path_factory, tree):
    path = tmp_path_factory.getbasetemp() / "dumped.yaml"
    path.write_text(dump_config(tree), encoding="utf-8", newline="")
    assert read_config(path) == tree
