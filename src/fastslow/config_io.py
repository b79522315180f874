"""Reading and writing a config: YAML, ``--set a.b=c`` overrides, and errors in one clear line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from fastslow.config import RunConfig
from fastslow.errors import ConfigError


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a YAML config and apply ``a.b=c`` overrides; raises :class:`ConfigError` with one line.

    Relative paths in the task are taken from the config's own folder where they exist there.
    """
    path = Path(path)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"config {path}: no such file; `fastslow train configs/demo.yaml` is a working example"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"config {path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"config {path}: expected keys and values at the top, found {type(data).__name__}")
    for override in overrides:
        _apply_override(data, override)
    _resolve_paths(data, path.resolve().parent)
    return parse_config(data, where=str(path))


def parse_config(data: dict[str, Any], where: str = "config") -> RunConfig:
    """Validate a plain dict; raises :class:`ConfigError` naming the field and the mend."""
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_first_line(error)}") from None


def override_config(config: RunConfig, overrides: Iterable[str]) -> RunConfig:
    """``config`` with ``a.b=c`` overrides; raises :class:`ConfigError` with one line."""
    data = config.model_dump(mode="json")
    for override in overrides:
        if override.startswith("task.") and data["schedule"]:
            data["schedule"] = None  # a finished run, looked at on one task
        _apply_override(data, override)
    return parse_config(data, where="--set")


def dump_config(config: RunConfig) -> str:
    """The config as YAML; :func:`load_config` reads it back to an equal config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _apply_override(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {override!r}: expected a.b=c, for example --set slow.lr=2e-5")
    try:
        value = yaml.safe_load(text) if text else ""
    except yaml.YAMLError:
        value = text
    if isinstance(value, str):
        value = _number(value)
    *parents, leaf = key.strip().split(".")
    node = data
    for parent in parents:
        child = node.get(parent)
        if isinstance(child, str) and parent in ("task", "reflector", "convention"):
            child = {"name" if parent == "task" else "type" if parent == "reflector" else "kind": child}
        if child is None:
            child = {}
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override!r}: {parent} is a value, not a section")
        node[parent] = child
        node = child
    node[leaf] = value


def _number(text: str) -> Any:
    """YAML 1.1 reads 2e-5 as text; a person means a number."""
    try:
        return float(text)
    except ValueError:
        return text


def _resolve_paths(data: dict[str, Any], folder: Path) -> None:
    stages = data.get("schedule")
    tasks = [s.get("task") for s in stages if isinstance(s, dict)] if isinstance(stages, list) else []
    sections = [(data.get("model"), ("init_from",)), *((t, ("path", "val_path")) for t in (data.get("task"), *tasks))]
    for values, keys in sections:
        if not isinstance(values, dict):
            continue
        for key in keys:
            value = values.get(key)
            if isinstance(value, str) and not value.startswith("hub:") and (folder / value).exists():
                values[key] = str(folder / value)


def _first_line(error: ValidationError) -> str:
    problems = error.errors(include_url=False)
    first = problems[0]
    tags = {"reasoning_gym", "file", "feedback", "endpoint", "policy"}
    parts = [str(p) for i, p in enumerate(first["loc"]) if not (str(p) in tags and i)]
    field = ".".join(parts)
    if first["type"] == "extra_forbidden":
        known = _known_keys(parts[:-1], first["loc"])
        close = difflib.get_close_matches(parts[-1], known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"
        text = f"{field}: unknown key; {hint}"
    elif first["type"] == "missing":
        text = f"{field}: missing; add it" + ("" if field != "task" else ", for example `task: chain_sum`")
    else:
        message = first["msg"].removeprefix("Value error, ")
        value = first.get("input")
        got = f" (got {value!r})" if isinstance(value, (str, int, float, bool)) and field else ""
        text = f"{field}: {message}{got}" if field else message
    more = len(problems) - 1
    return " ".join(text.split()) + (f" (and {more} more)" if more else "")


def _known_keys(path: list[str], loc: tuple[Any, ...]) -> list[str]:
    """Field names of the section at ``path``, for the hint at a misspelt key."""
    model: type[BaseModel] | None = RunConfig
    for i, part in enumerate(path):
        if part.isdigit():  # a stage of the schedule
            continue
        annotation = model.model_fields[part].annotation if model and part in model.model_fields else None
        model = _model_of(annotation, loc[i + 1 :])
    return sorted(model.model_fields) if model else []


def _model_of(annotation: Any, tags: tuple[Any, ...]) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    options = [a for a in getattr(annotation, "__args__", ()) if isinstance(a, type) and issubclass(a, BaseModel)]
    for option in options:
        kind = option.model_fields.get("type")
        if kind is not None and kind.default in tags:
            return option
    inside = next((a for a in getattr(annotation, "__args__", ()) if hasattr(a, "__args__")), None)  # a list's items
    return options[0] if options else _model_of(inside, tags) if inside else None
