"""The words by which street addresses are known: types of street, units, and what announces an address."""

from __future__ import annotations


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Types of street that follow their name. The weak ones are other words as well, the weakest surnames, too.
TYPES = (
    "street|st|avenue|ave|av|boulevard|blvd|road|rd|lane|ln|highway|hwy|parkway|pkwy|crescent|cres|mews|gardens|gdns|turnpike|tpke|"
    "drive|dr|terrace|broadway|esplanade|expressway|grove|quay"
)
WEAK_TYPES = "court|ct|place|pl|square|sq|ter|circle|cir|trail|trl|plaza|plz|loop|alley|parade|wharf|yard|crossing"
WEAKEST_TYPES = "close|way|row|walk|hill|park|green|pike|run|path|rise|vale|view|center|centre|mall|strand|bay|cove|ridge|point|heights"
FRENCH = "rue|avenue|av\\.|boulevard|bd\\.?|place|quai|allée|allee|chemin|impasse|route|square|passage|faubourg|cours|esplanade|ruelle"
# Types that are the end of the name, or a word behind it. The weak ones end other words as well (Käufer, Brigade, Katie).
SUFFIXES = (
    "straße", "strasse", "str.", "str", "gasse", "allee", "chaussee", "damm", "weg", "straat", "laan", "gracht", "gatan", "vägen",
    "gränd", "veien", "vegen", "vej", "stræde", "allé", "katu", "kuja", "vegur", "stræti", "utca", "útja", "körút", "rakpart",
    "sétány", "ulica",
)  # fmt: skip
WEAK_SUFFIXES = (
    "platz", "ring", "markt", "berg", "hof", "kai", "park", "wall", "graben", "brücke", "ufer", "steig", "stieg", "pfad", "promenade",
    "lände", "gürtel", "kade", "singel", "dijk", "dreef", "steeg", "plein", "baan", "stigen", "gata", "gate", "gade", "bakken", "vangen",
    "tie", "polku", "braut", "cesta", "plads", "plass", "torg", "torv", "trg", "út", "tér", "u.", "rkp.", "tee",
)  # fmt: skip
OTHER_NOUNS = _set(  # that end as a street does
    "ausweg rückweg hinweg umweg heimweg radweg fußweg fussweg gehweg wanderweg radwanderweg rundweg rundwanderweg jakobsweg lösungsweg "
    "rechtsweg seeweg luftweg staudamm sackgasse autobahn bundesstraße kreisstraße europastraße landesstraße staatsstraße landstraße "
    "bundesstrasse kreisstrasse"
)
ALONE = _set(
    "straße strasse str gasse allee damm ufer weg ring markt platz berg hof kai park wall graben utca útja út tér u rkp rakpart körút "
    "sétány ulica cesta tee gate gata gatan gade vej plads trg torg plein laan"
)
# Types that come before the name.
PREFIXES = _set(
    "via viale piazza piazzale corso largo vicolo calle c/ avenida avda. avda plaza paseo carrer ronda ctra. carretera rua praça travessa "
    "alameda rodovia estrada ul. ulica al. os. ул. улица пр. проспект пер. наб. jl. jalan calea strada trg plac rue boulevard quai avenue "
    "av."
)
SURE_PREFIXES = _set("calle c/ avda. rua praça travessa ul. ул. улица jl. jalan ctra. carretera")
UNITS = "apartment|apt|suite|ste|flat|unit|floor|building|bldg|room|wohnung|whg|appartement|appt|piso|lot"
UNITS_ALONE = _set("apartment apt suite ste flat wohnung whg appartement appt piso")  # that make an address of a line
BOX_ENDS = _set("box postfach postbus apartado casilla postale aa ae ap")
BOXES = r"p\.? ?o\.? ?box|post office box|postfach|postbus|apartado|casilla|boîte postale"
BRITISH_AREAS = (
    "A[BL]|B[ABDHLNRST]?|C[ABFHMORTVW]|D[ADEGHLNTY]|E[CHNX]?|F[KY]|G[LUY]?|H[ADGPRSUX]|I[GMPV]|JE|K[ATWY]|L[ADELNSU]?|M[EKL]?|N[EGNPRW]?|"
    "O[LX]|P[AEHLOR]|R[GHM]|S[AEGKLMNOPRSTWY]?|T[ADFNQRSW]|UB|W[ACDFNRSV]?|YO|ZE"
)
STATES = _set(
    "AL AK AZ AR CA CO CT DE FL GA HI ID IL IN IA KS KY LA ME MD MA MI MN MS MO MT NE NV NH NJ NM NY NC ND OH OK OR PA RI SC SD TN TX UT "
    "VT VA WA WV WI WY DC PR VI GU AS MP"
)
NAMED = (
    r"address(?:es)?(?: is(?: at)?| to(?: the same)?|:| with|, here they are:)?|anschrift:?|adresse:?|lives? (?:at|in|on)|living (?:at|in)|"
    r"lived (?:at|in)|resid\w+ (?:at|in)|located at|situated at|(?:sent|ship(?:ped)?|deliver(?:ed)?|mail(?:ed)?|taxi|return|moved) to|"
    r"meet (?:me|us) at|office is (?:at|in)"
)
ANNOUNCING = _set("is at in on address addresses to with corner are same anschrift adresse same:")
POSTCODE_WORDS = _set("zip zipcode code is ist plz postleitzahl cep postcode postal")
MONTHS = _set(
    "january february march april may june july august september october november december januar februar märz mai juni juli oktober "
    "dezember jan feb mar apr jun jul aug sep sept oct nov dec"
)
ARTICLES = _set("der die das dem den des dieser dieses jeder einer immer unter hinter seiner ihrer the this in am im zum zur")
SMALL = _set("of the and degli dei delle della dell de la del des du von van der den dos da do di e y st")
