"""Half again, by someone else."""

from dataclasses import dataclass

from avcl import Strategy, hookimpl


@dataclass(kw_only=True)
class OtherHalf(Strategy):
    """The other half."""

    name = "half"


@hookimpl
def strategies():
    return [OtherHalf]
