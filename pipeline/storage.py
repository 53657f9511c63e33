"""The smallest storage a store needs: whole-object writes and one exclusive create. Local files today.

Every step that a crash could cut passes `_step`, so that a test can end the process at any of them.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

Observer = Callable[[str, str], None]


def _observer() -> Observer | None:
    """The function named by CRAWL2CHAT_STORE_OBSERVER ("module:function"), called before each step; for crash tests."""
    name = os.environ.get("CRAWL2CHAT_STORE_OBSERVER")
    if not name:
        return None
    module, _, function = name.partition(":")
    observer: Observer = getattr(importlib.import_module(module), function)
    return observer


_observe = _observer()


def _step(operation: str, path: str | Path) -> None:
    if _observe is not None:
        _observe(operation, str(path))


def read(path: str | Path) -> bytes | None:
    """The object's bytes, or None where there is none."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        return None


def read_json(path: str | Path) -> dict[str, Any] | None:
    """The JSON object that stands there, or None. UserError for one that is damaged."""
    data = read(path)
    if data is None:
        return None
    try:
        value = json.loads(data)
    except ValueError:
        raise damaged(path) from None
    if not isinstance(value, dict):
        raise damaged(path)
    return value


def damaged(path: str | Path) -> UserError:
    return UserError(f"{path}: damaged; remove this file, what it describes is then built again")


def names(directory: str | Path) -> list[str]:
    """What stands directly under `directory`, sorted; nothing where it does not exist."""
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []


def folders(directory: str | Path) -> list[str]:
    """The folders that stand directly under `directory`, sorted: what else lies there (`.DS_Store`) is nobody's."""
    return [name for name in names(directory) if not name.startswith(".") and Path(directory, name).is_dir()]


def put(path: str | Path, data: bytes) -> None:
    """Write the whole object, over whatever was there: a reader sees the old bytes or the new."""
    temporary = _written_beside(path, data)
    _step("rename", path)
    os.replace(temporary, path)
    sync_directory(Path(path).parent)


def create(path: str | Path, data: bytes) -> bool:
    """Write the whole object unless there is one already; True where this call made it."""
    temporary = _written_beside(path, data)
    try:
        _step("link", path)
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(temporary)
    sync_directory(Path(path).parent)
    return True


def promote(candidate: str | Path, path: str | Path) -> bool:
    """Give a finished object its final name, over whatever was there; False where the candidate is gone."""
    _step("promote", path)
    try:
        os.replace(candidate, path)
    except FileNotFoundError:
        return False
    sync_directory(Path(path).parent)
    return True


def adopt(temporary: str | Path, path: str | Path) -> None:
    """Move a finished local file to its place as one whole object."""
    sync_file(temporary)
    _step("adopt", path)
    os.replace(temporary, path)


def delete(path: str | Path) -> None:
    """Remove the object if it is there."""
    _step("delete", path)
    Path(path).unlink(missing_ok=True)


def remove_tree(path: str | Path) -> None:
    """Remove a folder and all below it: for readers at once, and a late writer finds no folder to write into."""
    path = Path(path)
    doomed = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.removed")
    _step("remove", path)
    os.replace(path, doomed)
    shutil.rmtree(doomed)


def sync_file(path: str | Path) -> None:
    """Flush a file's bytes to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: str | Path) -> None:
    """Flush a folder's entries to the disk: a rename is safe only then."""
    sync_file(path)


def walk(directory: str | Path) -> Iterator[Path]:
    """All files below `directory`, sorted."""
    for folder, folders, files in os.walk(directory):
        folders.sort()
        for name in sorted(files):
            yield Path(folder, name)


def _written_beside(path: str | Path, data: bytes) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    _step("write", path)
    with open(temporary, "xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    return temporary
