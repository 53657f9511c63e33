"""Evaluation data is found wherever it stands, and nothing else is; what is cut leaves none behind."""

from __future__ import annotations

import bz2
import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.decontaminate import Index, Overlap, Removal, read_evaluation, reason, remove
from data_prep.decontaminate.index import words
from data_prep.documents import Document, read_documents, read_rejects
from data_prep.stages import DecontaminateParams, decontaminate, decontaminate_shard
from pipeline.stage import Counts, File, Shard, ShardResult, Unit, UserError
from tests.data_prep.contexts import context, corpus, write_documents

QUESTION = "Which gas do most animals breathe out when they sleep in a closed room over a long winter night?"
RIDDLE = {"query": QUESTION, "choices": ["helium", "the gas that plants take in through their leaves"], "gold": 1}
PROSE = (
    "The harbour lay quiet under the fog, and only the bells of the moored boats could be heard from the quay. "
    "A woman in a grey coat was counting crates; she had done so every morning for eleven years and had never been wrong. "
)

# few words, so that runs repeat
vocabulary = st.sampled_from(["red", "blue", "green", "Fuchs", "été", "x", "7"])
sentences = st.lists(vocabulary, max_size=30)


def find(index: Index, text: str) -> list[tuple[str, int, str]]:
    return [(found.evaluation, found.row, text[found.start : found.end]) for found in index.find(text)]


class TestWords:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("Don't stop, 1,000.5 times_over!", ["Don", "t", "stop", "1", "000", "5", "times", "over"]),
            ("cafe\u0301 Ünïcode", ["cafe\u0301", "Ünïcode"]),
            ("我喜欢 cats 和狗", ["我", "喜", "欢", "cats", "和", "狗"]),
            ("", []),
        ],
    )
    def test_are_runs_of_letters_and_digits(self, text: str, expected: list[str]) -> None:
        assert words(text) == expected

    @pytest.mark.parametrize("text", ["WHICH GAS -- do most", "which  gas\ndo “most”", "Which_gas: do most?"])
    def test_case_and_punctuation_do_not_matter(self, text: str) -> None:
        index = Index.of({"set": ["which gas do most"]}, ngram=4, min_words=4)
        assert [found.words for found in index.find(f"so {text} so")] == [4]

    def test_composed_and_decomposed_letters_are_the_same(self) -> None:
        index = Index.of({"set": ["un café très chaud"]}, ngram=4, min_words=4)
        assert find(index, "UN CAFE\u0301 TRE\u0300S chaud") == [("set", 1, "UN CAFE\u0301 TRE\u0300S chaud")]


class TestIndex:
    @given(st.lists(sentences, max_size=4), sentences, st.integers(2, 5), st.data())
    @settings(max_examples=200)
    def test_finds_exactly_the_shared_runs(self, records: list[list[str]], text: list[str], ngram: int, data: st.DataObject) -> None:
        min_words = data.draw(st.integers(1, ngram))
        index = Index.of({"set": [" ".join(record) for record in records]}, ngram=ngram, min_words=min_words)
        shared: set[tuple[int, int]] = set()
        for row, record in enumerate(records, 1):
            length = min(len(record), ngram)
            if length < min_words:
                continue
            grams = {tuple(record[at : at + length]) for at in range(len(record) - length + 1)}
            hits = [at for at in range(len(text) - length + 1) if tuple(text[at : at + length]) in grams]
            shared |= {(row, at + offset) for at in hits for offset in range(length)}
        starts = [sum(len(word) + 1 for word in text[:at]) for at in range(len(text))]
        found = index.find(" ".join(text))
        assert {(overlap.row, starts.index(overlap.start) + offset) for overlap in found for offset in range(overlap.words)} == shared
        assert sum(overlap.words for overlap in found) == len(shared)  # overlaps of one record share no word
        assert found == sorted(found, key=lambda overlap: overlap.start)

    def test_a_question_is_found_in_a_page_and_named_by_set_and_row(self) -> None:
        index = Index.of({"other": [{"query": PROSE}], "riddles": [{"query": "x"}, RIDDLE]})
        page = f"Quiz of the week. Q: {QUESTION} (Answer below.)"
        assert find(index, page) == [("riddles", 2, QUESTION.rstrip("?"))]
        assert find(index, PROSE.replace("eleven", "twelve"))[0][:2] == ("other", 1)
        assert index.find("Which gas do most animals breathe out? Nobody knows.") == []

    def test_texts_shorter_than_an_ngram_are_searched_whole_or_in_pairs_or_not_at_all(self) -> None:
        records: list[Any] = [
            {"good": "Who could Becky disturb after annoying her friend Grace", "bad": "x y"},
            {"choices": ["the toilet filled with water", "water flowed from the spout"], "query": "The man turned on the tap, therefore"},
            {"query": "Predators eat", "choices": ["lions", "bunnies"], "id": "openbook-2"},
        ]
        index = Index.of({"set": records})
        assert [found.row for found in index.find("who could becky disturb after annoying her friend grace?")] == [1]
        assert index.find("who could becky disturb after annoying her friend") == []
        leaked = "The man turned on the tap, therefore water flowed from the spout."
        assert find(index, leaked) == [("set", 2, leaked.rstrip("."))]
        assert index.find("The man turned on the tap, therefore the lights went out.") == []
        assert index.find("Predators eat lions. Predators eat bunnies.") == []
        assert [(one.records, one.searched) for one in index.evaluations] == [(3, 2)]

    def test_fields_and_nested_strings(self) -> None:
        record = {"passage": PROSE, "turns": [{"said": QUESTION}], "gold": 3, "none": None}
        both = PROSE + QUESTION
        assert len(Index.of({"set": [record]}).find(both)) == 2
        assert find(Index.of({"set": [record]}, fields=["turns"]), both) == [("set", 1, QUESTION.rstrip("?"))]

    @pytest.mark.parametrize("sets", [{}, {"empty": []}, {"short": ["two words"]}])
    def test_an_index_of_nothing_finds_nothing(self, sets: dict[str, list[str]], tmp_path: Path) -> None:
        Index.of(sets).write(tmp_path / "index")
        index = Index.open(tmp_path / "index")
        assert index.find(PROSE) == []
        assert [one.ngrams for one in index.evaluations] == [0] * len(sets)

    def test_written_and_opened_it_finds_the_same_and_has_the_same_bytes(self, tmp_path: Path) -> None:
        sets = {"riddles": [RIDDLE], "prose": [{"text": PROSE}, {"text": PROSE[:100]}]}
        for name in ("a", "b"):
            Index.of(sets).write(tmp_path / name)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
        opened = Index.open(tmp_path / "a")
        assert opened.evaluations == Index.of(sets).evaluations
        assert opened.find(PROSE + QUESTION) == Index.of(sets).find(PROSE + QUESTION)

    def test_runs_of_one_word_are_found_once_each_and_in_linear_time(self) -> None:
        index = Index.of({"set": [" ".join(["la"] * 40), " ".join(["la"] * 20)]})
        song = "la " * 200_000
        assert [(found.row, found.words) for found in index.find(song)] == [(1, 200_000), (2, 200_000)]

    def test_every_example_of_real_sets_is_found_in_a_page_and_none_in_other_text(self, shared_data: Path) -> None:
        files = sorted((shared_data / "eval").glob("*.jsonl*"))
        sets = {path.name.split(".")[0]: [*read_evaluation(path, path.name)] for path in files}
        index = Index.of(sets)
        assert len(index.evaluations) == 14
        shares = {one.name: one.searched / one.records for one in index.evaluations}
        assert min(shares.values()) > 0.9
        draw = random.Random(0)
        for name, records in sets.items():
            for row, record in draw.sample([*enumerate(records, 1)], min(20, len(records))):
                strings = [text for value in record.values() for text in (value if isinstance(value, list) else [value])]
                longest = max((text for text in strings if isinstance(text, str)), key=lambda text: len(words(text)))
                found = {(one.evaluation, one.row) for one in index.find(f"{PROSE}\n{longest.upper()}\n{PROSE}")}
                assert ((name, row) in found) == (len(words(longest)) >= 8)
        with gzip.open(shared_data / "text/onestopenglish.jsonl.gz", "rt") as news:
            assert not [found for line in news for found in index.find(json.loads(line)["text"])]


class TestRemoval:
    def overlap(self, name: str, count: int) -> Overlap:
        return Overlap(0, 1, count, name, 1)

    def test_the_reason_names_the_set_with_most_words(self) -> None:
        overlaps = [self.overlap("b", 20), self.overlap("ARC-Easy v1.1", 13), self.overlap("ARC-Easy v1.1", 13)]
        assert reason(overlaps) == "contaminated_arc_easy_v1_1"
        assert reason([self.overlap("b", 13), self.overlap("a", 13)]) == "contaminated_a"

    def test_a_cut_takes_the_overlap_and_its_surroundings_in_whole_words(self) -> None:
        index = Index.of({"riddles": [RIDDLE]})
        before, after = PROSE * 2, PROSE.replace("grey", "green") * 2
        text, cuts = remove(f"{before}{QUESTION} {after}", index, Removal(margin=30, max_cuts=1, min_characters=100))
        assert cuts == 1
        first, second = text.split("\n")
        assert before.startswith(first) and len(before) - len(first) in range(30, 45) and before[len(first)] == " "
        assert after.strip().endswith(second) and len(after) - len(second) in range(30, 45)

    def test_short_remainders_and_texts_with_many_cuts_go_altogether(self) -> None:
        index = Index.of({"riddles": [RIDDLE]})
        assert remove(f"{PROSE}{QUESTION}", index, Removal(margin=0, min_characters=300)) == ("", 1)
        apart = f"{QUESTION} {PROSE * 5}" * 4
        assert remove(apart, index, Removal(max_cuts=3)) == ("", 4)
        assert remove(apart, index, Removal(max_cuts=4))[0].count("\n") == 3
        assert remove(PROSE, index, Removal()) == (PROSE, 0)

    @given(st.lists(sentences, min_size=1, max_size=3), st.lists(vocabulary, max_size=60), st.integers(0, 6))
    @settings(max_examples=100)
    def test_nothing_is_found_in_what_remains(self, records: list[list[str]], text: list[str], margin: int) -> None:
        index = Index.of({"set": [" ".join(record) for record in records]}, ngram=3, min_words=2)
        rest, _ = remove(" ".join(text), index, Removal(margin, max_cuts=1_000, min_characters=1))
        assert index.find(rest) == []
        assert len(rest.split()) <= len(text)


ROWS = [{"query": "one", "choices": "a"}, {"query": "two", "choices": "b"}]


class TestReading:
    def read(self, path: Path) -> list[Any]:
        return [*read_evaluation(path, path.name)]

    def test_every_format_gives_the_same_records(self, tmp_path: Path) -> None:
        lines = "".join(json.dumps(row) + "\n\n" for row in ROWS)
        (tmp_path / "a.jsonl").write_text("\ufeff" + lines)
        (tmp_path / "a.JSONL.gz").write_bytes(gzip.compress(lines.encode()))
        (tmp_path / "a.jsonl.bz2").write_bytes(bz2.compress(lines.encode()))
        (tmp_path / "a.jsonl.zst").write_bytes(pyarrow.compress(lines.encode(), codec="zstd", asbytes=True))
        (tmp_path / "a.json").write_text(json.dumps(ROWS))
        (tmp_path / "a.csv").write_text('query,choices\none,a\n"two",b\n')
        (tmp_path / "a.tsv").write_text("query\tchoices\none\ta\ntwo\tb\n")
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
        files = sorted(tmp_path.iterdir())
        assert len(files) == 8
        assert all(self.read(path) == ROWS for path in files)
        (tmp_path / "b.txt").write_text("one\n\ntwo\u2028three\n")
        assert self.read(tmp_path / "b.txt") == ["one", "two\u2028three"]

    @pytest.mark.parametrize(
        ("name", "content", "words"),
        [
            ("a.jsonl", b'{"a": 1}\n{"a": \n', "a.jsonl, line 2"),
            ("a.jsonl.gz", b"no gzip", "a.jsonl.gz"),
            ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 999)[:-9], "a.jsonl.gz"),
            ("a.txt", b"\xff\xfe", "a.txt"),
            ("a.parquet", b"PAR1", "a.parquet"),
            ("a.docx", b"", "no kind of file"),
            ("a.parquet.gz", b"", "no kind of file"),
        ],
    )
    def test_what_cannot_be_read_is_named(self, tmp_path: Path, name: str, content: bytes, words: str) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=words) as raised:
            self.read(tmp_path / name)
        assert "\n" not in str(raised.value)


DOCUMENTS = [
    Document("a" * 32, "https://a.example/", PROSE, "", "x#1"),
    Document("b" * 32, "https://b.example/", f"{PROSE * 3}{QUESTION} {PROSE * 3}", "", "x#2"),
    Document("c" * 32, "https://c.example/", QUESTION, "", "x#3"),
]
WHALES = "A whale is a mammal, and on this every keeper of the old lighthouse agreed with the captain of the ship."


class TestStage:
    def shard(self, directory: Path, **params: Any) -> ShardResult:
        path = write_documents(directory / "input.parquet", DOCUMENTS)
        Index.of({"riddles": [RIDDLE], "whales": [WHALES]}).write(directory / "index")
        side = {"index": File.of("index", directory / "index")}
        return decontaminate_shard(Shard(Unit("pages", "", None, (str(path),)), DecontaminateParams(**params), side, str(directory)))

    def test_dropped_documents_are_rejected_with_set_and_row(self, tmp_path: Path) -> None:
        result = self.shard(tmp_path)
        assert result.counts == Counts(total=3, kept=1, rejected={"contaminated_riddles": 2})
        assert [*read_documents(tmp_path / "documents" / "pages.parquet")] == DOCUMENTS[:1]
        rejects = [*read_rejects(tmp_path / "rejects" / "pages.parquet")]
        assert [(reject.id[0], reject.url, reject.reason, reject.detail) for reject in rejects] == [
            ("b", "https://b.example/", "contaminated_riddles", "riddles, row 1"),
            ("c", "https://c.example/", "contaminated_riddles", "riddles, row 1"),
        ]

    def test_cutting_keeps_what_has_enough_left(self, tmp_path: Path) -> None:
        result = self.shard(tmp_path, action="cut", margin=20)
        assert result.counts == Counts(total=3, kept=2, rejected={"contaminated_riddles": 1})
        whole, cut = read_documents(tmp_path / "documents" / "pages.parquet")
        assert whole == DOCUMENTS[0]
        assert len(PROSE) * 6 - 60 < len(cut.text) < len(PROSE) * 6 - 40
        assert result.metrics == {"documents_cut": 1, "characters_cut": len(DOCUMENTS[1].text) - len(cut.text)}

    @pytest.mark.parametrize("action", ["drop", "cut"])
    def test_every_overlap_is_in_the_table_with_what_was_found(self, tmp_path: Path, action: str) -> None:
        assert self.shard(tmp_path, action=action).records["overlaps"] == 2
        first, second = pyarrow.parquet.read_table(tmp_path / "overlaps" / "pages.parquet").to_pylist()
        start = len(PROSE) * 3
        assert first == {
            "id": "b" * 32, "evaluation": "riddles", "row": 1, "words": 19, "start": start, "end": start + len(QUESTION) - 1,
            "text": QUESTION.rstrip("?"),
        }  # fmt: skip
        assert (second["id"], second["start"]) == ("c" * 32, 0)

    def test_the_same_documents_give_the_same_bytes(self, tmp_path: Path) -> None:
        for name in ("one", "two"):
            self.shard(tmp_path / name, action="cut")
        files = [path.relative_to(tmp_path / "one") for path in sorted((tmp_path / "one").rglob("*")) if path.is_file()]
        assert len(files) == 5
        assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)

    def test_params_that_contradict_each_other_are_refused(self) -> None:
        with pytest.raises(ValueError, match="min_words 9 exceeds ngram 8"):
            DecontaminateParams(ngram=8, min_words=9)

    def test_the_report_counts_by_evaluation_set(self, tmp_path: Path, local_ray: None) -> None:
        riddles = tmp_path / "riddles_dev.jsonl"
        riddles.write_text(json.dumps(RIDDLE) + "\n" + json.dumps({"query": "x"}) + "\n")
        (tmp_path / "whales.txt").write_text(WHALES)
        sources = [File.of(path.name, path) for path in (riddles, tmp_path / "whales.txt")]
        documents = corpus(tmp_path / "corpus", DOCUMENTS[:2], DOCUMENTS[2:])
        ctx = context(decontaminate, tmp_path / "stage", sources=sources, corpus=documents)
        metrics = decontaminate(ctx, DecontaminateParams())
        assert metrics == {"evaluation_sets": 2, "documents_cut": 0, "characters_cut": 0, "riddles_dev_records_found": 1}
        assert ctx.counts == Counts(total=3, kept=1, rejected={"contaminated_riddles_dev": 2})
        found, nothing = (json.loads(line) for line in Path(ctx.path("contamination.jsonl")).read_text().splitlines())
        assert found == {
            "evaluation": "riddles_dev", "records": 2, "searched": 1, "ngrams": 8,
            "records_found": 1, "documents": 2, "overlaps": 2, "words": 38,
        }  # fmt: skip
        assert (nothing["evaluation"], nothing["records_found"]) == ("whales", 0)

        short = tmp_path / "short.txt"
        short.write_text("too short\n")
        ctx = context(decontaminate, tmp_path / "again", sources=[File.of("short.txt", short)], corpus=documents)
        with pytest.raises(UserError, match=r"none of the 1 records of short.*min_words"):
            decontaminate(ctx, DecontaminateParams())

        ctx = context(decontaminate, tmp_path / "none", corpus=documents)
        assert decontaminate(ctx, DecontaminateParams())["evaluation_sets"] == 0
        assert ctx.counts == Counts(total=3, kept=3)
