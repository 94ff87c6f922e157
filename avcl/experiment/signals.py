"""Signals to stop: SIGINT and SIGTERM wait until all state is whole and saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Stopping:
    """While entered, the first SIGINT or SIGTERM sets ``asked`` to its name; a second one interrupts at once.

    Schedulers send SIGTERM some seconds before they kill. Outside of the main thread nothing is caught.
    """

    asked: str | None = None

    def __enter__(self) -> Stopping:
        main = threading.current_thread() is threading.main_thread()
        signals = (signal.SIGINT, signal.SIGTERM) if main else ()
        self._before: dict[int, Any] = {number: signal.signal(number, self._hear) for number in signals}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = signal.Signals(number).name
