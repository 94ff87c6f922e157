"""What one clip may cost to read: no file, whatever it says of itself, stops a run or fills the memory."""

import os
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from avcl.errors import BadClip

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Bounds of a clip; more is a BadClip.

    ``pixels`` of a picture: 8K · ``bytes`` of a file: 32 GiB · ``seconds`` that it lasts: a day, of which the first few
    are read · ``decode_seconds`` of processor time in decoding one clip, which an idle or a stopped machine does not
    use up.
    """

    pixels: int = 7680 * 4320
    bytes: int = 2**35
    seconds: float = 86400.0
    decode_seconds: float = 120.0

    def check_file(self, path: str) -> None:
        """BadClip where a path, or what it links to, is no file, as an endless device; or it is too large."""
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise bad(path, "is a directory" if stat.S_ISDIR(found.st_mode) else "not a file")
        if found.st_size > self.bytes:
            raise bad(path, f"{found.st_size:,} bytes, more than {self.bytes:,}")

    def check_picture(self, path: str, width: int, height: int) -> None:
        """BadClip where a picture is too large."""
        if width * height > self.pixels:
            raise bad(path, f"{width} x {height} pixels, more than {self.pixels:,}")

    def check_length(self, path: str, seconds: float) -> None:
        """BadClip where a recording is too long."""
        if seconds > self.seconds:
            raise bad(path, f"lasts {seconds:.0f} s, more than {self.seconds:g} s")

    def timed(self, path: str, items: Iterable[Item]) -> Iterator[Item]:
        """The items, as long as this thread takes no more processor time for them; BadClip afterwards."""
        begun = time.thread_time()
        for item in items:
            if time.thread_time() - begun > self.decode_seconds:
                raise bad(path, f"takes more than {self.decode_seconds:g} s to decode")
            yield item


def bad(path: str, reason: str) -> BadClip:
    """What to raise for a file that cannot be used; its name, whatever bytes it has, can be printed."""
    return BadClip(os.fsencode(path).decode(errors="replace"), reason)
