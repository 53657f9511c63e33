"""The page of a report: nothing in it is taken for markup, it stands alone, and a browser shows it at any width."""

from __future__ import annotations

import html
import html.parser
import random
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reported import WORDS, Recipe, content, facts_of

from data_prep.report.chain import chain
from data_prep.report.compare import side_by_side
from data_prep.report.facts import Facts
from data_prep.report.markup import text
from data_prep.report.page import page
from data_prep.report.timing import timings
from data_prep.stages import (
    DedupParams,
    ReportParams,
    dedup,
)
from pipeline.stage import Artifact

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
