"""Provenance: what an artifact was built by, and nothing that only stands around it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline import provenance


@pytest.mark.parametrize(("installed", "known"), [("repository", True), ("repository/.venv/site-packages", False)])
def test_the_commit_is_the_checkouts_and_not_that_of_a_repository_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: str, known: bool
) -> None:
    repository = tmp_path / "repository"
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "init", "-q", str(repository)], check=True)
    subprocess.run(["git", *identity, "-C", str(repository), "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    (tmp_path / installed / "pipeline").mkdir(parents=True)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / installed / "pipeline" / "provenance.py"))
    assert (provenance._commit.__wrapped__() is not None) == known
