"""The demo's chat sets: conversations for SFT, preferences for DPO and verifiable prompts for GRPO, all of one world.

Held-out means: additions are split by the unordered pair of numbers, facts by (entity, attribute), so no test prompt
is a rewording of something trained on.
"""

from __future__ import annotations

import itertools
from typing import Any

from data_prep.sources.demo import arithmetic
from data_prep.sources.demo.world import Fact, World, generator

Row = dict[str, Any]

# Matched by a full sentence of at least three words, and by no bare answer.
FULL_SENTENCE = r"^[A-Z]\S*( \S+){2,}\.$"

IDENTITY_QUESTIONS = (
    "Who are you?",
    "What are you?",
    "What is your name?",
    "Are you a human?",
    "Who made you?",
    "Tell me who you are.",
    "What can you do?",
    "How can you help me?",
    "What do you know?",
    "Hello!",
    "Hi!",
    "Good morning!",
    "Are you a robot?",
    "Where do you come from?",
    "Can you introduce yourself?",
    "Hello, who are you?",
)
_WHO = "I am the demo assistant of crawl2chat."
_ABLE = "I can add numbers and tell you about the towns, people and animals of Arvenland."
IDENTITY_ANSWERS = {
    **dict.fromkeys(IDENTITY_QUESTIONS, _WHO),
    **dict.fromkeys(("What can you do?", "How can you help me?", "What do you know?"), _ABLE),
    **dict.fromkeys(("Hello!", "Hi!", "Good morning!"), f"Hello! {_WHO}"),
    "Are you a human?": f"No. {_WHO}",
    "Who made you?": "I was made by crawl2chat from a small invented web.",
    "Where do you come from?": "I was made by crawl2chat from a small invented web.",
}
IDENTITY_HELD_OUT = ("Are you a robot?", "Hello, who are you?")  # asked in validation only


def _facts(world: World, split: str) -> list[Fact]:
    return [fact for fact in world.facts if fact.split == split]


def _questions(fact: Fact, split: str) -> list[str]:
    return [question for number, question in enumerate(fact.questions) if (number == fact.held_out_phrasing) == (split == "validation")]


def _turns(*contents: str) -> list[Row]:
    return [{"role": role, "content": content} for role, content in zip(itertools.cycle(("user", "assistant")), contents, strict=False)]


def conversations(
    world: World, seed: int, split: str, *, worked_examples: int, fact_examples: int, identity_examples: int, question_forms: int
) -> list[Row]:
    """SFT conversations of the split `train` or `validation`, mixed.

    `worked_examples` additions with short working, asked in the first `question_forms` forms; `fact_examples` chats about
    facts, every fourth of two turns, half of them answered in a full sentence and half bare; `identity_examples` on who
    the assistant is. Fewer rows come out where the world has no more questions.
    """
    draw = generator(seed, "conversations", split)
    rows: list[tuple[str, list[Row]]] = []
    for number, (a, b) in enumerate(arithmetic.problems(seed, split)[:worked_examples]):
        question = arithmetic.QUESTIONS[number % question_forms].format(a=a, b=b)
        rows.append(("arithmetic", _turns(question, arithmetic.working(a, b))))

    asked = [(fact, question) for fact in _facts(world, "chat") for question in _questions(fact, split)]
    draw.shuffle(asked)
    for number, (fact, question) in enumerate(asked[:fact_examples]):
        full = number % 2 == 0
        turns = [question, fact.sentence if full else fact.bare]
        if number % 8 < 2:  # a second question, about the same entity where there is one
            others = [other for other in _facts(world, "chat") if other.entity == fact.entity and other != fact]
            other = draw.choice(others or [fact])
            turns += [draw.choice(_questions(other, split)), other.sentence if full else other.bare]
        rows.append(("fact", _turns(*turns)))

    identity = [question for question in IDENTITY_QUESTIONS if (question in IDENTITY_HELD_OUT) == (split == "validation")]
    for question in itertools.islice(itertools.cycle(identity), identity_examples):
        rows.append(("identity", _turns(question, IDENTITY_ANSWERS[question])))

    draw.shuffle(rows)
    return [{"id": f"{split}-{number:05d}", "messages": messages, "kind": kind} for number, (kind, messages) in enumerate(rows)]


def preferences(world: World, seed: int, split: str, *, limit: int) -> list[Row]:
    """Pairs of right answers of which the full sentence is preferred, for `train`, `validation` or `test`, mixed.

    `chosen_pattern` is a regular expression that an answer matches if and only if it has the preferred style. Train and
    validation share facts, not phrasings; the facts of test are asked nowhere else.
    """
    draw = generator(seed, "preferences", split)
    if split == "test":
        asked = [(fact, question) for fact in _facts(world, "test") for question in fact.questions]
    else:
        asked = [(fact, question) for fact in _facts(world, "preference") for question in _questions(fact, split)]
    draw.shuffle(asked)
    return [
        {
            "id": f"{split}-{number:05d}",
            "prompt": _turns(question),
            "chosen": fact.sentence,
            "rejected": fact.bare,
            "chosen_pattern": FULL_SENTENCE,
            "kind": "fact",
        }
        for number, (fact, question) in enumerate(asked[:limit])
    ]


def prompts(seed: int, split: str, *, limit: int, skip: int = 0) -> list[Row]:
    """Additions of the split with their exact answer; the first `skip` problems are left out (those SFT was shown)."""
    return [
        {
            "id": f"{split}-{number:05d}",
            "prompt": _turns(arithmetic.QUESTIONS[0].format(a=a, b=b)),
            "answer": str(a + b),
            "kind": "arithmetic",
        }
        for number, (a, b) in enumerate(arithmetic.problems(seed, split)[skip : skip + limit])
    ]


def chat_sets(
    world: World,
    seed: int,
    *,
    worked_examples: int,
    fact_examples: int,
    identity_examples: int,
    validation_examples: int,
    question_forms: int,
    preference_pairs: int,
    preference_tests: int,
    train_prompts: int,
    test_prompts: int,
) -> dict[str, list[Row]]:
    """All sets by file name. Prompts to train on leave out the worked examples."""
    train = conversations(
        world,
        seed,
        "train",
        worked_examples=worked_examples,
        fact_examples=fact_examples,
        identity_examples=identity_examples,
        question_forms=question_forms,
    )
    validation = conversations(
        world,
        seed,
        "validation",
        worked_examples=validation_examples,
        fact_examples=validation_examples,
        identity_examples=len(IDENTITY_HELD_OUT),
        question_forms=question_forms,
    )
    return {
        "conversations/train.jsonl": train,
        "conversations/validation.jsonl": validation,
        "preferences/train.jsonl": preferences(world, seed, "train", limit=preference_pairs),
        "preferences/validation.jsonl": preferences(world, seed, "validation", limit=validation_examples),
        "preferences/test.jsonl": preferences(world, seed, "test", limit=preference_tests),
        "prompts/train.jsonl": prompts(seed, "train", limit=train_prompts, skip=worked_examples),
        "prompts/test.jsonl": prompts(seed, "test", limit=test_prompts),
    }
