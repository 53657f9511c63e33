"""Two ranks are started once for all tests that need them: most of their time goes into imports."""

from pathlib import Path
from typing import Any

import pytest

from tests.trainer.worlds import planted, pretraining, together, two_ranks_cases, write_tokenizer


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What rank 0 of two found; see `two_ranks_cases`."""
    directory: Path = tmp_path_factory.mktemp("two-ranks")
    pretraining(directory)  # the ranks find the shards written
    planted(directory)
    write_tokenizer(directory)
    found: dict[str, Any] = together(2, directory, two_ranks_cases, str(directory))[0]
    return {**found, "directory": directory}
