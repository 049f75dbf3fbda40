"""A small parallel grammar for English, German and Chinese: one meaning, three correct sentences.

German gets case, gender, adjective endings, verb-second inversion and the verb bracket; Chinese gets measure words,
aspect, negation by 没 and time-before-place order. Verbs and adjectives only meet the things that they fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import NamedTuple


class Person(NamedTuple):
    """Who acts: English, German with its gender, Chinese."""

    en: str
    de: str
    gender: str
    zh: str


class Thing(NamedTuple):
    """What is acted upon; ``sort`` says which verbs and adjectives fit it."""

    en: str
    de: str
    gender: str
    zh: str
    measure: str
    sort: str


class Adjective(NamedTuple):
    """English, German stem, Chinese (with 的 where it needs it) and the sorts of things that it fits."""

    en: str
    de: str
    zh: str
    sorts: str


class Verb(NamedTuple):
    """English base and past, German infinitive, participle and third person, Chinese, fitting sorts of things.

    ``lasting`` verbs also have a present tense; the others name a moment.
    """

    en: str
    past: str
    de: str
    participle: str
    third: str
    zh: str
    sorts: str
    lasting: bool


# sorts: a animal, p print, l letter, c clothes, v vessel, f furniture, w wheels, h house, i picture, b flower
PEOPLE = [
    Person(*row)
    for row in [
        ("teacher", "Lehrer", "m", "老师"), ("doctor", "Ärztin", "f", "医生"), ("neighbour", "Nachbarin", "f", "邻居"),
        ("cook", "Koch", "m", "厨师"), ("singer", "Sängerin", "f", "歌手"), ("uncle", "Onkel", "m", "叔叔"),
        ("aunt", "Tante", "f", "阿姨"), ("child", "Kind", "n", "孩子"), ("girl", "Mädchen", "n", "女孩"),
        ("boy", "Junge", "m", "男孩"), ("driver", "Fahrer", "m", "司机"), ("student", "Studentin", "f", "学生"),
        ("painter", "Maler", "m", "画家"), ("farmer", "Bauer", "m", "农民"), ("guest", "Gast", "m", "客人"),
    ]
]  # fmt: skip
THINGS = [
    Thing(*row)
    for row in [
        ("book", "Buch", "n", "书", "本", "p"), ("letter", "Brief", "m", "信", "封", "l"),
        ("newspaper", "Zeitung", "f", "报纸", "份", "p"), ("lamp", "Lampe", "f", "灯", "盏", "f"),
        ("table", "Tisch", "m", "桌子", "张", "f"), ("chair", "Stuhl", "m", "椅子", "把", "f"),
        ("car", "Auto", "n", "汽车", "辆", "w"), ("bicycle", "Fahrrad", "n", "自行车", "辆", "w"),
        ("dog", "Hund", "m", "狗", "只", "a"), ("cat", "Katze", "f", "猫", "只", "a"),
        ("bird", "Vogel", "m", "鸟", "只", "a"), ("horse", "Pferd", "n", "马", "匹", "a"),
        ("picture", "Bild", "n", "画", "幅", "i"), ("bag", "Tasche", "f", "提包", "个", "c"),
        ("shirt", "Hemd", "n", "衬衫", "件", "c"), ("coat", "Mantel", "m", "大衣", "件", "c"),
        ("hat", "Hut", "m", "帽子", "顶", "c"), ("cup", "Tasse", "f", "杯子", "个", "v"),
        ("plate", "Teller", "m", "盘子", "个", "v"), ("house", "Haus", "n", "房子", "座", "h"),
        ("flower", "Blume", "f", "花", "朵", "b"),
    ]
]  # fmt: skip
ADJECTIVES = [
    Adjective(*row)
    for row in [
        ("old", "alt", "旧", "plfwicvh"), ("new", "neu", "新", "pfwcvh"), ("small", "klein", "小", "afwicvhb"),
        ("big", "groß", "大", "afwicvhb"), ("red", "rot", "红", "fwcvb"), ("blue", "blau", "蓝", "fwcvb"),
        ("beautiful", "schön", "漂亮的", "afwicvhb"), ("cheap", "billig", "便宜的", "pfwicvhb"),
        ("black", "schwarz", "黑", "afwcv"), ("white", "weiß", "白", "afwcvhb"), ("thick", "dick", "厚", "pl"),
    ]
]  # fmt: skip
VERBS = [
    Verb(*row)
    for row in [
        ("see", "saw", "sehen", "gesehen", "sieht", "看见", "aplfwicvhb", False),
        ("find", "found", "finden", "gefunden", "findet", "找到", "aplfwicvb", False),
        ("buy", "bought", "kaufen", "gekauft", "kauft", "买", "apfwicvhb", True),
        ("sell", "sold", "verkaufen", "verkauft", "verkauft", "卖", "apfwicvhb", True),
        ("look for", "looked for", "suchen", "gesucht", "sucht", "找", "aplfwicvb", True),
        ("paint", "painted", "malen", "gemalt", "malt", "画", "ahb", True),
        ("wash", "washed", "waschen", "gewaschen", "wäscht", "洗", "awcv", True),
        ("read", "read", "lesen", "gelesen", "liest", "看", "pl", True),
        ("lose", "lost", "verlieren", "verloren", "verliert", "弄丢", "aplic", False),
        ("repair", "repaired", "reparieren", "repariert", "repariert", "修", "fwh", True),
        ("bring", "brought", "bringen", "gebracht", "bringt", "带来", "aplficvb", False),
    ]
]  # fmt: skip
# English, German, Chinese
PAST = [
    ("yesterday", "gestern", "昨天"),
    ("last week", "letzte Woche", "上周"),
    ("this morning", "heute Morgen", "今天早上"),
]
NOW = [("often", "oft", "经常"), ("always", "immer", "总是"), ("rarely", "selten", "很少")]
FUTURE = [("tomorrow", "morgen", "明天"), ("next week", "nächste Woche", "下周"), ("tonight", "heute Abend", "今晚")]
PLACES = [
    ("in the garden", "im Garten", "在花园里"), ("at the market", "auf dem Markt", "在市场"),
    ("in the city", "in der Stadt", "在城里"), ("at the station", "am Bahnhof", "在火车站"),
    ("in the village", "im Dorf", "在村里"), ("at school", "in der Schule", "在学校"),
]  # fmt: skip

_THE_NOM = {"m": "der", "f": "die", "n": "das"}
_THE_ACC = {"m": "den", "f": "die", "n": "das"}
_A_ACC = {"m": "einen", "f": "eine", "n": "ein"}
_AFTER_THE_ACC = {"m": "en", "f": "e", "n": "e"}
_AFTER_A_ACC = {"m": "en", "f": "e", "n": "es"}


@dataclass(frozen=True)
class Parallel:
    """One sentence in three languages."""

    en: str
    de: str
    zh: str


def parallel(rng: Random) -> Parallel:
    """Draws a meaning and says it in English, German and Chinese."""
    who, thing = rng.choice(PEOPLE), rng.choice(THINGS)
    verb = rng.choice([v for v in VERBS if thing.sort in v.sorts])
    tense = rng.choice(["past", "future", "negative", *(["now"] if verb.lasting else [])])
    time = rng.choice({"past": PAST, "negative": PAST, "now": NOW, "future": FUTURE}[tense])
    fitting = [adjective for adjective in ADJECTIVES if thing.sort in adjective.sorts]
    # A place never stands beside an adjective, and replaces the time: sentences stay short.
    extra = rng.choice(["adjective", "adjective", "place", "nothing"])
    adjective = rng.choice(fitting) if extra == "adjective" else None
    place = rng.choice(PLACES) if extra == "place" and thing.sort != "h" and verb.en != "bring" else ("", "", "")
    if place[0] and tense != "now":
        time = ("", "", "")
    definite = tense != "now" and rng.random() < 0.5
    front = tense != "now" and bool(time[0]) and rng.random() < 0.4
    return Parallel(
        _english(who, verb, thing, adjective, tense, definite, front, time[0], place[0]),
        _german(who, verb, thing, adjective, tense, definite, front, time[1], place[1]),
        _chinese(who, verb, thing, adjective, tense, definite, front, time[2], place[2]),
    )


def _english(
    who: Person, verb: Verb, thing: Thing, adjective: Adjective | None, tense: str, definite: bool, front: bool,
    time: str, place: str,
) -> str:  # fmt: skip
    noun = f"{adjective.en} {thing.en}" if adjective else thing.en
    article = "the" if definite else "an" if noun[0] in "aeiou" else "a"
    first, _, rest = verb.en.partition(" ")
    third = f"{first}{'es' if first.endswith('sh') else 's'}{' ' + rest if rest else ''}"
    said = {"past": verb.past, "negative": f"did not {verb.en}", "future": f"will {verb.en}", "now": third}[tense]
    if tense == "now":
        words = ["the", who.en, time, said, article, noun, place]
    else:
        words = [time if front else "", "the", who.en, said, article, noun, place, "" if front else time]
    return _sentence(words, ".")


def _german(
    who: Person, verb: Verb, thing: Thing, adjective: Adjective | None, tense: str, definite: bool, front: bool,
    time: str, place: str,
) -> str:  # fmt: skip
    negative = tense == "negative"
    # After kein- an adjective in the accusative singular takes the endings that it takes after ein-.
    article = _THE_ACC[thing.gender] if definite else ("k" if negative else "") + _A_ACC[thing.gender]
    ending = (_AFTER_THE_ACC if definite else _AFTER_A_ACC)[thing.gender]
    adjective_de = adjective.de + ending if adjective else ""
    object_ = [article, adjective_de, thing.de]
    finite, last = {
        "past": ("hat", verb.participle), "negative": ("hat", verb.participle), "future": ("wird", verb.de),
        "now": (verb.third, ""),
    }[tense]  # fmt: skip
    # A definite object stands before the place, an indefinite one after it; `nicht` negates what follows it.
    middle = [*object_, "nicht" if negative else "", place] if definite else [place, *object_]
    subject = [_THE_NOM[who.gender], who.de]
    start = [time, finite, *subject] if front else [*subject, finite, time]
    return _sentence([*start, *middle, last], ".")


def _chinese(
    who: Person, verb: Verb, thing: Thing, adjective: Adjective | None, tense: str, definite: bool, front: bool,
    time: str, place: str,
) -> str:  # fmt: skip
    # A habit and a negated indefinite object have no count: 买旧书, 没买旧书; otherwise 一本 or 那本.
    count = f"那{thing.measure}" if definite else "" if tense in ("now", "negative") else f"一{thing.measure}"
    said = {"past": f"{verb.zh}了", "negative": f"没{verb.zh}", "future": f"会{verb.zh}", "now": verb.zh}[tense]
    start = [time, who.zh] if front else [who.zh, time]
    # 没 and 会 stand before the place: 没在市场买, 会在市场买.
    said_there = said[0] + place + said[1:] if tense in ("negative", "future") else place + said
    return "".join([*start, said_there, count, adjective.zh if adjective else "", thing.zh, "。"])


def _sentence(words: list[str], end: str) -> str:
    text = " ".join(word for word in words if word)
    return text[0].upper() + text[1:] + end
