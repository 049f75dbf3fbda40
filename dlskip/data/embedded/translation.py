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


class Parallel(NamedTuple):
    """The same in three languages."""

    en: str
    de: str
    zh: str


# sorts: a animal, p print, l letter, c clothes, v vessel, f furniture, w wheels, h house, i picture, b flower
_PEOPLE = [
    Person(*row)
    for row in [
        ("teacher", "Lehrer", "m", "老师"), ("doctor", "Ärztin", "f", "医生"), ("neighbour", "Nachbarin", "f", "邻居"),
        ("cook", "Koch", "m", "厨师"), ("singer", "Sängerin", "f", "歌手"), ("uncle", "Onkel", "m", "叔叔"),
        ("aunt", "Tante", "f", "阿姨"), ("child", "Kind", "n", "孩子"), ("girl", "Mädchen", "n", "女孩"),
        ("boy", "Junge", "m", "男孩"), ("driver", "Fahrer", "m", "司机"), ("student", "Studentin", "f", "学生"),
        ("painter", "Maler", "m", "画家"), ("farmer", "Bauer", "m", "农民"), ("guest", "Gast", "m", "客人"),
    ]
]  # fmt: skip
_THINGS = [
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
_ADJECTIVES = [
    Adjective(*row)
    for row in [
        ("old", "alt", "旧", "plfwicvh"), ("new", "neu", "新", "pfwcvh"), ("small", "klein", "小", "afwicvhb"),
        ("big", "groß", "大", "afwicvhb"), ("red", "rot", "红", "fwcvb"), ("blue", "blau", "蓝", "fwcvb"),
        ("beautiful", "schön", "漂亮的", "afwicvhb"), ("cheap", "billig", "便宜的", "pfwicvhb"),
        ("black", "schwarz", "黑", "afwcv"), ("white", "weiß", "白", "afwcvhb"), ("thick", "dick", "厚", "pl"),
    ]
]  # fmt: skip
_VERBS = [
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
_PAST = [
    Parallel("yesterday", "gestern", "昨天"),
    Parallel("last week", "letzte Woche", "上周"),
    Parallel("this morning", "heute Morgen", "今天早上"),
]
_NOW = [
    Parallel("often", "oft", "经常"),
    Parallel("always", "immer", "总是"),
    Parallel("rarely", "selten", "很少"),
]
_FUTURE = [
    Parallel("tomorrow", "morgen", "明天"),
    Parallel("next week", "nächste Woche", "下周"),
    Parallel("tonight", "heute Abend", "今晚"),
]
_PLACES = [
    Parallel("in the garden", "im Garten", "在花园里"),
    Parallel("at the market", "auf dem Markt", "在市场"),
    Parallel("in the city", "in der Stadt", "在城里"),
    Parallel("at the station", "am Bahnhof", "在火车站"),
    Parallel("in the village", "im Dorf", "在村里"),
    Parallel("at school", "in der Schule", "在学校"),
]

_NOTHING = Parallel("", "", "")

_THE_NOM = {"m": "der", "f": "die", "n": "das"}
_THE_ACC = {"m": "den", "f": "die", "n": "das"}
_A_ACC = {"m": "einen", "f": "eine", "n": "ein"}
_AFTER_THE_ACC = {"m": "en", "f": "e", "n": "e"}
_AFTER_A_ACC = {"m": "en", "f": "e", "n": "es"}


@dataclass(frozen=True)
class Meaning:
    """What is said: who does what to which thing, when and where.

    Args:
        who, verb, thing: Subject, verb, object.
        adjective: Of the thing.
        tense: past, future, negative (a past that did not happen) or now (a habit).
        definite: Whether the thing is known: the book, not a book.
        front: Whether the time stands in front.
        time, place: Empty where the sentence has none.
    """

    who: Person
    verb: Verb
    thing: Thing
    adjective: Adjective | None
    tense: str
    definite: bool
    front: bool
    time: Parallel
    place: Parallel


def parallel(rng: Random) -> Parallel:
    """Draws a meaning and says it in English, German and Chinese."""
    meaning = _meaning(rng)
    return Parallel(_english(meaning), _german(meaning), _chinese(meaning))


def _meaning(rng: Random) -> Meaning:
    who, thing = rng.choice(_PEOPLE), rng.choice(_THINGS)
    verb = rng.choice([v for v in _VERBS if thing.sort in v.sorts])
    tense = rng.choice(["past", "future", "negative", *(["now"] if verb.lasting else [])])
    time = rng.choice({"past": _PAST, "negative": _PAST, "now": _NOW, "future": _FUTURE}[tense])
    fitting = [adjective for adjective in _ADJECTIVES if thing.sort in adjective.sorts]
    # A place never stands beside an adjective, and replaces the time: sentences stay short.
    extra = rng.choice(["adjective", "adjective", "place", "nothing"])
    adjective = rng.choice(fitting) if extra == "adjective" else None
    place = rng.choice(_PLACES) if extra == "place" and thing.sort != "h" and verb.en != "bring" else _NOTHING
    if place.en and tense != "now":
        time = _NOTHING
    definite = tense != "now" and rng.random() < 0.5
    front = tense != "now" and bool(time.en) and rng.random() < 0.4
    return Meaning(who, verb, thing, adjective, tense, definite, front, time, place)


def _english(m: Meaning) -> str:
    noun = f"{m.adjective.en} {m.thing.en}" if m.adjective else m.thing.en
    article = "the" if m.definite else "an" if noun[0] in "aeiou" else "a"
    first, _, rest = m.verb.en.partition(" ")
    third = f"{first}{'es' if first.endswith('sh') else 's'}{' ' + rest if rest else ''}"
    said = {
        "past": m.verb.past, "negative": f"did not {m.verb.en}", "future": f"will {m.verb.en}", "now": third,
    }[m.tense]  # fmt: skip
    time, place = m.time.en, m.place.en
    if m.tense == "now":
        return _sentence(["the", m.who.en, time, said, article, noun, place])
    return _sentence([time if m.front else "", "the", m.who.en, said, article, noun, place, "" if m.front else time])


def _german(m: Meaning) -> str:
    negative = m.tense == "negative"
    # After kein- an adjective in the accusative singular takes the endings that it takes after ein-.
    article = _THE_ACC[m.thing.gender] if m.definite else ("k" if negative else "") + _A_ACC[m.thing.gender]
    ending = (_AFTER_THE_ACC if m.definite else _AFTER_A_ACC)[m.thing.gender]
    adjective = m.adjective.de + ending if m.adjective else ""
    object_ = [article, adjective, m.thing.de]
    finite, last = {
        "past": ("hat", m.verb.participle), "negative": ("hat", m.verb.participle), "future": ("wird", m.verb.de),
        "now": (m.verb.third, ""),
    }[m.tense]  # fmt: skip
    # A definite object stands before the place, an indefinite one after it; `nicht` negates what follows it.
    place = m.place.de
    middle = [*object_, "nicht" if negative else "", place] if m.definite else [place, *object_]
    subject = [_THE_NOM[m.who.gender], m.who.de]
    start = [m.time.de, finite, *subject] if m.front else [*subject, finite, m.time.de]
    return _sentence([*start, *middle, last])


def _chinese(m: Meaning) -> str:
    # A habit and a negated indefinite object have no count: 买旧书, 没买旧书; otherwise 一本 or 那本.
    uncounted = m.tense in ("now", "negative")
    count = f"那{m.thing.measure}" if m.definite else "" if uncounted else f"一{m.thing.measure}"
    verb = m.verb.zh
    said = {"past": f"{verb}了", "negative": f"没{verb}", "future": f"会{verb}", "now": verb}[m.tense]
    start = [m.time.zh, m.who.zh] if m.front else [m.who.zh, m.time.zh]
    # 没 and 会 stand before the place: 没在市场买, 会在市场买.
    place = m.place.zh
    said_there = said[0] + place + said[1:] if m.tense in ("negative", "future") else place + said
    return "".join([*start, said_there, count, m.adjective.zh if m.adjective else "", m.thing.zh, "。"])


def _sentence(words: list[str]) -> str:
    text = " ".join(word for word in words if word)
    return text[0].upper() + text[1:] + "."
