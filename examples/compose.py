"""Three strategies in one learner: STELLA+ replays, ESMER weighs and distils, and a small one of our own.

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
from avcl.settings import Fraction


@dataclass(kw_only=True)
class KeepGap(Strategy):
    """Hold the modality gap, the distance between mean audio and mean video embedding, to its running mean.

    Args:
        weight: Weight of the squared difference.
        ema_decay: EMA decay of the running mean.
    """

    name = "keep-gap"

    weight: NonNegativeFloat = 0.1
    ema_decay: Fraction = 0.99

    def begin(self, learner):
        self.mean = 0.0

    def penalty(self, learner):
        audio, video = (normalize(x, dim=1).mean(0) for x in (learner.output.audio, learner.output.video))
        gap = (audio - video).norm()
        self._now = gap.item()
        return {"gap": self.weight * (gap - (self.mean or self._now)) ** 2}

    def observe(self, learner):
        self.mean = self.ema_decay * (self.mean or self._now) + (1 - self.ema_decay) * self._now


def strategies():
    """They act in this order.

    ESMER has no replay buffer of its own: it distils whatever is replayed, here by STELLA+. With a capacity of
    its own it would replay clips of its own beside those of STELLA+.
    """
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
