"""Loads well and fails later: the strategy in its penalty, the hook for runs of the seed 13."""

from dataclasses import dataclass

from avcl import Strategy, hookimpl


@dataclass(kw_only=True)
class Late(Strategy):
    """Adds what it never made."""

    name = "late"

    def penalty(self, learner):
        return {"extra": self.never_made}


@hookimpl
def strategies():
    return [Late]


@hookimpl
def metrics(run):
    return [] if run.seed != 13 else [1 / 0]
