"""A metric: the effective rank of embeddings after every task, which falls when they collapse."""

import torch

from avcl import hookimpl
from avcl.compat import MetricValue, PluginMetric


class EmbeddingRank(PluginMetric):
    """Exponential of the entropy of the singular values of all evaluation embeddings (RankMe, arXiv 2210.02885).

    Tags ``eval/rank/audio`` and ``eval/rank/video``; between 1 and D, higher is better.
    """

    def __init__(self):
        super().__init__()
        self.history = {"audio": [], "video": []}

    def before_eval(self, strategy):
        self.reset()

    def after_eval_iteration(self, strategy):
        self._pairs.append([x.float().cpu() for x in strategy.mb_output])  # (audio (B, D), video (B, D))

    def after_eval(self, strategy):
        step, ranks = strategy.clock.train_iterations, self.result()
        for kind, rank in ranks.items():
            self.history[kind].append(rank)
        return [MetricValue(self, f"eval/rank/{kind}", rank, step) for kind, rank in ranks.items()]

    def result(self):
        sides = zip(self.history, zip(*self._pairs, strict=True), strict=False)
        return {kind: effective_rank(torch.cat(batches)) for kind, batches in sides}

    def reset(self):
        self._pairs = []

    def results(self):  # into results.json
        return self.history

    def state_dict(self):  # into the checkpoint
        return {"history": self.history}

    def load_state_dict(self, state):
        self.history = state["history"]

    def __str__(self):
        return "rank"


def effective_rank(rows):
    share = torch.linalg.svdvals(rows)
    return torch.special.entr(share / share.sum()).sum().exp().item()


@hookimpl
def metrics(run):
    return [EmbeddingRank()]
