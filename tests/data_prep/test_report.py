"""The report of a corpus: its numbers are right and add up, and its page shows them."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path

import msgspec
import pyarrow
import pyarrow.parquet
import pytest
from house import House, Inline
from hypothesis import given, settings
from hypothesis import strategies as st
from reported import Recipe, content, document, facts_of, identity, prose

from data_prep.quality.verdicts import Thresholds
from data_prep.report.chain import chain
from data_prep.report.counting import count
from data_prep.report.statistics import Corpus, Numbers, Rejected, Sample, bins, merged, month, quantile, rank, two_digits
from data_prep.report.tallies import count_tallies, joined_tallies, write_tallies
from data_prep.report.timing import forecast, timings
from data_prep.stages import (
    DedupParams,
    ReportParams,
    ScoreParams,
    dedup,
    report,
    score,
    select,
)
from pipeline.config import load
from pipeline.reference import composed
from pipeline.stage import Artifact, Metrics, StageContext, UserError, stage
from pipeline.states import closure


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


def test_a_corpus_is_reported_without_being_tokenised_where_the_recipe_leaves_that_out(recipe: Recipe, whole: Artifact) -> None:
    assert {"tokenizer", "tokenize"}.isdisjoint(recipe.inputs) and "report.html" in {file.name for file in whole.files}
    values = composed("web", "++source.pages=[x]", "++target=report", "++report.needs.tokenizer=null", "++report.needs.tokenize=null")
    assert closure(load(*values)) == {*load(*values).nodes["report"].needs, "report"}


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
