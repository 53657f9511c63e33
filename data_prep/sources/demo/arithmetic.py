"""Two-digit additions: which problem belongs to which split, the short working, and its explanation in words."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from hashlib import sha256

from data_prep.sources.demo.world import generator

Problem = tuple[int, int]
SPLITS = ("train", "validation", "test")
SHOWN = (23, 45)  # the README asks this one, so it must be a problem no training ever saw

# The first form is the one of the prompts; every form writes the problem as `a+b`.
QUESTIONS = ("What is {a}+{b}?", "{a}+{b}?", "How much is {a}+{b}?", "Can you add {a}+{b}?")

NUMBERS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
)


def split_of(a: int, b: int) -> str:
    """The split of a problem. It does not depend on the order of the numbers, nor on any seed: 65 % train, 5 %
    validation, 30 % test (about 1,230 of the 4,095 pairs)."""
    low, high = sorted((a, b))
    if (low, high) == SHOWN:
        return "test"
    share = sha256(f"{low}+{high}".encode()).digest()[0] / 256
    return "train" if share < 0.65 else "validation" if share < 0.70 else "test"


@cache
def _pairs(split: str) -> tuple[Problem, ...]:
    return tuple((a, b) for a in range(10, 100) for b in range(a, 100) if split_of(a, b) == split)


def problems(seed: int, split: str) -> list[Problem]:
    """All problems of a split in the seed's order; no pair occurs in both orders. The README's comes first in test."""
    draw = generator(seed, "problems", split)
    pairs = list(_pairs(split))
    draw.shuffle(pairs)
    ordered = [(a, b) if draw.random() < 0.5 else (b, a) for a, b in pairs]
    if split == "test":
        ordered = [SHOWN] + [pair for pair in ordered if pair not in (SHOWN, SHOWN[::-1])]
    return ordered


def working(a: int, b: int) -> str:
    """The short working with the answer after the last semicolon: (47, 38) → `7+8=15,4+3+1=8;85`."""
    units = a % 10 + b % 10
    carry = "+1" if units > 9 else ""
    return f"{a % 10}+{b % 10}={units},{a // 10}+{b // 10}{carry}={a // 10 + b // 10 + units // 10};{a + b}"


def in_words(number: int) -> str:
    """An English number from 0 to 19: no column of a two-digit addition gives more."""
    return NUMBERS[number]


OPENINGS: Sequence[str] = (
    "Let us add {a} and {b} together.",
    "How do we add {a} and {b} without paper?",
    "Now somebody wants to know what {a} plus {b} is.",
    "There are {a} {things} in one basket and {b} in the other one. How many {things} does {name} have to carry home?",
    "On Monday {name} counted {a} {things} and on Tuesday there came {b} more. How many were there on Tuesday evening?",
    "In the big room of the house stand {a} {things} and in the small room {b}. {name} wants to know how many that is.",
    "The people of {town} gave {a} {things} to the school and the people from over the bridge gave {b} of them.",
    "{name} had {a} {things} before the fair and bought {b} there. Let us see how many {name} has now.",
    "A boat brings {a} {things} up the river and another boat brings {b}. We want to know how many will lie at the bridge.",
)
UNIT_STEPS: Sequence[str] = (
    "We begin with the units and find that {ua} plus {ub} is {us}.",
    "First come the small digits where {ua} plus {ub} makes {us}.",
    "On the right side we see {ua} and {ub} which gives us {us}.",
    "The last digits are {ua} and {ub} and together they are {us}.",
    "If you have {ua} and get {ub} more then you have {us}.",
    "In the column of ones we see that {ua} plus {ub} equals {us}.",
)
CARRIES: Sequence[str] = (
    "That is more than nine so we write {ud} and carry one.",
    "We keep the {ud} and one ten moves to the left.",
    "So {ud} stays here and a ten goes over to the other side.",
    "We write down {ud} and remember the one for later.",
    "This is too big for one place and so we leave {ud} and take one along.",
    "A full ten has come together and only {ud} is left.",
)
NO_CARRIES: Sequence[str] = (
    "There is nothing to carry here.",
    "That fits in one place and we go on.",
    "We write it down and carry nothing.",
    "It is less than ten and so it can stay.",
    "No ten comes together this time.",
    "We can leave it just like that.",
)
TEN_STEPS: Sequence[str] = (
    "Then we take the tens where {ts}.",
    "Now we look to the left where {ts}.",
    "For the tens we find that {ts}.",
    "In the next column {ts}.",
    "The first digits come last and we see that {ts}.",
    "Then we add up the tens and say that {ts}.",
)
CLOSINGS: Sequence[str] = (
    "So the answer is {sum}.",
    "Together that is {sum}.",
    "The result of it all is {sum}.",
    "And that makes {sum}.",
    "In the end we have {sum}.",
    "That is how we get {sum}.",
)
THINGS: Sequence[str] = ("apples", "nuts", "stones", "candles", "eggs", "plums", "buttons", "cups", "flowers", "shells", "books", "fish")


def explain(draw: random.Random, a: int, b: int, used: set[str], name: str, town: str) -> str:
    """The addition step by step in words, told of a person and a town. `used` holds the phrases and things that a page
    already has, so that it does not repeat itself."""

    def fresh(phrases: Sequence[str]) -> str:
        phrase = draw.choice([phrase for phrase in phrases if phrase not in used] or phrases)
        used.add(phrase)
        return phrase

    units = a % 10 + b % 10
    tens = [in_words(a // 10), in_words(b // 10)] + (["one"] if units > 9 else [])
    slots = {
        "a": a,
        "b": b,
        "sum": a + b,
        "ua": in_words(a % 10),
        "ub": in_words(b % 10),
        "us": in_words(units),
        "ud": in_words(units % 10),
        "ts": f"{' plus '.join(tens)} is {in_words(a // 10 + b // 10 + units // 10)}",
        "things": fresh(THINGS),
        "name": name,
        "town": town,
    }
    steps = (OPENINGS, UNIT_STEPS, CARRIES if units > 9 else NO_CARRIES, TEN_STEPS, CLOSINGS)
    return " ".join(fresh(phrases) for phrases in steps).format(**slots)
