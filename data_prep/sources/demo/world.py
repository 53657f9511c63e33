"""The demo's invented world: its towns, rivers, animals, crafts and people, and every fact that is true of them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

from data_prep.sources.demo.templates import read_parts


def generator(seed: int, *names: object) -> random.Random:
    """A random generator for one named purpose: the same on every machine, independent of all other purposes."""
    return random.Random("/".join(map(str, (seed, *names))))


@dataclass(frozen=True)
class Attribute:
    """Something that can be asked of one kind of entity, in four ways. In the templates `{s}` is the subject and `{v}` the
    value. The first of the statements is the full-sentence answer, the others say the same in other words."""

    kind: str
    name: str
    questions: tuple[str, ...]
    statements: tuple[str, ...]


@dataclass(frozen=True)
class Entity:
    """One person, town, river, animal or craft. `subject` is its name as a sentence uses it ("the river Lune")."""

    kind: str
    name: str
    subject: str
    values: Mapping[str, str]
    female: bool = False

    def __getitem__(self, attribute: str) -> str:
        return self.values[attribute]

    def pronouns(self, prefix: str = "") -> dict[str, str]:
        """Template slots `he`, `his`, `him` and their capitalised forms, each under `prefix`."""
        words = ("she", "her", "her") if self.female else ("he", "his", "him")
        slots = dict(zip(("he", "his", "him"), words, strict=True))
        return {prefix + slot: word for slot, word in slots.items()} | {
            prefix + slot.capitalize(): word.capitalize() for slot, word in slots.items()
        }


@dataclass(frozen=True)
class Fact:
    """One value of one entity's attribute. Its questions and answers are plain English."""

    entity: Entity
    attribute: Attribute

    @property
    def key(self) -> str:
        return f"{self.entity.kind}/{self.entity.name}/{self.attribute.name}"

    @cached_property
    def split(self) -> str:
        """Which set may ask for it: `chat` (SFT, and the questions that stand on pages), `preference` or `test`."""
        share = sha256(self.key.encode()).digest()[0] / 256
        return "chat" if share < 0.45 else "preference" if share < 0.75 else "test"

    @cached_property
    def held_out_phrasing(self) -> int:
        """The one of its four questions that training leaves to validation."""
        return sha256(f"phrasing {self.key}".encode()).digest()[0] % 4

    @property
    def bare(self) -> str:
        return self.entity[self.attribute.name]

    @property
    def sentence(self) -> str:
        return self.statements[0]

    @cached_property
    def questions(self) -> list[str]:
        return [self._say(question) for question in self.attribute.questions]

    @cached_property
    def statements(self) -> list[str]:
        return [self._say(template) for template in self.attribute.statements]

    def _say(self, template: str) -> str:
        text = template.format(s=self.entity.subject, v=self.bare)
        return text[0].upper() + text[1:]


def _attributes() -> tuple[Attribute, ...]:
    attributes = []
    for title, (questions, statements) in read_parts("facts.txt").items():
        kind, name = title.split(": ")
        attributes.append(Attribute(kind, name, tuple(questions), tuple(statements)))
    return tuple(attributes)


ATTRIBUTES = _attributes()
NAME = "Arvenland"
COLOURS = ("red", "blue", "green", "yellow", "white", "brown", "grey", "black")
MONTHS = ("March", "April", "May", "June", "July", "August", "September", "October")
FOODS = (
    "plum cake",
    "pea soup",
    "warm bread",
    "apple pie",
    "fried fish",
    "honey rolls",
    "nut cheese",
    "berry jam",
    "onion tart",
    "oat porridge",
)
TREES = ("oak", "willow", "birch", "lime", "apple", "pine", "ash", "maple")
TOWNS = (
    "Orlen",
    "Tarvo",
    "Belmar",
    "Quillon",
    "Dunmoor",
    "Hazelby",
    "Mossby",
    "Pellow",
    "Rookham",
    "Sandel",
    "Thornby",
    "Veymar",
    "Wickow",
    "Zillen",
)
RIVERS = ("Lune", "Vessel", "Marrow", "Tilly", "Orrin", "Dree", "Silva", "Brock")
HILLS = ("Gorse Hill", "Bear Hill", "the Long Hill", "Crow Hill", "the White Hill", "Sheep Hill", "Thunder Hill", "the Old Hill")
FISH = ("trout", "perch", "eels", "carp", "pike", "salmon")
WATERS = ("Lake Ammer", "the Grey Sea", "Lake Sorrel", "the Warm Sea")
ANIMALS = ("tolm", "murrin", "fennick", "dabber", "wisk", "grumbel", "pobble", "larkhare", "snorrel", "tufty", "velvet goat", "moon duck")
ANIMAL_FOODS = ("clover", "acorns", "berries", "snails", "moss", "seeds", "beetles", "mushrooms")
DENS = (
    "under old roots",
    "in a hollow tree",
    "in the reeds",
    "under the bridge",
    "in a hole in the sand",
    "on the roof",
    "in the hay",
    "behind the mill",
)
SOUNDS = ("soft", "loud", "deep", "high", "funny", "sad", "long", "short")
PET_NAMES = ("Pip", "Button", "Biscuit", "Tumble", "Pebble", "Nutmeg", "Muffin", "Whisper", "Clover", "Ginger", "Poppet", "Thistle")
CRAFTS: tuple[tuple[str, str, str, str], ...] = (  # worker, product, material, tool
    ("baker", "bread", "flour", "oven"),
    ("potter", "jugs", "clay", "wheel"),
    ("weaver", "blankets", "wool", "loom"),
    ("smith", "horseshoes", "iron", "hammer"),
    ("carpenter", "chairs", "wood", "saw"),
    ("cobbler", "boots", "leather", "awl"),
    ("gardener", "roses", "good earth", "spade"),
    ("beekeeper", "honey", "flowers", "smoker"),
    ("candle maker", "candles", "wax", "mould"),
    ("boat builder", "boats", "tar", "plane"),
    ("tailor", "coats", "cloth", "needle"),
    ("painter", "pictures", "colours", "brush"),
)
WOMEN = (
    "Ada",
    "Alma",
    "Bela",
    "Cora",
    "Dora",
    "Edda",
    "Flora",
    "Gita",
    "Hedda",
    "Ida",
    "Jana",
    "Kira",
    "Lena",
    "Maren",
    "Mila",
    "Nora",
    "Petra",
    "Rina",
    "Runa",
    "Selma",
    "Tilda",
    "Vera",
    "Wanda",
    "Yara",
)
MEN = (
    "Anton",
    "Arlo",
    "Bruno",
    "Dario",
    "Elio",
    "Emil",
    "Finn",
    "Hanno",
    "Ivo",
    "Joren",
    "Kasper",
    "Leo",
    "Luka",
    "Milo",
    "Nils",
    "Odo",
    "Oskar",
    "Pelle",
    "Rolf",
    "Sander",
    "Tomas",
    "Ulf",
    "Viggo",
    "Wim",
)


@dataclass(frozen=True)
class World:
    """All entities of the world, by kind and name."""

    entities: tuple[Entity, ...]

    @cached_property
    def _by_name(self) -> dict[tuple[str, str], Entity]:
        return {(entity.kind, entity.name): entity for entity in self.entities}

    def find(self, kind: str, name: str) -> Entity:
        return self._by_name[kind, name]

    def of_kind(self, kind: str) -> list[Entity]:
        return [entity for entity in self.entities if entity.kind == kind]

    def facts_of(self, entity: Entity) -> list[Fact]:
        return self._facts[entity.kind, entity.name]

    @cached_property
    def _facts(self) -> dict[tuple[str, str], list[Fact]]:
        return {
            name: [Fact(entity, attribute) for attribute in ATTRIBUTES if attribute.kind == entity.kind]
            for name, entity in self._by_name.items()
        }

    @cached_property
    def facts(self) -> list[Fact]:
        return [fact for facts in self._facts.values() for fact in facts]


def make_world(seed: int) -> World:
    """The world of one seed: names are constant, who lives where and likes what is drawn."""
    draw = generator(seed, "world")
    crafts = [
        Entity("craft", worker, f"the {worker}", {"product": product, "material": material, "tool": tool})
        for worker, product, material, tool in CRAFTS
    ]
    rivers = [
        Entity("river", name, f"the river {name}", {"hill": hill, "fish": draw.choice(FISH), "end": draw.choice(WATERS)})
        for name, hill in zip(RIVERS, _shuffled(draw, HILLS), strict=True)
    ]
    animals = [
        Entity(
            "animal",
            name,
            f"the {name}",
            {"colour": draw.choice(COLOURS), "food": draw.choice(ANIMAL_FOODS), "den": draw.choice(DENS), "sound": draw.choice(SOUNDS)},
        )
        for name in ANIMALS
    ]
    towns = [
        Entity(
            "town",
            name,
            name,
            {
                "river": draw.choice(RIVERS),
                "gate": draw.choice(COLOURS),
                "product": draw.choice(CRAFTS)[1],
                "fair": draw.choice(MONTHS),
                "tree": draw.choice(TREES),
            },
        )
        for name in TOWNS
    ]
    names = _shuffled(draw, WOMEN + MEN)
    people = [
        Entity(
            "person",
            name,
            name,
            {
                "home": TOWNS[number % len(TOWNS)],
                "work": CRAFTS[number % len(CRAFTS)][0],
                "pet": draw.choice(ANIMALS),
                "pet name": draw.choice(PET_NAMES),
                "food": draw.choice(FOODS),
                "coat": draw.choice(COLOURS),
                # Neighbours in the list: friendship goes both ways.
                "friend": names[number ^ 1],
            },
            female=name in WOMEN,
        )
        for number, name in enumerate(names)
    ]
    return World((*people, *towns, *rivers, *animals, *crafts))


def _shuffled(draw: random.Random, values: Sequence[str]) -> list[str]:
    return draw.sample(values, len(values))
