"""Where problems and scores come from. Nothing here imports torch."""

from __future__ import annotations

from fastslow.tasks.base import Task
from fastslow.tasks.problems import majority_share
from fastslow.tasks.registry import build_task

__all__ = ["Task", "build_task", "majority_share"]
