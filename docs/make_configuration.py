"""Write docs/configuration.md from the config's own fields: `python docs/make_configuration.py [--check]`."""

from __future__ import annotations

import argparse
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fastslow.config import RunConfig

TARGET = Path(__file__).with_name("configuration.md")

HEADER = """\
# Configuration

<!-- Written by docs/make_configuration.py from the config's own fields; run `make docs` after changing one. -->

A run is one YAML file. Every key has a default except `task` (or, for several tasks in one run, `schedule`); an
unknown key is an error that names the nearest known one. Any key can be overridden on the command line by
its dotted path:

```
fastslow train configs/demo.yaml --set slow.lr=2e-5 --set fast.population=2
```

Three shorthands save typing: `task: chain_sum` stands for a Reasoning Gym task of that name, `fast.reflector: policy`
for a reflector of that type with its defaults, and `task.convention: NAME` for a convention of that kind. A task with a
`path` is a file task unless it says otherwise."""


def render() -> str:
    parts = [HEADER]
    for title, model in sections(RunConfig):
        parts.append(f"\n## {title}\n")
        if model.__doc__:
            parts.append(f"{reflow(model.__doc__)}\n")
        parts.append("| Key | Type | Default | Meaning |\n|---|---|---|---|")
        fields = sorted(model.model_fields.items(), key=lambda item: item[0] != "type")
        parts.extend(row(name, field) for name, field in fields)
    return "\n".join(parts) + "\n"


def sections(model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """The whole tree, parents first, each with its dotted path; the options of a union stand one after another."""
    yield "The run", model
    yield from _below(model, "")


def _below(model: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    shared: set[type[BaseModel]] = set()
    for name, field in model.model_fields.items():
        options = models_of(field.annotation)
        for option in options:
            if option in shared:
                continue
            shared.add(option)
            kind = option.model_fields.get("type")
            dotted = f"{path}{name}"
            yield (f"`{dotted}` of type `{kind.default}`" if kind and len(options) > 1 else f"`{dotted}`"), option
        seen: set[type[BaseModel]] = set()
        for option in options:
            for title, below in _below(option, f"{path}{name}."):
                if below not in seen:
                    seen.add(below)
                    yield title, below


def models_of(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, types.UnionType, Annotated):
        return [model for arg in get_args(annotation) for model in models_of(arg)]
    return []


def row(name: str, field: FieldInfo) -> str:
    cells = [f"`{name}`", type_text(field), default_text(field), escape(meaning(name, field))]
    return "| " + " | ".join(cells) + " |"


def meaning(name: str, field: FieldInfo) -> str:
    """The field's description; for a section without one, the first sentence of its own; empty where there is none."""
    if field.description:
        return field.description
    options = models_of(field.annotation)
    if len(options) == 1:
        return reflow(options[0].__doc__ or "").split(". ")[0].rstrip(".")
    if options:
        return "one of several types, each with a section below"
    return "names this type" if name == "type" else ""


def type_text(field: FieldInfo) -> str:
    """The annotation with its bounds, and whether it may be null: `whole number >= 1 or null`."""
    signs = ((annotated_types.Ge, "ge", ">="), (annotated_types.Gt, "gt", ">"))
    signs += ((annotated_types.Le, "le", "<="), (annotated_types.Lt, "lt", "<"))
    bounds = [
        f"{sign} {getattr(item, name)}" for item in field.metadata for kind, name, sign in signs if type(item) is kind
    ]
    text = annotation_text(field.annotation)
    nullable = text.endswith(" or null")
    text = " ".join([text.removesuffix(" or null"), " and ".join(bounds)]).strip()
    return f"{text} or null" if nullable else text


def annotation_text(annotation: Any) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is Annotated:
        return annotation_text(args[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in args)
    if origin in (Union, types.UnionType):
        texts = list(dict.fromkeys(annotation_text(arg) for arg in args))
        return " or ".join(texts)
    if origin is tuple:
        return "[" + ", ".join(annotation_text(arg) for arg in args) + "]"
    if origin is list:
        return f"list of {annotation_text(args[0])}"
    if origin is dict:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    plain = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    return plain.get(annotation) or escape(getattr(annotation, "__name__", str(annotation)))


def default_text(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        kind = getattr(value, "type", None)
        return f"`{kind}`" if kind else "see below"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if value in ("", {}, []):
        return "empty"
    if isinstance(value, (list, tuple)):
        return "`[" + ", ".join(str(item) for item in value) + "]`"
    return f"`{value}`"


def escape(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def reflow(doc: str) -> str:
    paragraphs = [" ".join(part.split()) for part in doc.strip().split("\n\n")]
    return "\n\n".join(paragraphs).replace("``", "`")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if the file is out of date")
    text = render()
    if parser.parse_args().check:
        current = TARGET.read_text(encoding="utf-8") if TARGET.exists() else ""
        if current != text:
            print("docs/configuration.md is out of date; run `make docs`")
            return 1
        return 0
    TARGET.write_text(text, encoding="utf-8")
    print(f"wrote {TARGET.relative_to(TARGET.parents[1])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
