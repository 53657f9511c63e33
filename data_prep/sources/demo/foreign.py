"""Small texts in other languages, written for the demo so that language identification has something to refuse."""

from __future__ import annotations

import random
from collections.abc import Mapping

# About 20 words a sentence; `{t}` is a town, `{p}` a person. A page draws eight of a language's ten.
SENTENCES: Mapping[str, tuple[str, ...]] = {
    "de": (
        "Die kleine Stadt {t} liegt an einem ruhigen Fluss, und jeden Morgen gehen die Leute über die alte Brücke zum Markt.",
        "Dort verkauft {p} frisches Brot, das schon vor Sonnenaufgang aus dem Ofen kommt und in der ganzen Straße zu riechen ist.",
        "Wenn es im Herbst lange regnet, steigt das Wasser bis an die Mauern, aber niemand hat davor wirklich Angst.",
        "Die Kinder spielen nach der Schule auf der Wiese hinter der Mühle und bauen kleine Schiffe aus Holz und Papier.",
        "Am Abend sitzt man zusammen unter dem großen Baum, erzählt sich Geschichten und trinkt Tee mit Honig.",
        "Früher gab es hier eine Fabrik, heute steht an dieser Stelle ein Garten, den alle gemeinsam pflegen.",
        "Wer den Weg auf den Hügel kennt, der findet oben eine Bank und kann weit über das Land sehen.",
        "Im Winter ist es still, und der Schnee liegt so hoch, dass man die Zäune nicht mehr erkennen kann.",
        "Einmal im Jahr kommt der Zirkus, und dann darf jeder, der möchte, auf dem Esel um den Platz reiten.",
        "{p} sagt immer, dass man nichts vergessen darf, was einem ein Freund im Vertrauen erzählt hat.",
    ),
    "fr": (
        "La petite ville de {t} se trouve au bord d'une rivière tranquille, et chaque matin les gens traversent le vieux pont.",
        "C'est là que {p} vend du pain frais, sorti du four bien avant le lever du soleil, et toute la rue sent bon.",
        "Quand il pleut longtemps en automne, l'eau monte jusqu'aux murs, mais personne n'a vraiment peur.",
        "Après l'école, les enfants jouent dans le pré derrière le moulin et construisent de petits bateaux en bois.",
        "Le soir, on s'assoit ensemble sous le grand arbre, on raconte des histoires et on boit du thé avec du miel.",
        "Autrefois il y avait ici une usine, aujourd'hui on y trouve un jardin que tout le monde entretient.",
        "Celui qui connaît le chemin de la colline y trouve un banc et peut regarder très loin sur le pays.",
        "En hiver tout est calme, et la neige est si haute que l'on ne voit plus les barrières autour des champs.",
        "Une fois par an, le cirque arrive, et chacun peut faire le tour de la place sur le dos de l'âne.",
        "{p} dit toujours qu'il ne faut rien oublier de ce qu'un ami nous a confié un jour.",
    ),
    "es": (
        "La pequeña ciudad de {t} está junto a un río tranquilo, y cada mañana la gente cruza el viejo puente para ir al mercado.",
        "Allí {p} vende pan fresco, que sale del horno mucho antes de la salida del sol y huele en toda la calle.",
        "Cuando llueve mucho en otoño, el agua sube hasta los muros, pero nadie tiene miedo de verdad.",
        "Después de la escuela los niños juegan en el prado detrás del molino y hacen pequeños barcos de madera y papel.",
        "Por la noche todos se sientan juntos bajo el gran árbol, cuentan historias y beben té con miel.",
        "Antes había aquí una fábrica, y hoy hay en el mismo lugar un jardín que todos cuidan con cariño.",
        "Quien conoce el camino de la colina encuentra arriba un banco y puede mirar muy lejos sobre el país.",
        "En invierno todo está en silencio, y la nieve es tan alta que ya no se ven las vallas de los campos.",
        "Una vez al año llega el circo, y entonces cualquiera puede dar una vuelta por la plaza en el burro.",
        "{p} siempre dice que no hay que olvidar nada de lo que un amigo nos ha contado en confianza.",
    ),
    "it": (
        "La piccola città di {t} si trova vicino a un fiume tranquillo, e ogni mattina la gente attraversa il vecchio ponte.",
        "Lì {p} vende il pane fresco, che esce dal forno molto prima dell'alba e si sente in tutta la strada.",
        "Quando in autunno piove a lungo, l'acqua sale fino ai muri, ma nessuno ha davvero paura.",
        "Dopo la scuola i bambini giocano nel prato dietro il mulino e costruiscono piccole barche di legno e di carta.",
        "La sera ci si siede insieme sotto il grande albero, si raccontano delle storie e si beve il tè con il miele.",
        "Una volta qui c'era una fabbrica, oggi nello stesso posto c'è un giardino di cui tutti si prendono cura.",
        "Chi conosce la strada della collina trova in cima una panchina e può guardare molto lontano.",
        "D'inverno tutto è silenzioso, e la neve è così alta che non si vedono più i recinti dei campi.",
        "Una volta all'anno arriva il circo, e allora chiunque può fare il giro della piazza sull'asino.",
        "{p} dice sempre che non bisogna dimenticare niente di quello che un amico ci ha raccontato.",
    ),
    "nl": (
        "Het kleine stadje {t} ligt aan een rustige rivier, en elke ochtend lopen de mensen over de oude brug naar de markt.",
        "Daar verkoopt {p} vers brood, dat al lang voor zonsopgang uit de oven komt en in de hele straat te ruiken is.",
        "Als het in de herfst lang regent, stijgt het water tot aan de muren, maar niemand is daar echt bang voor.",
        "Na school spelen de kinderen op het veld achter de molen en bouwen zij kleine boten van hout en papier.",
        "In de avond zit men samen onder de grote boom, vertelt men verhalen en drinkt men thee met honing.",
        "Vroeger stond hier een fabriek, nu ligt op dezelfde plaats een tuin die door iedereen wordt verzorgd.",
        "Wie de weg naar de heuvel kent, vindt daar een bank en kan heel ver over het land kijken.",
        "In de winter is het stil, en de sneeuw ligt zo hoog dat je de hekken rond de velden niet meer ziet.",
        "Een keer per jaar komt het circus, en dan mag iedereen die dat wil op de ezel over het plein rijden.",
        "{p} zegt altijd dat je niets mag vergeten van wat een vriend je in vertrouwen heeft verteld.",
    ),
    "pt": (
        "A pequena cidade de {t} fica perto de um rio tranquilo, e todas as manhãs as pessoas atravessam a velha ponte.",
        "É lá que {p} vende pão fresco, que sai do forno muito antes do nascer do sol e cheira bem em toda a rua.",
        "Quando chove muito no outono, a água sobe até aos muros, mas ninguém tem medo de verdade.",
        "Depois da escola as crianças brincam no campo atrás do moinho e fazem pequenos barcos de madeira e de papel.",
        "À noite todos se sentam juntos debaixo da grande árvore, contam histórias e bebem chá com mel.",
        "Antigamente havia aqui uma fábrica, hoje existe no mesmo lugar um jardim de que todos cuidam.",
        "Quem conhece o caminho da colina encontra lá em cima um banco e pode olhar para muito longe.",
        "No inverno tudo está em silêncio, e a neve é tão alta que já não se veem as cercas dos campos.",
        "Uma vez por ano chega o circo, e então qualquer pessoa pode dar uma volta pela praça no burro.",
        "{p} diz sempre que não se deve esquecer nada daquilo que um amigo nos contou em segredo.",
    ),
}  # fmt: skip


def foreign_paragraphs(draw: random.Random, language: str, town: str, person: str) -> list[str]:
    """Four paragraphs of two sentences each, about 150 words."""
    sentences = [sentence.format(t=town, p=person) for sentence in draw.sample(SENTENCES[language], 8)]
    return [" ".join(sentences[start : start + 2]) for start in range(0, 8, 2)]
