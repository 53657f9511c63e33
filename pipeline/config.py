"""From composed Hydra values to typed settings: every stage's params are judged here before anything starts."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import os
import re
import tempfile
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from pipeline.cluster import ClusterConfig
from pipeline.errors import UserError
from pipeline.identity import canonical, plain
from pipeline.stage import ANY, Stage

RESERVED = ("needs", "sources", "run", "pin")


@dataclass(frozen=True)
class Sources:
    """The user's own files, as lists of paths or patterns."""

    pages: Annotated[tuple[str, ...], Meta(description="pages or texts: WARC, WET, HTML, JSONL, Parquet, data sets, lists of paths")] = ()
    blocklists: Annotated[tuple[str, ...], Meta(description="lists of hosts, URLs and words whose pages are rejected")] = ()
    evaluations: Annotated[tuple[str, ...], Meta(description="evaluation sets whose examples are kept out of the corpus")] = ()
    conversations: Annotated[tuple[str, ...], Meta(description="JSONL files of messages, for sft")] = ()
    preferences: Annotated[tuple[str, ...], Meta(description="JSONL files of prompts with a chosen and a rejected answer, for dpo")] = ()
    positives: Annotated[tuple[str, ...], Meta(description="texts or pages to be liked, for classifier")] = ()
    negatives: Annotated[tuple[str, ...], Meta(description="texts or pages not to be liked, for classifier")] = ()
    prompts: Annotated[tuple[str, ...], Meta(description="JSONL files of prompts with the one right answer, for grpo")] = ()
    test_prompts: Annotated[tuple[str, ...], Meta(description="the same, held out, for evaluate")] = ()
    model: Annotated[tuple[str, ...], Meta(description="files of a Hugging Face model directory, for recipe=continued")] = ()
    questions: Annotated[tuple[str, ...], Meta(description="JSONL or Parquet files of multiple-choice questions, for evaluate")] = ()


@dataclass(frozen=True)
class Settings:
    """What is said to the kernel itself. None of it is part of any identity."""

    command: str = "run"
    root: Annotated[str, Meta(min_length=1, description="folder of the store and the runs")] = "out"
    name: Annotated[str | None, Meta(description="name of the run, a folder under <root>/runs; the recipe's by default")] = None
    target: Annotated[str | None, Meta(description="build up to this stage; all stages by default")] = None
    only: Annotated[tuple[str, ...], Meta(description="build just these stages; what they need must be done")] = ()
    start: Annotated[str | None, Meta(description="build from this stage on; what stands before it must be done")] = None
    force: Annotated[tuple[str, ...], Meta(description="build these stages again though they are done")] = ()
    format: Annotated[Literal["text", "json"], Meta(description="how plan, status, ls and why answer")] = "text"
    artifact: Annotated[str | None, Meta(description="the stage whose artifact chat uses; the last model by default")] = None
    apply: Annotated[bool, Meta(description="gc: remove what it lists")] = False
    zero: Annotated[int, Meta(ge=0, le=3, description="DeepSpeed ZeRO stage of the training stages")] = 1
    recipe_name: str = ""
    sweep_job: str = ""
    source: Sources = field(default_factory=Sources)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    model: dict[str, Any] = field(default_factory=dict)
    planning: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, str] = field(default_factory=dict)
    commands: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Node:
    """A stage of the recipe with its judged params."""

    name: str
    stage: Stage
    params: Any
    run: Any
    needs: Mapping[str, str]  # role → stage
    sources: tuple[str, ...] | None  # None: the stage reads no files of the user's
    sources_key: str  # where the user sets them
    pin: str | None
    assumed: Any = None  # of the plan
    derived: tuple[str, ...] = ()  # params that follow from others, a line each


@dataclass(frozen=True)
class Config:
    settings: Settings
    nodes: Mapping[str, Node]  # in an order in which they can be built
    values: Mapping[str, Any]  # as composed
    commands: Mapping[str, Any]  # settings of the commands outside the kernel, judged

    @property
    def root(self) -> Path:
        return Path(self.settings.root).expanduser().absolute()


def load(values: Mapping[str, Any], raw: Mapping[str, Any], said: Set[str] = frozenset()) -> Config:
    """Judge composed values (`raw`: with interpolations unresolved, to name the key that a user sets; `said`: the keys that the
    command line sets).

    UserError in one line: the key, what is wrong, what is allowed or was meant.
    """
    own = {f.name for f in dataclasses.fields(Settings)}
    settings = typed(Settings, {key: value for key, value in values.items() if key in own}, "")
    if settings.name is not None and (not settings.name or "/" in settings.name or settings.name.startswith(".")):
        raise UserError(f"name={settings.name}: a run is one folder under {settings.root}/runs; use no slash and no dot at its begin")
    stages, command_names = settings.stages, settings.commands
    _require_known("", values, [*own, *stages, *command_names])
    if settings.cluster.kind != "local" and not Path(settings.root).expanduser().is_absolute():
        raise UserError(
            f"root={settings.root}: a relative folder is another one on every node; give an absolute path that all of them share"
        )
    nodes = {name: _node(name, dotted, values, raw, said) for name, dotted in stages.items()}
    for node in nodes.values():
        for role, upstream in node.needs.items():
            if upstream not in nodes:
                raise UserError(f"{node.name}.needs.{role}={upstream}: no such stage{_nearest(upstream, nodes)}")
    for key in ("target", "start"):
        _require_stages(key, [getattr(settings, key)] if getattr(settings, key) else [], nodes)
    for key in ("only", "force"):
        _require_stages(key, getattr(settings, key), nodes)
    if settings.only and (settings.target or settings.start):
        raise UserError("only=[…] names all that is built; leave out target and start beside it")
    _require_read(settings.source, nodes, settings.recipe_name)
    _require_taken(raw, stages, settings.recipe_name, said)
    commands = {
        name: typed(settings_type(imported(dotted, f"commands.{name}")), values.get(name) or {}, name)
        for name, dotted in command_names.items()
        if name == settings.command
    }
    return Config(settings, _ordered(nodes), values, commands)


def _require_taken(raw: Mapping[str, Any], stages: Iterable[str], recipe: str, said: Set[str]) -> None:
    """UserError for a model that the user chooses and no stage would have."""
    if any((raw.get(name) or {}).get("model") is not None for name in stages):
        return
    for key in sorted(said):
        if key.split(".")[0] == "model":
            raise UserError(f"{key}: no stage of recipe={recipe} takes its model from there; leave it out")


def _require_read(source: Sources, nodes: Mapping[str, Node], recipe: str) -> None:
    """UserError for files that the user gives and no stage would read."""
    read = {path for node in nodes.values() for path in node.sources or ()}
    for key, paths in dataclasses.asdict(source).items():
        for path in paths:
            if path not in read:
                raise UserError(
                    f"source.{key}: no stage of recipe={recipe} reads it; leave it out, or choose a recipe that does (recipe=web)"
                )


def register_resolvers() -> None:
    """What the YAML files may call: `${concat:…}` joins lists, `${given:…}` is none for an empty list (a stage that may go without),
    `${scratch:…}` is a temporary folder of this user's own."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("scratch", lambda name: f"{tempfile.gettempdir()}/{name}-{os.getuid()}", replace=True)
    OmegaConf.register_new_resolver("given", lambda value: value or None, replace=True)
    OmegaConf.register_new_resolver("concat", lambda *lists: [item for part in lists for item in part], replace=True)


def settings_type(command: Callable[..., Any]) -> type:
    """The dataclass of a command's third argument."""
    kind: type = list(typing.get_type_hints(command).values())[2]
    return kind


def _node(name: str, dotted: str, composed: Mapping[str, Any], written: Mapping[str, Any], said: Set[str]) -> Node:
    values, raw = composed.get(name) or {}, written.get(name) or {}
    found = imported(dotted, f"stages.{name}")
    if not isinstance(found, Stage):
        raise UserError(f"stages.{name}={dotted}: this is no stage; it must be a function declared with @stage")
    _require_mapping(values, name)
    _require_whole(name, found.params, raw, composed, said)
    params = typed(found.params, {key: value for key, value in values.items() if key not in RESERVED}, name, RESERVED)
    derived: Sequence[str] = ()
    if found.resolve is not None:
        try:
            params, derived = found.resolve(params, _said_of(name, raw, said))
        except ValueError as error:
            raise UserError(f"{name}: {error}") from None
    _require_finite(params, name)
    assumed = typed(found.assumes, composed.get("planning") or {}, "planning") if found.assumes else None
    run = typed(found.run, values.get("run") or {}, f"{name}.run")
    wiring = typed(_Wiring, {key: values[key] for key in ("needs", "sources", "pin") if values.get(key) is not None}, name)
    needs = {role: upstream for role, upstream in wiring.needs.items() if upstream is not None}
    _require_roles(name, found, needs)
    origin = re.search(r"\$\{(source\.\w+)\}", str(raw.get("sources")))
    key = origin[1] if origin else f"{name}.sources"
    return Node(name, found, params, run, needs, wiring.sources, key, wiring.pin, assumed, tuple(derived))


def _said_of(name: str, raw: Mapping[str, Any], said: Set[str]) -> set[str]:
    """A stage's params that the command line sets, by their own key or by the one they are taken from (`model: ${model}`)."""
    origins = {f"{name}.": ""} | {f"{value[2:-1]}.": f"{key}." for key, value in raw.items() if re.fullmatch(r"\$\{\w+\}", str(value))}
    return {own + key.removeprefix(origin) for key in said for origin, own in origins.items() if key.startswith(origin)}


def _require_whole(name: str, params: type, raw: Mapping[str, Any], composed: Mapping[str, Any], said: Set[str]) -> None:
    """Refuse `pretrain.model.x=…`: it would not change the `model` that the stage takes (`model: ${model}`) but stand in its place."""
    needs = raw.get("needs")
    for key, value in raw.items():
        if isinstance(needs, Mapping) and needs.get(key):  # it comes from another stage
            continue
        taken, kind = composed.get(key), dataclass_of(field_type(params, key))
        if isinstance(value, Mapping) and value and isinstance(taken, Mapping) and kind and {*taken} <= {*typing.get_type_hints(kind)}:
            own = [f"{name}.{key}.{part}" for part in value]
            if all(any(one == where or one.startswith(f"{where}.") for one in said) for where in own):
                part = next(iter(value))
                raise UserError(f"{own[0]}: it would take the place of all that {key}= chooses; set {key}.{part}, which {name} takes")


def _require_roles(name: str, found: Stage, needs: Mapping[str, str]) -> None:
    known = [role.removesuffix("?") for role in found.needs if role != ANY]
    if ANY not in found.needs:
        _require_known(f"{name}.needs", needs, known)
    for role in found.needs:
        if role in known and role not in needs:
            raise UserError(f"{name}.needs.{role}: not set, {name} cannot do without; name the stage that gives it")


@dataclass(frozen=True)
class _Wiring:
    needs: Annotated[dict[str, str | None], Meta(description="role: stage")] = field(default_factory=dict)
    sources: tuple[str, ...] | None = None
    pin: Annotated[str | None, Meta(description="a fingerprint or its first characters, quoted")] = None


def imported(dotted: str, key: str) -> Any:
    module, _, name = dotted.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{key}={dotted}: cannot be imported ({error}); name a function by its dotted path") from error


def typed(kind: type, values: Any, where: str, also: Iterable[str] = ()) -> Any:
    """`values` as an instance of the dataclass `kind`, ranges checked, defaults too, numbers in the declared type."""
    _require_mapping(values, where)
    _require_known_deep(kind, values, where, also)
    try:
        once: Any = msgspec.convert(values, kind)
        return msgspec.convert(plain(once), kind)
    except msgspec.ValidationError as error:
        raise UserError(_explained(kind, values, where, str(error))) from None


def _explained(kind: type, values: Mapping[str, Any], where: str, message: str) -> str:
    """msgspec's message with the full key, the value that was given, what is allowed and what the key means."""
    what, _, place = message.partition(" - at ")
    path = re.sub(r"^\$\.?|`", "", place.strip("`"))
    key = ".".join(part for part in (where, path) if part)
    hint, value = field_type(kind, path), _at(values, path)
    parts = [f"{key}={value}: {what[0].lower()}{what[1:]}" if path and value is not None else f"{key or 'settings'}: {what}"]
    choices = _choices(hint)
    if choices:
        parts.append("allowed: " + ", ".join(map(str, choices)))
    description = _description(hint)
    if description:
        parts.append(description)
    return "; ".join(parts)


def field_type(kind: Any, path: str) -> Any:
    """The declared type (with its Annotated metadata) of the field at a dotted path."""
    for part in re.split(r"\.|\[\d+\]", path):
        if not part:
            continue
        bare = dataclass_of(kind)
        if bare is None:
            return None
        kind = typing.get_type_hints(bare, include_extras=True).get(part)
    return kind


def dataclass_of(hint: Any) -> type | None:
    """The dataclass inside a type hint (`X`, `X | None`, `Annotated[X, …]`), or None."""
    if typing.get_origin(hint) in (Annotated, typing.Union, types.UnionType):
        return next((found for found in map(dataclass_of, typing.get_args(hint)) if found), None)
    return hint if isinstance(hint, type) and dataclasses.is_dataclass(hint) else None


def _choices(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    return next((found for found in map(_choices, typing.get_args(hint)) if found), ())


def _description(hint: Any) -> str:
    metas = getattr(hint, "__metadata__", ())
    return next((meta.description for meta in metas if isinstance(meta, Meta) and meta.description), "")


def _at(values: Any, path: str) -> Any:
    for part in path.replace("[", ".").replace("]", "").split("."):
        if isinstance(values, Mapping):
            values = values.get(part)
        elif isinstance(values, list) and part.isdigit():
            values = values[int(part)]
        else:
            return None
    return values


def _require_mapping(values: Any, where: str) -> None:
    if not isinstance(values, Mapping):
        raise UserError(f"{where}={values!r}: the settings of {where} are a mapping; set single values with {where}.<key>=…")


def _require_finite(params: Any, where: str) -> None:
    try:
        canonical(plain(params), where)
    except TypeError as error:
        raise UserError(str(error)) from None


def _require_known_deep(kind: type, values: Mapping[str, Any], where: str, also: Iterable[str] = ()) -> None:
    hints = typing.get_type_hints(kind, include_extras=True)
    _require_known(where, values, [*hints, *also])
    for key, value in values.items():
        nested = dataclass_of(hints.get(key))
        if nested is not None and isinstance(value, Mapping):
            _require_known_deep(nested, value, f"{where}.{key}" if where else key)


def _require_known(where: str, values: Iterable[str], known: Iterable[str]) -> None:
    known = list(known)
    for key in values:
        if key not in known:
            full = f"{where}.{key}" if where else key
            raise UserError(f"{full}: no such setting{_nearest(str(key), known)}")


def _require_stages(key: str, names: Iterable[str], nodes: Mapping[str, Node]) -> None:
    for name in names:
        if name not in nodes:
            raise UserError(f"{key}={name}: no such stage{_nearest(name, nodes)}")


def _nearest(word: str, known: Iterable[str]) -> str:
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else f"; allowed: {', '.join(known)}"


def _ordered(nodes: dict[str, Node]) -> dict[str, Node]:
    """Nodes so that each comes after all it needs. First come those that need nothing, for what is wrong with the user's own files to show
    early, and of them the last: a recipe adds its own, which are few, to the pages of the one it extends. UserError for a circle."""
    ordered: dict[str, Node] = {}
    path: list[str] = []

    def visit(name: str) -> None:
        if name in ordered:
            return
        if name in path:
            raise UserError(f"needs: {' → '.join([*path[path.index(name) :], name])} go in a circle; remove one of these needs")
        path.append(name)
        for upstream in nodes[name].needs.values():
            visit(upstream)
        path.pop()
        ordered[name] = nodes[name]

    for name in (*(name for name in reversed(nodes) if not nodes[name].needs), *nodes):
        visit(name)
    return ordered
