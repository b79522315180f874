"""Where problems and scores come from. Nothing here imports torch."""

from __future__ import annotations

from fastslow.tasks.base import Task
from fastslow.tasks.problems import majority_share
from fastslow.tasks.registry import TaskInfo, build_task, list_tasks

__all__ = ["Task", "TaskInfo", "build_task", "list_tasks", "majority_share"]
