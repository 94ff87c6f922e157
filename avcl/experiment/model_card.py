"""The model card of a finished run: what was trained, how, and what came out."""

from collections.abc import Mapping
from typing import Any

from avcl.config.files import dump_config
from avcl.report.tables import run_markdown

CARD = """\
# {strategy} on {scenario}, seed {seed}

A continual audio-video pre-training run made by avcl. `weights.safetensors` holds the backbone (and the strategy's
modules) after the last task.

## Zero-shot retrieval

Every clip is a query, the gallery holds the clips of all tasks. "(chance)" stands beside what is not above chance by
two standard errors.

{tables}

## Settings

```yaml
{settings}```
"""


def markdown_card(settings: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """Markdown of a run's results, with gallery and chance, and settings."""
    about = {**results, "strategy": " + ".join(results["strategy"])}
    return CARD.format(**about, tables=run_markdown(results), settings=dump_config(settings))
