"""Which of Avalanche's plugins, metrics and loggers work here; the others are refused with what to use instead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from avcl.errors import UserError


class Verdict(NamedTuple):
    """On the classes of one of Avalanche's modules, shown as ``names``; without a ``reason`` they work."""

    names: str
    reason: str = ""
    instead: str = ""


_LABELS = "reads class labels and task labels of the batch, which has none"
_TARGETS = "reads the data set's targets, which it has not"
_LOADER = "replays through a data loader of its own, which is never used: the buffer fills and changes nothing"
_PAIRS = "takes a batch for (input, label, task)"
_HEAD = "is about a classifier, and there is none"
_RECALL = "the metric `retrieval`"
_REPLAY = "the strategy `er`"
_DISTIL = "the strategy `derpp`"

PLUGINS: Mapping[str, Verdict] = {
    "agem": Verdict("AGEMPlugin", _PAIRS, _REPLAY),
    "bic": Verdict("BiCPlugin", _TARGETS, _REPLAY),
    "cope": Verdict("CoPEPlugin", _LABELS, _REPLAY),
    "cwr_star": Verdict("CWRStarPlugin", _HEAD, "the strategy `finetune`"),
    "early_stopping": Verdict(
        "EarlyStoppingPlugin", "watches a metric of Avalanche's that is never there", "the callback `early-stopping`"
    ),
    "ewc": Verdict("EWCPlugin", _PAIRS, _DISTIL),
    "feature_distillation": Verdict("FeatureDistillationPlugin", _LABELS, _DISTIL),
    "from_scratch_training": Verdict(
        "FromScratchTrainingPlugin",
        "resets an optimizer of one parameter group, not of two",
        "a run for each task",
    ),
    "gdumb": Verdict("GDumbPlugin", _TARGETS, _REPLAY),
    "gem": Verdict("GEMPlugin", _PAIRS, _REPLAY),
    "generative_replay": Verdict(
        "GenerativeReplayPlugin, TrainGeneratorAfterExpPlugin",
        "needs a generator of clips",
        _REPLAY,
    ),
    "gss_greedy": Verdict("GSS_greedyPlugin", _PAIRS, "the strategy `gmed`"),
    "lfl": Verdict("LFLPlugin", "asks the model for get_features, which backbones have not", _DISTIL),
    "lr_scheduling": Verdict(
        "LRSchedulerPlugin",
        "sets the optimizer's learning rate to its scheduler's after every task, and is not in the checkpoint",
        "the callback `lr-schedule`",
    ),
    "lwf": Verdict("LwFPlugin", _TARGETS, _DISTIL),
    "mas": Verdict("MASPlugin", _PAIRS, _DISTIL),
    "mir": Verdict("MIRPlugin", _TARGETS, "the strategy `mir`"),
    "rar": Verdict("RARPlugin", _PAIRS, _REPLAY),
    "replay": Verdict("ReplayPlugin", _LOADER, _REPLAY),
    "rwalk": Verdict("RWalkPlugin", _PAIRS, _DISTIL),
    "synaptic_intelligence": Verdict(
        "SynapticIntelligencePlugin",
        "compares weights with views of themselves on a CPU (its penalty is 0), and is not in the checkpoint",
        _DISTIL,
    ),
    "update_fecam": Verdict("CurrentDataFeCAMUpdate, FeCAMOracle, MemoryFeCAMUpdate", _HEAD, _RECALL),
    "update_ncm": Verdict("CurrentDataNCMUpdate, MemoryNCMUpdate, NCMOracle", _HEAD, _RECALL),
}
METRICS: Mapping[str, Verdict] = {
    "acc_matrix": Verdict("accuracy_matrix_metrics", _LABELS, _RECALL),
    "accuracy": Verdict("accuracy_metrics", _LABELS, _RECALL),
    "amca": Verdict("amca_metrics", _LABELS, _RECALL),
    "checkpoint": Verdict("WeightCheckpoint", "logs the whole pickled model as a value", "the run folder's checkpoint"),
    "class_accuracy": Verdict("class_accuracy_metrics", _LABELS, _RECALL),
    "confusion_matrix": Verdict("confusion_matrix_metrics", _LABELS, _RECALL),
    "cpu_usage": Verdict("cpu_usage_metrics"),
    "cumulative_accuracies": Verdict(
        "CumulativeAccuracyPluginMetric, CumulativeForgettingPluginMetric", _LABELS, _RECALL
    ),
    "disk_usage": Verdict("disk_usage_metrics"),
    "forgetting_bwt": Verdict("forgetting_metrics, bwt_metrics", _LABELS, _RECALL),
    "forward_transfer": Verdict("forward_transfer_metrics", _LABELS, _RECALL),
    "gpu_usage": Verdict("gpu_usage_metrics", "logs 0 where nvidia-smi gives no answer", "the metric `train/speed`"),
    "images_samples": Verdict("images_samples_metrics", "takes a clip for one image", "a metric of your own"),
    "labels_repartition": Verdict("labels_repartition_metrics", _LABELS, "`clips` of the run folder's run.json"),
    "loss": Verdict("loss_metrics", _LABELS, "the metric `train/loss`"),
    "mac": Verdict("MAC_metrics", "takes a clip for one tensor", "the metric `train/speed`"),
    "mean_scores": Verdict("mean_scores_metrics", _LABELS, _RECALL),
    "ram_usage": Verdict("ram_usage_metrics"),
    "timing": Verdict("timing_metrics"),
    "topk_acc": Verdict("topk_acc_metrics", _LABELS, _RECALL),
}
LOGGERS: Mapping[str, Verdict] = {
    "csv_logger": Verdict(
        "CSVLogger", "has columns for loss and accuracy only, and writes zeros into them", "the logger `csv`"
    ),
    "interactive_logging": Verdict("InteractiveLogger"),
    "tensorboard_logger": Verdict("TensorboardLogger"),
    "text_logging": Verdict("TextLogger"),
    "wandb_logger": Verdict("WandBLogger", "calls a function that wandb has no longer", "the logger `wandb`"),
}
VERDICTS: Mapping[str, Mapping[str, Verdict]] = {
    "avalanche.training.plugins": PLUGINS,
    "avalanche.evaluation.metrics": METRICS,
    "avalanche.logging": LOGGERS,
}


def refuse(plugins: Iterable[Any], metrics: Iterable[Any], loggers: Iterable[Any]) -> None:
    """UserError with a line for each of Avalanche's own parts that cannot work; anyone else's are not judged."""
    wrong = []
    for where, parts in (("plugins", plugins), ("evaluator.metrics", metrics), ("evaluator.loggers", loggers)):
        for cls in dict.fromkeys(map(type, parts)):
            verdict = verdict_on(cls)
            if verdict is not None and verdict.reason:
                told = f"Avalanche's {cls.__name__} cannot work: it {verdict.reason}; use {verdict.instead}"
                wrong.append(f"{where}: {told}")
    if wrong:
        raise UserError("\n".join(wrong))


def verdict_on(cls: type) -> Verdict | None:
    """The verdict on a class of Avalanche's; None for anyone else's, also where they extend Avalanche's."""
    package, _, module = cls.__module__.rpartition(".")
    return VERDICTS.get(package, {}).get(module)
