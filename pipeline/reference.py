"""Writes docs/configuration.md from the schemas: `python -m pipeline.reference docs/configuration.md`."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from pipeline.config import Config, Node, Settings, dataclass_of, imported, load, register_resolvers, settings_type
from pipeline.stage import Stage

HIDDEN = ("command", "recipe_name", "sweep_job", "source", "cluster", "model", "planning", "stages", "commands")
BOUNDS = (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
HEADER = ("key", "type", "default", "what it is")
INTRODUCTION = """\
# Configuration

Every key that can be set, as `key=value` on the command line or in a recipe of your own. Written by `make docs` from the
dataclasses that judge the values, so a default stands in one place: the code. A value of the wrong type, out of its range or
under an unknown key stops the command before anything starts.

A stage's params decide what it makes and are part of its fingerprint. What stands under `<stage>.run` says how it is run and
is not. Three more keys are the kernel's in every stage: `<stage>.needs.<role>` names the stage whose artifact is read in that
role, `<stage>.sources` lists files it reads, and `<stage>.pin` uses the published artifact whose fingerprint begins so.
"""


def main() -> None:
    """Write the reference to the path that is given."""
    Path(sys.argv[1]).write_text(reference(), encoding="utf-8")


def reference() -> str:
    """The whole page."""
    values = composed("demo")
    recipes = {name: load(*composed(name)) for name in options("recipe")}
    stages = registered(recipes.values())
    parts = [
        INTRODUCTION,
        *_settings(),
        *_models(),
        "## Stages\n",
        *(line for stage in stages for line in _stage(stage)),
        *_runs(stages),
        *_assumptions(stages),
        *_commands(values[0]["commands"]),
        *_recipes(recipes),
    ]
    return "\n".join(parts).rstrip() + "\n"


def registered(recipes: Iterable[Config]) -> list[Stage]:
    """The stages of the recipes, in their order, and behind them those that their modules have besides."""
    found: dict[Stage, None] = {}
    modules: dict[str, None] = {}
    for config in recipes:
        found.update(dict.fromkeys(node.stage for node in config.nodes.values()))  # a stage may stand there under several names
        modules.update(dict.fromkeys(dotted.rpartition(".")[0] for dotted in config.settings.stages.values()))
    for module in modules:
        found.update(dict.fromkeys(value for value in vars(importlib.import_module(module)).values() if isinstance(value, Stage)))
    return list(found)


def composed(recipe: str, *overrides: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of a recipe, with interpolations resolved and as written."""
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    register_resolvers()
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("config", [f"recipe={recipe}", *overrides])
    resolved: Any = OmegaConf.to_container(config, resolve=True)
    raw: Any = OmegaConf.to_container(config, resolve=False)
    return resolved, raw


def options(group: str) -> list[str]:
    """The choices of a configuration group."""
    from importlib.resources import files

    return sorted(entry.name.removesuffix(".yaml") for entry in files("conf").joinpath(group).iterdir() if entry.name.endswith(".yaml"))


def _settings() -> Iterator[str]:
    yield "## Of the run\n"
    yield from _table(HEADER, [row for row in rows(Settings) if row[0].strip("`").split(".")[0] not in HIDDEN])
    yield "\n## Your files (`source`)\n"
    yield f"{_summary(dataclass_of(_hint(Settings, 'source')))}\n"
    yield from _table(HEADER, rows(Settings, only="source"))
    yield "\n## Where it runs (`cluster=local`, `cluster=existing`)\n"
    yield from _table(HEADER, rows(Settings, only="cluster"))
    yield ""


def _models() -> Iterator[str]:
    names = options("model")
    values = {name: composed("demo", f"model={name}")[0]["model"] for name in names}
    keys = list(dict.fromkeys(key for found in values.values() for key in found))
    yield "## Models (`model=…`)\n"
    yield "Shapes of the transformer, the values of `pretrain.model`; set one of them with `model.<key>=value`.\n"
    yield from _table(("key", *names), [(f"`{key}`", *(shown(found.get(key)) for found in values.values())) for key in keys])
    yield ""


def _stage(stage: Stage) -> Iterator[str]:
    yield f"### {stage.name}\n"
    yield f"{_summary(stage.function)}\n"
    found = list(rows(stage.params, prefix=stage.name + "."))
    if found:
        yield from _table(HEADER, found)
        yield ""
    growing = ", ".join(f"`{key}`" for key in stage.extendable)
    if growing:
        yield f"A larger {growing} goes on from the checkpoints that are there.\n"


def _runs(stages: Iterable[Stage]) -> Iterator[str]:
    """The run settings, once for each kind of them."""
    users: dict[type, list[str]] = {}
    for stage in stages:
        users.setdefault(stage.run, []).append(stage.name)
    yield "## How stages are run (`<stage>.run`)\n"
    for kind, names in users.items():
        yield f"### run of {', '.join(names)}\n"
        yield f"{_summary(kind)}\n"
        yield from _table(HEADER, rows(kind, prefix="run."))
        yield ""


def _assumptions(stages: Iterable[Stage]) -> Iterator[str]:
    """What plans assume, once for each kind of assumptions."""
    kinds = dict.fromkeys(stage.assumes for stage in stages if stage.assumes)
    yield f"## What plans assume ({', '.join(f'`planning={name}`' for name in options('planning'))})\n"
    for kind in kinds:
        yield f"{_summary(kind)}\n"
        yield from _table(HEADER, rows(kind, prefix="planning."))
        yield ""


def _commands(commands: Mapping[str, str]) -> Iterator[str]:
    yield "## Commands with settings\n"
    for name, dotted in commands.items():
        found = list(rows(settings_type(imported(dotted, f"commands.{name}")), prefix=name + "."))
        if found:
            yield from _table(HEADER, found)
            yield ""


def _recipes(recipes: Mapping[str, Config]) -> Iterator[str]:
    yield "## Recipes (`recipe=…`)\n"
    yield "What each is made of, and where it differs from the defaults above.\n"
    for name, config in recipes.items():
        yield f"### {name}\n"
        yield from _table(("stage", "reads"), [(f"`{node.name}`", _reads(node)) for node in config.nodes.values()])
        differing = [row for node in config.nodes.values() for row in _differing(node)]
        if differing:
            yield ""
            yield from _table(("key", "here", "by default"), differing)
        yield ""


def _reads(node: Node) -> str:
    named = [f"{role}: `{upstream}`" if role != upstream else f"`{upstream}`" for role, upstream in node.needs.items()]
    return ", ".join(named + ([f"files of `{node.sources_key}`"] if node.sources is not None else [])) or "–"


def _differing(node: Node) -> Iterator[tuple[str, str, str]]:
    for part, value in (("", node.params), ("run.", node.run)):
        usual = dict(_flat(type(value)()))
        for key, here in _flat(value):
            if (key not in usual or here != usual[key]) and not key.startswith("model."):
                yield f"`{node.name}.{part}{key}`", shown(here), shown(usual[key]) if key in usual else "as above"


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(value):
        found = getattr(value, field.name)
        if dataclasses.is_dataclass(found):
            yield from _flat(found, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, found


def rows(kind: type, prefix: str = "", only: str | None = None) -> Iterator[tuple[str, str, str, str]]:
    """Key, type, default and description of every field; those of a nested dataclass under its dotted key."""
    for field in dataclasses.fields(kind):
        if only not in (None, field.name):
            continue
        hint = _hint(kind, field.name)
        nested = dataclass_of(hint)
        if nested is not None:
            if _may_be_null(hint):
                yield f"`{prefix}{field.name}`", "null, or as below", "as below", description(hint)
            yield from rows(nested, f"{prefix}{field.name}.")
        else:
            yield f"`{prefix}{field.name}`", type_words(hint), _default(field), description(hint)


def _hint(kind: type, name: str) -> Any:
    return typing.get_type_hints(kind, include_extras=True)[name]


def _may_be_null(hint: Any) -> bool:
    bare = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
    return type(None) in typing.get_args(bare)


def type_words(hint: Any) -> str:
    """A type hint in words: `Annotated[int, Meta(ge=1, le=9)]` → `integer, ≥ 1, ≤ 9`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        metas = [meta for meta in arguments[1:] if isinstance(meta, Meta)]
        bounds = [f"{sign} {_bound(getattr(meta, name))}" for meta in metas for name, sign in BOUNDS if getattr(meta, name) is not None]
        return ", ".join([type_words(arguments[0]), *bounds])
    if origin is Literal:
        return " · ".join(f"`{choice}`" for choice in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if part is type(None) else type_words(part) for part in arguments)
    if origin in (tuple, list, Sequence):
        fixed = Ellipsis not in arguments and origin is tuple
        return f"[{', '.join(map(type_words, arguments))}]" if fixed else f"list of {type_words(arguments[0])}"
    if origin in (dict, Mapping):
        return "mapping"
    if dataclasses.is_dataclass(hint):
        return "{" + ", ".join(field.name for field in dataclasses.fields(hint)) + "}"
    return {int: "integer", float: "number", str: "text", bool: "true or false"}[hint]


def _bound(value: float) -> str:
    power = int(value).bit_length() - 1
    return f"2^{power}" if power > 30 and value == 2**power else f"{value:,}"


def description(hint: Any) -> str:
    """What the field's `Meta` says of it."""
    return next((meta.description for meta in getattr(hint, "__metadata__", ()) if isinstance(meta, Meta) and meta.description), "")


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return shown(field.default_factory())
    return "must be set" if field.default is dataclasses.MISSING else shown(field.default)


def shown(value: Any) -> str:
    """A value as it would be typed."""
    return f"`{json.dumps(value, ensure_ascii=False)}`" if not isinstance(value, str) else f"`{value}`"


def _summary(described: Any) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(described) or "").split("\n\n")[0].split())


def _table(header: Sequence[str], body: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield "|" + " --- |" * len(header)
    for cells in body:
        yield f"| {' | '.join(cell.replace('|', '·') for cell in cells)} |"


if __name__ == "__main__":
    main()
