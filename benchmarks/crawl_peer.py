"""The other side of `benchmarks.crawl`: datatrove's FineWeb recipe, step by step. Run by the Python of datatrove's own environment.

Each line on standard input is a request as JSON, each line on standard output its answer. Nothing of this project is imported.
"""

from __future__ import annotations

import copy
import json
import os
import resource
import shutil
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HOME = Path(sys.argv[1])  # a folder for models, lists and output
os.environ["HF_HOME"] = str(HOME / "home")

from datatrove.data import Document  # noqa: E402
from datatrove.io import cached_assets_path, strip_protocol  # noqa: E402
from datatrove.pipeline.dedup import minhash  # noqa: E402
from datatrove.pipeline.extractors import Trafilatura  # noqa: E402
from datatrove.pipeline.filters import (  # noqa: E402
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    LanguageFilter,
    URLFilter,
)
from datatrove.pipeline.readers import JsonlReader, WarcReader  # noqa: E402
from datatrove.pipeline.writers.jsonl import JsonlWriter  # noqa: E402
from datatrove.utils._import_utils import ASSETS_PATH  # noqa: E402
from datatrove.utils.hashing import HashConfig  # noqa: E402
from datatrove.utils.lid import FT176LID  # noqa: E402
from datatrove.utils.logging import logger  # noqa: E402

CONFIG = minhash.MinhashConfig(hash_config=HashConfig(precision=64), num_buckets=14, hashes_per_bucket=8, n_grams=5)
EXTRACTION_S = 60  # its own limit is 1 s of wall clock, which loses pages on a busy machine

Steps = list[tuple[str, int, float]]  # (name, documents that came in, CPU seconds)


def cpu() -> float:
    """CPU seconds of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def prepare(model: str) -> str:
    """Put the language model where it would be downloaded to and unpack the block lists; returns their folder."""
    url = FT176LID.MODEL_URL
    place = cached_assets_path("datatrove", "lid", FT176LID.MODEL_SUBFOLDER) / strip_protocol(url).replace("/", "_")
    shutil.copyfile(model, place)
    Path(f"{place}.completed").touch()
    lists = HOME / "lists"
    with tarfile.open(os.path.join(ASSETS_PATH, "url_filterblacklistsv0_3_0.tar.gz")) as tar:
        tar.extractall(lists, filter="data")
    urls = URLFilter()
    urls.download_data()
    urls.tldextractor("https://www.example.org/")  # looks for a newer list of public suffixes, once
    return str(lists)


class Recipe:
    """The recipe over one folder of WARC files, in three phases, each of which leaves its documents for the next."""

    def __init__(self, warcs: str) -> None:
        self._folder = HOME / "run"
        shutil.rmtree(self._folder, ignore_errors=True)
        self._warcs = warcs
        self._extracted: list[Any] = []
        self._documents: list[Any] = []
        self._steps: Steps = []

    def _rejects(self, name: str) -> Any:
        return JsonlWriter(str(self._folder / "removed" / name))

    def _time(self, name: str, came_in: int, step: Callable[[], Any]) -> Any:
        begun = cpu()
        result = step()
        self._steps.append((name, came_in, cpu() - begun))
        return result

    def _through(self, name: str, step: Any) -> None:
        self._documents = self._time(name, len(self._documents), lambda: list(step.run(self._documents)))

    def extract(self) -> Steps:
        self._steps = []
        self._documents = self._time("read", 0, lambda: list(WarcReader(self._warcs).run()))
        urls = URLFilter(exclusion_writer=self._rejects("url"))
        self._time("block lists", 0, urls.download_data)
        self._through("url", urls)
        self._through("extract", Trafilatura(favour_precision=True, timeout=EXTRACTION_S))
        self._extracted = self._documents
        return self._steps

    def judge(self, language: str) -> Steps:
        """`language`: its code, or nothing for any."""
        self._steps = []
        for folder in ("output", "signatures", "buckets", "removed-ids", "deduplicated"):
            shutil.rmtree(self._folder / folder, ignore_errors=True)
        self._documents = copy.deepcopy(self._extracted)
        self._through("language", LanguageFilter(language or None, exclusion_writer=self._rejects("language")))
        self._through("gopher repetition", GopherRepetitionFilter(exclusion_writer=self._rejects("repetition")))
        self._through("gopher quality", GopherQualityFilter(exclusion_writer=self._rejects("quality")))
        self._through("c4", C4QualityFilter(filter_no_terminal_punct=False, exclusion_writer=self._rejects("c4")))
        self._through("fineweb", FineWebQualityFilter(exclusion_writer=self._rejects("fineweb")))
        self._through("write", JsonlWriter(str(self._folder / "output")))
        return self._steps

    def dedup(self) -> Steps:
        self._steps = []
        number = len(self._documents)
        signatures, buckets, removed = (str(self._folder / name) for name in ("signatures", "buckets", "removed-ids"))

        def pairs() -> None:
            for bucket in range(CONFIG.num_buckets):
                minhash.MinhashDedupBuckets(signatures, buckets, config=CONFIG).run(None, bucket, CONFIG.num_buckets)
            minhash.MinhashDedupCluster(buckets, removed, config=CONFIG).run(None, 0, 1)

        def kept() -> list[Any]:
            left = minhash.MinhashDedupFilter(removed).run(JsonlReader(str(self._folder / "output")).run())
            return list(JsonlWriter(str(self._folder / "deduplicated")).run(left))

        signing = minhash.MinhashDedupSignature(signatures, config=CONFIG)
        self._time("signature", number, lambda: signing.run(JsonlReader(str(self._folder / "output")).run()))
        self._time("pairs, clusters", number, pairs)
        self._documents = self._time("rewrite", number, kept)
        return [*self._steps, ("kept", len(self._documents), 0.0)]


def texts(path: str) -> tuple[list[str], float]:
    """(main texts of the pages of a JSON file, CPU seconds)."""
    pages = json.loads(Path(path).read_text())
    extractor = Trafilatura(favour_precision=True)
    begun = time.process_time()
    found = [extractor.extract(page) or "" for page in pages]
    return found, time.process_time() - begun


def verdicts(path: str) -> tuple[dict[str, list[bool]], dict[str, float]]:
    """(whether each text of a JSON file passes, CPU seconds), by group of filters; each group is asked about every text."""
    documents = [Document(text, str(number)) for number, text in enumerate(json.loads(Path(path).read_text()))]
    filters = {
        "gopher repetition": [GopherRepetitionFilter()],
        "gopher quality": [GopherQualityFilter()],
        "c4, fineweb": [C4QualityFilter(filter_no_terminal_punct=False), FineWebQualityFilter()],
    }
    passes: dict[str, list[bool]] = {}
    spent: dict[str, float] = {}
    for name, group in filters.items():
        all(one.filter(Document("A word. " * 100, "first")) is True for one in group)  # loads what it needs
        begun = time.process_time()
        passes[name] = [all(one.filter(document) is True for one in group) for document in documents]
        spent[name] = time.process_time() - begun
    return passes, spent


def main() -> None:
    logger.remove()
    answers, sys.stdout = sys.stdout, sys.stderr
    recipe: Recipe
    for line in sys.stdin:
        request, argument = json.loads(line)
        answer: Any
        if request == "prepare":
            answer = prepare(argument)
        elif request == "verdicts":
            answer = verdicts(argument)
        elif request == "texts":
            answer = texts(argument)
        elif request == "extract":
            recipe = Recipe(argument)
            answer = recipe.extract()
        else:
            answer = recipe.judge(argument) if request == "judge" else recipe.dedup()
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
