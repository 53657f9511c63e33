"""Measuring a model: bits per byte, answers to verifiable prompts, facts and style, questions; and the tables of models side by side."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.inference.generator import Completion, generate
from trainer.inference.sampling import Sampling, derive_seed

if TYPE_CHECKING:
    from data_prep.tokenizer import Tokenizer
    from trainer.data.chat import ChatFormat, Message
    from trainer.data.preferences import Preference
    from trainer.data.prompts import Prompt
    from trainer.model.transformer import Transformer
    from trainer.multiple_choice import EncodedQuestion, Verdict

Z_95 = 1.959963984540054  # two-sided 95 % of the normal distribution


@dataclass(frozen=True)
class Share:
    """How many of `total` independent trials succeeded, with the 95 % interval of Wilson (1927)."""

    successes: int
    total: int

    @property
    def value(self) -> float:
        return self.successes / self.total

    @property
    def interval(self) -> tuple[float, float]:
        n, p, z = self.total, self.value, Z_95
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        # rounding must not exclude a share of exactly 0 or 1
        return max(0.0, min(centre - half, p)), min(1.0, max(centre + half, p))

    def plain(self) -> dict[str, Any]:
        low, high = self.interval
        return {"value": round(self.value, 6), "low": round(low, 6), "high": round(high, 6), "n": self.total}


@dataclass(frozen=True)
class Answers:
    """What a model said to a list of conversations, and whether it came to an end."""

    texts: tuple[str, ...]
    finished: tuple[bool, ...]


@dataclass(frozen=True)
class Examiner:
    """Asks one model. Answers depend on (weights, seed, the conversation's number) only."""

    model: Transformer
    tokenizer: Tokenizer
    chat: ChatFormat
    seed: int
    max_new_tokens: int

    def ask(self, conversations: Sequence[Sequence[Message]], temperature: float) -> Answers:
        completions: list[Completion] = generate(
            self.model,
            [self.chat.prompt(messages) for messages in conversations],
            [derive_seed("evaluation", self.seed, number) for number in range(len(conversations))],
            stop_ids=self.chat.stop_ids,
            max_new_tokens=self.max_new_tokens,
            sampling=Sampling(temperature),
        )
        texts = tuple(self.tokenizer.decode(completion.text_ids()) for completion in completions)
        return Answers(texts, tuple(completion.finished for completion in completions))

    def accuracy(self, prompts: Sequence[Prompt], temperature: float, verify: Callable[[str, str, bool], float | None]) -> Share:
        """Pass@1: the share of prompts whose one answer is right; an answer that was cut off is wrong."""
        answers = self.ask([prompt.messages for prompt in prompts], temperature)
        rewards = [verify(*row) for row in zip(answers.texts, (prompt.answer for prompt in prompts), answers.finished, strict=True)]
        return Share(sum(reward == 1.0 for reward in rewards), len(prompts))

    def style_and_facts(self, preferences: Sequence[Preference], temperature: float) -> tuple[Share, Share]:
        """How many answers have the chosen style, and how many say what the chosen or the rejected answer says."""
        answers = self.ask([preference.prompt for preference in preferences], temperature)
        finished = list(zip(preferences, answers.texts, answers.finished, strict=True))
        styled = sum(whole and has_style(text, preference) for preference, text, whole in finished)
        right = sum(whole and text.strip() in (preference.chosen, preference.rejected) for preference, text, whole in finished)
        return Share(styled, len(finished)), Share(right, len(finished))


def has_style(text: str, preference: Preference) -> bool:
    """Whether an answer has the style of the chosen one: by the row's pattern, else by being the chosen answer itself."""
    if preference.chosen_pattern is None:
        return text.strip() == preference.chosen.strip()
    return re.search(preference.chosen_pattern, text) is not None


COLUMNS = {
    "bits_per_byte": "bits per byte",
    "greedy": "right answers, greedy",
    "sampled": "right answers, sampled",
    "facts": "facts",
    "style": "chosen style",
}


def set_report(questions: Sequence[EncodedQuestion], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """One set of questions: accuracy, accuracy by log-probability per byte where that is compared, and what guessing gives."""
    per_byte = [verdict.per_byte for verdict in verdicts if verdict.per_byte is not None]
    report: dict[str, Any] = {"accuracy": Share(sum(verdict.right for verdict in verdicts), len(verdicts)).plain()}
    if per_byte:
        report["accuracy_per_byte"] = Share(sum(per_byte), len(per_byte)).plain()
    guessed = [1 / len(question.choices) if len(question.choices) > 1 else 0.0 for question in questions]
    return {**report, "chance": round(sum(guessed) / len(guessed), 6)}


def table(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown tables of plain reports by model: the measures of each, and its accuracy on each set of questions where some were asked;
    shares in percent with their 95 % interval."""
    columns = [column for column in COLUMNS if any(report.get(column) is not None for report in reports.values())]
    rows = [["model", *(COLUMNS[column] for column in columns)]]
    rows += [[name, *(cell(report.get(column)) for column in columns)] for name, report in reports.items()]
    asked = questions_table({name: report.get("questions", {}) for name, report in reports.items()})
    return "\n\n".join([_markdown(rows), *([asked] if asked else [])])


def questions_table(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each set and measure, a column for each model; empty where no questions were asked."""
    sets = {name: report for found in reports.values() for name, report in found.items()}
    rows = [["questions", "n", "chance", *reports]]
    for name, report in sets.items():
        for measure, title in (("accuracy", name), ("accuracy_per_byte", f"{name}, per byte")):
            if measure in report:
                cells = [cell(found.get(name, {}).get(measure)) for found in reports.values()]
                rows.append([title, str(report[measure]["n"]), f"{report['chance']:.1%}".replace("%", " %"), *cells])
    return _markdown(rows) if sets else ""


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its head."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    lines = ["| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def cell(value: float | Mapping[str, Any] | None) -> str:
    """A number of the table: `0.412`, or `61.3 % (58.6–64.0)`."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return f"{value['value']:.1%} ({100 * value['low']:.1f}–{100 * value['high']:.1f})".replace("%", " %")
    return f"{value:.3f}"
