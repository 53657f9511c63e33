"""The report of a corpus: its numbers are right and add up, its page shows them, and nothing in it is taken for markup."""

from __future__ import annotations

import hashlib
import html
import html.parser
import json
import random
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pyarrow
import pyarrow.parquet
import pytest
from house import House, Inline
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.documents import Document
from data_prep.quality.verdicts import Thresholds
from data_prep.report.chain import chain
from data_prep.report.compare import side_by_side
from data_prep.report.counting import count
from data_prep.report.facts import Facts
from data_prep.report.markup import text
from data_prep.report.page import page
from data_prep.report.statistics import Corpus, Numbers, Rejected, Sample, bins, merged, month, quantile, rank, two_digits
from data_prep.report.tallies import count_tallies, joined_tallies, write_tallies
from data_prep.report.timing import forecast, timings
from data_prep.stages import (
    DecontaminateParams,
    DedupParams,
    NearDedupParams,
    ReportParams,
    ScoreParams,
    ScrubParams,
    decontaminate,
    dedup,
    near_dedup,
    report,
    score,
    scrub,
    select,
)
from pipeline.stage import Artifact, File, Metrics, StageContext, UserError, stage

VOCABULARY = """
river stone garden window letter morning harbour candle winter orchard bridge lantern meadow silver paper anchor barrel copper dancer ember
feather glacier hammer island jacket kettle ladder market needle oyster pepper quarry ribbon saddle timber umbrella violin walnut yellow
zephyr acorn basket cotton desert engine forest granite helmet ivory jungle kitchen lemon marble nephew
"""
WORDS = VOCABULARY.split()


def identity(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def document(name: str, text: str, host: str = "a.example", date: str = "2024-05-01T10:00:00Z", **more: str) -> Document:
    return Document(identity(name), f"http://{host}/{name}", text, date, f"x.warc.gz#{name}", **more)


def prose(seed: int, lines: int = 12) -> str:
    """English enough for the rules."""
    chance = random.Random(seed)
    joints = ("of the", "and", "with a", "that was in the", "from", "to the", "have seen", "which is by the", "on", "under the")
    sentences = []
    for _ in range(lines):
        first, *others = chance.sample(WORDS, 10)
        sentences.append(f"The {first} {' '.join(f'{chance.choice(joints)} {word}' for word in others)}.")
    return "\n".join(sentences)


class Recipe:
    """Stages run one after another in a house, with the manifests that the runner would write."""

    def __init__(self, root: Path) -> None:
        self.house = House(root, Inline)
        self.inputs: dict[str, Artifact] = {}

    def corpus(self, **parts: list[Document]) -> Artifact:
        total = sum(map(len, parts.values()))
        counts = {"in": total + 1, "kept": total, "rejected": {"not_html": 1}, "errored": 0}
        artifact = self.house.corpus(**parts)
        sources = [["x.warc.gz", 5_000_000, "0" * 64]]
        manifest = {
            "counts": counts,
            "inputs": {},
            "sources": sources,
            "elapsed_s": 10.0,
            "shards": {"computed": 2, "reused": 0},
            "cpus": 2.0,
        }
        self.inputs["ingest"] = replace(artifact, manifest=manifest)
        return self.inputs["ingest"]

    def run(self, kind: Any, params: Any, name: str = "", sources: tuple[File, ...] = (), **needs: str) -> Artifact:
        name = name or kind.name
        made = self.house.run(kind, params, None, sources, **{role: self.inputs[upstream] for role, upstream in needs.items()})
        total = sum(file.records for file in self.inputs[needs["corpus"]].select("documents"))
        rows = [table for file in made.select("rejects") for table in pyarrow.parquet.read_table(file.path)["reason"].to_pylist()]
        counts = {
            "in": total,
            "kept": total - len(rows),
            "rejected": {reason: rows.count(reason) for reason in sorted({*rows})},
            "errored": 0,
        }
        upstreams = {role: {"fingerprint": self.inputs[upstream].fingerprint} for role, upstream in needs.items()}
        manifest = dict(made.manifest) | {"counts": counts, "inputs": upstreams, "elapsed_s": 2.0, "shards": {"computed": 1, "reused": 1}}
        self.inputs[name] = replace(made, manifest=manifest)
        return self.inputs[name]

    def report(self, params: ReportParams = ReportParams(), **inputs: Artifact) -> Artifact:  # noqa: B008
        return self.house.run(report, params, None, (), **(inputs or self.inputs))


def content(artifact: Artifact, name: str) -> str:
    return Path(artifact.file(name).path).read_text("utf-8")


def facts_of(artifact: Artifact) -> Facts:
    return msgspec.json.decode(content(artifact, "report.json"), type=Facts)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A corpus in two files: ten good documents, a German one, a short one, two copies, a near copy, personal data, evaluation data."""
    root = tmp_path_factory.mktemp("recipe")
    made = Recipe(root)
    good = [document(f"good-{one}", prose(one), f"h{one % 3}.example", published="2023-01-05") for one in range(10)]
    copies = [replace(document(f"copy-{one}", prose(0), "mirror.example"), date="2024-06-02") for one in range(2)]
    near = document("near", prose(1, 12).replace("The", "The lately", 1), "mirror.example", "2024-06-03")
    german = document("german", "Das ist ein deutscher Text, der hier nicht bleiben soll, weil nur englische Texte behalten werden. " * 4)
    short = document("short", "The end of it all.", date="")
    secret = document("secret", prose(90) + "\nWrite to joe.doe@mail.example.org or call +44 20 7946 0958.")
    mails = [f"{word}@people.example.org" for word in WORDS]
    full = document("full", "\n".join(f"{line} {mails[place]} {mails[-place]}." for place, line in enumerate(prose(92).splitlines(), 1)))
    quiz = document("quiz", prose(91) + "\nWhich of the seven old wooden bridges over the river was the first one to be built of stone?")
    made.corpus(one=[*good[:5], copies[0], near, german], two=[*good[5:], copies[1], short, secret, full, quiz])
    made.run(score, ScoreParams(), corpus="ingest")
    made.run(select, Thresholds(), corpus="ingest", scores="score")
    made.run(dedup, DedupParams(), corpus="select")
    made.run(near_dedup, NearDedupParams(), corpus="dedup")
    made.run(scrub, ScrubParams(), corpus="near_dedup")
    question = {"question": "Which of the seven old wooden bridges over the river was the first one to be built of stone?"}
    (root / "trivia.jsonl").write_text(json.dumps(question) + "\n")
    sources = (File.of("trivia.jsonl", root / "trivia.jsonl"),)
    made.run(decontaminate, DecontaminateParams(), sources=sources, corpus="scrub")
    return made


@pytest.fixture(scope="module")
def whole(recipe: Recipe) -> Artifact:
    return recipe.report()


def test_the_funnel_follows_the_manifests(recipe: Recipe, whole: Artifact) -> None:
    facts = facts_of(whole)
    assert [one.step for one in facts.funnel] == ["ingest", "select", "dedup", "near_dedup", "scrub", "decontaminate"]
    assert (facts.records, facts.first, facts.last) == (19, "ingest", "decontaminate")
    by_step = {one.step: one for one in facts.funnel}
    assert by_step["dedup"].rejected == {"duplicate": 2} and by_step["near_dedup"].rejected == {"near_duplicate": 1}
    assert by_step["decontaminate"].rejected == {"contaminated_trivia": 1}
    assert by_step["select"].rejected.keys() >= {"language"}
    for one, following in zip(facts.funnel, facts.funnel[1:], strict=False):
        assert one.kept == following.total == one.total - sum(one.rejected.values()) - one.errored
    for one in facts.funnel[1:]:  # counted again from the tables
        assert {reason: found.documents for reason, found in facts.numbers.rejects.get(one.step, {}).items()} == one.rejected


def test_the_order_of_stages_is_theirs_whatever_they_are_called(recipe: Recipe) -> None:
    names = [step.name for step in chain(recipe.inputs).steps]
    assert names == [step.name for step in chain(dict(reversed(recipe.inputs.items()))).steps]
    renamed = {f"{9 - place} {name}": artifact for place, (name, artifact) in enumerate(recipe.inputs.items())}
    assert [step.name.split()[1] for step in chain(renamed).steps] == names
    assert [(step.reads or "-").split()[-1] for step in chain(renamed).documents] == [
        "-",
        "ingest",
        "select",
        "dedup",
        "near_dedup",
        "scrub",
    ]


def test_distributions_of_a_corpus_counted_by_hand(tmp_path: Path) -> None:
    house = House(tmp_path, Inline)
    corpus = house.corpus(
        a=[
            document("1", "one two three", "a.example", "2024-05-01", published="2019-07-01", extractor="blocks"),
            document("2", "x" * 1_234, "A.Example.", "2024-05-31"),
            document("3", "日本語!", "b.example:8080", "no date"),
        ]
    )
    scores = tmp_path / "scores.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"id": [identity("1"), identity("3")], "language": ["en", "ja"]}), scores)
    files = [("ingest", "documents", corpus.files[0].path), ("score", "scores", str(scores))]
    numbers, tallies = count(files, "ingest", "ingest", samples=2)
    found = numbers.corpora["ingest"]
    assert (found.documents, found.characters, found.words, found.bytes) == (3, 13 + 1_234 + 4, 3 + 1 + 3, 13 + 1_234 + 10)
    assert (found.by_characters, found.by_words) == ({4: 1, 13: 1, 1_200: 1}, {1: 1, 3: 2})
    assert found.by_language == {"en": 1, "ja": 1, "und": 1}
    assert found.by_month == {"": 1, "2024-05": 2} and found.by_year == {"": 2, "2019": 1}
    assert found.by_extractor == {"": 2, "blocks": 1}
    assert {host: row[:2] for host, row in tallies["hosts"].items()} == {"a.example": (2, 2), "b.example": (1, 1)}
    assert [one.id for one in found.samples] == sorted((identity(name) for name in "123"), key=rank)[:2]


@given(st.integers(0, 10**9), st.dictionaries(st.integers(0, 10**7), st.integers(1, 5), max_size=20), st.floats(0, 1))
def test_lengths_in_two_digits_bins_and_quantiles(number: int, counts: dict[int, int], share: float) -> None:
    assert 0 <= number - two_digits(number) <= number / 10
    assert sum(count for _, count in bins(counts)) == sum(counts.values())
    for edge, documents in bins(counts):
        following = next((one for one, _ in bins(counts) if one > edge), 10**20)
        assert documents == sum(count for length, count in counts.items() if edge <= length < following)
    lengths = sorted(length for length, count in counts.items() for _ in range(count))
    if lengths:
        middle = quantile(counts, share)
        assert sum(length <= middle for length in lengths) >= share * len(lengths) - 1e-6
        assert sum(length < middle for length in lengths) <= share * len(lengths) + 1e-6


def test_what_is_no_date_has_no_month() -> None:
    assert [month(date) for date in ("2024-05", "2024-05-31T00:00:00Z", "2024-13-01", "5 May 2024", "", "12024-05-01", "2024-051")] == [
        "2024-05", "2024-05", "", "", "", "", "",
    ]  # fmt: skip


names, few = st.sampled_from("abcdef"), st.integers(0, 9)
counts = st.dictionaries(names, st.integers(1, 9), max_size=4)
lengths = st.dictionaries(few, st.integers(1, 9), max_size=4)
samples = st.lists(st.text("xyz", min_size=1, max_size=4).map(lambda name: Sample(rank(name), name, "s", "u")), max_size=5).map(tuple)
corpora = st.builds(Corpus, documents=few, by_language=counts, by_characters=lengths, samples=samples)
rejects = st.dictionaries(names, st.builds(Rejected, few, samples), max_size=3)
by_step = {"max_size": 2, "keys": names}
parts = st.builds(
    Numbers,
    st.dictionaries(values=corpora, **by_step),
    st.dictionaries(values=rejects, **by_step),
    st.dictionaries(values=lengths, **by_step),
)


@settings(max_examples=40)
@given(st.lists(parts, min_size=1, max_size=5), st.integers(0, 3), st.randoms())
def test_numbers_add_up_in_any_order_and_grouping(found: list[Numbers], shown: int, chance: random.Random) -> None:
    whole = merged(found, shown)
    cut = chance.randrange(len(found) + 1)
    assert merged([merged(found[cut:], shown), merged(found[:cut], shown)], shown) == whole
    chance.shuffle(found)
    assert merged(found, shown) == whole == merged([whole], shown)


@pytest.mark.parametrize("partitions", [1, 2, 7])
def test_tallies_are_those_of_all_rows_together(tmp_path: Path, partitions: int) -> None:
    chance = random.Random(0)
    rows = [(chance.choice("ab"), f"key {int(chance.paretovariate(0.7)) % 300}", chance.randrange(9)) for _ in range(3_000)]
    paths, expected = [], {}
    for part in range(3):
        tallies: dict[str, dict[str, tuple[int, int, str]]] = {}
        for kind, key, more in rows[part::3]:
            number, of, example = tallies.setdefault(kind, {}).get(key, (0, 0, "z"))
            tallies[kind][key] = number + more, of + 1, min(example, f"{more}")
        paths.append(tmp_path / f"{part}.parquet")
        write_tallies(paths[-1], tallies)
    found = joined_tallies([count_tallies(paths, one, partitions, 5) for one in range(partitions)], 5)
    for kind in "ab":
        own = [(key, more) for one, key, more in rows if one == kind]
        totals = {key: sum(more for other, more in own if other == key) for key in {key for key, _ in own}}
        expected = sorted(totals.items(), key=lambda entry: (-entry[1], -sum(key == entry[0] for key, _ in own), entry[0]))[:5]
        assert (found[kind].keys, found[kind].total, found[kind].of) == (len(totals), sum(totals.values()), len(own))
        assert [(key, number) for key, number, _, _ in found[kind].top] == expected
        assert sum(found[kind].sizes.values()) == len(totals) and found[kind].kept == sum(number > 0 for number in totals.values())


def test_the_same_corpus_in_other_files_has_the_same_numbers(tmp_path: Path, recipe: Recipe, whole: Artifact) -> None:
    documents = {one: [document(f"{one}-{number}", prose(number), f"h{number % 4}.example") for number in range(20)] for one in "ab"}
    found = []
    for place, parts in enumerate(({"all": documents["a"] + documents["b"]}, documents, {"y": documents["b"], "x": documents["a"]})):
        (tmp_path / str(place)).mkdir()
        other = Recipe(tmp_path / str(place))
        other.corpus(**parts)
        other.run(dedup, DedupParams(), corpus="ingest")
        facts = facts_of(other.report())
        found.append((facts.numbers, facts.hosts, facts.clusters, facts.shown, facts.funnel))
    assert found[0] == found[1] == found[2]


def test_all_but_the_page_has_the_same_bytes_and_the_page_but_for_its_times(recipe: Recipe, whole: Artifact) -> None:
    def slower(artifact: Artifact) -> Artifact:
        return replace(artifact, manifest=dict(artifact.manifest) | {"elapsed_s": 77.7, "started": "later"})

    again = recipe.report(**{name: slower(artifact) for name, artifact in reversed(recipe.inputs.items())})
    digests = [{file.name: file.sha256 for file in one.files} for one in (whole, again)]
    assert [name for name in digests[0] if digests[0][name] != digests[1][name]] == ["report.html"]
    cut = [re.sub(r'<section id="throughput">.*?</section>', "", content(one, "report.html"), flags=re.DOTALL) for one in (whole, again)]
    assert cut[0] == cut[1] != content(whole, "report.html")
    recipe_paths = [str(recipe.house.root), "77.7"]
    assert not any(part in content(again, name) for part in recipe_paths for name in ("report.json", "summary.txt"))


def test_the_manifest_says_that_times_are_in_it(recipe: Recipe) -> None:
    seen: list[bool] = []

    @stage(version=1)
    def noting(ctx: StageContext, params: ReportParams) -> Metrics:
        metrics = report.function(ctx, params)
        seen.append(ctx.reproducible)
        return metrics

    recipe.house.run(noting, ReportParams(), None, (), **recipe.inputs)
    assert seen == [False]


def test_rejected_documents_are_shown_with_their_texts_but_no_personal_data(recipe: Recipe, whole: Artifact) -> None:
    page, plain = content(whole, "report.html"), content(whole, "report.json")
    facts = facts_of(whole)
    assert facts.numbers.rejects["scrub"]["pii_density"].documents == 1
    assert facts.shown["ingest"][identity("german")].text.startswith("Das ist ein deutscher Text")
    assert "Das ist ein deutscher Text" in page and "de, not en" in page
    for secret in ("people.example.org", "joe.doe", "7946"):
        assert secret not in page and secret not in plain
    assert "Not shown: it is full of personal data." in page and "24 findings" in page
    assert all(identity("full") not in documents for documents in facts.shown.values())
    asked = recipe.report(ReportParams(personal_data=True))
    assert "people.example.org" in content(asked, "report.html")


def test_duplicates_stand_beside_their_survivors(whole: Artifact) -> None:
    facts = facts_of(whole)
    tally = facts.clusters["dedup"]
    assert (tally.keys, tally.total, tally.sizes) == (1, 2, {2: 1}) and tally.top[0][0] == identity("good-0")
    [near] = facts.numbers.rejects["near_dedup"]["near_duplicate"].samples
    assert (near.id, near.survivor) == (identity("near"), identity("good-1")) and 0.7 < near.similarity < 1
    [section] = re.findall(r'<section id="duplicates">.*?</section>', content(whole, "report.html"), re.DOTALL)
    assert f"similarity {near.similarity:.3f}" in section
    assert re.search("<mark> ?lately ?</mark>", section)


def test_personal_data_and_evaluation_sets_are_counted(whole: Artifact) -> None:
    facts, page = facts_of(whole), content(whole, "report.html")
    assert facts.pii["email"]["findings"] == 25 and facts.pii["phone"]["findings"] == 1
    assert [(row["evaluation"], row["documents"]) for row in facts.contamination] == [("trivia", 1)]
    assert "1 evaluation set searched for; 1 of them found" in page


def test_times_grow_with_the_crawl(recipe: Recipe) -> None:
    found = {one.step: one for one in timings(chain(recipe.inputs))}
    assert (found["ingest"].records, found["ingest"].bytes, found["ingest"].cores, found["ingest"].core_seconds) == (
        19,
        5_000_000,
        2.0,
        20.0,
    )
    assert (found["dedup"].share, found["dedup"].core_seconds) == (0.5, 4.0)  # half of its shards were there already
    assert found["select"].bytes == sum(file.bytes for file in recipe.inputs["ingest"].select("documents"))
    would = forecast(list(found.values()), records=19, pages=19_000)
    assert would.core_hours["ingest"] == pytest.approx(20 * 1_000 / 3_600)
    assert would.total_core_hours == pytest.approx((20 + 6 * 4) * 1_000 / 3_600)


def test_inputs_without_documents_are_refused(recipe: Recipe) -> None:
    with pytest.raises(UserError, match=r"report\.needs"):
        recipe.report(score=recipe.inputs["score"])


def test_languages_in_buckets_belong_to_the_file_they_come_from(tmp_path: Path) -> None:
    recipe = Recipe(tmp_path)
    recipe.corpus(**{"pages-00": [document("a", prose(1))], "pages-00-x": [document("b", prose(2))]})
    recipe.run(score, ScoreParams(), corpus="ingest")
    recipe.run(select, msgspec.convert({"language": {"buckets": True}}, Thresholds), corpus="ingest", scores="score")
    facts = facts_of(recipe.report())
    assert facts.numbers.corpora["select"].by_language == {"en": 2} and facts.numbers.corpora["select"].documents == 2


HOSTILE = [
    "<script>alert(1)</script>",
    "</style></title></textarea>--><img src=x onerror=alert(1)>",
    "\" onmouseover='alert(1)' x=\"",
    "\u202egnp.exe\u2066\u200b\ufeff",
    "nul\x00bell\x07escape\x1b[31m\x85",
    "\ud800 lone \udfff",
    "&lt;b&gt; &amp; &#x3c;script&#x3e;",
    "x" * 300_000,
    "]]><!DOCTYPE html><base href=//evil.example>",
]


class Reader(html.parser.HTMLParser):
    """Elements, attributes and text of a page, as a browser would see them."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.data: list[str] = []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}

    def handle_data(self, data: str) -> None:
        self.data.append(data)


@pytest.mark.parametrize("hostile", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_only_text(hostile: str) -> None:
    reader = Reader(f"<p>{text(hostile)}</p>")
    assert reader.tags <= {"p", "i"} and reader.attributes <= {"class"}
    shown = "".join(reader.data)
    shown.encode()  # valid Unicode
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)


@given(st.text(st.characters(exclude_categories=[])))
def test_any_text_stays_readable(value: str) -> None:
    reader = Reader(text(value))
    assert reader.tags <= {"i"}
    plain = re.sub(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2028-\u202e\u2060-\u2064\u2066-\u206f\ufdd0-\ufdef\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff]",
        "",
        value,
    )
    assert re.sub(r'<i class="odd">[0-9A-F]{4,6}</i>', "", text(value)) == html.escape(plain)


def poisoned(facts: Facts, poison: str) -> Facts:
    """The facts with every string in them followed by something hostile."""

    def spoil(value: Any) -> Any:
        if isinstance(value, str):
            return value + poison if not re.fullmatch(r"[0-9a-f.]* ?[\d.]*", value) else value
        if isinstance(value, dict):
            return {key: spoil(one) for key, one in value.items()}
        return [spoil(one) for one in value] if isinstance(value, list) else value

    plain = msgspec.to_builtins(facts)
    kept = {name: plain[name] for name in ("first", "last", "reads")}
    steps = [one["step"] for one in plain["funnel"]]
    spoiled = spoil(plain) | kept
    for one, name in zip(spoiled["funnel"], steps, strict=True):
        one["step"] = name
    return msgspec.convert(spoiled, Facts)


@pytest.mark.parametrize("poison", HOSTILE[:7], ids=range(7))
def test_a_page_of_hostile_facts_holds_no_markup_of_theirs(recipe: Recipe, whole: Artifact, poison: str) -> None:
    facts, times = facts_of(whole), timings(chain(recipe.inputs))
    clean, spoiled = (Reader(page(one, times, 10**9, 100)) for one in (facts, poisoned(facts, poison)))
    assert spoiled.tags <= clean.tags | {"i"} and spoiled.attributes == clean.attributes
    assert not spoiled.tags & {"script", "img", "link", "iframe", "base", "object"}
    assert not {name for name in spoiled.attributes if name.startswith("on") or name in ("src", "srcset", "action")}
    page(poisoned(facts, poison), times, 10**9, 100).encode()


def test_the_page_stands_alone(whole: Artifact) -> None:
    markup = content(whole, "report.html")
    assert "default-src 'none'" in markup and "@import" not in markup and "url(" not in markup
    assert set(re.findall(r'href="([^"#]*)', markup)) == {""}
    sections = re.findall(r'<section id="([\w-]+)"', markup)
    assert sections == re.findall(r'href="#([\w-]+)"', markup)
    assert {"funnel", "rejects", "distributions", "duplicates", "personal-data", "decontamination", "kept", "throughput"} <= {*sections}
    assert len(markup) < 400_000


def test_an_empty_corpus_has_a_page(tmp_path: Path) -> None:
    recipe = Recipe(tmp_path)
    recipe.corpus(none=[])
    recipe.run(dedup, DedupParams(), corpus="ingest")
    assert "Corpus report" in content(recipe.report(ReportParams(samples=0)), "report.html")


def words(parts: Any) -> str:
    return "".join(part for part, _ in parts)


@given(st.lists(st.text("ab \n", max_size=30), min_size=2, max_size=2))
def test_two_texts_side_by_side_are_both_whole(texts: list[str]) -> None:
    rows = side_by_side(*texts)
    for side, value in zip(("left", "right"), texts, strict=True):
        lines = value.split("\n")
        shown = sum(row.skipped + (bool(getattr(row, side)) and row.kind != "skipped") for row in rows)
        assert shown == len(lines)
        if not any(row.skipped for row in rows):
            assert [words(getattr(row, side)) for row in rows if getattr(row, side)] == lines


def test_what_differs_is_marked() -> None:
    left = ["title", *"abcdefgh", "the old bridge was built of wood", "only here"]
    right = ["title", *"abcdefgh", "the new bridge was built of stone"]
    rows = side_by_side("\n".join(left), "\n".join(right))
    assert [row.kind for row in rows] == ["skipped", "same", "same", "different", "different"] and rows[0].skipped == 7
    assert [part for part in rows[3].left if part[1]] == [("old", True), ("wood", True)]
    assert [part for part in rows[3].right if part[1]] == [("new", True), ("stone", True)]
    assert rows[4].left == (("only here", True),) and rows[4].right == ()
    assert all(row.kind != "different" for row in side_by_side("same\ntext", "same\ntext"))


def test_two_texts_that_are_large_and_different_take_no_time() -> None:
    chance = random.Random(0)
    texts = ["\n".join(" ".join(chance.choice(WORDS) for _ in range(chance.randrange(80))) for _ in range(400)) for _ in range(2)]
    assert side_by_side(*texts) and side_by_side("x " * 100_000, "y " * 100_000)


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here to show the page in")
def test_a_browser_shows_the_page_at_both_widths(recipe: Recipe, whole: Artifact, tmp_path: Path) -> None:
    facts = poisoned(facts_of(whole), HOSTILE[0] + "wide" * 200)
    probe = tmp_path / "probe.html"
    # a script of the test's own, behind the page's: how wide the page is inside
    measured = "<script>document.title = document.documentElement.scrollWidth + ' of ' + window.innerWidth</script></body>"
    markup = page(facts, timings(chain(recipe.inputs)), 10**9, 100)
    probe.write_text(re.sub(r"<meta http-equiv[^>]*>", "", markup).replace("</body>", measured), "utf-8")
    for width in (1280, 390):
        shot = tmp_path / f"{width}.png"
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={width},900"]
        command += [f"--user-data-dir={tmp_path / 'profile'}", f"file://{probe}"]
        shown = subprocess.run([*command[:-1], "--dump-dom", command[-1]], capture_output=True, text=True, timeout=60, check=True).stdout
        assert '<section id="funnel">' in shown and "<script>alert" not in shown
        [(inside, window)] = re.findall(r"<title>(\d+) of (\d+)</title>", shown)
        assert int(inside) <= int(window), f"at {width} pixels the page is {inside} wide"
        subprocess.run([*command[:-1], f"--screenshot={shot}", command[-1]], capture_output=True, timeout=60, check=True)
        assert shot.read_bytes().startswith(b"\x89PNG") and shot.stat().st_size > 20_000
