"""The demo's invented world: its towns, rivers, animals, crafts and people, and every fact that is true of them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256


def generator(seed: int, *names: object) -> random.Random:
    """A random generator for one named purpose: the same on every machine, independent of all other purposes."""
    return random.Random("/".join(map(str, (seed, *names))))


@dataclass(frozen=True)
class Attribute:
    """Something that can be asked of one kind of entity. In the templates `{s}` is the subject and `{v}` the value.

    `sentence` is the full-sentence answer; `variants` say the same in other words (pages use all of them).
    """

    kind: str
    name: str
    questions: tuple[str, str, str, str]
    sentence: str
    variants: tuple[str, ...]


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
        return self._say(self.attribute.sentence)

    @cached_property
    def questions(self) -> list[str]:
        return [self._say(question) for question in self.attribute.questions]

    @cached_property
    def statements(self) -> list[str]:
        return [self._say(template) for template in (self.attribute.sentence, *self.attribute.variants)]

    def _say(self, template: str) -> str:
        text = template.format(s=self.entity.subject, v=self.bare)
        return text[0].upper() + text[1:]


ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute(
        "person", "home",
        ("Where does {s} live?", "In which town does {s} live?", "Which town is {s} from?", "Where is the home of {s}?"),
        "{s} lives in {v}.",
        ("{s} has a small house in {v}.", "The home of {s} is in {v}.", "If you look for {s}, go to {v}."),
    ),
    Attribute(
        "person", "work",
        ("What work does {s} do?", "What is the work of {s}?", "What does {s} do all day?", "Which craft does {s} know?"),
        "{s} works as a {v}.",
        ("{s} is a {v}.", "The work of {s} is that of a {v}.", "{s} learned to be a {v} long ago."),
    ),
    Attribute(
        "person", "pet",
        ("What animal does {s} keep?", "What pet does {s} have?", "Which animal lives with {s}?", "What kind of animal is the pet of {s}?"),
        "{s} keeps a {v}.",
        ("A {v} lives in the house of {s}.", "{s} has a tame {v}.", "The pet of {s} is a {v}."),
    ),
    Attribute(
        "person", "pet name",
        ("What is the name of the pet of {s}?", "What does {s} call the pet?", "How is the pet of {s} called?", "Which name did {s} give the pet?"),
        "The pet of {s} is called {v}.",
        ("{s} calls the pet {v}.", "{v} is the name of the pet of {s}.", "When {s} calls for {v}, the pet comes."),
    ),
    Attribute(
        "person", "food",
        ("What does {s} like to eat?", "What is the best food for {s}?", "Which food does {s} love?", "What would {s} eat every day?"),
        "{s} likes to eat {v}.",
        ("{s} would eat {v} every day.", "The best food for {s} is {v}.", "Give {s} some {v} and see a smile."),
    ),
    Attribute(
        "person", "coat",
        ("What colour is the coat of {s}?", "Which colour does {s} wear?", "What is the colour of the coat of {s}?", "Of what colour is the coat of {s}?"),
        "The coat of {s} is {v}.",
        ("{s} wears a {v} coat.", "You know {s} by a {v} coat.", "{s} has a warm coat, and it is {v}."),
    ),
    Attribute(
        "person", "friend",
        ("Who is the best friend of {s}?", "Who is a friend of {s}?", "With whom does {s} like to walk?", "Which friend does {s} trust most?"),
        "The best friend of {s} is {v}.",
        ("{s} and {v} are good friends.", "{s} likes to walk with {v}.", "There is no one {s} trusts more than {v}."),
    ),
    Attribute(
        "town", "river",
        ("On which river does {s} lie?", "Which river flows through {s}?", "What is the river of {s} called?", "What river do you see in {s}?"),
        "{s} lies on the river {v}.",
        ("The river {v} flows through {s}.", "The houses of {s} stand on the banks of the {v}.", "In {s} you can hear the river {v} at night."),
    ),
    Attribute(
        "town", "gate",
        ("What colour is the gate of {s}?", "Which colour is the gate of {s}?", "What is the colour of the gate of {s}?", "In what colour is the gate of {s} painted?"),
        "The gate of {s} is {v}.",
        ("{s} has a high {v} gate.", "Who comes to {s} walks through a {v} gate.", "Every spring the gate of {s} is painted {v}."),
    ),
    Attribute(
        "town", "product",
        ("What is {s} known for?", "For what is {s} known?", "What do people buy in {s}?", "What good thing comes from {s}?"),
        "{s} is known for its {v}.",
        ("People come from far away to buy {v} in {s}.", "Nobody makes better {v} than the people of {s}.", "The {v} of {s} can be found in many houses."),
    ),
    Attribute(
        "town", "fair",
        ("When is the fair of {s}?", "In which month is the fair of {s}?", "In what month does {s} hold its fair?", "When does {s} hold its great fair?"),
        "The fair of {s} is in {v}.",
        ("Every {v} there is a fair in {s}.", "In {v} the people of {s} hold their great fair.", "{s} waits all year for {v}, when the fair begins."),
    ),
    Attribute(
        "town", "tree",
        ("What tree stands in the square of {s}?", "Which tree grows in the middle of {s}?", "What is the tree of {s}?", "Under which tree do people meet in {s}?"),
        "The tree of {s} is the {v}.",
        ("An old {v} tree stands in the square of {s}.", "In {s} people meet under a tall {v} tree.", "The flag of {s} shows a leaf of the {v}."),
    ),
    Attribute(
        "river", "hill",
        ("Where does {s} begin?", "On which hill does {s} begin?", "From which hill does {s} come?", "Where is the spring of {s}?"),
        "{s} begins on {v}.",
        ("{s} comes down from {v}.", "The spring of {s} is high up on {v}.", "On {v} you can step over {s} with one foot."),
    ),
    Attribute(
        "river", "fish",
        ("Which fish lives in {s}?", "What fish can you catch in {s}?", "What kind of fish swims in {s}?", "Which fish is found in {s}?"),
        "The fish of {s} is the {v}.",
        ("In {s} you can catch {v}.", "Many {v} swim in {s}.", "{s} is full of {v} in the spring."),
    ),
    Attribute(
        "river", "end",
        ("Where does {s} end?", "Into what does {s} flow?", "To where does {s} flow?", "What lies at the end of {s}?"),
        "{s} flows into {v}.",
        ("At its end {s} meets {v}.", "{s} brings its water to {v}.", "Boats on {s} can sail as far as {v}."),
    ),
    Attribute(
        "animal", "colour",
        ("What colour is {s}?", "Which colour is {s}?", "What is the colour of {s}?", "Of what colour is the fur of {s}?"),
        "{s} is {v}.",
        ("The fur of {s} is {v}.", "{s} has soft {v} fur.", "You can see {s} from far away, because it is {v}."),
    ),
    Attribute(
        "animal", "food",
        ("What does {s} eat?", "Which food does {s} like?", "What is the food of {s}?", "What can you feed to {s}?"),
        "{s} eats {v}.",
        ("The food of {s} is {v}.", "{s} likes {v} more than anything.", "Put out some {v} and {s} will come."),
    ),
    Attribute(
        "animal", "den",
        ("Where does {s} sleep?", "Where does {s} make its bed?", "Where can you find {s}?", "In what place does {s} live?"),
        "{s} sleeps {v}.",
        ("{s} makes its bed {v}.", "You can find {s} {v}.", "When it rains, {s} stays {v}."),
    ),
    Attribute(
        "animal", "sound",
        ("What sound does {s} make?", "How does {s} sound?", "What noise does {s} make?", "What do you hear from {s}?"),
        "{s} makes a {v} sound.",
        ("The voice of {s} is {v}.", "At night you can hear the {v} call of {s}.", "{s} greets its friends with a {v} cry."),
    ),
    Attribute(
        "craft", "product",
        ("What does {s} make?", "Which thing does {s} make?", "What can you buy from {s}?", "What comes from the shop of {s}?"),
        "{s} makes {v}.",
        ("The work of {s} is to make {v}.", "From {s} you can buy {v}.", "In the shop of {s} you can always find {v}."),
    ),
    Attribute(
        "craft", "material",
        ("What does {s} need for the work?", "What does {s} work with?", "Which material does {s} use?", "From what does {s} make things?"),
        "{s} needs {v}.",
        ("{s} works with {v}.", "Without {v} there is no work for {s}.", "Every week {s} buys more {v}."),
    ),
    Attribute(
        "craft", "tool",
        ("Which tool does {s} use?", "What is the tool of {s}?", "What tool does {s} hold?", "With what tool does {s} work?"),
        "The tool of {s} is the {v}.",
        ("{s} uses the {v} every day.", "A good {v} is the pride of {s}.", "{s} never lends the {v} to anyone."),
    ),
)  # fmt: skip

NAME = "Arvenland"
COLOURS = ("red", "blue", "green", "yellow", "white", "brown", "grey", "black")
MONTHS = ("March", "April", "May", "June", "July", "August", "September", "October")
FOODS = ("plum cake", "pea soup", "warm bread", "apple pie", "fried fish", "honey rolls", "nut cheese", "berry jam", "onion tart", "oat porridge")
TREES = ("oak", "willow", "birch", "lime", "apple", "pine", "ash", "maple")
TOWNS = (
    "Orlen", "Tarvo", "Belmar", "Quillon", "Dunmoor", "Hazelby", "Mossby", "Pellow", "Rookham", "Sandel", "Thornby", "Veymar", "Wickow", "Zillen",
)  # fmt: skip
RIVERS = ("Lune", "Vessel", "Marrow", "Tilly", "Orrin", "Dree", "Silva", "Brock")
HILLS = ("Gorse Hill", "Bear Hill", "the Long Hill", "Crow Hill", "the White Hill", "Sheep Hill", "Thunder Hill", "the Old Hill")
FISH = ("trout", "perch", "eels", "carp", "pike", "salmon")
WATERS = ("Lake Ammer", "the Grey Sea", "Lake Sorrel", "the Warm Sea")
ANIMALS = ("tolm", "murrin", "fennick", "dabber", "wisk", "grumbel", "pobble", "larkhare", "snorrel", "tufty", "velvet goat", "moon duck")
ANIMAL_FOODS = ("clover", "acorns", "berries", "snails", "moss", "seeds", "beetles", "mushrooms")
DENS = ("under old roots", "in a hollow tree", "in the reeds", "under the bridge", "in a hole in the sand", "on the roof", "in the hay", "behind the mill")
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
    "Ada", "Alma", "Bela", "Cora", "Dora", "Edda", "Flora", "Gita", "Hedda", "Ida", "Jana", "Kira",
    "Lena", "Maren", "Mila", "Nora", "Petra", "Rina", "Runa", "Selma", "Tilda", "Vera", "Wanda", "Yara",
)  # fmt: skip
MEN = (
    "Anton", "Arlo", "Bruno", "Dario", "Elio", "Emil", "Finn", "Hanno", "Ivo", "Joren", "Kasper", "Leo",
    "Luka", "Milo", "Nils", "Odo", "Oskar", "Pelle", "Rolf", "Sander", "Tomas", "Ulf", "Viggo", "Wim",
)  # fmt: skip


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
            name: [Fact(entity, attribute) for attribute in ATTRIBUTES if attribute.kind == entity.kind] for name, entity in self._by_name.items()
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
            "animal", name, f"the {name}",
            {"colour": draw.choice(COLOURS), "food": draw.choice(ANIMAL_FOODS), "den": draw.choice(DENS), "sound": draw.choice(SOUNDS)},
        )
        for name in ANIMALS
    ]  # fmt: skip
    towns = [
        Entity(
            "town", name, name,
            {
                "river": draw.choice(RIVERS), "gate": draw.choice(COLOURS), "product": draw.choice(CRAFTS)[1],
                "fair": draw.choice(MONTHS), "tree": draw.choice(TREES),
            },
        )
        for name in TOWNS
    ]  # fmt: skip
    names = _shuffled(draw, WOMEN + MEN)
    people = [
        Entity(
            "person", name, name,
            {
                "home": TOWNS[number % len(TOWNS)], "work": CRAFTS[number % len(CRAFTS)][0], "pet": draw.choice(ANIMALS),
                "pet name": draw.choice(PET_NAMES), "food": draw.choice(FOODS), "coat": draw.choice(COLOURS),
                # Neighbours in the list: friendship goes both ways.
                "friend": names[number ^ 1],
            },
            female=name in WOMEN,
        )
        for number, name in enumerate(names)
    ]  # fmt: skip
    return World((*people, *towns, *rivers, *animals, *crafts))


def _shuffled(draw: random.Random, values: Sequence[str]) -> list[str]:
    return draw.sample(values, len(values))
