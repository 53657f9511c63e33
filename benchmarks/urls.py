"""Block lists compiled, loaded and looked up, by their size, beside a Python set; and which real pages they reject.

    python benchmarks/urls.py [--data ../shared/data] [--names 5000000] [--urls 200000]

The look-ups walk up the labels of each host on both sides, so that a blocked domain blocks its sub-domains; one URL in fifty is on
the list. Rates are of CPU time, the best of five rounds, the sides in turn. Memory is that of two workers, each a process of its own that
has looked up all URLs: what is its own (anonymous pages), and the mapped file's pages it has touched, which all of them share.
Prints two tables.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from data_prep.urls import OWN_LISTS, UrlFilter, compile_lists
from data_prep.urls.address import host_of
from data_prep.urls.blocklist import Blocklist

STEMS = "alpha best city data east film garden home info jazz kino life market news online photo radio shop travel web".split()  # noqa: SIM905
ENDS = "com com com org net de co.uk fr ru com.br io info".split()  # noqa: SIM905
ROUNDS = 5

WORKER = """
import json, pathlib, sys, time
from data_prep.urls.filter import UrlFilter, hashing
import pyarrow.compute
hashing.table(), hashing._numbers()
def pages(kind):
    rows = dict(line.split(":") for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith("Rss"))
    return int(rows[kind].split()[0]) / 1024
urls = pathlib.Path(sys.argv[2]).read_text().splitlines()
UrlFilter().check_batch(urls[:10_000])
own, shared = pages("RssAnon"), pages("RssFile")
begun = time.perf_counter()
urls_filter = UrlFilter.load(sys.argv[1])
loaded = time.perf_counter() - begun
first = urls_filter.check("https://www.example.org/")
own_loaded, shared_loaded = pages("RssAnon") - own, pages("RssFile") - shared
urls_filter.check_batch(urls)
print(json.dumps([loaded * 1000, own_loaded, shared_loaded, pages("RssAnon") - own, pages("RssFile") - shared]), flush=True)
sys.stdin.read()
"""


def names(number: int) -> Iterator[str]:
    """Host names of the lengths and endings that such lists have."""
    draw = random.Random(7)
    for index in range(number):
        yield f"{draw.choice(STEMS)}{'-' if index % 5 == 0 else ''}{draw.choice(STEMS)}{index}.{draw.choice(ENDS)}"


def visited(listed: Sequence[str], number: int) -> list[str]:
    """URLs as a crawl has them, one in fifty with a listed host or a sub-domain of one."""
    draw = random.Random(11)
    urls = []
    for index in range(number):
        host = (
            draw.choice(listed)
            if index % 50 == 0
            else f"{draw.choice(STEMS)}{draw.choice(STEMS)}s{draw.randrange(10**6)}.{draw.choice(ENDS)}"
        )
        host = draw.choice(["", "www.", "www.", f"{draw.choice(STEMS)}."]) + host
        path = "/".join(draw.choice(STEMS) for _ in range(draw.randrange(1, 7)))
        urls.append(f"http{'s' if index % 4 else ''}://{host}/{path}{'?id=' + str(index) if index % 3 == 0 else ''}")
    return urls


def walk(blocked: set[str], urls: Sequence[str]) -> list[bool]:
    """The plain way: a set of hosts, and every URL's host without its first labels."""
    verdicts = []
    for url in urls:
        domain = host_of(url)
        while domain and domain not in blocked:
            domain = domain.partition(".")[2]
        verdicts.append(bool(domain))
    return verdicts


def seconds(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def workers(compiled: Path, urls: Sequence[str], folder: Path) -> list[float]:
    """Load time (ms) and memory (MB) of the worse of two workers that run at once."""
    (folder / "urls.txt").write_text("\n".join(urls))
    command = [sys.executable, "-c", WORKER, str(compiled), str(folder / "urls.txt")]
    running = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    rows = [json.loads(process.stdout.readline()) for process in running if process.stdout]
    for process in running:
        process.communicate("")
    return [max(column) for column in zip(*rows, strict=True)]


def measure(files: Sequence[Path], listed: Sequence[str], number: int, folder: Path) -> dict[str, str]:
    """One column of the table."""
    compiling: list[Blocklist] = []
    compile_s = seconds(lambda: compiling.append(compile_lists((file.name, file) for file in files)))
    compiled = folder / "compiled"
    compiling.pop().save(compiled)
    mapped = Blocklist.load(compiled)
    urls = visited(listed, number)
    load_ms, own_loaded, shared_loaded, own, shared = workers(compiled, urls, folder)
    hosts, words = UrlFilter(mapped), UrlFilter(compile_with_words(mapped))
    blocked: set[str] = set()
    set_load_s = seconds(lambda: blocked.update(line.rstrip() for line in list(listed)))
    some = urls[:20_000]
    sides: dict[str, tuple[int, Callable[[], object]]] = {
        "batched": (number, lambda: hosts.check_batch(urls)),
        "batched, with word rules": (number, lambda: words.check_batch(urls)),
        "one by one, with word rules": (len(some), lambda: [words.check(url) for url in some]),
        "Python set": (len(some), lambda: walk(blocked, some)),
    }
    best = dict.fromkeys(sides, 0.0)
    for _ in range(ROUNDS):
        for side, (looked_up, work) in sides.items():
            best[side] = max(best[side], looked_up / seconds(work))
    assert all(ours or not theirs for ours, theirs in zip(hosts.check_batch(some), walk(blocked, some), strict=True))
    return {
        "names": f"{mapped.facts.distinct:,}",
        "different names with one hash": f"{mapped.facts.collisions}",
        "compile, s": f"{compile_s:.1f}",
        "file, MB": f"{compiled.stat().st_size / 2**20:.1f}",
        "load, ms": f"{load_ms:.1f}",
        "load, Python set, ms": f"{set_load_s * 1000:.0f}",
        "memory of its own when loaded, MB": f"{own_loaded:.1f}",
        "mapped pages touched then, MB": f"{shared_loaded:.1f}",
        "memory of its own after all look-ups, MB": f"{own:.1f}",
        "mapped pages touched then, shared, MB": f"{shared:.1f}",
        **{f"URLs/s, {side}": f"{rate:,.0f}" for side, rate in best.items()},
        "batched / Python set": f"{best['batched'] / best['Python set']:.1f}",
    }


def compile_with_words(mapped: Blocklist) -> Blocklist:
    """The same list with the word rules that come with the package."""
    words = compile_lists((path, path) for path in OWN_LISTS if path.endswith(".words")).words
    return Blocklist(mapped.keys, mapped.values, mapped.sieve, mapped.categories, words, mapped.facts)


def rejected_pages(data: Path, files: Sequence[Path]) -> None:
    """Which of the real pages are rejected, and by what."""
    urls_filter = UrlFilter(compile_lists([*((file.name, file) for file in files), *((path, path) for path in OWN_LISTS)]))
    with gzip.open(data / "web" / "manifest.jsonl.gz", "rt") as lines:
        urls = [json.loads(line)["url"] for line in lines]
    rejected = [(blocked, url) for url in urls if (blocked := urls_filter.judge(url))]
    print(f"\n{len(rejected)} of {len(urls):,} pages of {data / 'web'} are rejected")
    for (reason, entry), number in sorted(Counter((blocked.reason, blocked.entry) for blocked, _ in rejected).items()):
        example = next(url for blocked, url in rejected if (blocked.reason, blocked.entry) == (reason, entry))
        print(f"{number:>4} {reason:<24} {entry:<24} {example[:90]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--names", type=int, default=5_000_000)
    parser.add_argument("--urls", type=int, default=200_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = sorted((arguments.data / "urls" / "blocklists").glob("*.gz"))
        listed = [line for file in files if ".domains." in file.name for line in gzip.decompress(file.read_bytes()).decode().split()]
        real = measure(files, listed, arguments.urls, Path(folder))
        made = Path(folder, "made.domains")
        listed = list(names(arguments.names))
        made.write_text("\n".join(listed))
        synthetic = measure([made], listed, arguments.urls, Path(folder))
        print(f"{'':<42} {'real lists':>12} {'made up':>12}")
        for row, value in real.items():
            print(f"{row:<42} {value:>12} {synthetic[row]:>12}")
        rejected_pages(arguments.data, files)


if __name__ == "__main__":
    main()
