"""Several strategies in one learner: ESMER weighs what STELLA+ selects and replays, and a small one of our own.

python examples/compose.py && tensorboard --logdir runs
"""

from dataclasses import dataclass

from avalanche.training.plugins import EvaluationPlugin
from pydantic import NonNegativeFloat
from torch.nn.functional import normalize

from avcl import CavMae, Learner, Memory, Strategy
from avcl.backbones.weights import load_weights
from avcl.experiment.loggers import Board
from avcl.metrics import LossTerms, Retrieval
from avcl.plugins.esmer import ESMER
from avcl.plugins.stella.plus import StellaPlus
from avcl.scenarios.synthetic import Synthetic


@dataclass(kw_only=True)
class KeepGap(Strategy):
    """Hold the modality gap, the distance of the mean sound from the mean sight, to what it usually is."""

    name = "keep-gap"

    weight: NonNegativeFloat = 0.1

    def begin(self, learner):
        self.usual = 0.0

    def penalty(self, learner):
        audio, video = (normalize(x, dim=1).mean(0) for x in (learner.output.audio, learner.output.video))
        gap = (audio - video).norm()
        self._now = gap.item()
        return {"gap": self.weight * (gap - (self.usual or self._now)) ** 2}

    def observe(self, learner):
        self.usual = 0.99 * (self.usual or self._now) + 0.01 * self._now


def strategies():
    """They act in this order. ESMER remembers nothing: STELLA+ replays, and ESMER's teacher watches over it."""
    return [StellaPlus(memory=Memory(capacity=128)), ESMER(memory=Memory(capacity=0)), KeepGap()]


if __name__ == "__main__":
    scenario = Synthetic()
    stream = scenario.benchmark()
    backbone = CavMae(size="tiny", **scenario.shape._asdict())
    initial = load_weights(scenario.bundled_weights).fill(backbone)
    retrieval, board = Retrieval(scenario.task_names), Board("runs/compose")
    evaluator = EvaluationPlugin(retrieval, LossTerms(), loggers=[board], collect_all=False)
    learner = Learner(
        backbone=backbone, strategy=strategies(), initial=initial, evaluator=evaluator, epochs=2, batch_size=32, lr=1e-3
    )
    for task in stream.train_stream:
        learner.train(task)
        learner.eval(stream.eval_stream)
    board.close()
    for name, measure in retrieval.results()["measures"].items():
        print(f"{name:11} average {measure['average'][-1]:5.1f}  forgetting {measure['forgetting'][-1]:5.1f}")
