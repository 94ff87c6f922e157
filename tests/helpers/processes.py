"""Training in several processes, each started for itself: a module of its own, so that they can import it."""

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as multiprocessing

from avcl.compat import quiet_evaluator
from avcl.memory import Memory
from avcl.metrics import LossTerms, Retrieval
from avcl.registry import registry
from avcl.testing.toys import Noise, small_backbone
from avcl.training.learner import Learner
from avcl.utils import distributed


@dataclass
class Case:
    """One training: strategies with their settings, the learner's settings, the stream's."""

    strategies: Mapping[str, Mapping[str, Any]]
    learner: Mapping[str, Any] = field(default_factory=dict)
    scenario: Mapping[str, Any] = field(default_factory=dict)


class Losses:
    """Keeps every loss that a logger is shown."""

    def __init__(self):
        self.seen = []

    def log_metrics(self, values):
        self.seen += [(value.name, float(value.value)) for value in values if isinstance(value.value, int | float)]

    def __getattr__(self, name):
        if name.startswith(("before_", "after_")):
            return lambda learner, values, **kwargs: self.log_metrics(values)
        raise AttributeError(name)


def learner_of(case: Case, evaluator: Any = None) -> Learner:
    find = registry().find
    strategies = [find("strategies", name)(**_with_memory(given)) for name, given in case.strategies.items()]
    backbone = small_backbone(torch.float64)
    settings = {"batch_size": 4, "eval_batch_size": 3, "epochs": 2, "lr": 1e-3, "drop_last": False, **case.learner}
    return Learner(backbone=backbone, strategy=strategies, evaluator=evaluator, seed=3, max_bad_share=0.5, **settings)


def _with_memory(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: Memory(**value) if key == "memory" else value for key, value in settings.items()}


def trained(case: Case) -> dict[str, Any]:
    """What a training of this process, or of all together, comes to."""
    scenario = Noise(**{"clips_per_task": 11, "bad": (4,), **case.scenario})
    losses, retrieval = Losses(), Retrieval()
    learner = learner_of(case, quiet_evaluator(LossTerms(every=1), retrieval, loggers=(losses,)))
    benchmark = scenario.benchmark(joint=any(part.joint for part in learner.strategies))
    gradients = []
    step = learner.optimizer_step

    def optimizer_step():
        step()
        gradients.append(
            torch.cat([p.grad.flatten() if p.grad is not None else torch.full((1,), 7.0) for p in learner.parameters()])
        )

    learner.optimizer_step = optimizer_step
    for task in benchmark.train_stream:
        learner.train(task)
        learner.eval(benchmark.eval_stream)
    return {
        "steps": learner.steps,
        "losses": [(name, value) for name, value in losses.seen if name.startswith("train/loss")],
        "gradients": [gradients[0], gradients[-1]],
        "weights": torch.cat([p.detach().flatten() for p in learner.parameters()]),
        "retrieval": retrieval.results(),
        "bad": dict(learner.bad.reasons),
        "state": {name: g.get_state() for name, g in learner.generators.items()},
    }


def together(world: int, work: Callable[..., Any], folder: Path, *given: Any) -> list[Any]:
    """What ``work(*given)`` returns in each of ``world`` processes that are one group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(_process, (world, port, work, str(folder), given), nprocs=world)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world)]


def _process(rank: int, world: int, port: int, work: Callable[..., Any], folder: str, given: tuple) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    with distributed.joined("cpu"):
        torch.save(work(*given), Path(folder) / f"{rank}.pt")


def all_trained(cases: Mapping[str, Case]) -> dict[str, dict[str, Any]]:
    return {name: trained(case) for name, case in cases.items()}


def children(process, named=b"spawn_main"):
    """Those of several processes that train, in the order of their numbers."""
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    pids = sorted(int(pid) for task in tasks for pid in task.read_text().split())
    return [pid for pid in pids if named in Path(f"/proc/{pid}/cmdline").read_bytes()]
