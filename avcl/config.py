"""From a YAML file and ``--set`` to objects, and back to a file; all mistakes of a file in one message."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from pydantic import AfterValidator

from avcl.clip_shape import SHAPE
from avcl.errors import SettingsError, UserError
from avcl.registry import registry
from avcl.settings import Component, Natural, build, check, fields, plain

if TYPE_CHECKING:
    from avcl.backbones import Backbone
    from avcl.strategies import Strategy
    from avcl.streams import Scenario
