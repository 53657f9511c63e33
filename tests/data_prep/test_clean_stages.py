"""score, select, dedup and scrub over the shard pool: nothing is lost, and only what changed is computed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from data_prep.documents import Document, DocumentWriter, Reject, read_documents, read_rejects
from data_prep.quality.gopher import SCORES
from data_prep.quality.verdicts import GopherQualityThresholds, Thresholds
from data_prep.stages import DedupParams, ScoreParams, ScrubParams, dedup, score, score_shard, scrub, scrub_shard, select, select_shard
from pipeline.lease import acquire
from pipeline.progress import Progress
from pipeline.stage import Artifact, File, MapRun, Shard, Stage, StageContext, Trajectory, Unit, UserError

PROSE = (
    "The harbour lay quiet that morning, and the fishermen who had come back with the tide stood about the quay to talk of nets and of the "
    "price of herring at the market in {town}. A boy sat on the wall with a book that he did not read. He watched how the water moved "
    "between the boats, and he thought that one day, when he was {number}, he would have a boat of his own."
)
GERMAN = (
    "Der Hafen lag an diesem Morgen still, und die Fischer, die mit der Flut gekommen waren, sprachen über Netze und über den Preis der "
    "Heringe auf dem Markt. Ein Junge saß auf der Mauer mit einem Buch, das er nicht las, und dachte an ein eigenes Boot."
)


def document(name: str, text: str, date: str = "2024-05-01T00:00:00Z") -> Document:
    return Document(hashlib.sha256(name.encode()).hexdigest()[:32], f"http://x/{name}", text, date, f"x#{name}")


def prose(name: str, number: int, **changes: str) -> Document:
    return document(name, PROSE.format(town=f"Town{number}", number=number), **changes)


@dataclass
class House:
    """A store of its own: stages share their pools, every artifact is a new folder."""

    root: Path
    computed: dict[str, int] = field(default_factory=dict)

    def corpus(self, **parts: Sequence[Document]) -> Artifact:
        folder = self.root / f"corpus-{len(list(self.root.iterdir()))}"
        files = []
        for name, part in parts.items():
            path = folder / f"{name}.parquet"
            path.parent.mkdir(exist_ok=True)
            with DocumentWriter(path) as writer:
                for one in part:
                    writer.write(one)
            files.append(File.of(f"documents/{name}.parquet", path, len(part)))
        return self.artifact("ingest", folder, files)

    def artifact(self, stage: str, folder: Path, files: Sequence[File]) -> Artifact:
        return Artifact(stage, "a" * 64, "d" * 64, str(folder), tuple(files), {})

    def run(self, stage: Stage, params: Any, sources: Sequence[File] = (), **inputs: Artifact) -> Artifact:
        """Run a stage as the runner does, check that it lost no record, and note how many shards it had to compute."""

        def connect() -> None:
            from pipeline.cluster import ClusterConfig, connect

            connect(ClusterConfig(cpus=1))

        own = self.root / f"{stage.name}-{len(list(self.root.iterdir()))}"
        own.mkdir()
        lease = acquire(own / "lease", lambda owner: None)
        lease.release()
        ctx = StageContext(
            stage=stage,
            fingerprint=own.name.ljust(64, "0"),
            inputs=inputs,
            sources=sources,
            run=MapRun(),
            directory=str(own),
            pool=self.root / "pools" / stage.name,
            fence=lease.fence,
            trajectory=Trajectory(str(own / "trajectory"), "a" * 16, lease.fence),
            progress=Progress(str(own / "events.jsonl"), stage.name),
            connect=connect,
        )
        stage(ctx, params)
        assert ctx.counts is not None and ctx.counts.balanced
        assert ctx.counts.total == sum(file.records for file in inputs["corpus"].select("documents"))
        assert ctx.counts.kept == sum(file.records for file in ctx.published if file.name.startswith(stage.keeps + "/"))
        self.computed[stage.name] = ctx.shards_computed
        return self.artifact(stage.name, own, ctx.published)

    def clean(self, corpus: Artifact) -> tuple[Artifact, Artifact, Artifact, Artifact]:
        scored = self.run(score, ScoreParams(), corpus=corpus)
        selected = self.run(select, Thresholds(), corpus=corpus, scores=scored)
        unique = self.run(dedup, DedupParams(), corpus=selected)
        return scored, selected, unique, self.run(scrub, ScrubParams(), corpus=unique)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


@pytest.fixture(scope="module", autouse=True)
def ray_goes_down_with_the_module() -> Iterator[None]:
    yield
    import ray

    ray.shutdown()


def documents(artifact: Artifact) -> list[Document]:
    return [one for file in artifact.select("documents") for one in read_documents(file.path)]


def reasons(artifact: Artifact) -> dict[str, tuple[str, str]]:
    rejects = [reject for file in artifact.select("rejects") for reject in read_rejects(file.path)]
    return {reject.url.rsplit("/", 1)[1]: (reject.reason, reject.detail) for reject in rejects}


def digests(artifact: Artifact) -> dict[str, str]:
    return {file.name: file.sha256 for file in artifact.files}


OLD = [
    prose("a", 1),
    prose("b", 2),
    document("german", GERMAN),
    document("thin", "Too short to keep."),
    prose("copy", 1, date="2024-06-01"),
]
MAILS = [document("mail", PROSE.format(town="Ys", number=3) + " Write to joe@example.org or to 93.184.216.34 soon.")]


def test_every_document_ends_where_it_should(house: House) -> None:
    scored, selected, unique, scrubbed = house.clean(house.corpus(old=OLD, mails=MAILS, none=[]))
    table = pyarrow.parquet.read_table(scored.select("scores")[0].path)
    assert table.column_names == ["id", "language", "language_score", *SCORES]
    assert {str(kind) for kind in table.schema.types[2:]} == {"double"}
    assert table.column("language").to_pylist() == ["en", "en", "de", "en", "en"]
    assert math.isnan(table.column("gopher_stop_words").to_pylist()[2])
    assert reasons(selected) == {"german": ("language", "de, not en"), "thin": ("gopher_min_words", "4 < 50")}
    assert reasons(unique) == {"copy": ("duplicate", OLD[0].id)}
    assert reasons(scrubbed) == {}
    assert [one.url for one in documents(scrubbed)] == ["http://x/a", "http://x/b", "http://x/mail"]
    assert documents(scrubbed)[:2] == OLD[:2]
    assert documents(scrubbed)[2] == replace(MAILS[0], text=PROSE.format(town="Ys", number=3) + " Write to [EMAIL] or to [IP] soon.")
    assert len(scrubbed.select("documents")) == len(scrubbed.select("rejects")) == 3


def test_a_new_crawl_computes_its_own_shards_only(house: House) -> None:
    first = house.clean(house.corpus(old=OLD, mails=MAILS))
    assert house.computed == {"score": 2, "select": 2, "dedup": 4, "scrub": 2}
    new = [prose("new copy", 2, date="2025-01-01"), prose("new", 9, date="2025-01-01")]
    second = house.clean(house.corpus(old=OLD, mails=MAILS, zz=new))
    assert house.computed == {"score": 1, "select": 1, "dedup": 2, "scrub": 1}  # dedup: its hashes and its own list
    assert reasons(second[2]) == {"copy": ("duplicate", OLD[0].id), "new copy": ("duplicate", OLD[1].id)}
    for before, after in zip(first, second, strict=True):
        assert digests(before).items() <= digests(after).items()


def test_an_older_page_takes_over_and_rewrites_only_the_shard_it_empties(house: House) -> None:
    house.clean(house.corpus(old=OLD, mails=MAILS))
    *_, unique, _ = house.clean(house.corpus(old=OLD, mails=MAILS, archive=[prose("first", 2, date="2020-01-01")]))
    assert house.computed["dedup"] == 3  # hashes of the archive, the archive, and `old` without its second document
    assert reasons(unique)["b"] == ("duplicate", document("first", "").id)


def test_another_threshold_scores_nothing_and_another_division_keeps_the_same_documents(house: House) -> None:
    corpus = house.corpus(old=OLD, mails=MAILS)
    scored, *_, whole = house.clean(corpus)
    strict = replace(Thresholds(), gopher_quality=GopherQualityThresholds(min_words=1_000))
    assert documents(house.run(select, strict, corpus=corpus, scores=scored)) == []
    assert house.computed["select"] == 2
    house.run(score, ScoreParams(), corpus=corpus)
    assert house.computed["score"] == 0
    divided = house.clean(house.corpus(p=OLD[4:], q=[*MAILS, *OLD[:2]], r=OLD[2:4]))[-1]
    assert sorted(one.id for one in documents(divided)) == sorted(one.id for one in documents(whole))


def test_scores_of_another_corpus_are_refused(house: House, tmp_path: Path) -> None:
    corpus, other = house.corpus(old=OLD), house.corpus(old=OLD[::-1])
    scored = house.run(score, ScoreParams(), corpus=other)
    with pytest.raises(UserError, match=r"select: 1 of 1 shards failed.*score this corpus"):
        house.run(select, Thresholds(), corpus=corpus, scores=scored)
    with pytest.raises(UserError, match=r"no scores of documents/mails\.parquet"):
        house.run(select, Thresholds(), corpus=house.corpus(mails=MAILS), scores=scored)


def test_shards_are_byte_stable(house: House, tmp_path: Path) -> None:
    corpus = house.corpus(old=OLD)
    source = corpus.files[0].path
    digest = []
    for name in ("one", "two"):
        scores = Shard(Unit("old", "", None, (source,)), ScoreParams(), {}, str(tmp_path / name))
        score_shard(scores)
        chosen = Shard(Unit("old", "", None, (source, scores.path("scores", ".parquet"))), Thresholds(), {}, str(tmp_path / name))
        result = select_shard(chosen)
        assert result.records == {"documents": 3, "rejects": 2}
        digest.append([path.read_bytes() for path in sorted((tmp_path / name).rglob("*.parquet"))])
    assert digest[0] == digest[1]


CONTACTS = "\n".join(
    f"Office {number}: person{number}@example.org, phone +44 20 7946 0{number}, 93.184.216.{number}" for number in range(100, 104)
)


def pii(
    tmp_path: Path, params: ScrubParams, *documents: Document, key: bytes = b""
) -> tuple[list[Document], list[Reject], dict[str, Any], bytes]:
    """Documents, rejects and counts of one shard, and everything that the shard has written."""
    source = tmp_path / "in.parquet"
    with DocumentWriter(source) as writer:
        for one in documents:
            writer.write(one)
    side = {}
    if key:
        (tmp_path / "key").write_bytes(key)
        side["key"] = File.of("key", tmp_path / "key")
    shard = Shard(Unit("part", "", None, (str(source),)), params, side, str(tmp_path / "out"))
    result = scrub_shard(shard)
    assert result.counts is not None and result.counts.balanced
    paths = [shard.path("documents", ".parquet"), shard.path("rejects", ".parquet"), shard.path("found", ".json")]
    kept, rejected = list(read_documents(paths[0])), list(read_rejects(paths[1]))
    found = json.loads(Path(paths[2]).read_text())
    return kept, rejected, dict(result.metrics) | found, b"".join(Path(path).read_bytes() for path in paths)


def test_a_page_that_is_mostly_personal_data_is_dropped_without_telling_it(tmp_path: Path) -> None:
    page = document("contacts", CONTACTS)
    kept, [reject], counts, _ = pii(tmp_path, ScrubParams(), page, prose("a", 1))
    assert [one.id for one in kept] == [prose("a", 1).id]
    assert reject.reason == "pii_density" and reject.detail.endswith("> 0.2, 12 findings")
    assert counts["email"] == {"findings": 4, "unsure": 0, "documents": 1}
    [shown] = pii(tmp_path, ScrubParams(show_rejected=True), page)[1]
    assert "person100@example.org · +44 20 7946 0100 · 93.184.216.100" in shown.detail
    assert pii(tmp_path, ScrubParams(min_findings=13), page)[1] == [] == pii(tmp_path, ScrubParams(max_density=1.0), page)[1]


def test_urls_lose_what_identifies_a_person(tmp_path: Path) -> None:
    urls = ["http://x/?to=joe@x.org&tel=+442079460958", "ftp://joe:hunter2@x.org/a", "http://x/93.184.216.34"]
    documents_in = [replace(prose("a", number), url=url) for number, url in enumerate(urls)]
    kept, _, counts, _ = pii(tmp_path, ScrubParams(), *documents_in)
    assert [one.url for one in kept] == ["http://x/?to=[EMAIL]&tel=+442079460958", "ftp://[CREDENTIALS]@x.org/a", urls[2]]
    assert counts["urls_changed"] == 2 and counts["documents_changed"] == 0
    [reject] = pii(tmp_path, ScrubParams(), replace(document("contacts", CONTACTS), url=urls[0]))[1]
    assert "joe" not in reject.url


def test_pseudonyms_tie_the_documents_of_a_key_together(tmp_path: Path) -> None:
    params, text = ScrubParams(replacement="pseudonym"), "Mail joe@x.org today."
    one, two = pii(tmp_path, params, document("a", text), document("b", text.upper()), key=bytes(range(32)))[0]
    assert one.text.split()[1] == two.text.split()[1] != "joe@x.org"
    [other] = pii(tmp_path, params, document("a", text), key=bytes(32))[0]
    assert other.text != one.text


def test_the_scrub_stage_reports_counts_and_takes_its_key_from_a_file(house: House, tmp_path: Path) -> None:
    corpus = house.corpus(mails=MAILS, contacts=[document("contacts", CONTACTS)])
    scrubbed = house.run(scrub, ScrubParams(), corpus=corpus)
    [report] = [file for file in scrubbed.files if file.name == "report.json"]
    assert json.loads(Path(report.path).read_text()) == {
        "email": {"findings": 5, "unsure": 0, "documents": 2},
        "ip": {"findings": 5, "unsure": 0, "documents": 2},
        "phone": {"findings": 4, "unsure": 0, "documents": 1},
    }
    key = tmp_path / "key"
    for content in (b"", b"short"):
        key.write_bytes(content)
        with pytest.raises(UserError, match=r"one file of at least 16 random bytes.*scrub\.sources"):
            house.run(scrub, ScrubParams(replacement="pseudonym"), sources=[File.of("key", key)] if content else (), corpus=corpus)
    key.write_bytes(bytes(range(32)))
    keyed = house.run(scrub, ScrubParams(replacement="pseudonym"), sources=[File.of("key", key)], corpus=corpus)
    assert "[EMAIL:" in documents(keyed)[0].text
    house.run(scrub, ScrubParams(replacement="pseudonym"), sources=[File.of("key", key)], corpus=corpus)
    assert house.computed["scrub"] == 0


@pytest.mark.parametrize("replacement", ["placeholder", "pseudonym", "removal"])
def test_scrubbed_documents_are_byte_stable_and_scrubbed_again_the_same(tmp_path: Path, replacement: Any) -> None:
    params = ScrubParams(replacement=replacement, max_density=1.0)
    given = [document("contacts", CONTACTS), *MAILS, prose("a", 1)]
    kept, _, _, content = pii(tmp_path, params, *given, key=bytes(32))
    assert pii(tmp_path, params, *given, key=bytes(32))[3] == content
    again, _, counts, _ = pii(tmp_path, params, *kept, key=bytes(32))
    assert again == kept and counts["documents_changed"] == 0
    assert not any(word in content for word in (b"person10", b"joe@", b"7946", b"93.184"))
