"""Real archives damaged in a thousand ways, each by its number alone, and what must hold of any of them.

`examine` runs in a child process with limits of CPU time and memory, so it imports nothing of the tests' own machinery, and says in words
what is wrong instead of raising it.
"""

import functools
import gzip
import itertools
import math
import random
import re
import tempfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import brotli
from warcs import http, members, record

from data_prep.documents import DocumentWriter, RejectWriter, read_documents, read_rejects
from data_prep.extract import Limits, normalise
from data_prep.ingest import Ingested, Settings, ingest_records
from data_prep.sources import Other, Outcome
from data_prep.sources.units import open_unit
from data_prep.sources.warc import read_warc
from data_prep.urls import UrlFilter

MB = 1 << 20
LIMIT = 2 * MB  # bytes of a record and of a decoded page
RESIDENT_BYTES = 400 * MB  # of the process that reads, however large its file; twice that with the later steps
TEXT_CPU_S = 10.0  # for all the steps behind ingest together, which read a megabyte a second

HEADERS = {
    b"Content-Length": ["-1", "", "0", "1", "7", "100", "99999999", "1" * 19, "1e3", "0x10", "1, 2"],
    b"Transfer-Encoding": ["chunked", "gzip, chunked", "identity", "Chunked\r\nTransfer-Encoding: chunked"],
    b"Content-Encoding": ["gzip", "deflate", "br", "gzip, gzip", "br, gzip", "zstd", "identity, x-gzip", "gzip," * 9_000, ","],
    b"Content-Type": [f"text/html; charset={name}" for name in (
        "utf-8", "utf-16", "utf-16be", "utf-32", "utf-7", "gb18030", "big5", "iso-2022-jp", "hz-gb-2312", "windows-1251", "idna", "rot13",
        "unicode_escape", "x-user-defined", "'utf-8", "\0", "é" * 40,
    )] + ["text/html;" * 2_000, "application/xhtml+xml", "text/plain", "", "TEXT/HTML ; x"],
    b"WARC-Type": ["response", "resource", "conversion", "revisit", "request", "", "\u202eesnopser"],
    b"WARC-Target-URI": ["", "https://\u202emoc.elpmaxe/", "http://[::1", "http://a.b/" + "%00" * 9_000, "x:1", "\udcff", "//", "a\tb"],
    b"WARC-Record-ID": ["", "<urn:uuid:1>"],
    b"WARC-Date": ["", "0000-00-00", "9" * 5_000],
}  # fmt: skip
PACKERS = {
    "gzip": lambda body: gzip.compress(body, mtime=0),
    "deflate": zlib.compress,
    "br": lambda body: brotli.compress(body, quality=1),
}
MARKS = [chr(point) for point in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0x200B, 0x2010), 0xFEFF, 0x2060, 0xAD, 0x61C)]
ODD = [*MARKS, "\0", "\x1b", "\x85", "\u2028", "\ufffd", "\uffff", "\U0010ffff", "\U000e0041", "\u0301" * 60, "﷽", "ﬃ", "İ", "▁", "\r",
       "\ud800", "<|endoftext|>", "[EMAIL]", "&#0;", "&#xD800;", "&#x202e;"]  # fmt: skip
NESTS = ["div", "b", "font size=1", "p", "table><tr><td", "ul><li", "svg><g", "blockquote", "a href=x", "select><option", "template", "x:y"]


def case(number: int, data: Path) -> bytes:
    """The archive of this number."""
    draw = random.Random(number)
    records = list(draw.choice(_archives(data)))
    kind = number % 20
    if kind >= 7 and records:
        target = draw.choice(range(len(records)))
        change = _headers if kind < 13 else _body if kind < 19 else _bomb
        records[target] = change(records[target], draw)
    archive = b"".join(records) if draw.random() < 0.3 else members(*records)
    return _bytes(archive, draw) if kind < 7 else archive


@functools.cache
def _archives(data: Path) -> list[list[bytes]]:
    """Some records in a row, of every real archive and of the pages."""
    found = []
    for path in [*sorted((data / "web" / "real_warc").iterdir()), *sorted((data / "web").glob("pages-*.gz"))]:
        records = list(_records(path.read_bytes()[:MB]))
        draw = random.Random(path.name)
        for _ in range(2 if path.parent.name == "real_warc" else 8):
            first = draw.randrange(len(records))
            found.append([one for one in records[first : first + 4] if len(one) < 300_000])
    return found


def _records(archive: bytes) -> Iterator[bytes]:
    if not archive.startswith(b"\x1f\x8b"):
        yield from re.split(rb"(?<=\r\n\r\n)(?=WARC/1\.0\r\n)", archive)
        return
    while archive:
        decoder = zlib.decompressobj(31)
        whole = decoder.decompress(archive)
        if not decoder.eof:
            return
        yield whole
        archive = decoder.unused_data


def _bytes(archive: bytes, draw: random.Random) -> bytes:
    """Bits flipped; cut at the end, at the start, within; a stretch doubled, moved, zeroed or made random."""
    changed = bytearray(archive)
    for _ in range(draw.choice((1, 1, 2, 5))):
        at = draw.randrange(len(changed) + 1)
        stretch = slice(at, at + draw.choice((1, 10, 1_000, 30_000)))
        match draw.randrange(8):
            case 0 | 1:
                for _ in range(draw.choice((1, 8, 64))):
                    changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
            case 2:
                del changed[at:]
            case 3:
                del changed[: at % 5_000]
            case 4:
                del changed[stretch]
            case 5:
                changed[at:at] = changed[stretch]
            case 6:
                changed[stretch] = bytes(len(changed[stretch]))
            case 7:
                changed[at:at] = draw.randbytes(draw.randrange(2_000))
        changed = changed or bytearray(archive[:1])
    return bytes(changed)


def _headers(one: bytes, draw: random.Random) -> bytes:
    """Some header lines, of the record or of the answer in it, with another value, doubled or gone; or the lines between gone."""
    for _ in range(draw.choice((1, 1, 2, 4))):
        name = draw.choice(list(HEADERS))
        value = draw.choice(HEADERS[name]).encode("utf-8", "surrogatepass")
        line = b"%s: %s\r\n" % (name, value)
        places = [match.span() for match in re.finditer(rb"(?im)^%s:[^\n]*\n" % name, one[:20_000])]
        starts = [match.end() for match in re.finditer(rb"(?:WARC|HTTP)/1\.[01][^\n]*\n", one[:20_000])] or [0]
        start, end = draw.choice(places or [(start, start) for start in starts])
        match draw.randrange(6):
            case 0:
                line = b""
            case 1:
                line += one[start:end]
            case 2:
                line = line[:-2] + b"\n \t" + line
        one = one[:start] + line + one[end:]
    if draw.random() < 0.1:
        one = one.replace(b"\r\n\r\n", draw.choice((b"\r\n", b"\n\n", b"\r\r", b"\r\n \r\n")), draw.randrange(1, 3))
    return _lengthened(one) if draw.random() < 0.5 else one


def _lengthened(one: bytes) -> bytes:
    """With the length that the record has after its changes, where it claims one."""
    head, gap, block = one.partition(b"\r\n\r\n")
    length = max(0, len(block) - 4)
    return re.sub(rb"(?im)^(Content-Length:) *[0-9]+", rb"\1 %d" % length, head, count=1) + gap + block


def _body(one: bytes, draw: random.Random) -> bytes:
    """The page in another charset, damaged in it, with odd characters, or nested deeply."""
    head, gap, block = one.partition(b"\r\n\r\n")
    answer, inner_gap, body = block.partition(b"\r\n\r\n")
    text = body.decode("utf-8", "replace")
    match draw.randrange(4):
        case 0:
            text = _sprinkled(text, draw, draw.choice((MARKS, ODD)))
        case 1:
            nest, depth = draw.choice(NESTS), draw.choice((5, 300, 600, 3_000, 12_000))
            closing = draw.choice(("", f"</{nest.split(' ')[0].split('>')[0]}>" * depth, "</p>" * depth))
            text = f"<{nest}>" * depth + text[:50_000] + closing
        case 2:
            text = draw.choice((
                text.replace("<", "<<"), text.replace(">", ""), text.replace("<p", "<!--"), text.replace("\n", " "), text[:30_000] * 3,
                text.replace(" ", "&nbsp;"), text.replace("=", "='"), re.sub("<[^>]*>", "", text), "<pre>" + text, "<textarea>" + text,
                re.sub("<(/?)[a-z]+", r"<\1td", text), text.upper(), text.replace("e", "é\u0301"),
            ))  # fmt: skip
    charset = draw.choice(("utf-8", "utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "gb18030", "utf-7", "iso2022_jp", "koi8-r"))
    body = text.encode(charset, "surrogatepass" if charset.startswith("utf-") and charset != "utf-7" else "replace")
    if draw.random() < 0.6 and body:
        damaged = bytearray(body)
        for _ in range(draw.choice((1, 20, len(body) // 50))):
            damaged[draw.randrange(len(damaged))] = draw.choice((0x80, 0xC0, 0xD8, 0xDC, 0xED, 0xF4, 0xFE, 0xFF, 0x81, 0x30, 0))
        body = bytes(damaged[draw.randrange(2) :])
    answer = re.sub(rb"(?im)^(?:Content-Encoding|Transfer-Encoding):[^\n]*\n", b"", answer)
    return _lengthened(head + gap + answer + inner_gap + body + b"\r\n\r\n")


def _sprinkled(text: str, draw: random.Random, what: list[str]) -> str:
    every = draw.choice((2, 10, 200))
    return "".join([part for at in range(0, len(text), every) for part in (text[at : at + every], draw.choice(what))])


def _bomb(one: bytes, draw: random.Random) -> bytes:
    """A body of some 1000 times its size: just below, at and above the limit; in one encoding or several, or in a chunk a byte."""
    text = draw.choice((b"\0", b"<p>", b"word ", b"x", b"<!--", b"&lt;", "語".encode()))
    size = draw.choice((MB // 4, LIMIT - 100, LIMIT + 1, 8 * LIMIT))
    body = b"<html><body>" + text * (size // len(text))
    encodings = draw.choice(("gzip", "deflate", "br", "gzip, gzip", "gzip, gzip, gzip", "br, gzip", "gzip, " * 6, "", "chunked", "members"))
    if encodings == "members":
        body, encodings = gzip.compress(body[:1_000], mtime=0) + gzip.compress(b"", mtime=0) * 50_000, "gzip"
    elif encodings == "chunked":
        return record(http(b"".join(b"1\r\n%c\r\n" % byte for byte in body[:300_000]) + b"0\r\n\r\n", "Transfer-Encoding: chunked"))
    else:
        for name in filter(None, encodings.split(", ")):
            body = PACKERS[name](body)
    return record(http(body, f"Content-Encoding: {encodings}"))


# What must hold


def examine(numbers: list[int], data: Path) -> list[str]:
    """What is wrong with the handling of these cases: nothing, it is hoped."""
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        archives = {}
        for number in numbers:
            path = Path(folder, f"case-{number}.warc")
            path.write_bytes(case(number, data))
            archives[path.name] = path
        begun = time.process_time()
        outcomes = [outcome for name, path in archives.items() for outcome in _named(name, path)]
        again = [outcome for name, path in archives.items() for outcome in _named(name, path)]
        if outcomes != again:
            wrong.append("read twice, the records differ")
        if (spent := time.process_time() - begun) > len(numbers):
            wrong.append(f"reading took {spent:.1f} s")
        texts = list(ingested(iter(outcomes), Path(folder), {name: path.stat().st_size for name, path in archives.items()}, wrong))
    wrong += later(texts)
    if (resident := resident_peak()) > 2 * RESIDENT_BYTES:
        wrong.append(f"{resident >> 20} MB were taken")
    return wrong


def _named(name: str, path: Path) -> Iterator[Outcome]:
    """The records with the file in their locations, so that several files can be ingested together."""
    for outcome in read_warc(path, LIMIT):
        if isinstance(outcome, Other):
            yield outcome
        else:
            yield replace(outcome, record=replace(outcome.record, location=f"{name}#{outcome.record.location}"))


def ingested(outcomes: Iterator[Outcome], folder: Path, sizes: dict[str, int], wrong: list[str]) -> Iterator[str]:
    """The texts kept; adds to `wrong` what is not as it must be of the accounts and the rows."""
    paths = folder / "documents", folder / "rejects"
    settings = Settings("cascade", Limits(), 0.9, False, 4_000_000)
    with DocumentWriter(paths[0]) as documents, RejectWriter(paths[1]) as rejects:
        done: Ingested = ingest_records("", outcomes, UrlFilter(), settings, documents, rejects)
    rows = [*read_documents(paths[0]), *read_rejects(paths[1])]
    if not done.total == done.kept + sum(done.rejected.values()) + done.errored == len(rows):
        wrong.append(f"of {len(rows)} records: {done}")
    reasons = [row.reason for row in read_rejects(paths[1])]
    if {reason: reasons.count(reason) for reason in reasons if reason != "errored"} != done.rejected:
        wrong.append(f"rejects do not add up: {done.rejected}")
    if done.killed:
        wrong.append(f"{done.killed} pages were left to the backstop: {done.errors} {done.rejected}")
    ids = [row.id for row in rows if row.id]
    if len(set(ids)) < len(ids):
        wrong.append("two records have one id")
    for row in rows:
        name, _, location = row.source.partition("#")
        if name not in sizes or not location.split("+")[0].isdigit() or int(location.split("+")[0]) > sizes[name]:
            wrong.append(f"{row.source!r} is no place in a file")
        if hasattr(row, "reason") and not re.fullmatch("[a-z_0-9]+", row.reason):
            wrong.append(f"{row.source}: {row.reason!r} is no reason")
    for document in read_documents(paths[0]):
        if document.text != normalise(document.text) or not document.text:
            wrong.append(f"{document.source}: its text is not normalised")
        yield document.text


def later(texts: list[str]) -> list[str]:
    """What is wrong with the steps behind ingest: score, select, exact and near duplicates, scrub, decontaminate, tokenize."""
    return [f"{text[:60]!r} of {len(text)} characters: {found}" for text in texts for found in _wrong_later(text)]


_SEEN: set[bytes] = set()


def _wrong_later(text: str) -> Iterator[str]:
    from data_prep.decontaminate import Removal, remove
    from data_prep.dedup.exact import text_hash
    from data_prep.dedup.minhash import band_keys, signatures
    from data_prep.dedup.pieces import without
    from data_prep.dedup.shingles import shingles
    from data_prep.pii import scrub
    from data_prep.quality import decide
    from data_prep.quality.measure import measure

    if (key := text_hash(text)) in _SEEN:
        return
    _SEEN.add(key)
    begun = time.process_time()
    measured = measure([text], 2_000)
    scores = {name: float(values[0]) for name, values in measured.scores.items()}
    if any(math.isinf(value) for value in scores.values()):
        yield f"scores {scores}"
    decide(scores)
    if len(measured.lines) != len([line for line in text.split("\n") if line.strip()]) and "[" not in text:
        yield f"{len(measured.lines)} lines were measured"
    if band_keys(signatures(shingles([text]))).shape != (1, 14):
        yield "no band keys"
    if without(once := without(text, frozenset(), "line", 1), frozenset(), "line", 1) != once:
        yield "taking out repeated lines leaves some"
    scrubbed, spans = scrub(text)
    if any(one.end > other.start for one, other in itertools.pairwise(spans)):
        yield "spans of personal data overlap"
    if scrub(scrubbed)[0] != scrubbed:
        yield "scrubbing twice is not scrubbing once"
    if remove(scrubbed, _evaluation(), Removal())[0] != scrubbed:
        yield "it was decontaminated, though it holds no evaluation data"
    ids = _tokenizer().encode(scrubbed)
    if _tokenizer().decode(ids) != scrubbed:
        yield "tokens do not give the text back"
    if (spent := time.process_time() - begun) > TEXT_CPU_S:
        yield f"took {spent:.1f} s"


@functools.cache
def _evaluation():
    from data_prep.decontaminate import Index

    return Index.of({"riddles": [{"question": "What has eleven wheels, a green hat and a fear of small geese in winter?"}]})


@functools.cache
def _tokenizer():
    from data_prep.tokenizer import Tokenizer, fast_encoder, train

    model = train(["The fox and the hen went to market with seven eggs.\n" * 5] * 20, 340)
    return Tokenizer.from_model(model, fast_encoder(model))


# 200 MB in one line


def swallow(kind: str) -> list[str]:
    """What is wrong with the handling of a file that holds hardly anything but a line of 200 MB, and a good record behind it."""
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"long{kind}")
        _write_long(path, kind)
        name, outcomes = open_unit({"pages": (path.name, "good.html")} if kind == ".html" else path.name, _paths(path), 32 * MB)
        texts = list(ingested(_placed(name, outcomes), Path(folder), {path.name: 200 * MB + 1_000, "good.html": 100}, wrong))
    if texts != ["Good words."]:
        wrong.append(f"{len(texts)} texts")
    if (resident := resident_peak()) > RESIDENT_BYTES:
        wrong.append(f"{resident >> 20} MB were taken")
    return wrong


def resident_peak() -> int:
    """The most memory that this process has held, bytes."""
    found = re.search(r"VmHWM:\s*([0-9]+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) << 10 if found else 0


def _paths(path: Path) -> list[str]:
    good = path.with_name("good.html")
    good.write_text("<p>Good words.")
    return [str(path), str(good)]


def _placed(name: str, outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    for outcome in outcomes:
        assert not isinstance(outcome, Other)
        record = outcome.record
        yield replace(outcome, record=replace(record, location=f"{name}#{record.location}" if name else f"{record.location}#0"))


def _write_long(path: Path, kind: str) -> None:
    with gzip.open(path, "wb", 1) if kind.endswith(".gz") else open(path, "wb") as file:
        if kind.startswith(".warc"):
            header = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html><body>"
            file.write(record(header, length=len(header) + 200 * MB)[:-4])
        elif kind.startswith(".jsonl"):
            file.write(b'{"text": "')
        for _ in range(200):
            file.write(b"<b>word " * (MB // 8))
        if kind.startswith(".warc"):
            file.write(b"\r\n\r\n" + record(http(b"<p>Good words."), number=1))
        elif kind.startswith(".jsonl"):
            file.write(b'"}\n{"text": "Good words."}\n')
