"""Short children's stories of the invented world. `stories.txt` holds the plots; here they are told."""

from __future__ import annotations

import random
from collections.abc import Sequence

from data_prep.sources.demo.templates import read_parts
from data_prep.sources.demo.world import FOODS, World

THINGS = ("kite", "lantern", "basket", "whistle", "hat", "drum", "spoon", "ladder", "bell", "scarf", "mirror", "cup")
WEATHERS = ("sunny", "windy", "rainy", "cold", "warm", "foggy", "grey", "bright", "quiet", "stormy")
MORALS = (
    "Two can do more than one",
    "A friend is worth more than a prize",
    "One should never give up too soon",
    "Good things take time",
    "It is better to ask than to cry",
    "Small friends can be a great help",
    "What you share grows bigger",
    "A kind word costs nothing",
    "Even a long way begins with one step",
    "You only learn by trying",
)


def _slots(world: World, draw: random.Random) -> dict[str, str]:
    """What every beat of one story may speak of. All of it agrees with the world's facts."""
    hero = draw.choice(world.of_kind("person"))
    friend = world.find("person", hero["friend"])
    town = world.find("town", hero["home"])
    river = world.find("river", town["river"])
    pet, work = world.find("animal", hero["pet"]), world.find("craft", hero["work"])
    animal = draw.choice([animal for animal in world.of_kind("animal") if animal != pet])
    other = draw.choice([craft for craft in world.of_kind("craft") if craft != work])
    other_town = draw.choice([place for place in world.of_kind("town") if place != town])
    moral = draw.choice(MORALS)
    thing = draw.choice(THINGS)
    return hero.pronouns() | {
        "hero": hero.name,
        "Hero": hero.name,
        "himself": "herself" if hero.female else "himself",
        "work": hero["work"],
        "coat": hero["coat"],
        "petname": hero["pet name"],
        "pet": hero["pet"],
        "petcolour": pet["colour"],
        "sound": pet["sound"],
        "den": pet["den"],
        "friend": friend.name,
        "Friend": friend.name,
        "food": draw.choice((hero["food"], draw.choice(FOODS))),
        "town": town.name,
        "Town": town.name,
        "gate": town["gate"],
        "tree": town["tree"],
        "fair": town["fair"],
        "month": town["fair"],
        "river": river.name,
        "hill": river["hill"],
        "Hill": river["hill"],
        "fish": river["fish"],
        "water": river["end"],
        "Water": river["end"],
        "product": work["product"],
        "material": work["material"],
        "tool": work["tool"],
        "animal": animal.name,
        "Animal": animal.name.title(),
        "acolour": animal["colour"],
        "afood": animal["food"],
        "aden": animal["den"],
        "asound": animal["sound"],
        "otherwork": other.name,
        "otherproduct": other["product"],
        "othermaterial": other["material"],
        "othertool": other["tool"],
        "othertown": other_town.name,
        "weather": draw.choice(WEATHERS),
        "thing": thing,
        "Thing": thing.title(),
        "moral": moral,
        "lowmoral": moral[0].lower() + moral[1:],
    }


def stories(world: World, draw: random.Random, number: int) -> list[tuple[str, list[str]]]:
    """Title and paragraphs of `number` stories with different plots, each about 180 words."""
    plots = dict(read_parts("stories.txt"))
    opening, ending = plots.pop("opening"), plots.pop("ending")
    told = []
    for title in draw.sample(list(plots), number):
        slots = _slots(world, draw)
        beats = (*opening, *plots[title], *ending)
        sentences = [_capital(draw.choice(beat).format_map(slots)) for beat in beats]
        told.append((_capital(title.format_map(slots)), _paragraphs(draw, sentences)))
    return told


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _paragraphs(draw: random.Random, sentences: Sequence[str]) -> list[str]:
    paragraphs, start = [], 0
    while start < len(sentences):
        end = start + draw.randint(2, 4)
        paragraphs.append(" ".join(sentences[start:end]))
        start = end
    return paragraphs
