"""What the demo's pages say, before any HTML: stories, encyclopedia entries, worked arithmetic, questions, a forum, a shop."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from data_prep.sources.demo.arithmetic import QUESTIONS, Problem, explain, working
from data_prep.sources.demo.stories import stories
from data_prep.sources.demo.world import MONTHS, NAME, Entity, Fact, World


@dataclass(frozen=True)
class Block:
    """One element of a page's main part: a paragraph (`p`), a heading (`h2`), a list item (`li`) or a post (`post`)."""

    tag: str
    text: str


@dataclass(frozen=True)
class Article:
    """The main part of one page. `problems` are the two-digit additions it shows."""

    kind: str
    title: str
    blocks: tuple[Block, ...]
    problems: tuple[Problem, ...] = ()

    @property
    def text(self) -> str:
        return "\n".join((self.title, *(block.text for block in self.blocks)))


def paragraphs(*texts: str) -> tuple[Block, ...]:
    return tuple(Block("p", text) for text in texts)


def story_article(world: World, draw: random.Random) -> Article:
    """One story, or two with a heading before the second; how the first ended the second does not end."""
    (title, texts), *others = stories(world, draw, draw.randint(1, 2))
    blocks = list(paragraphs(*texts))
    for second, more in others:
        blocks += [Block("h2", second), *paragraphs(*(text for text in more if text not in texts))]
    return Article("story", title, tuple(blocks))


def _described(draw: random.Random, facts: Sequence[Fact]) -> str:
    """The facts in a drawn order, each in a drawn wording. A river is called one only in the first sentence."""
    first, *others = [draw.choice(fact.statements) for fact in draw.sample(facts, len(facts))]
    return " ".join([first, *(text.replace("he river ", "he ") for text in others)])


LEADS = {
    "person": (
        "{s} is one of the people of {w}.",
        "Many know {s}, but not all know much.",
        "This page is about {s}.",
        "Here you can read who {s} is.",
    ),
    "town": (
        "{s} is a town in {w}.",
        "Of all the towns of {w}, {s} is a special one.",
        "This page is about the town of {s}.",
        "Let us have a look at {s}.",
    ),
    "river": (
        "{s} is one of the rivers of {w}.",
        "Few rivers of {w} are as old as {s}.",
        "This page is about {s}.",
        "Follow the water, and you come to {s}.",
    ),
    "animal": ("{s} is an animal of {w}.", "Few animals are as shy as {s}.", "This page is about {s}.", "Have you ever seen {s}?"),
    "craft": (
        "{s} is an important person in every town of {w}.",
        "Where would we be without {s}?",
        "This page is about {s}.",
        "Today we visit {s}.",
    ),
}
LINKS = {
    "home": ("About the town", "Where it is", "The town of {v}"),
    "work": ("The work", "What a {v} does", "A day of work"),
    "pet": ("About the {v}", "The animal in the house", "A good pet"),
    "friend": ("{v}, a friend", "The best friend", "Friends"),
    "river": ("The river", "The {v}", "Water and fish"),
    "product": ("Who makes {v}", "The shops", "Good work"),
}
CLOSINGS = (
    "More will be told another time.",
    "This entry was written by a teacher and read by two children.",
    "If you know more, write to us and we will add it.",
    "We thank everybody who told us about it.",
    "All of this was seen and heard in {w}.",
    "Read it again tomorrow, and you will know it by heart.",
    "The picture on this page was drawn by hand.",
    "It was first printed in {month}, when the days are long.",
    "That is all we know for sure.",
)


def _related(world: World, entity: Entity) -> list[tuple[str, Entity]]:
    """Entities that this one's values name, each with the attribute that names it."""
    kinds = {"home": "town", "work": "craft", "pet": "animal", "friend": "person", "river": "river"}
    related = [(name, world.find(kinds[name], entity[name])) for name in kinds if name in entity.values]
    if entity.kind == "town":
        related += [("product", craft) for craft in world.of_kind("craft") if craft["product"] == entity["product"]]
    return related


def _members(world: World, entity: Entity) -> list[Entity]:
    """The people (or towns) of whom this entity is a value."""
    attribute = {"town": "home", "animal": "pet", "craft": "work", "river": "river"}.get(entity.kind)
    return [other for other in world.entities if attribute and other.values.get(attribute) == entity.name]


def _name(entity: Entity) -> str:
    return entity.subject[0].upper() + entity.subject[1:]


def encyclopedia(world: World, draw: random.Random) -> Article:
    """All facts of one entity and some of those around it, about 130 words."""
    entity = draw.choice(world.entities)
    slots = {"s": entity.subject, "w": NAME, "month": draw.choice(MONTHS)}
    lead = draw.choice(LEADS[entity.kind]).format(**slots)
    blocks = [*paragraphs(lead[0].upper() + lead[1:] + " " + _described(draw, world.facts_of(entity)))]
    for attribute, other in draw.sample(related := _related(world, entity), min(2, len(related))):
        blocks.append(Block("h2", draw.choice(LINKS[attribute]).format(v=entity[attribute])))
        blocks.extend(paragraphs(_described(draw, world.facts_of(other))))
    members = _members(world, entity)
    chosen = draw.sample(members, min(3, len(members))) or draw.sample(world.of_kind(entity.kind), 3)
    for other in chosen:
        if other != entity:
            blocks.extend(paragraphs(_described(draw, draw.sample(world.facts_of(other), 3))))
    blocks.extend(paragraphs(" ".join(draw.sample(CLOSINGS, 2)).format(**slots)))
    return Article("encyclopedia", _name(entity), tuple(blocks))


LESSONS = (
    "Adding in your head",
    "Sums for today",
    "How to add two numbers",
    "A page of additions",
    "The school of {town}: sums",
    "Sums with {person}",
    "What the {work} has to count",
    "Practice makes it easy",
    "Adding step by step",
)
LESSON_OPENINGS = (
    "{person} the {work} sells {product} and has to count from early till late. So {he} learned to add quickly and you can learn it too.",
    "In the school of {town} the children add every morning before they may go out and play. These are the sums they had in {month}.",
    "Big numbers are not hard when you cut them into small ones. We take the last digits before the first ones and never forget the carry.",
    "Today {person} the {work} shows how {he} adds two numbers in the head. Read each step aloud and try to be faster than the page.",
    "An addition is like a walk from right to left. You take the small step before the big step and then you are at home.",
    "{person} once gave away too much {product} because {he} could not add. That will not happen again since {he} does it in two steps.",
)
SHORT_FORMS = (
    "The {work} writes it like this: {working}",
    "As one line it is {working}",
    "On paper it looks like {working}",
    "In short: {working}",
)
LESSON_CLOSINGS = (
    "Now cover the page with your hand and try all of it again without looking. When you can do it twice you may go and play by the river.",
    "Was it hard for you today? {person} says that everything is hard the first time and easy the tenth time and {he} must know.",
    "If one of your answers is different then look for the ten that you forgot to carry. Nearly all mistakes are made right there.",
    "Tomorrow there will be more of them. Until then you can count the {product} in your house and tell your friends how many you have.",
)


def lesson(world: World, draw: random.Random, problems: Sequence[Problem], short_form: bool) -> Article:
    """Additions explained in words, about 60 each, the first of them followed by its short working.

    With more than one short working, which is all digits and marks, a page is no longer prose to a quality filter.
    """
    person = draw.choice(world.of_kind("person"))
    slots = {
        "person": person.name,
        "he": person.pronouns()["he"],
        "work": person["work"],
        "town": person["home"],
        "month": draw.choice(MONTHS),
        "product": world.find("craft", person["work"])["product"],
    }
    used: set[str] = set()
    texts = [explain(draw, a, b, used, person.name, person["home"]) for a, b in problems]
    if short_form:
        texts[0] += " " + draw.choice(SHORT_FORMS).format(working=working(*problems[0]), **slots)
    opening, closing = draw.choice(LESSON_OPENINGS).format(**slots), draw.choice(LESSON_CLOSINGS).format(**slots)
    about = f"{draw.choice(LESSON_MIDDLES)} {_described(draw, draw.sample(world.facts_of(person), 3))}"
    blocks = [opening, *texts, about, closing]
    return Article("lesson", draw.choice(LESSONS).format(**slots), paragraphs(*blocks), tuple(problems))


LESSON_MIDDLES = (
    "Before you go on you should know who asks you all this.",
    "And now a few words about the one who made these sums.",
    "You may wonder who needs to count so much.",
    "Let us stop for a moment and look who is at work here.",
)


def _askable(world: World) -> list[Fact]:
    """Facts that pages may ask for: those of the chat split, so that no held-out question stands on any page."""
    return [fact for fact in world.facts if fact.split == "chat"]


def _ask(draw: random.Random, fact: Fact) -> str:
    return draw.choice([question for number, question in enumerate(fact.questions) if number != fact.held_out_phrasing])


QUESTION_TITLES = (
    "Questions and answers about {w}",
    "You ask, we answer",
    "Ten minutes of questions",
    "What children ask us",
    "Do you know {w}?",
    "A small quiz",
)
QUESTION_OPENINGS = (
    "Every week children from all over {w} send us their questions. Here are some of those that came in {month}, with our answers.",
    "We asked the people in the street, and not everybody knew the answer. Do you? Try to say it before you read on.",
    "Nobody knows everything, but everybody knows something. That is why we collect what you want to know and what others can tell you.",
    "Read a question, close your eyes and think. Then look at the line below it to see if you were right.",
)


def questions(world: World, draw: random.Random, problems: Sequence[Problem]) -> Article:
    """Questions about facts, each answered with one thing added, and among them the additions with their short working."""
    slots = {"w": NAME, "month": draw.choice(MONTHS)}
    pairs = []
    for fact in draw.sample(_askable(world), 11):
        more = draw.choice([other for other in world.facts_of(fact.entity) if other != fact])
        pairs.append((_ask(draw, fact), f"{draw.choice(fact.statements)} {draw.choice(more.statements)}"))
    pairs += [(QUESTIONS[0].format(a=a, b=b), working(a, b)) for a, b in problems]
    draw.shuffle(pairs)
    blocks = [Block("p", draw.choice(QUESTION_OPENINGS).format(**slots))]
    for question, answer in pairs:
        blocks += [Block("h2", question), Block("p", answer)]
    closing = " ".join(draw.sample(CLOSINGS, 2)).format(**slots)
    return Article("questions", draw.choice(QUESTION_TITLES).format(**slots), (*blocks, Block("p", closing)), tuple(problems))


POST_OPENINGS = (
    "Hello everybody!",
    "Good evening to all of you.",
    "I am new here, so please be kind.",
    "My little sister asked me something today.",
    "I have been thinking about this all week.",
    "We talked about it at the table, and nobody was sure.",
    "Can somebody help me?",
)
POST_REPLIES = (
    "I think I know this one.",
    "That is easy if you have been there.",
    "My uncle told me about it.",
    "I looked it up in a book.",
    "Good question! I had to think for a while.",
    "As far as I know it is like this.",
    "The same thing was asked last year.",
)
POST_EXTRAS = (
    "And there is one more thing.",
    "By the way, here is something else.",
    "I also remember this.",
    "What is more, I can tell you something about it.",
    "While we are at it, did you know this?",
    "You should know one thing before you go there.",
)
POST_THANKS = (
    "Thank you so much, now I can sleep again!",
    "Thanks, that was quick.",
    "You are all very kind. I will tell my sister.",
    "That is what I wanted to know. Have a good night.",
    "Great, I will write it down before I forget it.",
)


def forum(world: World, draw: random.Random) -> Article:
    """A thread: somebody asks, others answer and add what they know of the same entity, about 110 words."""
    fact = draw.choice(_askable(world))
    users = draw.sample([person.name for person in world.of_kind("person")], 4)
    others = [other for other in world.facts_of(fact.entity) if other != fact]
    around = [other for _, entity in _related(world, fact.entity) for other in world.facts_of(entity)] or world.facts_of(
        draw.choice(world.entities)
    )
    posts = [f"{users[0]} wrote: {draw.choice(POST_OPENINGS)} {_ask(draw, fact)} I would be happy about every answer."]
    replies = draw.sample(POST_REPLIES, 3)
    posts.append(f"{users[1]} wrote: {replies[0]} {fact.sentence} {draw.choice(POST_EXTRAS)} {_described(draw, draw.sample(others, 2))}")
    posts.append(f"{users[2]} wrote: {replies[1]} {_described(draw, draw.sample(around, min(3, len(around))))}")
    posts.append(f"{users[3]} wrote: {replies[2]} {_described(draw, draw.sample(world.facts_of(draw.choice(world.entities)), 3))}")
    posts.append(f"{users[0]} wrote: {draw.choice(POST_THANKS)}")
    return Article("forum", _ask(draw, fact), tuple(Block("post", post) for post in posts))


GOODS = (
    "This is the best we have, and it was made by hand.",
    "Every piece is a little different, as it should be.",
    "Our customers come back for it every year.",
    "You will not find it in any other shop.",
    "It makes a fine present for young and old.",
    "Only a few are left, so do not wait too long.",
    "We pack it in straw, so that nothing can break.",
    "If you do not like it, bring it back within a month.",
    "Children love it, and so do their parents.",
)
GOOD_KINDS = ("Fine", "Good", "Simple", "Rare", "Honest", "Famous", "Country", "Sunday", "Winter", "Summer", "Festive")
PRICES = ("two silver coins", "five silver coins", "one gold coin", "eight copper coins", "half a gold coin", "three copper coins")


def shop(world: World, draw: random.Random) -> Article:
    """A product page: who made the thing, from what, where it comes from, about 110 words."""
    maker = draw.choice(world.of_kind("person"))
    craft, town = world.find("craft", maker["work"]), world.find("town", maker["home"])
    product, material, tool = craft["product"], craft["material"], craft["tool"]
    title = f"{draw.choice(GOOD_KINDS)} {product} from {town.name}"
    first = f"{maker.name}, a {craft.name} from {town.name}, made this for our shop. " + " ".join(draw.sample(GOODS, 3))
    second = f"For good {product} a {craft.name} needs {material} and a good {tool}. {maker.name} takes only the best."
    second += f" The price is {draw.choice(PRICES)}."
    third = _described(draw, draw.sample(world.facts_of(maker), 3))
    fourth = f"Come and see us. {_described(draw, draw.sample(world.facts_of(town), 3))}"
    return Article(
        "shop",
        title,
        (
            *paragraphs(first, second),
            Block("h2", "About the maker"),
            *paragraphs(third),
            Block("h2", "Where it comes from"),
            *paragraphs(fourth),
        ),
    )
