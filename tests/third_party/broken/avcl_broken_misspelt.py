"""Implements a hook that does not exist."""

from avcl import hookimpl


@hookimpl
def strategys():
    return []
