"""A small parallel grammar for English, German and Chinese: one meaning, three correct sentences.

German gets case, gender, adjective endings, verb-second inversion and the verb bracket; Chinese gets measure words,
aspect and time-first order.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

# English, German, gender, Chinese, Chinese measure word
PEOPLE = [
    ("man", "Mann", "m", "男人"), ("woman", "Frau", "f", "女人"), ("child", "Kind", "n", "孩子"),
    ("teacher", "Lehrer", "m", "老师"), ("doctor", "Ärztin", "f", "医生"), ("girl", "Mädchen", "n", "女孩"),
    ("boy", "Junge", "m", "男孩"), ("neighbour", "Nachbarin", "f", "邻居"), ("cook", "Koch", "m", "厨师"),
    ("singer", "Sängerin", "f", "歌手"), ("uncle", "Onkel", "m", "叔叔"), ("aunt", "Tante", "f", "阿姨"),
]  # fmt: skip
OBJECTS = [
    ("book", "Buch", "n", "书", "本"), ("letter", "Brief", "m", "信", "封"), ("apple", "Apfel", "m", "苹果", "个"),
    ("lamp", "Lampe", "f", "灯", "盏"), ("car", "Auto", "n", "汽车", "辆"), ("dog", "Hund", "m", "狗", "只"),
    ("picture", "Bild", "n", "画", "幅"), ("bag", "Tasche", "f", "包", "个"), ("table", "Tisch", "m", "桌子", "张"),
    ("cup", "Tasse", "f", "杯子", "个"), ("house", "Haus", "n", "房子", "座"), ("flower", "Blume", "f", "花", "朵"),
    ("bird", "Vogel", "m", "鸟", "只"), ("newspaper", "Zeitung", "f", "报纸", "份"), ("shirt", "Hemd", "n", "衬衫", "件"),
    ("coat", "Mantel", "m", "大衣", "件"),
]  # fmt: skip
# English adjective, German stem, Chinese
ADJECTIVES = [
    ("old", "alt", "旧"), ("new", "neu", "新"), ("small", "klein", "小"), ("big", "groß", "大"), ("red", "rot", "红"),
    ("blue", "blau", "蓝"), ("beautiful", "schön", "漂亮"), ("cheap", "billig", "便宜"), ("black", "schwarz", "黑"),
]  # fmt: skip
# English: base, past, third; German: infinitive, participle, third; Chinese; kinds of object that fit (None = all)
VERBS = [
    ("see", "saw", "sees", "sehen", "gesehen", "sieht", "看见"),
    ("buy", "bought", "buys", "kaufen", "gekauft", "kauft", "买"),
    ("find", "found", "finds", "finden", "gefunden", "findet", "找到"),
    ("sell", "sold", "sells", "verkaufen", "verkauft", "verkauft", "卖"),
    ("paint", "painted", "paints", "malen", "gemalt", "malt", "画"),
    ("need", "needed", "needs", "brauchen", "gebraucht", "braucht", "需要"),
    ("love", "loved", "loves", "lieben", "geliebt", "liebt", "爱"),
    ("bring", "brought", "brings", "bringen", "gebracht", "bringt", "带来"),
    ("look for", "looked for", "looks for", "suchen", "gesucht", "sucht", "找"),
    ("show", "showed", "shows", "zeigen", "gezeigt", "zeigt", "展示"),
]  # fmt: skip
PAST = [("yesterday", "gestern", "昨天"), ("last week", "letzte Woche", "上周"), ("this morning", "heute Morgen", "今天早上")]
NOW = [("today", "heute", "今天"), ("often", "oft", "经常"), ("always", "immer", "总是")]
FUTURE = [("tomorrow", "morgen", "明天"), ("next week", "nächste Woche", "下周"), ("tonight", "heute Abend", "今晚")]

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
    who, thing, verb = rng.choice(PEOPLE), rng.choice(OBJECTS), rng.choice(VERBS)
    adjective = rng.choice(ADJECTIVES) if rng.random() < 0.6 else None
    definite = rng.random() < 0.5
    tense = rng.choice(["past", "now", "future", "negative"])
    time = rng.choice({"past": PAST, "now": NOW, "future": FUTURE, "negative": NOW[:1]}[tense])
    front = rng.random() < 0.4 and time[0] not in ("often", "always")

    en_object, de_object, zh_object = _object(thing, adjective, definite, tense == "negative")
    en_verb = {
        "past": verb[1], "now": verb[2], "future": f"will {verb[0]}", "negative": f"does not {verb[0]}"
    }[tense]  # fmt: skip
    if time[0] in ("often", "always"):
        en = f"the {who[0]} {time[0]} {en_verb} {en_object}"
    else:
        en = f"{time[0]} the {who[0]} {en_verb} {en_object}" if front else f"the {who[0]} {en_verb} {en_object} {time[0]}"

    finite, last = {
        "past": ("hat", verb[4]), "now": (verb[5], ""), "future": ("wird", verb[3]), "negative": (verb[5], "")
    }[tense]  # fmt: skip
    subject = f"{_THE_NOM[who[2]]} {who[1]}"
    middle = f"{finite} {subject} {de_object}" if front else f"{subject} {finite} {time[1]} {de_object}"
    de = " ".join(part for part in (time[1] if front else "", middle, last) if part)
    if tense == "negative" and definite:
        de += " nicht"  # an indefinite object takes kein- instead

    zh_verb = {"past": verb[6] + "了", "now": verb[6], "future": "会" + verb[6], "negative": "不" + verb[6]}[tense]
    if verb[6] == "爱" and tense == "past":
        zh_verb = "爱过"
    if verb[6] == "需要" and tense == "past":
        zh_verb = "需要"
    zh = f"{time[2]}{who[3]}{zh_verb}{zh_object}" if front else f"{who[3]}{time[2]}{zh_verb}{zh_object}"
    return Parallel(en[0].upper() + en[1:] + ".", de[0].upper() + de[1:] + ".", zh + "。")


def _object(
    thing: tuple[str, str, str, str, str], adjective: tuple[str, str, str] | None, definite: bool, negative: bool
) -> tuple[str, str, str]:
    noun, german, gender, chinese, measure = thing
    adj_en = f"{adjective[0]} " if adjective else ""
    first = (adj_en or noun)[0]
    en = f"the {adj_en}{noun}" if definite else f"{'an' if first in 'aeiou' else 'a'} {adj_en}{noun}"
    article = _THE_ACC[gender] if definite else ("k" if negative else "") + _A_ACC[gender]
    # After kein- an adjective in the accusative singular takes the endings that it takes after ein-.
    ending = (_AFTER_THE_ACC if definite else _AFTER_A_ACC)[gender]
    de = f"{article} {adjective[1] + ending + ' ' if adjective else ''}{german}"
    adj_zh = ""
    if adjective:
        adj_zh = adjective[2] if len(adjective[2]) == 1 else adjective[2] + "的"
    count = "那" + measure if definite else "一" + measure
    zh = f"{count}{adj_zh}{chinese}" if definite or not negative else f"{adj_zh}{chinese}"
    return en, de, zh
