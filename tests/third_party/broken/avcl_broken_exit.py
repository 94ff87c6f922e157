"""A script that someone named as a plugin: it ends the process."""

import sys

sys.exit("usage: avcl_broken_exit FILE")
