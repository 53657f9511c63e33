"""The demo: stable bytes, sound WARC files, and chat sets whose held-out part was never seen anywhere."""

import gzip
import hashlib
import io
import json
import random
import re

import pytest
from fastwarc.warc import ArchiveIterator, WarcRecordType

from data_prep.segment import split_words
from data_prep.sources.demo import arithmetic, chats, sites, trouble, web
from data_prep.sources.demo.archive import chunked, gzip_stored, record_id
from data_prep.sources.demo.world import generator, make_world
from data_prep.stages import DemoParams

SEED = 3
WORLD = make_world(SEED)
LESSONS = web.Lessons(share=0.2, problems=4, short_form=True)
PAGES = web.make_pages(WORLD, SEED, pages=400, trouble_pages=6, lessons=LESSONS)
PARAMS = DemoParams()
SETS = chats.chat_sets(
    WORLD,
    SEED,
    worked_examples=PARAMS.worked_examples,
    fact_examples=PARAMS.fact_examples,
    identity_examples=PARAMS.identity_examples,
    validation_examples=PARAMS.validation_examples,
    question_forms=PARAMS.question_forms,
    preference_pairs=PARAMS.preference_pairs,
    preference_tests=PARAMS.preference_tests,
    train_prompts=PARAMS.train_prompts,
    test_prompts=PARAMS.test_prompts,
)
DIGEST = "dcfc76d2c8aaabe33f1c1143a30be60608ca76977e266abfeca6b00ada8f24b1"  # of a small web
SUM = re.compile(r"(?<!\d)(\d\d)\+(\d\d)(?!\d)")
TWO_NUMBERS = re.compile(r"(?<![\d+=])(\d\d)(?!\d)\D{1,80}?(?<![\d+=])(\d\d)(?!\d)")


def problems_in(text: str) -> set[tuple[int, int]]:
    """All pairs of two-digit numbers that a text joins with a plus sign, in ascending order."""
    return {(min(a, b), max(a, b)) for a, b in ((int(a), int(b)) for a, b in SUM.findall(text))}


def asked(name: str) -> set[tuple[int, int]]:
    return {pair for row in SETS[name] for turn in row.get("messages") or row["prompt"] for pair in problems_in(turn["content"])}


# The web


def test_same_seed_gives_the_same_bytes_on_every_machine() -> None:
    pages = web.make_pages(make_world(7), 7, pages=12, trouble_pages=1, lessons=LESSONS)
    digest = hashlib.sha256()
    for name, content, _ in web.pack(pages, 7, 2):
        digest.update(name.encode() + content)
    assert digest.hexdigest() == DIGEST, "the demo's bytes changed: raise the demo stage's version and set the new digest here"


def test_another_seed_gives_another_world() -> None:
    assert make_world(1) != make_world(2)
    assert make_world(1) == make_world(1)


def test_a_piece_of_the_web_does_not_depend_on_what_else_is_made() -> None:
    fewer = web.make_pages(WORLD, SEED, pages=100, trouble_pages=0, lessons=LESSONS)
    messages = {page.url: page.message for page in PAGES}
    assert all(messages[page.url] == page.message for page in fewer)


def test_warc_files_hold_every_page_in_order() -> None:
    files = list(web.pack(PAGES, SEED, 3))
    found = []
    for _, content, records in files:
        before = len(found)
        for entry in ArchiveIterator(io.BytesIO(content), record_types=WarcRecordType.response, parse_http=False):
            assert entry.reader is not None
            found.append((entry.headers["WARC-Target-URI"], entry.headers["WARC-Record-ID"], entry.reader.read()))
        assert len(found) - before == records
    assert found == [(page.url, record_id(SEED, number), page.message) for number, page in enumerate(PAGES)]
    truth = list(web.truth(PAGES, SEED))
    assert [(row["url"], row["record_id"]) for row in truth] == [(url, identity) for url, identity, _ in found]


def test_every_warc_record_is_a_gzip_member_of_its_own() -> None:
    _, content, records = next(iter(web.pack(PAGES[:5], SEED, 1)))
    assert content.count(b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff") >= records + 1
    assert gzip.decompress(content).count(b"WARC/1.1\r\n") == records + 1


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 200_000])
def test_stored_gzip_members_unpack_to_their_data(size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert gzip.decompress(gzip_stored(data)) == data


def test_chunks_join_to_the_body() -> None:
    body, joined, rest = b"x" * 1300, b"", chunked(b"x" * 1300)
    while rest:
        size, rest = rest.split(b"\r\n", 1)
        joined, rest = joined + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    assert joined == body


def test_addresses_are_unique_and_invented() -> None:
    assert len({page.url for page in PAGES}) == len(PAGES)
    assert all(re.match(r"https://[a-z0-9.-]+\.(example|test)/", page.url) for page in PAGES)


def test_every_kind_of_trouble_is_there_as_often_as_asked() -> None:
    labels = [page.label for page in PAGES]
    assert {label: labels.count(label) for label in trouble.TROUBLES} == dict.fromkeys(trouble.TROUBLES, 6)
    assert labels.count(web.ORDINARY) == 400


def test_ordinary_texts_are_prose_and_all_different() -> None:
    texts = [page.article.text for page in PAGES if page.label == web.ORDINARY and page.article]
    assert len(set(texts)) == len(texts)
    for text in texts:
        words = split_words(text)
        assert sum(any(map(str.isalpha, word)) for word in words) > 0.81 * len(words)


def test_sites_use_every_charset_they_declare() -> None:
    assert {site.charset for site in sites.SITES} == {"utf-8", "windows-1252", "iso-8859-1"}
    for site in sites.SITES:
        page = next(page for page in PAGES if page.label == web.ORDINARY and f"//{site.host}/" in page.url)
        content = page.message.split(b"\r\n\r\n", 1)[1]
        assert site.byline.replace("&", "&amp;") in content.decode(site.charset)
        assert content.isascii() == (not site.byline and site.declared != "bom")


# The chat sets


def test_working_ends_in_the_sum_and_each_step_is_true() -> None:
    for a, b in ((a, b) for a in range(10, 100) for b in range(10, 100)):
        steps, answer = arithmetic.working(a, b).split(";")
        assert int(answer) == a + b
        for step in steps.split(","):
            terms, result = step.split("=")
            assert sum(map(int, terms.split("+"))) == int(result)
    assert arithmetic.working(47, 38) == "7+8=15,4+3+1=8;85"


def test_explanations_say_the_right_sum() -> None:
    for a, b in arithmetic.problems(SEED, "train")[:200]:
        text = arithmetic.explain(generator(SEED, a, b), a, b, set(), "Mila", "Orlen")
        assert [int(number) for number in re.findall(r"\d+", text)] == [a, b, a + b]


def test_splits_of_additions_ignore_the_order_and_hold_the_shown_one_out() -> None:
    for a, b in ((a, b) for a in range(10, 100) for b in range(10, 100)):
        assert arithmetic.split_of(a, b) == arithmetic.split_of(b, a)
    assert arithmetic.split_of(*arithmetic.SHOWN) == "test"
    assert SETS["prompts/test.jsonl"][0]["prompt"][-1]["content"] == "What is 23+45?"


def test_a_thousand_held_out_additions_were_seen_nowhere() -> None:
    test = asked("prompts/test.jsonl")
    assert len(test) == len(SETS["prompts/test.jsonl"]) >= 1_000
    for name in ("conversations/train.jsonl", "conversations/validation.jsonl", "prompts/train.jsonl"):
        assert asked(name)
        assert not test & asked(name), name
    assert not asked("conversations/train.jsonl") & asked("conversations/validation.jsonl")
    assert not asked("conversations/train.jsonl") & asked("prompts/train.jsonl")


def test_no_page_shows_a_held_out_addition_in_any_form() -> None:
    shown = 0
    for page in PAGES:
        assert page.article
        for a, b in page.article.problems:
            assert arithmetic.split_of(a, b) == "train"
        given = {(min(pair), max(pair)) for pair in page.article.problems}
        text = page.article.text
        assert problems_in(text) <= given
        # In sentences, too: the two numbers that open an explanation.
        for sentence in re.split(r"(?<=[.?!])\s|\n", text):
            for a, b in TWO_NUMBERS.findall(sentence):
                shown += 1
                assert (min(int(a), int(b)), max(int(a), int(b))) in given, sentence
        raw = page.message.replace(b"\x00", b"")
        assert problems_in(raw.decode("latin-1")) <= given
    assert shown > 200


def test_questions_of_held_out_facts_stand_nowhere_else() -> None:
    held_out = {row["prompt"][0]["content"] for row in SETS["preferences/test.jsonl"]}
    assert len(held_out) >= 300
    trained = {
        turn["content"]
        for name in ("conversations/train.jsonl", "conversations/validation.jsonl")
        for row in SETS[name]
        for turn in row["messages"]
    }
    trained |= {row["prompt"][0]["content"] for name in ("preferences/train.jsonl", "preferences/validation.jsonl") for row in SETS[name]}
    assert not held_out & trained
    for page in PAGES:
        assert page.article
        assert not held_out & set(re.findall(r"[^.?!\n]+\?", page.article.text)), page.url
        assert not any(question in page.article.text for question in held_out), page.url


def test_validation_asks_what_training_does_not() -> None:
    for kind in ("conversations", "preferences"):
        first = [
            {(row.get("messages") or row["prompt"])[0]["content"] for row in SETS[f"{kind}/{split}.jsonl"]}
            for split in ("train", "validation")
        ]
        assert not first[0] & first[1]


def test_preferred_style_is_judged_by_the_pattern_alone() -> None:
    for name in ("preferences/train.jsonl", "preferences/validation.jsonl", "preferences/test.jsonl"):
        for row in SETS[name]:
            assert re.search(row["chosen_pattern"], row["chosen"])
            assert not re.search(row["chosen_pattern"], row["rejected"])
            assert row["rejected"] in row["chosen"] or row["rejected"].capitalize() in row["chosen"]


def test_conversations_mix_kinds_and_both_styles_of_answers() -> None:
    rows = SETS["conversations/train.jsonl"]
    kinds = [row["kind"] for row in rows]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"arithmetic": 160, "fact": 400, "identity": 56}
    full = [bool(re.search(chats.FULL_SENTENCE, row["messages"][1]["content"])) for row in rows if row["kind"] == "fact"]
    assert 0.45 < sum(full) / len(full) < 0.55
    assert {len(row["messages"]) for row in rows} == {2, 4}
    for row in rows:
        assert [turn["role"] for turn in row["messages"]] == ["user", "assistant"] * (len(row["messages"]) // 2)


def test_rows_are_json_with_unique_ids() -> None:
    for name, rows in SETS.items():
        assert len({row["id"] for row in rows}) == len(rows), name
        assert [json.loads(json.dumps(row)) for row in rows] == rows


def test_params_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="trouble_pages"):
        DemoParams(pages=3, trouble_pages=4)
    with pytest.raises(ValueError, match="worked_examples"):
        DemoParams(worked_examples=1_000, train_prompts=2_000)
