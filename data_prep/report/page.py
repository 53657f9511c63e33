"""The report as one HTML page: nothing but itself is loaded, and it needs no script."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from data_prep.report.facts import Facts, Passage
from data_prep.report.figures import distributions
from data_prep.report.markup import bar, compact, details, number, plural, rough, section, share, size, table, text
from data_prep.report.reading import duplicates, kept, rejects
from data_prep.report.timing import Timing, forecast

# What a stage does to documents, in a few words, by its kind.
ABOUT = {
    "ingest": "pages read, URLs filtered, main text extracted",
    "select": "language and quality: scores against thresholds",
    "dedup_url": "one of the pages with the same URL stays",
    "dedup": "one of the documents with the same text stays",
    "near_dedup": "one of the documents with nearly the same text stays",
    "line_dedup": "lines that other documents have, too, are cut",
    "scrub": "personal data replaced",
    "decontaminate": "evaluation data kept out",
}
NAMED_REASONS = 4


def page(facts: Facts, timings: Sequence[Timing], crawl_pages: int, cores: int) -> str:
    """The whole page. All but the section on throughput is a function of the facts."""
    sections: list[tuple[str, str, str]] = [
        ("funnel", "Funnel", section("funnel", "Funnel", _funnel(facts), _funnel_lead(facts))),
        ("rejects", "Rejects", rejects(facts)),
        ("distributions", "Distributions", distributions(facts)),
        ("duplicates", "Duplicates", duplicates(facts)),
        ("personal-data", "Personal data", _pii(facts)),
        ("decontamination", "Decontamination", _contamination(facts)),
        ("tokens", "Tokens", _tokens(facts)),
        ("kept", "Kept documents", kept(facts)),
        ("throughput", "Throughput", _throughput(facts, timings, crawl_pages, cores)),
        ("settings", "Settings", _settings(facts)),
    ]
    shown = [(identity, name, content) for identity, name, content in sections if content]
    style = files("data_prep.report").joinpath("page.css").read_text("utf-8")
    index = "".join(f'<a href="#{identity}">{name}</a>' for identity, name, _ in shown)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>Corpus report</title>'
        f"<style>\n{style}</style></head>\n<body>\n<header>{_header(facts)}</header>\n<nav><div>{index}</div></nav>\n<main>\n"
        + "\n".join(content for _, _, content in shown)
        + "\n</main>\n<footer>Made by crawl2chat. The numbers of this page, but for its times, stand in <code>report.json</code>"
        " beside it.</footer>\n</body></html>\n"
    )


def summary(facts: Facts) -> str:
    """The funnel in a few lines of plain text."""
    lines = [f"{number(facts.kept)} of {number(facts.records)} records are kept ({_plain(share(facts.kept, facts.records))})"]
    for one in facts.funnel:
        named = ", ".join(f"{reason} {number(count)}" for reason, count in _most(one)) or "none rejected"
        lines.append(f"  {one.step:<14} {number(one.kept):>12}   {named}")
    return "\n".join([*lines, "to look at: report.html, beside this file"]) + "\n"


def _plain(markup: str) -> str:
    return markup.replace("&lt;", "<").replace("&gt;", ">")


def _most(one: Passage) -> list[tuple[str, int]]:
    return sorted(one.rejected.items(), key=lambda entry: (-entry[1], entry[0]))[:NAMED_REASONS]


def _header(facts: Facts) -> str:
    corpus = facts.numbers.corpora[facts.last]
    tokens = sum(value for name, value in facts.metrics("tokenize").items() if name in ("train_tokens", "validation_tokens"))
    tiles = [
        (compact(facts.records), "records in"),
        (compact(facts.kept), f"documents kept · {share(facts.kept, facts.records)}"),
        (compact(corpus.characters), "characters kept"),
        (compact(corpus.words), "words kept"),
        *([(compact(tokens), "tokens")] if tokens else []),
        (rough(len(corpus.by_language)), "language" if len(corpus.by_language) == 1 else "languages"),
        (compact(facts.hosts.kept), "hosts"),
    ]
    boxes = "".join(f'<div class="tile"><b>{value}</b><span>{name}</span></div>' for value, name in tiles)
    way = " → ".join(f"<code>{text(one.step)}</code>" for one in facts.funnel)
    return f'<h1>Corpus report</h1><p class="muted">{way}</p><div class="tiles">{boxes}</div>'


def _funnel_lead(facts: Facts) -> str:
    lost = [(count, reason, one.step) for one in facts.funnel for reason, count in one.rejected.items()]
    if not lost:
        return "Every record was kept."
    most, reason, step = max(lost, key=lambda entry: (entry[0], entry[2], entry[1]))
    rejected = facts.records - facts.kept
    return (
        f"Of {number(facts.records)} records, {number(rejected)} were dropped ({share(rejected, facts.records)}); most often as "
        f"<code>{text(reason)}</code> in <code>{text(step)}</code>: {number(most)}, {share(most, rejected)} of all that was dropped."
    )


def _funnel(facts: Facts) -> str:
    if not facts.funnel:
        return ""
    rows = []
    for one in facts.funnel:
        dropped = one.total - one.kept
        reasons = " · ".join(f"<code>{text(reason)}</code> {number(count)}" for reason, count in _most(one))
        more = len(one.rejected) - NAMED_REASONS
        why = [ABOUT.get(one.kind, ""), reasons + (f" · {plural(more, 'other reason')}" if more > 0 else "")]
        if one.errored:
            why.append(f'<span class="lost-number">{number(one.errored)} could not be read</span>')
        lost = (
            f'<span class="lost-number">−{number(dropped)}</span> ({share(dropped, one.total)})'
            if dropped
            else '<span class="muted">–</span>'
        )
        rows.append(
            f'<div class="step"><span class="name">{text(one.step)}</span>{bar(one.kept, facts.records, behind=one.total)}'
            f'<span class="numbers"><b>{number(one.kept)}</b> {lost}</span>'
            f'<span class="about">{"<br>".join(part for part in why if part)}</span></div>'
        )
    header = ("stage", "in", "rejected", "of its input", "errored", "kept", "of all")
    cells = [
        (
            text(one.step),
            number(one.total),
            number(sum(one.rejected.values())),
            share(sum(one.rejected.values()), one.total),
            number(one.errored),
            number(one.kept),
            share(one.kept, facts.records),
        )
        for one in facts.funnel
    ]
    total = ("all", *_totals(facts))
    body = table(header, [*cells, total]).replace("<tr><td>all</td>", '<tr class="sum"><td>all</td>')
    return f'<div class="card funnel">{"".join(rows)}</div>{details("The same as a table", body)}'


def _totals(facts: Facts) -> tuple[str, ...]:
    rejected, errored = sum(sum(one.rejected.values()) for one in facts.funnel), sum(one.errored for one in facts.funnel)
    kept = facts.kept
    return (
        number(facts.records),
        number(rejected),
        share(rejected, facts.records),
        number(errored),
        number(kept),
        share(kept, facts.records),
    )


def _pii(facts: Facts) -> str:
    if not facts.pii:
        return ""
    most = max(numbers["findings"] for numbers in facts.pii.values())
    ordered = sorted(facts.pii.items(), key=lambda entry: (-entry[1]["findings"], entry[0]))
    rows = [
        (text(kind), bar(one["findings"], most), number(one["findings"]), number(one["unsure"]), number(one["documents"]))
        for kind, one in ordered
    ]
    changed, urls = (facts.metrics("scrub").get(name, 0) for name in ("documents_changed", "urls_changed"))
    lead = (
        f"{number(sum(one['findings'] for one in facts.pii.values()))} findings in {plural(changed, 'document')}"
        + (f" and {plural(urls, 'URL')}" if urls else "")
        + ", each replaced in the corpus. Values are kept nowhere."
    )
    return section("personal-data", "Personal data", table(("kind", "", "found", "unsure", "documents"), rows, words=2), lead)


def _contamination(facts: Facts) -> str:
    ordered = sorted(facts.contamination, key=lambda row: (-row["documents"], row["evaluation"]))
    rows = [
        (text(row["evaluation"]), *(number(row[name]) for name in ("records", "records_found", "documents", "overlaps", "words")))
        for row in ordered
    ]
    header = ("evaluation set", "records", "of these found", "documents that hold them", "overlaps", "words")
    found = sum(1 for row in ordered if row["documents"])
    lead = f"{plural(len(rows), 'evaluation set')} searched for; {found or 'none'} of them found in the corpus."
    return section("decontamination", "Decontamination", table(header, rows) if rows else "", lead)


def _tokens(facts: Facts) -> str:
    metrics = facts.metrics("tokenize")
    content = ""
    splits = [split for split in ("train", "validation") if f"{split}_tokens" in metrics]
    if splits:
        rows = []
        for split in splits:
            documents, tokens, size_bytes = (metrics.get(f"{split}_{name}", 0) for name in ("documents", "tokens", "bytes"))
            per = (f"{value:.2f}" if documents and tokens else "–" for value in (tokens / max(1, documents), size_bytes / max(1, tokens)))
            rows.append((split, number(documents), number(tokens), size(size_bytes), *per))
        content += "<h3>Splits</h3>" + table(("split", "documents", "tokens", "text", "tokens a document", "bytes a token"), rows)
    if facts.fertility:
        rows = [
            (
                text(row["language"]),
                number(row["documents"]),
                number(row["words"]),
                number(row["tokens"]),
                *(f"{row[name]:.3f}" if row[name] is not None else "–" for name in ("tokens_per_word", "bytes_per_token")),
                "held out" if row["held_out"] else "trained on",
            )
            for row in sorted(facts.fertility, key=lambda row: (-row["bytes"], row["language"]))
        ]
        header = ("language", "documents", "words", "tokens", "tokens a word", "bytes a token", "measured on texts")
        trained = facts.metrics("tokenizer")
        lead = f'<p class="note">A vocabulary of {number(trained["vocab_size"])}.</p>' if "vocab_size" in trained else ""
        content += "<h3>Fertility by language</h3>" + lead + table(header, rows)
    return section("tokens", "Tokens", content)


def _throughput(facts: Facts, timings: Sequence[Timing], crawl_pages: int, cores: int) -> str:
    if not timings:
        return ""
    would = forecast(timings, facts.records, crawl_pages)
    rows = []
    for one in timings:
        hours = would.core_hours[one.step]
        rows.append(
            (
                text(one.step),
                duration(one.seconds) + ("" if one.share == 1 else f' <span class="muted">({share(one.share, 1)} of shards)</span>'),
                f"{one.cores:g}",
                number(one.records) if one.records is not None else "–",
                _rate(one.records, one),
                _rate(one.bytes / 1e6 if one.bytes is not None else None, one),
                _hours(hours) if hours is not None else "–",
            )
        )
    total = ("all", duration(sum(one.seconds for one in timings)), "", "", "", "", _hours(would.total_core_hours))
    header = ("stage", "took", "cores", "documents in", "documents/s", "MB/s read", f"core-hours for {rough(crawl_pages)} pages")
    body = table(header, [*rows, total]).replace("<tr><td>all</td>", '<tr class="sum"><td>all</td>')
    grown = crawl_pages / facts.records if facts.records else 0
    corpus = facts.numbers.corpora[facts.last]
    tokens = sum(facts.metrics("tokenize").get(f"{split}_tokens", 0) for split in ("train", "validation"))
    comes = [f"{rough(facts.kept * grown)} documents", f"{size(corpus.bytes * grown)} of text"]
    comes += [f"{rough(tokens * grown)} tokens"] if tokens else []
    stored = sum(one.bytes for one in facts.made if one.kind not in ("tokenizer", "classifier"))
    unknown = [one.step for one in timings if would.core_hours[one.step] is None]
    lead = (
        f"A crawl of {rough(crawl_pages)} pages would take <b>{duration(would.total_core_hours * 3600)}</b> on one core, "
        f"<b>{duration(would.total_core_hours * 3600 / cores)}</b> on {number(cores)}, at the pace of this run, and give "
        f"{', '.join(comes)}, if it is like this one. All artifacts would take {size(stored * grown)}."
    )
    note = (
        "Times are from the start of a stage to its end, that of the cluster included, so small inputs look slow. Cores are those that "
        "could work at once: the cluster's CPUs, or as many as there were shards to compute. MB are of files as they are stored. "
        "A stage that reads no corpus (a tokenizer's sample) is not taken to grow."
    )
    if unknown:
        note += f" Not known, as all of it was there already: {', '.join(map(text, unknown))}."
    return section("throughput", "Throughput", body + f'<p class="note">{note}</p>', lead)


def _rate(amount: float | None, timing: Timing) -> str:
    """So much a second, as far as it was computed in this time."""
    if amount is None or not timing.share or not timing.seconds:
        return "–"
    rate = amount * timing.share / timing.seconds
    return number(rate) if rate >= 100 else f"{rate:.3g}"


def _hours(hours: float) -> str:
    return rough(hours) if hours >= 0.1 or not hours else "&lt; 0.1"


def duration(seconds: float) -> str:
    """In the unit in which it is easy to read."""
    for unit, word in ((365.25 * 86400, "years"), (86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 1.5 * unit:
            return f"{seconds / unit:,.3g} {word}" if seconds < 1000 * unit else f"{seconds / unit:,.0f} {word}"
    return f"{seconds:.3g} s"


def _settings(facts: Facts) -> str:
    """What decides each stage's output, so that a page that was put away still says what it shows."""
    content = ""
    for one in facts.made:
        rows = [(f"<code>{text(name)}</code>", f'<span class="meta">{text(value)}</span>') for name, value in _flat(one.params)]
        title = f"{text(one.step)} <span class=muted>{text(one.kind)} · {text(one.fingerprint[:12])} · {size(one.bytes)}</span>"
        content += details(title, table(("setting", "value"), rows, words=2) if rows else '<p class="note">It has no settings.</p>')
    return section("settings", "Settings", content, "What decides the output of each stage, its fingerprint, and the size of its files.")


def _flat(params: object, prefix: str = "") -> list[tuple[str, object]]:
    if not isinstance(params, dict):
        return [(prefix, params)]
    return [entry for name, value in sorted(params.items()) for entry in _flat(value, f"{prefix}.{name}" if prefix else name)]
