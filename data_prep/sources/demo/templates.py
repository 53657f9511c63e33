"""The demo's text files: named parts of groups of lines, each line a template."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def read_parts(name: str) -> dict[str, list[list[str]]]:
    """The parts of one file beside this module, by title in order. `# title` begins a part, blank lines divide its groups,
    `##` starts a comment."""
    parts: dict[str, list[list[str]]] = {}
    groups: list[list[str]] = []
    for line in Path(__file__).with_name(name).read_text(encoding="utf-8").splitlines():
        if line.startswith("##"):
            continue
        if line.startswith("# "):
            groups = parts[line[2:]] = [[]]
        elif line:
            groups[-1].append(line)
        elif groups and groups[-1]:
            groups.append([])
    return {title: [group for group in groups if group] for title, groups in parts.items()}
