"""``python -m avcl`` is ``avcl``."""

from avcl.cli.main import main

main()
