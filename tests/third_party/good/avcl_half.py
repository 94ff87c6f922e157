"""Half: train on part of every batch. A strategy in a package of its own, as anyone can write one."""

from collections.abc import Iterable
from dataclasses import dataclass

from avcl import Learner, Strategy, hookimpl
from avcl.settings import Fraction


@dataclass(kw_only=True)
class Half(Strategy):
    """The first ``share`` of every batch."""

    name = "half"

    share: Fraction = 0.5

    def prepare(self, learner: Learner) -> None:
        learner.num_current = max(2, round(self.share * learner.num_current))
        learner.batch = learner.batch[: learner.num_current]


@hookimpl
def strategies() -> Iterable[type[Strategy]]:
    return [Half]
