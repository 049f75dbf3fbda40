"""The words of the embedded suite. Everything here was written for it; nothing is taken from a corpus."""

from __future__ import annotations

FIRST_NAMES = [
    "Anna",
    "Ben",
    "Clara",
    "David",
    "Emma",
    "Felix",
    "Grace",
    "Henry",
    "Ida",
    "Jack",
    "Kate",
    "Leo",
    "Maria",
    "Nick",
    "Olga",
    "Paul",
    "Rosa",
    "Sam",
    "Tina",
    "Victor",
    "Wendy",
    "Hugo",
    "Laura",
    "Oscar",
    "Nina",
    "Peter",
    "Sarah",
    "Tom",
]

PERSONS = [
    "teacher",
    "doctor",
    "farmer",
    "pilot",
    "singer",
    "lawyer",
    "baker",
    "nurse",
    "painter",
    "student",
    "driver",
    "guard",
    "waiter",
    "judge",
    "sailor",
    "writer",
    "tailor",
    "dancer",
    "plumber",
    "butcher",
    "soldier",
    "actor",
    "miner",
    "hunter",
    "banker",
    "clerk",
    "cook",
    "barber",
]

# verb: (past, participle, third person, progressive); all take a person as object
PERSON_VERBS = {
    "call": ("called", "called", "calls", "calling"),
    "help": ("helped", "helped", "helps", "helping"),
    "visit": ("visited", "visited", "visits", "visiting"),
    "follow": ("followed", "followed", "follows", "following"),
    "thank": ("thanked", "thanked", "thanks", "thanking"),
    "see": ("saw", "seen", "sees", "seeing"),
    "choose": ("chose", "chosen", "chooses", "choosing"),
    "beat": ("beat", "beaten", "beats", "beating"),
    "drive": ("drove", "driven", "drives", "driving"),
    "invite": ("invited", "invited", "invites", "inviting"),
    "praise": ("praised", "praised", "praises", "praising"),
    "blame": ("blamed", "blamed", "blames", "blaming"),
    "watch": ("watched", "watched", "watches", "watching"),
    "push": ("pushed", "pushed", "pushes", "pushing"),
    "warn": ("warned", "warned", "warns", "warning"),
    "phone": ("phoned", "phoned", "phones", "phoning"),
    "forgive": ("forgave", "forgiven", "forgives", "forgiving"),
    "draw": ("drew", "drawn", "draws", "drawing"),
    "forget": ("forgot", "forgotten", "forgets", "forgetting"),
    "hide": ("hid", "hidden", "hides", "hiding"),
}

# intransitive: (past, participle, third person)
ACTS = {
    "sleep": ("slept", "slept", "sleeps"),
    "leave": ("left", "left", "leaves"),
    "sing": ("sang", "sung", "sings"),
    "laugh": ("laughed", "laughed", "laughs"),
    "arrive": ("arrived", "arrived", "arrives"),
    "swim": ("swam", "swum", "swims"),
    "run": ("ran", "run", "runs"),
    "smile": ("smiled", "smiled", "smiles"),
    "cough": ("coughed", "coughed", "coughs"),
    "fall": ("fell", "fallen", "falls"),
    "wait": ("waited", "waited", "waits"),
    "win": ("won", "won", "wins"),
    "stumble": ("stumbled", "stumbled", "stumbles"),
    "speak": ("spoke", "spoken", "speaks"),
    "yawn": ("yawned", "yawned", "yawns"),
}

# acts that one can manage, fail or forget to do
WILLED = ["leave", "sing", "swim", "run", "smile", "wait", "win", "speak"]

# hyponym -> hypernym, things that one can buy, see, want
KINDS = {
    "rose": "flower", "tulip": "flower", "daisy": "flower", "lily": "flower",
    "poodle": "dog", "beagle": "dog", "terrier": "dog", "collie": "dog",
    "hammer": "tool", "saw": "tool", "drill": "tool", "wrench": "tool",
    "violin": "instrument", "guitar": "instrument", "flute": "instrument", "piano": "instrument",
    "sparrow": "bird", "parrot": "bird", "eagle": "bird", "owl": "bird",
    "sofa": "piece of furniture", "desk": "piece of furniture", "wardrobe": "piece of furniture",
    "carrot": "vegetable", "onion": "vegetable", "cabbage": "vegetable",
    "salmon": "fish", "trout": "fish", "cod": "fish",
    "truck": "vehicle", "bus": "vehicle", "van": "vehicle",
}  # fmt: skip

THINGS = [
    "book",
    "lamp",
    "coat",
    "letter",
    "ticket",
    "picture",
    "basket",
    "key",
    "watch",
    "map",
    "ring",
    "bottle",
    "chair",
    "knife",
    "radio",
    "camera",
]
CITIES = [
    "Paris",
    "Berlin",
    "Rome",
    "Madrid",
    "Vienna",
    "Oslo",
    "Dublin",
    "Prague",
    "Lisbon",
    "Athens",
    "Warsaw",
    "Boston",
    "Chicago",
    "Toronto",
]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = ["March", "April", "May", "June", "July", "August", "October", "November"]
# what a question word asks for
SLOTS = {
    "where": [f"in {city}" for city in CITIES] + ["at the station", "at the market", "at the harbour", "near the park"],
    "when": [f"on {day}" for day in DAYS] + [f"in {month}" for month in MONTHS] + ["at noon", "at midnight"],
    "how": ["by train", "by bus", "by car", "on foot", "by bike", "by boat", "by taxi"],
    "why": [
        "because it was late", "because it was raining", "because the shop was closed", "because the road was icy",
        "because the rent was low", "because of the noise", "because of the snow", "because of the heat",
    ],
}  # fmt: skip
# base form, past, the questions that it allows
EVENTS = [
    *[(stem, past, ["where", "when", "why"]) for stem, past in [
        ("stop", "stopped"), ("call", "called"), ("wait", "waited"), ("fall", "fell"), ("get lost", "got lost"),
        ("buy a coat", "bought a coat"), ("lose a key", "lost a key"), ("sell the car", "sold the car"),
        ("stay", "stayed"), ("meet Lena", "met Lena"), ("change plans", "changed plans"), ("cry", "cried"),
    ]],
    *[(stem, past, ["when", "how", "why"]) for stem, past in [
        ("leave", "left"), ("come home", "came home"), ("travel", "travelled"), ("return", "returned"),
        ("go to work", "went to work"), ("cross the river", "crossed the river"), ("go shopping", "went shopping"),
        ("visit Lena", "visited Lena"), ("leave the city", "left the city"), ("escape", "escaped"),
    ]],
]  # fmt: skip

NUMBERS = ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "twelve"]
COLOURS = ["red", "blue", "green", "black", "white", "brown", "yellow", "grey", "orange", "pink"]
# base form, past; what one does to people and to things
PERCEIVED = [
    ("see", "saw"), ("find", "found"), ("draw", "drew"), ("forget", "forgot"), ("photograph", "photographed"),
    ("carry", "carried"), ("remember", "remembered"), ("miss", "missed"), ("bring", "brought"),
]  # fmt: skip
TRADED = [
    ("buy", "bought"), ("sell", "sold"), ("lose", "lost"), ("find", "found"), ("bring", "brought"),
    ("order", "ordered"),
    ("paint", "painted"), ("keep", "kept"), ("collect", "collected"), ("need", "needed"),
]  # fmt: skip

# adjective, its comparative, the opposite comparative
SCALES = [
    ("taller", "shorter"), ("older", "younger"), ("faster", "slower"), ("richer", "poorer"), ("stronger", "weaker"),
    ("heavier", "lighter"),
]  # fmt: skip

OPPOSITES = [
    ("big", "small"), ("old", "new"), ("heavy", "light"), ("clean", "dirty"), ("cheap", "expensive"), ("full", "empty"),
    ("dark", "bright"), ("wet", "dry"), ("hot", "cold"), ("thick", "thin"), ("soft", "hard"), ("open", "closed"),
]  # fmt: skip

SYNONYMS = [
    ("began", "started"), ("quit", "stopped"), ("hated", "detested"), ("loved", "adored"),
]  # fmt: skip
ANTONYMS = [("began", "stopped"), ("started", "quit"), ("hated", "adored"), ("loved", "detested")]
PAIRED = (
    "singing",
    "dancing",
    "reading",
    "cooking",
    "painting",
    "running",
    "writing",
    "fishing",
    "swimming",
    "driving",
)

GOOD = [
    "wonderful",
    "charming",
    "brilliant",
    "delightful",
    "gripping",
    "touching",
    "superb",
    "clever",
    "lovely",
    "fresh",
    "funny",
    "elegant",
    "moving",
    "excellent",
    "fascinating",
    "graceful",
    "witty",
    "memorable",
    "impressive",
    "enjoyable",
]
BAD = [
    "boring",
    "awful",
    "clumsy",
    "tedious",
    "dreadful",
    "shallow",
    "stale",
    "ugly",
    "annoying",
    "weak",
    "dull",
    "messy",
    "lifeless",
    "terrible",
    "predictable",
    "painful",
    "bland",
    "sloppy",
    "forgettable",
    "pointless",
]
# a work and what it has
WORKS = {
    "film": ["plot", "cast", "ending", "dialogue", "soundtrack", "opening", "script", "final scene"],
    "novel": ["plot", "ending", "dialogue", "opening", "first half", "last chapter", "style"],
    "play": ["plot", "cast", "ending", "dialogue", "staging", "script", "first act"],
    "opera": ["plot", "cast", "staging", "overture", "first act", "finale", "singing"],
    "concert": ["opening", "programme", "finale", "first half", "second half", "last song"],
    "album": ["opening", "second half", "last song", "artwork", "singing"],
    "exhibition": ["catalogue", "layout", "first room", "selection", "lighting"],
    "show": ["opening", "cast", "script", "finale", "staging", "first half"],
    "series": ["plot", "cast", "ending", "script", "first season", "dialogue"],
    "game": ["plot", "design", "soundtrack", "ending", "first level", "dialogue"],
    "lecture": ["opening", "ending", "second half", "delivery", "structure"],
    "song": ["melody", "chorus", "text", "rhythm", "ending"],
    "story": ["plot", "ending", "dialogue", "opening", "style"],
    "comedy": ["plot", "cast", "dialogue", "script", "ending", "first half"],
    "documentary": ["opening", "ending", "soundtrack", "commentary", "second half"],
}
