"""Short children's stories of the invented world: plots as lists of beats, each beat told in one of several ways."""

from __future__ import annotations

import random
from collections.abc import Sequence

from data_prep.sources.demo.world import FOODS, World

Beat = tuple[str, ...]  # ways to tell one beat; the slots are those of `_slots`

OPENINGS: tuple[Beat, ...] = (
    (
        "{hero} was a {work} who lived in {town}, a little town on the river {river}.",
        "In {town}, not far from the river {river}, there lived a {work} called {hero}.",
        "Once there was a {work} in {town}, and the name of this {work} was {hero}.",
        "Everybody in {town} knew {hero}, the {work} with the {coat} coat.",
        "Behind the {gate} gate of {town} stood the house of {hero}, who was a {work}.",
    ),
    (
        "{He} had a {pet} called {petname}, and the two of them were never apart.",
        "{His} {pet}, whose name was {petname}, slept at the foot of {his} bed.",
        "With {him} lived {petname}, a {petcolour} {pet} that was always hungry.",
        "{He} shared {his} bread with {petname}, a {pet} with {petcolour} fur.",
        "When {he} worked, {petname} the {pet} lay beside {him} and looked at everything.",
    ),
    (
        "It was a {weather} day in {month}.", "One {weather} morning {hero} woke up early.", "The night had been long, and the morning was {weather}.",
        "In {month} the days were {weather}, and nobody wanted to stay at home.", "That week the sky over {town} was {weather}.",
        "On a {weather} day, just before the fair, something happened.",
    ),
)  # fmt: skip

ENDINGS: tuple[Beat, ...] = (
    (
        "That evening they ate {food} together and told each other the whole story again.",
        "At night there was {food} for everyone, and {petname} got the biggest piece.",
        "{hero} put {food} on the table, and {friend} brought something to drink.",
        "They sat under the old {tree} tree until the stars came out.",
        "When the moon rose over the river {river}, they were still laughing.",
    ),
    (
        "\"{moral},\" said {hero}, and {friend} agreed.", "And {hero} never forgot that {lowmoral}.", "From then on everyone in {town} knew that {lowmoral}.",
        "\"You see,\" said {friend}, \"{lowmoral}.\"", "{petname} did not say anything, but {petname} knew that {lowmoral}.",
    ),
    (
        "Then {he} blew out the candle and slept well.", "And so the day came to a good end.", "{petname} was already asleep.",
        "If you come to {town}, ask for {hero}, and you will hear it too.", "The next day {he} went back to work with a song.", "And that was that.",
    ),
)  # fmt: skip

PLOTS: dict[str, tuple[Beat, ...]] = {
    "The Lost {Thing}": (
        ("{hero} looked for {his} {thing}, but it was gone.", "When {hero} wanted to take {his} {thing}, it was not there.", "\"Where is my {thing}?\" cried {hero}."),
        ("{He} looked under the bed and behind the door.", "{He} turned every box upside down and found only dust.", "{He} searched the whole house, from the floor to the roof."),
        ("\"Have you seen my {thing}?\" {he} asked {friend}.", "Then {he} ran to {friend} and asked for help.", "{friend} came by and saw how sad {he} was."),
        ("\"No,\" said {friend}, \"but two can look better than one.\"", "\"I have not seen it,\" {friend} answered, \"so let us go and look.\"", "\"Do not cry,\" said {friend}. \"Things do not walk away alone.\""),
        ("They went down to the river and asked the people on the bridge.", "Together they walked along the {river} and looked between the stones.", "They asked the {otherwork} at the corner, but the {otherwork} only shook a tired head."),
        ("Nobody knew anything.", "It began to get dark.", "They were about to give up.", "Their feet were wet and their hands were cold."),
        ("Then {petname} made a {sound} sound and ran ahead.", "Suddenly {petname} stopped and began to dig.", "But {petname} had smelled something and pulled at the {coat} coat."),
        ("There, {den}, lay the {thing}.", "And what was that {den}? It was the {thing}!", "The {thing} was {den}, a bit dirty but not broken."),
        ("A {animal} had taken it to make a warm bed for its little ones.", "A hungry {animal} had dragged it there, because it smelled of {food}.", "The wind must have carried it there in the night."),
        ("{hero} laughed and gave {petname} a kiss on the nose.", "\"Well done, {petname}!\" called {friend}.", "{hero} was so happy that {he} danced in the street."),
    ),
    "{Hero} and the Hungry {Animal}": (
        ("On the way home {hero} heard a {asound} cry.", "Near the bridge {hero} saw two small eyes in the grass.", "Something moved {aden}, and {hero} stood still."),
        ("It was a young {animal}, thin and wet.", "A little {animal} sat there and shook with cold.", "There was a {animal} with {acolour} fur, and it could hardly stand."),
        ("\"You must be hungry,\" said {hero}.", "\"Where is your mother?\" asked {hero} in a quiet voice.", "{hero} bent down slowly, so that it would not be afraid."),
        ("First {he} gave it some {food}, but it did not want any.", "{He} had only {food} with {him}, and the {animal} turned away from it.", "It smelled at the {food} and shut its mouth."),
        ("Then {friend} came along the path.", "\"Let me see,\" said {friend}, who knew all about animals.", "{He} called {friend}, who had read many books on animals."),
        ("\"A {animal} eats {afood},\" {friend} said, \"everyone knows that.\"", "\"Of course,\" said {friend}. \"It wants {afood} and nothing else.\"", "{friend} smiled and said: \"Try {afood}.\""),
        ("So they looked for {afood} until they had a full basket.", "They ran to the field behind the {gate} gate and found plenty of {afood}.", "It took them an hour to find enough {afood}."),
        ("The {animal} ate and ate and then fell asleep.", "In no time all of it was gone, and the {animal} looked up for more.", "It ate out of {his} hand, and its nose was soft and warm."),
        ("At first {petname} was jealous and sat in a corner.", "{petname} walked around the guest three times and then lay down next to it.", "{petname} wanted to play at once, but the guest was too tired."),
        ("After a week it was strong enough to go home.", "When it was well again, they brought it back to its place {aden}.", "Soon it could run, and one morning it was gone."),
        ("But every {month} it comes back to say hello.", "Sometimes, at night, {hero} hears its {asound} call and waves from the window.", "A few days later there was a small present at the door: one very fine feather."),
    ),
    "The Night of the High Water": (
        ("It had rained for six days, and the river {river} grew and grew.", "The rain did not stop, and the {river} came over its banks.", "All night the water of the {river} rose."),
        ("\"The bridge will not hold,\" said the people of {town}.", "Soon the water stood at the {gate} gate of {town}.", "The children of {town} counted the steps that were still dry."),
        ("{hero} rang the bell until everyone was awake.", "{hero} ran from house to house and knocked at the doors.", "\"Wake up!\" shouted {hero}. \"The river is coming!\""),
        ("{friend} brought ropes and a lamp.", "{friend} was there at once with a long rope.", "The first who came was {friend}, still in a night shirt."),
        ("The {otherwork} gave everything that was in the shop.", "Even the old {otherwork} came and carried sacks of sand.", "A {otherwork} had the best plan: to build a wall of sand."),
        ("They worked side by side, and nobody asked who was rich or poor.", "One filled the sacks, one tied them up, and one carried them away.", "Hand after hand passed the sacks along, all through the night."),
        ("Then they heard a {sound} cry from the water.", "Suddenly {hero} saw that {petname} was missing.", "\"Look!\" cried {friend}. \"There is {petname}, on the roof of the mill!\""),
        ("{hero} tied the rope around {himself} and swam.", "In a small boat {hero} went out, and {friend} held the rope.", "Without a word {hero} jumped into a boat."),
        ("The waves were high, but {he} did not look back.", "The boat turned like a leaf, yet {he} held on.", "{His} coat was heavy with water, and {his} arms hurt."),
        ("At last {he} had {petname} in {his} arms.", "{petname} jumped right onto {his} shoulder.", "They came back wet and cold, but both of them were safe."),
        ("In the morning the rain stopped, and the wall had held.", "When the sun came up, the water began to fall.", "By noon the river was back in its bed, and not one house was lost."),
    ),
    "A Prize at the Fair of {Town}": (
        ("Every {fair} there was a fair in {town}, and the best {work} won a {thing}.", "The fair of {town} was only three days away.", "\"This time I will win the prize at the fair,\" said {hero}."),
        ("{hero} wanted to make the finest {product} that anyone had seen.", "So {he} took {his} {tool} and began to make {product}.", "For {product} a {work} needs {material}, and {hero} had the best."),
        ("{He} worked from morning till night.", "The light in {his} window burned very late.", "{He} forgot to eat, and {he} forgot to sleep."),
        ("But then the {tool} broke.", "On the second day there was no {material} left.", "Then {petname} jumped on the table, and everything fell down."),
        ("\"Now it is all over,\" said {hero} and sat on the floor.", "{hero} was so angry that {he} wanted to throw it all into the river.", "{He} put {his} head in {his} hands."),
        ("{friend} heard about it and came with a basket.", "There was a knock at the door. It was {friend}.", "\"What a face!\" said {friend}, who stood in the door."),
        ("In the basket there was {food} and everything that {he} needed.", "\"First we eat some {food},\" {friend} said, \"and then we begin again.\"", "{friend} had walked all the way to {othertown} to get help."),
        ("They worked together, and it went twice as fast.", "{friend} held the lamp, and {hero} did the work.", "This time {he} was slow and careful."),
        ("At the fair the people stood around their table.", "When the day came, everyone wanted to see what they had made.", "The mayor of {town} looked at it for a long time and said nothing."),
        ("A {otherwork} from {othertown} won the first prize.", "\"The second prize goes to {hero}!\" called the mayor.", "And really, {hero} won the prize."),
        ("But {hero} was not sad, for {he} had learned something.", "{hero} gave half of it to {friend}.", "\"We won it together,\" said {hero} and held up the hand of {friend}."),
    ),
    "How {Hero} and {Friend} Made Peace": (
        ("{hero} and {friend} had been friends since they were small.", "Nobody had ever seen {hero} without {friend}.", "{hero} and {friend} did everything together."),
        ("But one day both of them wanted the same {thing}.", "Then they found a {thing} in the grass, and each wanted to keep it.", "It began with a {thing} that stood in a shop in {othertown}."),
        ("\"I saw it first!\" said {hero}.", "\"It is mine,\" {hero} said in a loud voice.", "{hero} pulled on one side."),
        ("\"No, I did!\" cried {friend}.", "\"You always want everything,\" {friend} answered.", "{friend} pulled on the other, and neither let go."),
        ("So they parted, and each went home alone.", "They turned around and did not speak for a whole week.", "That was the end of it, or so it seemed."),
        ("{hero} ate {food}, but it did not taste good.", "In the evening {hero} sat at the window and looked at the {river}.", "The house was quiet, and the {thing} stood on the table like a stone."),
        ("{petname} looked at the door and waited.", "Even {petname} would not play.", "\"What is it, {petname}?\" {he} asked. \"You miss someone too, don't you?\""),
        ("At last {he} took the {thing} and went out into the rain.", "The next morning {he} put on the {coat} coat and took the {thing} along.", "{He} could not sleep, so {he} got up and walked through {town} in the dark."),
        ("Half way, at the {tree} tree in the square, {he} met {friend}.", "On the bridge someone came the other way. It was {friend}.", "And who stood before the {gate} gate? {friend}, with red eyes."),
        ("\"I was just coming to you,\" they both said at once.", "\"I am sorry,\" said one. \"So am I,\" said the other.", "For a moment no one knew what to say. Then they had to laugh."),
        ("They gave the {thing} to a child who had none.", "Now the {thing} stands one week here and one week there.", "They used the {thing} together, and it was twice as much fun."),
    ),
    "The Light on {Hill}": (
        ("For three nights there had been a light on {Hill}.", "\"Look, a light!\" said {friend} and pointed at {hill}.", "From {his} window {hero} saw a small light high up on {hill}."),
        ("The old people said that nobody lived there.", "Some said it was a star, some said it was a ghost.", "In {town} they spoke of nothing else."),
        ("{hero} was a little afraid of the dark.", "{hero} did not believe in ghosts, at least not by day.", "\"I want to know what it is,\" said {hero}."),
        ("So {he} packed some {food} and a warm blanket.", "{He} took a lamp, a stick and a piece of {food}.", "\"If you go, I go too,\" {friend} said, and they set out."),
        ("{petname} went first, with its nose on the ground.", "The path went up and up, along the young river.", "They passed the spring, where the water is so cold that it hurts."),
        ("It was so dark that they held hands.", "Something cracked in the wood, and they stood still.", "A {animal} called with its {asound} voice, and {friend} jumped."),
        ("Then they saw a little house between the trees.", "At the top there was a hut with one window.", "Behind the last stone they found a tent, and in it the light."),
        ("An old {otherwork} opened the door.", "At a table sat an old man, a {otherwork}, and he was writing.", "\"Come in,\" said a voice. It was the {otherwork} from {othertown}, who had been away so long."),
        ("\"I lost my way in the snow and hurt my foot,\" the old man said.", "\"I put the lamp in the window every night,\" he said, \"and I hoped that someone would come.\"", "\"I count the stars,\" the old man told them, \"but I have nobody to tell the number.\""),
        ("They gave him the {food} and made a fire.", "{hero} put the blanket around him, and {petname} lay down on his feet.", "They stayed until morning and listened to his stories."),
        ("The next day they brought him down to {town}.", "Since then someone from {town} visits him every week.", "Now there is always a light on {hill}, and everyone knows why."),
    ),
    "{Hero} Learns a New Craft": (
        ("{hero} was tired of always doing the same work.", "One day {hero} saw the {otherwork} at work and could not look away.", "\"I would like to make {otherproduct},\" said {hero}."),
        ("{He} went to the best {otherwork} in {othertown}.", "In {othertown} there was a {otherwork} who took in anyone who wanted to learn.", "{friend} knew a {otherwork} in {othertown} and wrote a letter."),
        ("\"First you must clean the shop,\" the {otherwork} said.", "\"Take the {othertool},\" said the {otherwork}, \"and show me your hands.\"", "The {otherwork} gave {him} the {othertool} and went to have breakfast."),
        ("That was harder than it looked.", "{hero} had thought it would be easy.", "The first try was so bad that {petname} hid under the table."),
        ("Everything {he} made was crooked.", "After an hour there was {othermaterial} all over the floor.", "{His} fingers hurt, and {his} back did too."),
        ("\"Again,\" said the {otherwork}.", "\"Good,\" the {otherwork} said. \"Now you know how not to do it.\"", "The {otherwork} laughed, but it was a friendly laugh."),
        ("On the second day it went a little better.", "So {he} tried once more, and more slowly.", "{He} did it ten times, and then ten times more."),
        ("In the evenings {he} wrote to {friend} about it.", "{friend} came to visit and brought {food}.", "At night {he} dreamed of {othermaterial}."),
        ("After a month {he} made something that was really good.", "Then, one morning, everything went right.", "In {month} the {otherwork} looked at {his} work and nodded."),
        ("\"Now I can teach you nothing more,\" said the {otherwork}.", "\"Keep the {othertool},\" the {otherwork} said. \"It is yours.\"", "The {otherwork} put it in the window for all to see."),
        ("{hero} went home and was a {work} again, but a happier one.", "{He} gave the first good piece to {friend}.", "Since then {he} is a {work} on some days and a {otherwork} on the others."),
    ),
    "The Boat That Went to {Water}": (
        ("{hero} and {friend} had built a little boat.", "In the reeds {hero} found an old boat with a hole in it.", "For {his} birthday {hero} got a boat that was painted {coat}."),
        ("They wanted to know where the river {river} ends.", "\"Where does all this water go?\" asked {friend}.", "{friend} said that every river ends somewhere, and that one should go and see."),
        ("They took {food}, a map and dry socks.", "{petname} sat in front like a captain.", "At the {gate} gate of {town} their neighbours waved."),
        ("The first day was easy, and the water was smooth.", "The river carried them past fields and mills.", "Fat {fish} swam under the boat."),
        ("In the evening they tied the boat to a tall {tree} tree.", "They slept {den} and heard the wind.", "At night it was cold, and they were glad that {petname} was so warm."),
        ("On the second day the river went faster.", "Then there were rocks, and the water was white.", "After a bend they heard a noise like thunder."),
        ("\"Hold on!\" shouted {friend}.", "\"Left! No, right!\" cried {hero}.", "{hero} pushed the boat away from the stones with a stick."),
        ("A wave took the map and the socks.", "The boat hit a stone and began to fill with water.", "They turned in a circle three times."),
        ("A {otherwork} from {othertown} saw them and threw a rope.", "{petname} swam to the bank with the rope and ran around a tree.", "They used their hats to throw the water out."),
        ("And then it was quiet, and before them lay {water}.", "At last the banks drew back, and there was {water}.", "Behind the next hill they saw it: {water}, as wide as the sky."),
        ("\"So this is where it goes,\" said {hero}.", "{friend} filled a bottle with the water to show it at home.", "They sat there a long time and did not say a word."),
    ),
    "A Letter for {Friend}": (
        ("One day {hero} found a letter in the street.", "The wind blew a letter through the window of {hero}.", "In the old {tree} tree in the square of {town}, {hero} saw something white. It was a letter."),
        ("It was wet, and only one word could be read: {friend}.", "On it stood the name of {friend}, and nothing more.", "\"For {friend}\" was written on it in blue ink."),
        ("But {friend} had gone to {othertown} that very morning.", "\"I must bring it to {friend},\" said {hero}, \"it may be important.\"", "{friend} was working in {othertown} that week, so {he} set out on foot."),
        ("It was a long way, over the bridge and through the wood.", "The road to {othertown} is long and full of stones.", "{petname} was happy, for there was a lot to smell on the way."),
        ("At the bridge sat a {animal} and would not let them pass.", "A {animal} with {acolour} fur followed them for a mile.", "In the wood they met a {animal}, which looked at the letter with big eyes."),
        ("{hero} gave it some {afood}, and it went away content.", "It only wanted {afood}, like all of its kind.", "Luckily there was {afood} by the road."),
        ("Then it began to rain, and {he} put the letter under {his} coat.", "When it grew dark, a {otherwork} let them sleep in the shop.", "{His} shoes were full of water, but the letter stayed dry."),
        ("In {othertown} {he} asked at every door.", "\"{friend}? Try the next street,\" said a {otherwork}.", "Nobody had seen {friend}, and {hero} was very tired."),
        ("At last {he} found {friend} by the well.", "Then someone called {his} name. It was {friend}.", "{friend} was sitting on a wall and eating {food}."),
        ("{friend} opened the letter, read it, and laughed out loud.", "{friend} read the letter twice and turned red.", "With careful hands {friend} opened it."),
        ("It was from {hero}, who had written it last year and lost it.", "\"But this is from you!\" said {friend}. \"You wrote it when we were small.\"", "\"Come to my birthday,\" it said, \"and bring {hero}.\" The birthday was today!"),
    ),
}  # fmt: skip

THINGS = ("kite", "lantern", "basket", "whistle", "hat", "drum", "spoon", "ladder", "bell", "scarf", "mirror", "cup")
WEATHERS = ("sunny", "windy", "rainy", "cold", "warm", "foggy", "grey", "bright", "quiet", "stormy")
MORALS = (
    "Two can do more than one", "A friend is worth more than a prize", "One should never give up too soon", "Good things take time",
    "It is better to ask than to cry", "Small friends can be a great help", "What you share grows bigger", "A kind word costs nothing",
    "Even a long way begins with one step", "You only learn by trying",
)  # fmt: skip


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
        "hero": hero.name, "Hero": hero.name, "himself": "herself" if hero.female else "himself", "work": hero["work"], "coat": hero["coat"],
        "petname": hero["pet name"], "pet": hero["pet"], "petcolour": pet["colour"], "sound": pet["sound"], "den": pet["den"],
        "friend": friend.name, "Friend": friend.name, "food": draw.choice((hero["food"], draw.choice(FOODS))),
        "town": town.name, "Town": town.name, "gate": town["gate"], "tree": town["tree"], "fair": town["fair"], "month": town["fair"],
        "river": river.name, "hill": river["hill"], "Hill": river["hill"], "fish": river["fish"], "water": river["end"], "Water": river["end"],
        "product": work["product"], "material": work["material"], "tool": work["tool"],
        "animal": animal.name, "Animal": animal.name.title(), "acolour": animal["colour"], "afood": animal["food"], "aden": animal["den"],
        "asound": animal["sound"], "otherwork": other.name, "otherproduct": other["product"], "othermaterial": other["material"],
        "othertool": other["tool"], "othertown": other_town.name, "weather": draw.choice(WEATHERS), "thing": thing, "Thing": thing.title(),
        "moral": moral, "lowmoral": moral[0].lower() + moral[1:],
    }  # fmt: skip


def stories(world: World, draw: random.Random, number: int) -> list[tuple[str, list[str]]]:
    """Title and paragraphs of `number` stories with different plots, each about 180 words."""
    told = []
    for title in draw.sample(list(PLOTS), number):
        slots = _slots(world, draw)
        beats = (*OPENINGS, *PLOTS[title], *ENDINGS)
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
