"""Whether a store serves what is asked for."""

from avcl.data.store.compatible import grid_rate, is_multiple, wider


def test_the_rate_that_a_store_needs():
    assert grid_rate(10.0, 4.0, 4) == 8  # as published
    assert grid_rate(10.0, 4.0, 1) == 8
    assert grid_rate(10.0, 1.0, 3) == 24
    assert grid_rate(10.0, 1.0, 10) == 40
    assert grid_rate(10.0, 10.0, 10) == 1  # there is one window
    assert grid_rate(10.0, 10.0, 4) == 0.4
    assert is_multiple(3.33333, grid_rate(3.0, 3.0, 10))
    assert [is_multiple(rate, 8) for rate in (8, 16, 8 + 1e-9, 1, 4, 12, 25)] == [True] * 3 + [False] * 4


def test_what_a_store_was_prepared_without_is_named():
    def told(had, wanted):
        return [line.removeprefix("store: was prepared with ") for line in wider(had, wanted)]

    for name, least, more in (
        ("gallery", "task classes", "all"),
        ("pretraining", None, "unused"),
        ("pretraining", "unused", "authors"),
        ("train_per_class", 1, 2),
        ("eval_per_class", 5, None),
    ):
        said = f"{name} = {least or 'null'}; {more or 'null'} is asked for: prepare again with it"
        assert told({name: least}, {name: more}) == [said]
        assert told({name: more}, {name: least}) == told({name: more}, {name: more}) == told({}, {name: more}) == []
    assert told({"order": ["a", "b"]}, {"order": ["b"]}) == []
    assert told({"order": ["a"]}, {"order": ["b", "a"]}) == ["order = [a]; [b] is asked for: prepare again with it"]
    assert told({"train_per_class": 2}, {"train_per_class": 1, "pretraining": "authors"}) == [
        "train_per_class = 2; 1 is asked for: prepare again with it"
    ]
    assert told({"pretraining": "authors"}, {"pretraining": "all"}) == []  # the tasks' own clips are in it anyway
    had, wanted = {"eval": "a.csv", "eval_per_class": 5}, {"eval": "b.csv", "eval_per_class": 5}
    assert told(had, wanted) == ["eval = a.csv; b.csv is asked for: prepare again with it"]
    assert told(had, had | {"eval": "./a.csv"}) == told(had | {"eval_per_class": None}, wanted) == []
    assert told({"split": "/there/a.yaml"}, {"split": "/here/a.yaml"}) == []
