"""Errors of one line: where, what, what is allowed or nearest, what to do."""

import difflib
import re
from collections.abc import Iterable


class AvclError(Exception):
    """Base of every error that avcl raises on purpose."""


class UserError(AvclError):
    """A mistake the user can mend. The command line prints it as it is and exits with code 2."""


class SettingsError(UserError, ValueError):
    """One or more wrong settings; every mistake is one line that begins with the setting's key."""

    def __init__(self, mistakes: Iterable[str]):
        self.mistakes = list(mistakes)
        super().__init__("\n".join(self.mistakes))

    def under(self, where: str) -> "SettingsError":
        """The same mistakes with ``where`` in front of their keys."""
        return SettingsError(f"{where}.{line}" for line in self.mistakes) if where else self


class PluginError(UserError):
    """A plugin that cannot be loaded, or two plugins that contradict each other."""


class StoppedError(AvclError):
    """A run was stopped by a signal, and has saved all it needs to resume."""


class HiddenError(AvclError, AttributeError):
    """A strategy read what a task-free, label-free method must not know."""


class BadClip(AvclError):
    """A clip that cannot be used: skipped and counted, never replaced by another one.

    ``path`` names the file, ``reason`` says in a few words why (``"no audio stream"``).
    """

    def __init__(self, path: str, reason: str):
        self.path, self.reason = path, reason
        super().__init__(f"{path}: {reason}")

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        # the default would rebuild the error from its one message; it crosses worker processes
        return type(self), (self.path, self.reason)


def nearest(name: str, allowed: Iterable[str]) -> str:
    """``"; did you mean 'er'?"`` where something allowed is close to ``name``, else what is allowed."""
    allowed = sorted(allowed)
    close = difflib.get_close_matches(name, allowed, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; allowed: {', '.join(allowed)}" if allowed else ""


CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """``text`` for a terminal or a log: control characters, and bytes that are no text, as ``\\x1b``.

    Names of files, tasks, classes and plugins may hold any: escape sequences that rewrite the screen, and orders of
    writing that turn a name round.
    """
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
