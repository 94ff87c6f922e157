"""What the command line says on standard error: lines that begin with ``avcl:``, whatever names are in them."""

import logging
import sys

from avcl.errors import printable


class _Printable(logging.Formatter):
    """Nothing but text, a line for each record; a traceback has its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (the base class calls it so)
        record.message = record.message.replace("\n", "\\n")
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def log(level: int, anew: bool = False) -> None:
    """Write what avcl logs from ``level`` on to standard error; ``anew`` where that is another file than before."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Printable("avcl: %(message)s"))
    logging.basicConfig(handlers=[handler], force=anew)
    logging.getLogger("avcl").setLevel(level)


def say(text: str) -> None:
    """Write a message, further lines of it indented."""
    sys.stderr.write(printable("avcl: " + text.rstrip("\n").replace("\n", "\n      ")) + "\n")
    sys.stderr.flush()
