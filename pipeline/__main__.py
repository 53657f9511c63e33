"""The command line: `crawl2chat [command] [words] [Hydra overrides]`."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError, mendable

if TYPE_CHECKING:
    from omegaconf import DictConfig

KERNEL_COMMANDS = ("run", "plan", "why", "status", "ls", "verify", "gc")
WORDED_COMMANDS = ("chat", "explain")  # the plain words after them are no Hydra values
QUOTED = re.compile(r"^(root|name|[\w.]+\.pin)$")
NO_NAME = re.compile(r"null|true|false|[\d.]+", re.IGNORECASE)  # Hydra reads these as other things than an option's name
HELP = ("--help", "-h")
INFO = ("--info", "-i")
FLAGS_WITH_VALUE = ("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn", "--package", "-p", "--cfg", "-c")
GROUPS = ("recipe", "stage", "model", "source", "cluster", "planning")
KEY = re.compile(r"^[+~]*[A-Za-z_][\w.@/]*=")


@dataclass(frozen=True)
class CommandLine:
    """The arguments, sorted: what Hydra composes and what it must not see."""

    command: str
    words: tuple[str, ...]
    hydra: tuple[str, ...]


def parse(arguments: Sequence[str]) -> CommandLine:
    """Sort the arguments. A bare first word is the command; after `chat` and `explain` plain words are theirs, and
    everything after `--`, also what looks like a setting.

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
        if command in WORDED_COMMANDS and argument == "--":
            words += rest
            break
        if KEY.match(argument):
            overrides.append(_override(argument))
        elif argument in INFO:
            flags += [argument, rest.pop(0) if rest and "=" not in rest[0] else "all"]
        elif argument in FLAGS_WITH_VALUE:
            if not rest:
                raise UserError(f"{argument}: needs a value after it")
            flags += [argument, rest.pop(0)]
        elif command in WORDED_COMMANDS and argument not in HELP:
            words.append(argument)
        elif argument.startswith(("-", "~")):
            flags.append(argument)
        else:
            raise UserError(
                f"{argument}: neither a setting (key=value) nor a flag; the command comes first, as in `crawl2chat plan target=sft`"
            )
    return CommandLine(command, tuple(words), (*flags, *overrides, f"command={command}"))


def _override(argument: str) -> str:
    """Let the schema judge a key, not Hydra: what is no choice of a group is added or replaced (`++`)."""
    key, _, value = argument.partition("=")
    if key in GROUPS and NO_NAME.fullmatch(value):
        return f"{key}='{value}'"
    if key[0] in "+~" or key.startswith("hydra") or key in GROUPS or "@" in key or "/" in key:
        return argument
    if QUOTED.match(key) and value[:1] not in "'\"" and value != "null":
        value = "'" + re.sub(r"(\\+)$", r"\1\1", re.sub(r"(\\*)'", r"\1\1\\'", value)) + "'"
    return f"++{key}={value}"


def main() -> None:
    """Entry point of `crawl2chat` and `python -m pipeline`."""
    if sys.argv[1:] == ["--version"]:
        from importlib.metadata import version

        print(f"crawl2chat {version('crawl2chat')}")
        return
    arguments = [argument.encode(errors="surrogateescape").decode(errors="replace") for argument in sys.argv[1:]]
    terminated = threading.Event()

    def terminate(*_: object) -> None:  # like Ctrl-C, so that leases are released; Ray would change the code of a SystemExit
        terminated.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `crawl2chat ls | head` ends without a word, like any tool
    try:
        failed = _compose_and_run(parse(arguments), arguments)
    except UserError as error:
        failed = report(error, arguments)
    except KeyboardInterrupt:
        print(f"crawl2chat: stopped; to go on: {shlex.join(['crawl2chat', *arguments])}", file=sys.stderr)
        sys.exit(143 if terminated.is_set() else 130)
    sys.exit(1 if failed else 0)


def report(error: UserError | OSError, arguments: Sequence[str]) -> bool:
    """One line for what a user can mend; the traceback before it for a bug; the command that goes on after it."""
    from pipeline.runner import StageFailed

    if isinstance(error, StageFailed) and error.bug:
        print(error.bug, file=sys.stderr)
    print(f"crawl2chat: {mendable(error)}", file=sys.stderr)
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

    from pipeline.config import register_resolvers

    register_resolvers()
    failed = []

    @hydra.main(config_path="pkg://conf", config_name="config", version_base="1.3")
    def job(composed: DictConfig) -> None:
        hydra_config = HydraConfig.get()
        try:  # Hydra would print a banner of its own; and a sweep's other jobs can still go on
            values, raw = _containers(composed)
            values["recipe_name"] = hydra_config.runtime.choices["recipe"]
            if hydra_config.mode == RunMode.MULTIRUN:
                values["sweep_job"] = ",".join(part for part in hydra_config.overrides.task if not part.startswith("command="))
            said = {override.lstrip("+").partition("=")[0] for override in hydra_config.overrides.task}
            dispatch(values, raw, said, line.words, arguments)
        except (UserError, OSError) as error:
            if mendable(error) is None:
                raise
            failed.append(report(error, arguments))

    sys.argv = [sys.argv[0], *line.hydra]
    try:
        job()
    except HydraException as error:
        text, grammar, _ = str(error).split("Config search path")[0].partition("See https://hydra.cc")
        hint = "; quote a value that holds spaces, commas, = ~ ( ) [ ] or quotes: 'key=\"a, b\"'" if grammar else ""
        raise UserError(" ".join(text.split()) + hint) from None
    return bool(failed)


def _containers(composed: DictConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """The composed values, with interpolations resolved and as they were written."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        values: Any = OmegaConf.to_container(composed, resolve=True)
        raw: Any = OmegaConf.to_container(composed, resolve=False)
    except OmegaConfBaseException as error:
        raise UserError(" ".join(str(error).split())) from None
    return values, raw


def dispatch(values: dict[str, Any], raw: dict[str, Any], said: Set[str], words: Sequence[str], arguments: Sequence[str]) -> None:
    """Judge the composed values and do what the command says."""
    from pipeline.config import load

    config = load(values, raw, said)
    command, others = config.settings.command, config.settings.commands
    if command not in (*KERNEL_COMMANDS, *others):
        raise UserError(f"{command}: no such command; there are {', '.join([*KERNEL_COMMANDS, *others])}")
    if command == "run":
        from pipeline.runner import closing_words, run

        signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # a cut connection is an error to report, not an end
        print(closing_words(run(config, arguments)))
        return
    from pipeline import commands

    if command in others:
        commands.outside(config, words)
    else:
        commands.COMMANDS[command](config)


if __name__ == "__main__":
    main()
