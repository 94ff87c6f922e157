"""The model card of a finished run: what was trained, how, and what came out."""

from collections.abc import Mapping
from typing import Any

from avcl.config.files import dump_config
from avcl.report.tables import matrix_markdown

CARD = """\
# {strategy} on {scenario}, seed {seed}

A continual audio-video pre-training run made by avcl. `weights.safetensors` holds the backbone (and the strategy's
modules) after the last task.

{tables}

## Settings

```yaml
{settings}```
"""


def model_card(settings: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """Markdown of a run's task matrices and settings."""
    tables = "\n\n".join(
        f"{key}, percent\n\n{matrix_markdown(results['tasks'], measure)}"
        for metric in results["metrics"].values()
        for key, measure in metric.get("measures", {}).items()
        if key.endswith("R@10")
    )
    about = {**results, "strategy": " + ".join(results["strategy"])}
    return CARD.format(**about, tables=tables, settings=dump_config(settings))
