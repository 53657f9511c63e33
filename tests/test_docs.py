"""What the documentation says can be run, is run; what it lists, is what there is."""

from __future__ import annotations

import doctest
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
import pytest

from pipeline.__main__ import KERNEL_COMMANDS, parse
from pipeline.config import load
from pipeline.reference import composed, reference

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
STAGE = re.compile(r"^@stage\([^@]*?\ndef (\w+)", re.MULTILINE)
CONSOLE = str(Path(sys.executable).with_name("crawl2chat"))


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def help_page() -> str:
    result = subprocess.run([CONSOLE, "--help"], capture_output=True, text=True, timeout=60, check=True)
    return result.stdout


def documented_commands() -> list[str]:
    shell = [line for page in PAGES for block in blocks(page.read_text(), "sh") for line in block.splitlines()]
    return [line.split("#")[0].strip() for line in shell if line.startswith("crawl2chat")]


def test_the_configuration_reference_is_what_the_schemas_say() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text() == reference(), "run `make docs`"


def test_every_stage_has_a_section_of_the_reference() -> None:
    sections = re.findall(r"^### (\w+)$", (ROOT / "docs" / "configuration.md").read_text(), re.MULTILINE)
    declared = [name for path in ROOT.glob("*/stages*/**/*.py") for name in STAGE.findall(path.read_text())]
    declared += [name for path in ROOT.glob("*/stages.py") for name in STAGE.findall(path.read_text())]
    assert "line_dedup" in declared and "pretrain" in declared
    assert sorted(set(declared) - set(sections)) == []


def test_help_names_every_command_and_recipe() -> None:
    page = help_page()
    for command in [*KERNEL_COMMANDS, *composed("demo")[0]["commands"]]:
        assert re.search(rf"^  {command} ", page, re.MULTILINE), command
    recipes = {path.stem for path in (ROOT / "conf" / "recipe").glob("*.yaml")}
    assert f"recipe: {', '.join(sorted(recipes))}\n" in page


def test_the_examples_of_the_help_page_are_valid() -> None:
    examples = re.findall(r"^  (crawl2chat.*?)(?:\s{3,}\S.*)?$", help_page(), re.MULTILINE)
    assert len(examples) > 5
    for example in examples:
        require_valid(example)


@pytest.mark.parametrize("command", documented_commands())
def test_a_documented_command_is_valid(command: str) -> None:
    require_valid(command)


def require_valid(command: str) -> None:
    """The command exists and its values are accepted by the schemas. Recipes of the reader's own are not here."""
    line = parse(shlex.split(command)[1:])
    if "--config-dir" in line.hydra:
        return
    overrides = [argument for argument in line.hydra if "=" in argument]
    if "-m" in line.hydra:
        overrides = [override.split(",")[0] for override in overrides]
    recipe = next((override.removeprefix("recipe=") for override in overrides if override.startswith("recipe=")), "demo")
    values = composed(recipe, *(override for override in overrides if not override.startswith("recipe=")))
    assert line.command in (*KERNEL_COMMANDS, *values[0]["commands"])
    load(*values)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_give_what_they_say(page: Path) -> None:
    assert doctest.testfile(str(page), module_relative=False).failed == 0


def test_the_stage_of_the_guide_runs_as_written(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "write-a-stage.md").read_text()
    for name, code in re.findall(r"^`([\w./]+)`\n\n```\w+\n(.*?)^```", guide, re.DOTALL | re.MULTILINE):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(code)
    keeper = "Every morning the keeper walks down to the shore and counts the boats that have come home in the night. "
    keeper += "He writes their names in a long green book, and when the lighthouse goes dark he reads them to his daughter. "
    keeper += "She knows most of the sailors. She tells him what they have caught and where the wind will take them. "
    keeper += "Then they paint the door."
    baker = "The baker of the upper town gets up long before the birds do and lights the oven with old apple wood. "
    baker += "By the time the moon has gone, forty loaves lie on the shelf, and the smell of them wakes the whole street. "
    baker += "Children come first. They are given the small rolls that did not turn out round. Nobody has ever asked for another shape."
    texts = [{"text": text, "url": f"https://coast.example/{name}"} for name, text in (("lighthouse", keeper), ("moon", baker))]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    [block] = [block for block in blocks(guide, "sh") if "recipe=mine" in block]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    result = subprocess.run(block, shell=True, cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    view = tmp_path / "out" / "runs" / "mine" / "stages" / "mentions"
    assert pyarrow.parquet.read_table(view / "documents" / "texts.parquet")["url"].to_pylist() == ["https://coast.example/lighthouse"]
    assert pyarrow.parquet.read_table(view / "rejects" / "texts.parquet")["reason"].to_pylist() == ["not_mentioned"]
    counts = json.loads((view / "manifest.json").read_text())["counts"]
    assert counts == {"in": 2, "kept": 1, "rejected": {"not_mentioned": 1}, "errored": 0}
