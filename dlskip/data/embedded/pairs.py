"""The three pair tasks: entailment, paraphrase, answerability.

A generator takes a label and the number of a construction (``kind``). Each construction yields both labels from the
same words in another arrangement, so that neither a constant answer nor a bag of words can tell them apart.
"""

from __future__ import annotations

from random import Random

from dlskip.data.embedded.lexicon import (
    ACTS,
    ANTONYMS,
    CITIES,
    COLOURS,
    DAYS,
    EVENTS,
    KINDS,
    NAMES,
    NUMBERS,
    PAIRED,
    PERCEIVED,
    PERSON_VERBS,
    PERSONS,
    SCALES,
    SLOTS,
    SYNONYMS,
    THINGS,
    TRADED,
    WILLED,
)

Row = dict[str, str]


def two(rng: Random, words: list[str] | tuple[str, ...]) -> tuple[str, str]:
    """Two different words."""
    first, second = rng.sample(list(words), 2)
    return first, second


def a(noun: str) -> str:
    """The noun with its indefinite article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def plural_of(noun: str) -> str:
    """The noun's plural."""
    if noun.endswith("fe"):
        return noun[:-2] + "ves"
    return noun + ("es" if noun.endswith(("ch", "s", "x", "sh")) else "s")


def who(rng: Random) -> tuple[str, str]:
    """Two different people: both by name, or both by trade."""
    if rng.random() < 0.5:
        return two(rng, NAMES)
    x, y = two(rng, PERSONS)
    return f"the {x}", f"the {y}"


def up(text: str) -> str:
    """The sentence with a capital and a full stop."""
    return text[0].upper() + text[1:] + "."


def verb(rng: Random) -> tuple[str, str]:
    """Past and participle of a verb between two people."""
    past, participle, _, _ = rng.choice(list(PERSON_VERBS.values()))
    return past, participle


# (premise, hypothesis) by label; each word stands equally often under both labels, so that none gives the answer away.
_QUANTIFIED = (
    [("all", "none"), ("each", "not all"), ("none", "some"), ("some", "all"), ("not one", "at least one")],
    [("all", "some"), ("each", "all"), ("none", "not all"), ("some", "at least one"), ("not one", "none")],
)
_COORDINATED = (
    [("and", "not"), ("and", "neither"), ("one", "and"), ("or", "one"), ("neither", "or")],
    [("and", "one"), ("and", "dna"), ("one", "or"), ("or", "ro"), ("neither", "not")],
)


def entailment(rng: Random, label: int, kind: int) -> Row:
    """Premise and hypothesis; label 1 = the premise entails the hypothesis."""
    yes = label == 1
    x, y = who(rng)
    past = rng.choice(list(ACTS.values()))[0]
    if kind == 0:  # quantifiers
        first, second = rng.choice(_QUANTIFIED[label])
        noun = rng.choice(PERSONS) + "s"
        p, h = f"{first} of the {noun} {past}", f"{second} of the {noun} {past}"
    elif kind == 1:  # hypernyms, upward and under negation
        low, high = rng.choice(list(KINDS.items()))
        act, base = rng.choice(
            [("bought", "buy"), ("found", "find"), ("saw", "see"), ("drew", "draw"), ("sold", "sell")]
        )
        negative = rng.random() < 0.5
        say = (lambda n: f"{x} did not {base} {a(n)}") if negative else (lambda n: f"{x} {act} {a(n)}")
        p, h = (say(low), say(high)) if yes != negative else (say(high), say(low))
    elif kind == 2:  # coordination
        stem, (past, _, _) = rng.choice(list(ACTS.items()))
        one = rng.choice([x, y])
        say_all = {
            "and": f"{x} and {y} {past}", "dna": f"{y} and {x} {past}", "or": f"{x} or {y} {past}",
            "ro": f"{y} or {x} {past}", "neither": f"neither {x} nor {y} {past}", "one": f"{one} {past}",
            "not": f"{one} did not {stem}",
        }  # fmt: skip
        first, second = rng.choice(_COORDINATED[label])
        p, h = say_all[first], say_all[second]
    elif kind == 3:  # implicatives
        stem, (done, _, _) = rng.choice([(v, ACTS[v]) for v in WILLED])
        holds = rng.random() < 0.5
        p = f"{x} {'managed' if holds else rng.choice(['failed', 'forgot'])} to {stem}"
        h = f"{x} {done}" if holds == yes else f"{x} did not {stem}"
    elif kind == 4:  # truth and falsity
        stem, (done, _, _) = rng.choice(list(ACTS.items()))
        holds = rng.random() < 0.5
        p = f"it is {'true' if holds else 'false'} that {x} {done}"
        h = f"{x} {done}" if holds == yes else f"{x} did not {stem}"
    elif kind == 5:  # roles in the passive
        act, part = verb(rng)
        p = f"{x} {act} {y}"
        h = f"{y} was {part} by {x}" if yes else f"{x} was {part} by {y}"
    else:  # comparatives
        more, less = rng.choice(SCALES)
        if rng.random() < 0.5:
            more, less = less, more
        p = f"{x} is {more} than {y}"
        h = (
            rng.choice([f"{y} is {less} than {x}", f"{y} is not {more} than {x}"])
            if yes
            else rng.choice([f"{x} is {less} than {y}", f"{x} is not {more} than {y}"])
        )
    return {"sentence1": up(p), "sentence2": up(h)}


def paraphrase(rng: Random, label: int, kind: int) -> Row:
    """Two sentences; label 1 = they mean the same."""
    same = label == 1
    x, y = who(rng)
    if kind == 0:
        act, part = verb(rng)
        first, second = f"{x} {act} {y}", f"{y} was {part} by {x}" if same else f"{x} was {part} by {y}"
    elif kind == 1:
        thing = a(rng.choice(THINGS))
        first = f"{x} sold {thing} to {y}"
        second = f"{y} bought {thing} from {x}" if same else f"{x} bought {thing} from {y}"
    elif kind == 2:
        early, late = two(rng, [v[0] for v in ACTS.values()])
        first = f"{x} {early} before {y} {late}"
        second = f"{y} {late} after {x} {early}" if same else f"{x} {early} after {y} {late}"
    elif kind == 3:
        thing, give = a(rng.choice(THINGS)), rng.choice(["gave", "sent", "showed", "lent"])
        first = f"{x} {give} {y} {thing}"
        second = f"{x} {give} {thing} to {y}" if same else f"{y} {give} {thing} to {x}"
    elif kind == 4:
        more, less = rng.choice(SCALES)
        first = f"{x} is {more} than {y}"
        second = f"{y} is {less} than {x}" if same else f"{x} is {less} than {y}"
    else:
        left, right = rng.choice(SYNONYMS if same else ANTONYMS)
        activity = rng.choice(PAIRED)
        when = rng.choice(["last year", "last summer", "on " + rng.choice(DAYS), "in " + rng.choice(CITIES)])
        first, second = f"{x} {left} {activity} {when}", f"{when}, {x} {right} {activity}"
    if rng.random() < 0.5:
        first, second = second, first
    return {"sentence1": up(first), "sentence2": up(second)}


def answerability(rng: Random, label: int, kind: int) -> Row:
    """A question and a sentence; label 1 = the sentence answers the question.

    The kind of answer decides (easy to harder: who or what, how many or what colour, when or where or why), or who
    did it to whom, or which of two people the answer is about (hardest).
    """
    yes = label == 1
    x, y = two(rng, NAMES)
    if kind == 0:  # who or what
        stem, past = rng.choice(PERCEIVED)
        what = rng.random() < 0.5
        question = f"{'what' if what else 'who'} did {x} {stem}?"
        sentence = f"{x} {past} {'the ' + rng.choice(THINGS) if what == yes else y}"
    elif kind == 1:  # how many or what colour
        stem, past = rng.choice(TRADED)
        things = plural_of(rng.choice(THINGS))
        many = rng.random() < 0.5
        question = f"how many {things} did {x} {stem}?" if many else f"what colour were the {things}?"
        sentence = f"{x} {past} {rng.choice(NUMBERS if many == yes else COLOURS)} {things}"
    elif kind in (2, 3, 5):
        stem, past, kinds = rng.choice(EVENTS)
        asked, other = two(rng, kinds)
        told, rest = (asked, other) if yes else (other, asked)
        question = f"{asked} was that?" if kind == 2 and asked != "how" else f"{asked} did {x} {stem}?"
        sentence = f"{x} {past} {rng.choice(SLOTS[told])}"
        if kind == 5:  # the same slots for two people
            also = f"{y} {past} {rng.choice(SLOTS[rest])}"
            sentence = f"{also}, but {sentence}" if told == "why" else f"{sentence}, but {also}"
        elif told != "why" and rng.random() < 0.2:
            sentence = f"{rng.choice(SLOTS[told])}, {x} {past}"
    else:  # who did it to whom
        stem, (past, _, _, _) = rng.choice(list(PERSON_VERBS.items()))
        subject = rng.random() < 0.5
        question = f"who {past} {y}?" if subject else f"who did {y} {stem}?"
        sentence = f"{x} {past} {y}" if yes == subject else f"{y} {past} {x}"
    return {"question": question[0].upper() + question[1:], "sentence": up(sentence)}
