"""Fixtures of several files."""

from collections.abc import Iterator

import pytest
from reported import Recipe, small_corpus

from pipeline.stage import Artifact


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """For tests whose stages start Ray in this process."""
    yield
    import ray

    ray.shutdown()


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """The stages of a small corpus, up to the report."""
    return small_corpus(tmp_path_factory.mktemp("recipe"))


@pytest.fixture(scope="session")
def whole(recipe: Recipe) -> Artifact:
    """Its report."""
    return recipe.report()
