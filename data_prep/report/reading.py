"""What is there to be read: rejected documents by reason, duplicates beside their survivors, kept documents."""

from __future__ import annotations

from data_prep.report.compare import Row, side_by_side
from data_prep.report.facts import Facts, Passage, split_example
from data_prep.report.figures import chart
from data_prep.report.markup import bar, clipped, details, number, passage, plural, section, share, table, text
from data_prep.report.samples import Shown
from data_prep.report.statistics import Sample, bins
from data_prep.report.tallies import Tally

SHOWN = 1_800  # characters of a document
COMPARED = 3  # pairs of duplicates of a stage
CLUSTERS = 8
LINE = 600  # characters of a line beside another


def rejects(facts: Facts) -> str:
    """The section of rejected documents, by stage and reason."""
    content = ""
    for one in facts.funnel:
        reasons = facts.numbers.rejects.get(one.step, {})
        if not reasons:
            continue
        rows = []
        for reason, rejected in sorted(reasons.items(), key=lambda entry: (-entry[1].documents, entry[0])):
            line = (
                f'<span class="reason lost"><code>{text(reason)}</code>{bar(rejected.documents, _most(facts))}'
                f"<span>{number(rejected.documents)}</span><span>{share(rejected.documents, one.total)}</span></span>"
            )
            rows.append(details(line, "".join(_reject(facts, one, sample) for sample in rejected.samples)))
        lost = one.total - one.kept
        content += f'<h3>{text(one.step)} <span class="muted">{number(lost)} of {number(one.total)}</span></h3>{"".join(rows)}'
    masked = (
        "" if facts.personal_data else " Personal data is masked, and of what was rejected for holding too much of it, nothing is shown."
    )
    lead = f"Open a reason to read documents that were rejected for it. Which are shown is decided by the hashes of their ids.{masked}"
    return section("rejects", "Rejects by reason", content, lead)


def _most(facts: Facts) -> int:
    return max((one.documents for reasons in facts.numbers.rejects.values() for one in reasons.values()), default=0)


def _reject(facts: Facts, one: Passage, sample: Sample) -> str:
    found = facts.shown.get(_source(facts, one.step), {}).get(sample.id)
    hidden = one.kind == "scrub" and not facts.personal_data
    why = f'<div class="why">{clipped(sample.detail, 300)}</div>' if sample.detail else ""
    if found is None or hidden:
        said = "Not shown: it is full of personal data." if hidden else "Its text was never extracted."
        return f'<article><h4>{text(sample.url) or "no URL"}</h4>{why}{_meta(sample)}<div class="meta">{said}</div></article>'
    return _article(found, f"{why}{_meta(sample)}")


def _source(facts: Facts, step: str) -> str:
    """The step whose documents this one read."""
    return facts.reads.get(step, "")


def _meta(sample: Sample) -> str:
    return f'<div class="meta">{text(sample.source)} · <code>{text(sample.id) or "no id"}</code></div>'


def _article(document: Shown, meta: str, language: str = "") -> str:
    facts = [document.date[:10], language, plural(document.characters, "character"), document.extractor]
    return (
        f'<article><h4 dir="auto">{clipped(document.title, 200) if document.title else text(document.url) or "no URL"}</h4>'
        + (f'<div class="meta">{text(document.url)}</div>' if document.title else "")
        + meta
        + f'<div class="meta">{" · ".join(text(fact) for fact in facts if fact)}</div>'
        + passage(document.text, SHOWN)
        + "</article>"
    )


def kept(facts: Facts) -> str:
    """The section of kept documents."""
    documents = facts.shown.get(facts.last, {})
    samples = [sample for sample in facts.numbers.corpora[facts.last].samples if sample.id in documents]
    content = "".join(_article(documents[sample.id], _meta(sample)) for sample in samples)
    return section("kept", "Kept documents", content, "Some of the corpus as it is in the end, decided by the hashes of their ids.")


def duplicates(facts: Facts) -> str:
    """The section of duplicates: how many go for one that stays, and what they look like beside it."""
    content = ""
    for step, tally in ((one.step, facts.clusters[one.step]) for one in facts.funnel if one.step in facts.clusters):
        removed = plural(tally.total, "document") + (" was" if tally.total == 1 else " were")
        lead = f"{removed} removed for {plural(tally.keys, 'document')} that stayed."
        cards = f'<div class="card"><h3>Removed for one that stays</h3>{_sizes(tally)}</div>{_similarities(facts, step)}'
        content += (
            f"<h3>{text(step)}</h3><p>{lead}</p><div class=grid>{cards}</div>{_clusters(facts, step, tally)}{_pairs(facts, step, tally)}"
        )
    return section("duplicates", "Duplicates", content)


def _sizes(tally: Tally) -> str:
    return chart([(f"≥ {number(edge)}" if edge > 2 else number(edge), 0, count) for edge, count in bins(tally.sizes)])


def _similarities(facts: Facts, step: str) -> str:
    counts = facts.numbers.similarities.get(step, {})
    if not {*counts} - {100}:
        return ""
    grouped: dict[int, int] = {}
    for hundredths, count in counts.items():
        edge = hundredths if hundredths == 100 else hundredths // 5 * 5
        grouped[edge] = grouped.get(edge, 0) + count
    rows = [("1" if edge == 100 else f"≥ {edge / 100:.2f}", 0, count) for edge, count in sorted(grouped.items())]
    return f'<div class="card"><h3>Similarity to it</h3>{chart(rows)}</div>'


def _clusters(facts: Facts, step: str, tally: Tally) -> str:
    documents = facts.shown.get(_source(facts, step), {})
    rows = []
    for survivor, count, _, _ in tally.top[:CLUSTERS]:
        found = documents.get(survivor)
        name = (
            f"{clipped(found.title, 100)} <span class=meta>{clipped(found.url, 140)}" if found else "<span class=meta>of an earlier corpus"
        )
        rows.append((f"{name} <code>{text(survivor)}</code></span>", number(count)))
    return details("The largest clusters", table(("what stayed", "removed"), rows))


def _pairs(facts: Facts, step: str, tally: Tally) -> str:
    documents = facts.shown.get(_source(facts, step), {})
    samples = [sample for one in facts.numbers.rejects.get(step, {}).values() for sample in one.samples]
    wanted = [(*split_example(example), survivor, " of the largest cluster") for survivor, _, _, example in tally.top[:1]]
    wanted += [(sample.id, sample.similarity, sample.survivor, "") for sample in samples if sample.id != wanted[0][0]]
    content, shown = "", 0
    for removed, similarity, survivor, words in wanted:
        if removed in documents and survivor in documents and shown < COMPARED:
            content += _pair(documents[removed], documents[survivor], similarity, words, opened=not shown)
            shown += 1
    return content


def _pair(removed: Shown, stayed: Shown, similarity: float, words: str, opened: bool) -> str:
    rows = "".join(_row(row) for row in side_by_side(removed.text, stayed.text))
    heads = "".join(
        f'<div class="head"><b>{name}</b> · {text(one.date[:10])} · {plural(one.characters, "character")}<br>{text(one.url) or "no URL"}'
        "</div>"
        for name, one in (("removed", removed), ("stayed", stayed))
    )
    alike = f", similarity {similarity:.3f}" if similarity < 1 else ""
    title = f"A pair{words}{alike}: {clipped(removed.title or removed.url, 90)}"
    return details(title, f'<div class="sides">{heads}{rows}</div>', opened)


def _row(row: Row) -> str:
    if row.kind == "skipped":
        return f'<div class="skipped">{plural(row.skipped, "equal line")}</div>'
    cells = ""
    for side, parts in (("removed", row.left), ("stayed", row.right)):
        inside, left = "", LINE
        for words, marked in parts:
            piece = clipped(words, left) if left > 0 else ""
            inside += f"<mark>{piece}</mark>" if marked and piece else piece
            left -= len(words)
        kind = "same" if row.kind == "same" else "differs" if parts else "absent"
        cells += f'<div dir="auto" class="{kind} {side}">{inside}</div>'
    return cells
