"""How far long work is, where there is no terminal."""

import logging

from avcl.utils.console import counted, shown, spell


def test_without_a_terminal_ten_lines_say_how_far_it_is(caplog, monkeypatch):
    with caplog.at_level(logging.INFO, "avcl"):
        assert list(shown(iter(range(95)), 95, "counting")) == list(range(95))
        assert not caplog.messages  # what is over at once is not told
        monkeypatch.setattr("avcl.utils.console.PAUSE", 0.0)
        assert list(shown(iter(range(95)), 95, "counting")) == list(range(95))
        assert list(shown(iter(()), 0, "counting")) == []
    assert len(caplog.messages) == 10
    assert caplog.messages[0] == "counting: 10 of 95, 0 s left"
    assert caplog.messages[-1] == "counting: 95 of 95, 0 s left"


def test_numbers_in_words():
    assert [spell(seconds) for seconds in (40, 720, 12_000)] == ["40 s", "12 min", "3 h 20 min"]
    assert [counted(number, "clip") for number in (1, 2000)] == ["1 clip", "2,000 clips"]
