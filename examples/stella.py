"""STELLA on the synthetic stream, every part in the open: swap any of them for your own.

python examples/stella.py && tensorboard --logdir runs
"""

from avalanche.training.plugins import EvaluationPlugin

from avcl import CavMae, Learner, Memory
from avcl.backbones.weights import load_weights
from avcl.experiment.loggers import Board
from avcl.metrics import LossTerms, Retrieval
from avcl.plugins.stella import Stella
from avcl.scenarios.synthetic import Synthetic

scenario = Synthetic()
stream = scenario.benchmark()

backbone = CavMae(size="tiny", **scenario.shape._asdict())
initial = load_weights(scenario.bundled_weights).fill(backbone)

retrieval, board = Retrieval(scenario.task_names), Board("runs/example")
evaluator = EvaluationPlugin(retrieval, LossTerms(), loggers=[board], collect_all=False)
learner = Learner(
    backbone=backbone,
    strategy=Stella(memory=Memory(capacity=128)),
    initial=initial,
    evaluator=evaluator,
    epochs=2,
    batch_size=32,
    lr=1e-3,
)
for task in stream.train_stream:
    learner.train(task)
    learner.eval(stream.eval_stream)
board.close()

for name, measure in retrieval.results()["measures"].items():
    print(f"{name:11} average {measure['average'][-1]:5.1f}  forgetting {measure['forgetting'][-1]:5.1f}")
