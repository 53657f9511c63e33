"""The command line: `crawl2chat [command] [words] [Hydra overrides]`."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import UserError

KERNEL_COMMANDS = ("run", "plan", "why", "status", "ls", "verify", "gc")
WORDED_COMMANDS = ("chat", "explain")  # the plain words after them are no Hydra values
QUOTED = re.compile(r"^(root|name|[\w.]+\.pin)$")
FLAGS_WITH_VALUE = ("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn", "--package", "-p", "--cfg", "-c")
GROUPS = ("recipe", "stage", "model", "source", "cluster")
KEY = re.compile(r"^[+~]*[A-Za-z_][\w.@/]*=")


@dataclass(frozen=True)
class CommandLine:
    """The arguments, sorted: what Hydra composes and what it must not see."""

    command: str
    words: tuple[str, ...]
    hydra: tuple[str, ...]


def parse(arguments: Sequence[str]) -> CommandLine:
    """Sort the arguments. A bare first word is the command; after `chat` and `explain` plain words are theirs.

    Hydra takes its own flags only before the overrides, so they come first wherever they stood.
    """
    rest = list(arguments)
    command = rest.pop(0) if rest and not KEY.match(rest[0]) and not rest[0].startswith("-") else "run"
    if command == "help":
        return CommandLine("run", (), ("--help",))
    flags: list[str] = []
    overrides: list[str] = []
    words: list[str] = []
    while rest:
        argument = rest.pop(0)
        if KEY.match(argument):
            overrides.append(_override(argument))
        elif command in WORDED_COMMANDS:
            words.append(argument)
        else:
            flags.append(argument)
            if argument in FLAGS_WITH_VALUE and rest:
                flags.append(rest.pop(0))
    return CommandLine(command, tuple(words), (*flags, *overrides, f"command={command}"))


def _override(argument: str) -> str:
    """Let the schema judge a key, not Hydra: what is no choice of a group is added or replaced (`++`)."""
    key, _, value = argument.partition("=")
    if key[0] in "+~" or key.startswith("hydra") or key in GROUPS or "@" in key or "/" in key:
        return argument
    if QUOTED.match(key) and value[:1] not in "'\"" and value != "null":
        value = "'" + value.replace("'", "\\'") + "'"
    return f"++{key}={value}"


def main() -> None:
    """Entry point of `crawl2chat` and `python -m pipeline`."""
    arguments = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that leases are released
    try:
        failed = _compose_and_run(parse(arguments), arguments)
    except UserError as error:
        failed = report(error, arguments)
    except KeyboardInterrupt:
        print(f"crawl2chat: stopped; to go on: {shlex.join(['crawl2chat', *arguments])}", file=sys.stderr)
        sys.exit(130)
    sys.exit(1 if failed else 0)


def report(error: UserError, arguments: Sequence[str]) -> bool:
    """One line for what a user can mend; the traceback before it for a bug; the command that goes on after it."""
    from pipeline.runner import StageFailed

    if isinstance(error, StageFailed) and error.bug:
        print(error.bug, file=sys.stderr)
    print(f"crawl2chat: {error}", file=sys.stderr)
    if isinstance(error, StageFailed):
        print(f"crawl2chat: to go on from what is finished: {shlex.join(['crawl2chat', *arguments])}", file=sys.stderr)
    return True


def _compose_and_run(line: CommandLine, arguments: Sequence[str]) -> bool:
    """Have Hydra compose (once, or once for each job of a sweep); True where any job failed."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from pipeline.config import register_resolvers

    register_resolvers()
    failed = []

    @hydra.main(config_path="pkg://conf", config_name="config", version_base="1.3")
    def job(composed: DictConfig) -> None:
        values: Any = OmegaConf.to_container(composed, resolve=True)
        raw: Any = OmegaConf.to_container(composed, resolve=False)
        hydra_config = HydraConfig.get()
        values["recipe_name"] = hydra_config.runtime.choices["recipe"]
        if hydra_config.mode == RunMode.MULTIRUN:
            values["sweep_job"] = ",".join(hydra_config.overrides.task)
        try:
            dispatch(values, raw, line.words, arguments)
        except UserError as error:  # Hydra would print a banner of its own; and a sweep's other jobs can still go on
            failed.append(report(error, arguments))

    sys.argv = [sys.argv[0], *line.hydra]
    try:
        job()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(" ".join(str(error).split("Config search path")[0].split())) from None
    return bool(failed)


def dispatch(values: dict[str, Any], raw: dict[str, Any], words: Sequence[str], arguments: Sequence[str]) -> None:
    """Judge the composed values and do what the command says."""
    from pipeline.config import load

    command = values["command"]
    known = [*KERNEL_COMMANDS, *values["commands"]]
    if command not in known:
        raise UserError(f"{command}: no such command; there are {', '.join(known)}")
    config = load(values, raw)
    if command == "run":
        from pipeline.runner import closing_words, run

        print(closing_words(run(config, arguments)))
        return
    from pipeline import commands

    if command in values["commands"]:
        commands.outside(config, words)
    else:
        commands.COMMANDS[command](config)


if __name__ == "__main__":
    main()
