"""The whole funnel over the demo's web: every planted page ends in the stage and for the reason that its truth names."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from house import House, Inline

from data_prep.dedup.exact import removals
from data_prep.dedup.removals import write_removals
from data_prep.documents import Document, count_rows, read_documents, read_rejects
from data_prep.quality.verdicts import LineRules, Thresholds
from data_prep.sources.demo import trouble, web
from data_prep.sources.demo.world import make_world
from data_prep.stages import (
    DemoParams,
    IngestParams,
    NearDedupParams,
    ScoreParams,
    ScrubParams,
    hash_shard,
    ingest_shard,
    near_dedup,
    remove_shard,
    score_shard,
    scrub_shard,
    select_shard,
)
from data_prep.urls import OWN_LISTS, compile_lists
from pipeline.stage import File, Shard, ShardResult, Unit

FILES = 3


class Funnel:
    """Runs shard functions over the demo's files and remembers where every page was dropped."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.dropped: dict[str, tuple[str, str]] = {}

    def note(self, stage: str, *rejects: str) -> None:
        self.dropped |= {reject.url: (stage, reject.reason) for path in rejects for reject in read_rejects(path)}

    def run(
        self, stage: str, function: Callable[[Shard], ShardResult], inputs: Sequence[tuple[str, ...]], params: Any = None, **side: File
    ) -> list[str]:
        """Run one stage over all files; returns the files' paths without the folder's name."""
        directory = self.root / stage
        for number, paths in enumerate(inputs):
            name = Path(paths[0]).name if stage == "ingest" else None
            unit = Unit(f"part-{number}", "", name, paths)
            result = function(Shard(unit, params, side, str(directory)))
            assert result.counts is None or result.counts.balanced
            rejects = directory / "rejects" / f"part-{number}.parquet"
            if rejects.exists():
                self.note(stage, str(rejects))
        return [str(directory / "{}" / f"part-{number}.parquet") for number in range(len(inputs))]


def read(paths: Sequence[str]) -> dict[str, Document]:
    return {document.url: document for path in paths for document in read_documents(path.format("documents"))}


@pytest.fixture(scope="module", params=[0, 1])
def outcome(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[web.Page], Funnel, dict[str, Document]]:
    seed, root = request.param, tmp_path_factory.mktemp("funnel")
    defaults = DemoParams()
    lessons = web.Lessons(defaults.lesson_share, defaults.lesson_problems, defaults.short_form)
    pages = web.make_pages(make_world(seed), seed, pages=150, trouble_pages=8, lessons=lessons)
    warcs = []
    for name, content, _ in web.pack(pages, seed, FILES):
        warcs.append(str(root / name))
        (root / name).write_bytes(content)
    (root / "spam.domains.txt").write_text(web.blocklist())
    compile_lists((path, path) for path in (*OWN_LISTS, str(root / "spam.domains.txt"))).save(root / "blocklist")

    funnel = Funnel(root)
    side = {"blocklist": File.of("blocklist", str(root / "blocklist"))}
    documents = funnel.run("ingest", ingest_shard, [(path,) for path in warcs], IngestParams(), **side)
    scores = funnel.run("score", score_shard, [(path.format("documents"),) for path in documents], ScoreParams())
    tables = [
        (path.format("documents"), table.format("scores"), table.format("lines")) for path, table in zip(documents, scores, strict=True)
    ]
    selected = [(path.format("documents"),) for path in funnel.run("select", select_shard, tables, Thresholds())]
    hashes = [path.format("hashes") for path in funnel.run("hash", hash_shard, selected)]
    lists = [str(root / f"removals-{number}.parquet") for number in range(FILES)]
    for path, entries in zip(lists, removals(hashes), strict=True):
        write_removals(path, entries)
    kept = funnel.run("dedup", remove_shard, [(*paths, removal) for paths, removal in zip(selected, lists, strict=True)])
    house = House(root, Inline)
    files = [path.format("documents") for path in kept]
    unique = house.artifact("dedup", root, [File.of(f"documents/{Path(path).name}", path, count_rows(path)) for path in files])
    near = house.run(near_dedup, NearDedupParams(), corpus=unique)
    funnel.note("near_dedup", *(file.path for file in near.select("rejects")))
    final = funnel.run("scrub", scrub_shard, [(file.path,) for file in near.select("documents")], ScrubParams())
    return pages, funnel, read(final)


Outcome = tuple[list[web.Page], Funnel, dict[str, Document]]


def test_every_page_ends_where_its_truth_says(outcome: Outcome) -> None:
    pages, funnel, final = outcome
    fates = dict.fromkeys(final, ("kept", "")) | funnel.dropped
    assert len(fates) == len(final) + len(funnel.dropped)
    assert {page.url: (page.label, *fates[page.url]) for page in pages} == {
        page.url: (page.label, page.stage, page.reason) for page in pages
    }
    assert fates.keys() == {page.url for page in pages}
    assert {page.label for page in pages} == {web.ORDINARY, *trouble.TROUBLES}


def test_kept_texts_are_the_articles_without_anything_of_the_site(outcome: Outcome) -> None:
    pages, _, final = outcome
    for page in pages:
        if page.label == web.ORDINARY:
            assert page.article
            text = final[page.url].text.translate({0x201C: '"', 0x201D: '"', 0x2019: "'"})
            lines = [line for line in text.split("\n") if line]
            expected = [line for line in page.article.text.split("\n") if len(line.split()) >= LineRules().min_words]
            assert [line for line in lines if line in expected] == expected
            assert len(lines) - len(expected) <= 2  # a site's name, a byline


def test_charsets_are_decoded_whatever_they_are_declared_to_be(outcome: Outcome) -> None:
    pages, _, final = outcome
    sentences = {
        "lying_charset": "It was read at the Café Zoë, where the crème is always à la mode.",
        "no_charset": "It was read at the Café Zoë, where the crème is always à la mode.",
        "utf_16": "It was read at the Café Zoë, where the crème is always à la mode.",
    }
    for page in pages:
        if page.label in sentences:
            assert sentences[page.label] in final[page.url].text
        if "//oldtales.example/" in page.url and page.url in final:
            assert "Café Zoë — a warm place" in final[page.url].text
    for document in final.values():
        assert "\x00" not in document.text and "\ufffd" not in document.text


def test_personal_data_leaves_placeholders_only(outcome: Outcome) -> None:
    pages, _, final = outcome
    for page in pages:
        if page.label == "personal_data":
            text = final[page.url].text
            assert text.count("[EMAIL]") == 1 and text.count("[IP]") == 1
            assert "@" not in text
    assert sum("[EMAIL]" in document.text for document in final.values()) == 8
