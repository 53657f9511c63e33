"""The words by which street addresses are known: types of street, units, and what announces an address."""

# Types of street that follow their name. The weak ones are other words as well.
TYPES = (
    "street|st|avenue|ave|av|boulevard|blvd|road|rd|lane|ln|highway|hwy|parkway|pkwy|crescent|cres|mews|gardens|gdns|turnpike|tpke|"
    "drive|dr|terrace|broadway|esplanade|expressway|grove|quay"
)
WEAK_TYPES = (
    "court|ct|place|pl|square|sq|ter|close|way|row|walk|hill|park|green|circle|cir|trail|trl|plaza|plz|loop|alley|pike|run|path|"
    "parade|wharf|yard|rise|vale|view|center|centre|mall|strand|bay|cove|ridge|point|crossing|heights"
)
FRENCH = "rue|avenue|av\\.|boulevard|bd\\.?|place|quai|allée|allee|chemin|impasse|route|square|passage|faubourg|cours|esplanade|ruelle"
# Types that are the end of the name, or a word behind it.
SUFFIXES = (
    "straße", "strasse", "str.", "str", "gasse", "allee", "chaussee", "damm", "ufer", "weg", "steig", "stieg", "pfad", "promenade", "lände",
    "gürtel", "straat", "laan", "gracht", "kade", "singel", "dijk", "dreef", "steeg", "plein", "baan", "gatan", "vägen", "gränd", "stigen",
    "gata", "gate", "veien", "vegen", "vej", "gade", "stræde", "allé", "bakken", "vangen", "katu", "tie", "kuja", "polku", "vegur",
    "stræti", "braut", "utca", "útja", "körút", "rakpart", "sétány", "ulica", "cesta",
)  # fmt: skip
WEAK_SUFFIXES = (
    "platz", "ring", "markt", "berg", "hof", "kai", "park", "wall", "graben", "brücke", "plads", "plass", "torg", "torv", "trg", "út", "tér",
    "u.", "rkp.", "tee",
)  # fmt: skip
ALONE = frozenset(
    "straße strasse str gasse allee damm ufer weg ring markt platz berg hof kai park wall graben utca útja út tér u rkp rakpart körút "
    "sétány ulica cesta tee gate gata gatan gade vej plads trg torg plein laan".split()
)
# Types that come before the name.
PREFIXES = frozenset(
    "via viale piazza piazzale corso largo vicolo calle c/ avenida avda. avda plaza paseo carrer ronda ctra. carretera rua praça travessa "
    "alameda rodovia estrada ul. ulica al. os. ул. улица пр. проспект пер. наб. jl. jalan calea strada trg plac rue boulevard quai avenue av.".split()
)
SURE_PREFIXES = frozenset("calle c/ avda. rua praça travessa ul. ул. улица jl. jalan ctra. carretera".split())
ROADS = ("bundesstraße", "kreisstraße", "europastraße", "landesstraße", "staatsstraße", "landstraße", "bundesstrasse", "kreisstrasse")
UNITS = "apartment|apt|suite|ste|flat|unit|floor|building|bldg|room|wohnung|whg|appartement|appt|piso|lot"
UNIT_WORDS = frozenset(UNITS.split("|"))
BOX_ENDS = frozenset("box postfach postbus apartado casilla postale aa ae ap".split())
BOXES = r"p\.? ?o\.? ?box|post office box|postfach|postbus|apartado|casilla|boîte postale"
BRITISH_AREAS = (
    "A[BL]|B[ABDHLNRST]?|C[ABFHMORTVW]|D[ADEGHLNTY]|E[CHNX]?|F[KY]|G[LUY]?|H[ADGPRSUX]|I[GMPV]|JE|K[ATWY]|L[ADELNSU]?|M[EKL]?|N[EGNPRW]?|"
    "O[LX]|P[AEHLOR]|R[GHM]|S[AEGKLMNOPRSTWY]?|T[ADFNQRSW]|UB|W[ACDFNRSV]?|YO|ZE"
)
STATES = frozenset(
    "AL AK AZ AR CA CO CT DE FL GA HI ID IL IN IA KS KY LA ME MD MA MI MN MS MO MT NE NV NH NJ NM NY NC ND OH OK OR PA RI SC SD TN TX UT "
    "VT VA WA WV WI WY DC PR VI GU AS MP".split()
)
NAMED = (
    r"address(?:es)?(?: is(?: at)?| to(?: the same)?|:| with|, here they are:)?|anschrift:?|adresse:?|lives? (?:at|in|on)|living (?:at|in)|"
    r"lived (?:at|in)|resid\w+ (?:at|in)|located at|situated at|(?:sent|ship(?:ped)?|deliver(?:ed)?|mail(?:ed)?|taxi|return|moved) to|"
    r"meet (?:me|us) at|office is (?:at|in)"
)
ANNOUNCING = frozenset("is at in on address addresses to with corner are same anschrift adresse same:".split())
POSTCODE_WORDS = frozenset("zip zipcode code is ist plz postleitzahl cep postcode postal".split())
MONTHS = frozenset(
    "january february march april may june july august september october november december januar februar märz mai juni juli oktober "
    "dezember jan feb mar apr jun jul aug sep sept oct nov dec".split()
)
ARTICLES = frozenset("der die das dem den des dieser dieses jeder einer immer unter hinter seiner ihrer the this in am im zum zur".split())
SMALL = frozenset("of the and degli dei delle della dell de la del des du von van der den dos da do di e y st".split())
