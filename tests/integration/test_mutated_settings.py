"""Run files with mistakes in them, made at random, through ``avcl train FILE --dry-run``: a plan or lines of errors."""

import random
import re
import signal

import pytest
from typer.testing import CliRunner

from avcl.cli.main import app

pytestmark = pytest.mark.process

GOOD = """\
seed: 0
weights: null
evaluate_every: null
scenario: {name: synthetic, tasks: 2, classes: 2, train_clips: 4, eval_clips: 2, height: 32, width: 32, object: 0.5}
backbone: {name: cav-mae, size: tiny}
strategy: {name: stella, temperature: 0.1}
shared:
  memory: {capacity: 8}
  replay: 2.0
methods:
  stella: {alpha: 0.0, select_by: importance}
  lump: {replay: null}
learner:
  epochs: 1
  batch_size: 4
  eval_batch_size: 4
  optimizer: adamw
  lr: 1e-3
  betas: [0.9, 0.99]
  weight_decay: 0.01
  clip_norm: 1.0
metrics: [train/loss, retrieval]
loggers: [csv]
callbacks:
  - {name: lr-schedule, schedule: cosine, warmup: 1, min_lr: 1.0e-6}
"""
TAGS = "!!python/object/apply:os.system ['true']|!!python/name:os.system|!foo bar|!!binary aGk=|!!set {a, b}|!!int x"
TAGS += "|!!omap [a: 1]|!!timestamp 2001-12-14|!!float x|!!bool maybe|!!null x|!!seq {a: 1}|!!map [1]"
NUMBERS = "1e400|-1e400|.inf|-.inf|.nan|1e308|1e-320|2147483648|9223372036854775808|0|-1|0.0|1|3|1e-400|1_000|0o17"
NUMBERS += f"|16:9|2001-01-01|1e5|1e9|1e12|{'9' * 400}|{'9' * 5000}|-{'9' * 30}|0x{'f' * 300}"
SHAPES = f"{'[' * 3000}|{'[' * 200 + ']' * 200}|{'{a: ' * 500}1{'}' * 500}|[]|{{}}|[[]]|[null]|{{null: null}}|{{1: 2}}"
SHAPES += "|&a [*a]|&a {x: *a}|*unknown|&a &b c|{[a]: b}|{? [a, b] : c}|{<<: 3}|{<<: {a: 1}}|{<<: [1, 2]}|<<|="
TEXTS = f"'|\"|>|? a|- -|%YAML 9.9|---\na: 1|...|\t|\x00|\u2028|\ufeff|null|~|''|' '|true|no|{'a' * 100000}|{'é' * 300}"
TEXTS += "|a/../../b|../x|/dev/zero|/proc/self/mem|{name: 3}|{name: [er]}|{name: null}|[er, derpp]|[er, er]"
ODD = [*"|".join((TAGS, NUMBERS, SHAPES, TEXTS)).split("|"), "|"]
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{key}: &{key} [{', '.join([f'*{last}'] * 9)}]\n" for last, key in zip("abcdefgh", "bcdefghi", strict=True)
)


def mutated(chance):
    """A run file with one to three mistakes: odd values, lost and doubled lines, flipped bytes, or something whole."""
    lines = GOOD.splitlines()
    match chance.randrange(8):
        case 0 | 1 | 2:
            value = chance.choice(list(re.finditer(r"(?<=: )([^,{}\[\]\n]+)", GOOD)))
            return (GOOD[: value.start()] + chance.choice(ODD) + GOOD[value.end() :]).encode()
        case 3:
            place = chance.randrange(len(lines))
            lines[place] = f"{lines[place].partition(':')[0]}: {chance.choice(ODD)}"
        case 4:
            text = bytearray(GOOD.encode())
            for _ in range(chance.randrange(1, 4)):
                text[chance.randrange(len(text))] = chance.randrange(256)
            return bytes(text)
        case 5:
            for place in sorted(chance.sample(range(len(lines)), chance.randrange(1, 4)), reverse=True):
                del lines[place]
        case 6:
            lines.insert(chance.randrange(len(lines)), chance.choice(lines))
        case 7:
            odd = chance.choice(ODD)
            bases = (f"base: {odd}\n", "base: run.yaml\n", f"x: {odd}\n", BOMB)
            return chance.choice([*(base + GOOD for base in bases), BOMB + "scenario: *i\n", "- a", odd]).encode()
    return "\n".join(lines).encode()


def plan(text, folder, monkeypatch):
    """Exit code and output of the command, which may take 5 s of this process's time."""

    def too_slow(*_):
        raise TimeoutError("more than 5 s")

    monkeypatch.chdir(folder)
    (folder / "run.yaml").write_bytes(text)
    before = signal.signal(signal.SIGVTALRM, too_slow)
    signal.setitimer(signal.ITIMER_VIRTUAL, 5)
    try:
        done = CliRunner().invoke(app, ["train", "run.yaml", "--dry-run", "--set", "device=cpu"])
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    return done


def judge(numbers, folder, monkeypatch):
    codes = set()
    for number in numbers:
        text = mutated(random.Random(number))
        if b"\nscenario: {name: synthetic, tasks" not in text or b"size: tiny" not in text:
            continue  # the defaults are a whole stream and a model of many seconds: no mistake
        done = plan(text, folder, monkeypatch)
        assert done.exit_code in (0, 2), (number, text[:2000], done.exception)
        assert isinstance(done.exception, SystemExit | None), (number, text[:2000], done.exception)
        assert done.exit_code == 0 or 0 < len(done.output) < 20_000, (number, text[:2000])
        codes.add(done.exit_code)
    assert codes == {0, 2}
    assert [path.name for path in folder.iterdir()] == ["run.yaml"]


def test_a_mutated_run_file_ends_in_a_plan_or_in_lines_of_errors(tmp_path, monkeypatch):
    judge(range(60), tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_of_them(tmp_path, monkeypatch):
    judge(range(60, 1060), tmp_path, monkeypatch)
