"""The distributions, as charts of bars: what came in behind what is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from data_prep.report.facts import Facts
from data_prep.report.markup import bar, number, rough, section, text
from data_prep.report.statistics import UNKNOWN, Corpus, bins, quantile

LISTED = 20
MONTHS = 36


def distributions(facts: Facts) -> str:
    """The section of all charts."""
    came, stays = facts.numbers.corpora[facts.first], facts.numbers.corpora[facts.last]
    charts = [
        _card(
            "Characters a document",
            _lengths(came.by_characters, stays.by_characters),
            _middle(stays, stays.by_characters, stays.characters),
        ),
        _card("Words a document", _lengths(came.by_words, stays.by_words), _middle(stays, stays.by_words, stays.words)),
        _card("Languages", _ranked(came.by_language, stays.by_language, {UNKNOWN: "not known"})),
        _card("Hosts", _hosts(facts), _hosts_note(facts)),
        _card("Crawled in", _dates(came.by_month, stays.by_month), _undated(came.by_month, stays.by_month)),
        _card("Published in", _dates(came.by_year, stays.by_year), f"As the pages say themselves. {_undated(came.by_year, stays.by_year)}"),
        _card(
            "Extractor",
            _ranked(came.by_extractor, stays.by_extractor, {"": "none: ready text"}) if len({*came.by_extractor} - {""}) else "",
        ),
    ]
    same = facts.first == facts.last
    key = (
        '<p class="key"><i></i>documents kept</p>'
        if same
        else (f'<p class="key"><i></i>kept in the end<i class="behind"></i>as <code>{text(facts.first)}</code> extracted them</p>')
    )
    lead = "Numbers of documents: those that are kept, with their share of those that came in."
    return section("distributions", "Distributions", f'{key}<div class="columns">{"".join(charts)}</div>', lead)


def _card(title: str, chart: str, note: str = "") -> str:
    if not chart:
        return ""
    return f'<div class="card"><h3>{title}</h3>{chart}{f"<p class=key>{note}</p>" if note else ""}</div>'


def chart(rows: Sequence[tuple[str, int, int]]) -> str:
    """Rows of a label (HTML), the number that came in, and the number kept."""
    most = max((max(came, stays) for _, came, stays in rows), default=0)
    return (
        '<div class="chart">'
        + "".join(
            f"<span>{label}</span>{bar(stays, most, behind=came)}<span>{rough(stays)}{f' of {rough(came)}' if came else ''}</span>"
            for label, came, stays in rows
        )
        + "</div>"
        if rows
        else ""
    )


def _lengths(came: Mapping[int, int], stays: Mapping[int, int]) -> str:
    before, after = dict(bins(came)), dict(bins(stays))
    edges = sorted({*before, *after})
    return chart([(f"≥ {number(edge)}", before.get(edge, 0), after.get(edge, 0)) for edge in edges])


def _middle(corpus: Corpus, counts: Mapping[int, int], total: int) -> str:
    if not corpus.documents:
        return ""
    tenth, middle, most = (quantile(counts, part) for part in (0.1, 0.5, 0.9))
    mean = number(total / corpus.documents)
    return f"Kept: mean {mean}, median {number(middle)}, a tenth below {number(tenth)}, a tenth above {number(most)}."


def _ranked(came: Mapping[str, int], stays: Mapping[str, int], names: Mapping[str, str]) -> str:
    """The most frequent values, and all others as one row."""
    order = sorted({*came, *stays}, key=lambda value: (-stays.get(value, 0), -came.get(value, 0), value))
    rows = [(names.get(value, "") or text(value), came.get(value, 0), stays.get(value, 0)) for value in order]
    return chart([*rows[:LISTED], *_others(rows[LISTED:])])


def _others(rows: Sequence[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    if not rows:
        return []
    return [(f"{len(rows)} others", sum(came for _, came, _ in rows), sum(stays for _, _, stays in rows))]


def _dates(came: Mapping[str, int], stays: Mapping[str, int]) -> str:
    """In the order of time; nothing where no document has a date."""
    known = sorted({*came, *stays} - {""})
    if not known:
        return ""
    rows = [(date, came.get(date, 0), stays.get(date, 0)) for date in known]
    if len(rows) > MONTHS:  # years instead of months, or the last years
        years = sorted({date[:4] for date in known})
        rows = [(year, _within(came, year), _within(stays, year)) for year in years]
    if len(rows) > MONTHS:
        first, rows = rows[:-MONTHS], rows[-MONTHS:]
        rows = [(f"until {first[-1][0]}", sum(row[1] for row in first), sum(row[2] for row in first)), *rows]
    return chart(rows)


def _undated(came: Mapping[str, int], stays: Mapping[str, int]) -> str:
    return f"Not known of {rough(stays.get('', 0))} that are kept, of {rough(came.get('', 0))} that came in." if "" in came else ""


def _within(dates: Mapping[str, int], year: str) -> int:
    return sum(count for date, count in dates.items() if date.startswith(year))


def _hosts(facts: Facts) -> str:
    rows = [(text(host) or "no host", came, stays) for host, stays, came, _ in facts.hosts.top[:LISTED]]
    rest = facts.hosts.keys - len(rows)
    others = (f"{rough(rest)} others", facts.hosts.of - sum(row[1] for row in rows), facts.hosts.total - sum(row[2] for row in rows))
    return chart([*rows, others] if rest else rows)


def _hosts_note(facts: Facts) -> str:
    hosts = facts.hosts
    return f"{rough(hosts.kept)} hosts are left of {rough(hosts.keys)}; {rough(hosts.sizes.get(1, 0))} of them have a single document."
