"""A small corpus taken through the stages, for what is said of it."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pyarrow
import pyarrow.parquet
from house import House, Inline

from data_prep.documents import Document
from data_prep.quality.verdicts import Thresholds
from data_prep.report.facts import Facts
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
from pipeline.stage import Artifact, File

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


def small_corpus(root: Path) -> Recipe:
    """A corpus in two files: ten good documents, a German one, a short one, two copies, a near copy, personal data, evaluation data."""
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
