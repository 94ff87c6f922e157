"""Run folders as finished runs leave them, written by hand: what they hold is known without training."""

import json

import numpy as np

from avcl.metrics.chance import median_rank_chance, recall_chance
from avcl.metrics.continual import anytime, summaries

KS = {"R@1": [1], "R@5": [5], "R@10": [10], "R@mean": [1, 5, 10], "median_rank": []}
GALLERY = 512
TASKS = ("birds", "trains", "rain")

ER = {"name": "er", "memory": {"capacity": 128, "budget_bytes": None, "dtype": "float32"}, "replay": 2.0}
STELLA = {**ER, "name": "stella", "keep_video": 0.5, "alpha": 0.5}


def results(matrix, *, seed=0, strategy="er", tasks=TASKS, joint=False, v2a=0.0, steps=None, gallery=GALLERY):
    """``results.json`` of a run whose every recall a2v has this task matrix, v2a so much more; ranks are chance."""
    measures = {}
    queries = [gallery // len(tasks)] * len(tasks)
    for way, more in (("a2v", 0.0), ("v2a", v2a)):
        for name, ks in KS.items():
            chance, deviation = recall_chance(ks, gallery) if ks else median_rank_chance(gallery)
            rows = (np.asarray(matrix, float) + more if ks else np.full_like(matrix, chance, float)).tolist()
            found = [summaries(rows[: t + 1], higher_is_better=bool(ks)) for t in range(len(rows))]
            measure = {"matrix": rows, "queries": queries, "gallery": gallery, "chance": chance}
            measure |= {"chance_deviation": deviation, "higher_is_better": bool(ks)}
            if joint:
                found = [dict.fromkeys(found[0]) | {"average": float(np.mean(rows[-1]))}]
                measure["after"] = ["all tasks"]
            measure |= {key: [one[key] for one in found] for key in found[0]}
            if steps:
                twice = [row for row in rows for _ in range(2)]
                begun = [t + 1 for t in range(len(rows)) for _ in range(2)]
                measure["anytime"] = {"steps": list(steps), "average": anytime(twice, begun)}
            measures[f"{way}/{name}"] = measure
    metrics = {"retrieval": {"gallery": gallery, "queries": queries, "measures": measures}}
    about = {"strategy": [strategy], "scenario": "synthetic", "seed": seed, "tasks": list(tasks)}
    return {**about, "tasks_done": len(matrix), "bad_clips": {}, "metrics": metrics}


def manifest(strategy=ER, *, seed=0, method="", joint=False, scenario=None, out="", **learner):
    """``run.json`` of the same."""
    settings = {
        "seed": seed, "device": "auto", "out": str(out), "evaluate_every": None, "weights": "bundled",
        "scenario": {"name": "synthetic", "tasks": 3, **(scenario or {})},
        "backbone": {"name": "cav-mae", "size": "tiny"},
        "strategy": strategy,
        "learner": {"epochs": 3, "batch_size": 32, "accumulate": 1, "drop_last": True, "lr": 0.001, "workers": 0}
        | learner,
        "metrics": None, "loggers": None, "callbacks": [],
    }  # fmt: skip
    about = {"settings": settings, "seed": seed, "device": "cpu", "processes": 1, "needs_boundaries": False}
    clips = [3072] if joint else [1024] * 3
    told = {"joint": joint, "clips": clips, "command": ["avcl", "train"], "commit": "0123abc", "resumed": []}
    named = {"method": method} if method else {}
    return {**about, **told, **named, "versions": {"python": "3.11.7", "avcl": "0.1.0", "torch": "2.14.1"}}


def write_run(folder, matrix, strategy=ER, *, seed=0, method="", joint=False, scenario=None, learner=None, **more):
    """A folder with both; returns it."""
    folder.mkdir(parents=True)
    about = manifest(strategy, seed=seed, method=method, joint=joint, scenario=scenario, out=folder, **(learner or {}))
    (folder / "run.json").write_text(json.dumps(about))
    found = results(matrix, seed=seed, strategy=strategy["name"], joint=joint, **more)
    (folder / "results.json").write_text(json.dumps(found))
    return folder


def learned(first, kept):
    """The task matrix of a method that learns every task to ``first``, and has ``kept`` of it ever after."""
    return [[first if i == t else kept if i < t else 0.0 for i in range(3)] for t in range(3)]


def four_methods(folder):
    """Four methods, two seeds each, on one stream: ER 20 and 22, STELLA in two settings, all tasks at once."""
    for seed in (0, 1):
        write_run(folder / f"finetune-{seed}", learned(40, 2 + seed), {"name": "finetune"}, seed=seed)
        write_run(folder / f"er-{seed}", learned(40, 20 + 2 * seed), seed=seed, v2a=4.0)
        for keep in (0.375, 0.5):
            name, strategy = f"stella-keep_video={keep}-{seed}", {**STELLA, "keep_video": keep}
            write_run(folder / name, learned(44, 40 * keep + 10 + 4 * seed), strategy, seed=seed, v2a=4.0)
        write_run(folder / f"multitask-{seed}", [[50, 52, 54]], {"name": "multitask"}, seed=seed, joint=True)
    return folder
