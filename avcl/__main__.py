"""``python -m avcl`` is ``avcl``."""

from avcl.cli import main

main()
