"""A logger: every value as a line of JSON in the run folder."""

import json

from avcl import hookimpl
from avcl.compat import BaseLogger


class JsonLines(BaseLogger):
    """Lines ``{"step": 10, "tag": "train/loss/total", "value": 1.5}`` in ``metrics.jsonl``."""

    def __init__(self, path, resumed_at=-1):
        super().__init__()
        kept = path.read_text().splitlines(keepends=True) if resumed_at >= 0 and path.exists() else []
        self.file = path.open("w", buffering=1)
        self.file.writelines(line for line in kept if json.loads(line)["step"] <= resumed_at)

    def log_single_metric(self, name, value, x_plot):
        self.file.write(json.dumps({"step": x_plot, "tag": name, "value": float(value)}) + "\n")

    def close(self):
        self.file.close()


@hookimpl
def loggers(run):
    return [JsonLines(run.folder / "metrics.jsonl", run.resumed_at)]
