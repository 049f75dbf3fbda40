"""The three pair tasks: entailment, paraphrase, answerability.

Each construction yields both labels from the same words in another arrangement, so that neither a constant answer nor
a bag of words can tell them apart.
"""

from __future__ import annotations

from random import Random

from dlskip.data.embedded.lexicon import (
    ACTS,
    ANTONYMS,
    CITIES,
    DAYS,
    KINDS,
    NAMES,
    PAIRED,
    PERSON_VERBS,
    PERSONS,
    REASONS,
    SCALES,
    SYNONYMS,
    THINGS,
    TOOLS,
)

Row = dict[str, str]


def two(rng: Random, words: list[str] | tuple[str, ...]) -> tuple[str, str]:
    """Two different words."""
    first, second = rng.sample(list(words), 2)
    return first, second


def a(noun: str) -> str:
    """The noun with its indefinite article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


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


def entailment(rng: Random, label: int) -> Row:
    """Premise and hypothesis; label 1 = the premise entails the hypothesis."""
    yes = label == 1
    kind = rng.randrange(7)
    x, y = who(rng)
    past = rng.choice(list(ACTS.values()))[0]
    if kind == 0:  # quantifiers
        noun = rng.choice(PERSONS) + "s"
        strong, weak = f"all the {noun} {past}", f"some of the {noun} {past}"
        p, h = (strong, weak) if yes else (weak, strong)
    elif kind == 1:  # hypernyms, upward and under negation
        low, high = rng.choice(list(KINDS.items()))
        act, base = rng.choice([("bought", "buy"), ("found", "find"), ("saw", "see"), ("drew", "draw"), ("sold", "sell")])
        negative = rng.random() < 0.5
        say = (lambda n: f"{x} did not {base} {a(n)}") if negative else (lambda n: f"{x} {act} {a(n)}")
        p, h = (say(low), say(high)) if yes != negative else (say(high), say(low))
    elif kind == 2:  # coordination
        both, one = f"{x} and {y} {past}", f"{rng.choice([x, y])} {past}"
        either = f"{x} or {y} {past}"
        p, h = rng.choice([(both, one), (one, either)]) if yes else rng.choice([(one, both), (either, one)])
    elif kind == 3:  # implicatives
        stem, (done, _, _) = rng.choice(list(ACTS.items()))
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
        h = rng.choice([f"{y} is {less} than {x}", f"{y} is not {more} than {x}"]) if yes else rng.choice(
            [f"{x} is {less} than {y}", f"{x} is not {more} than {y}"]
        )
    return {"sentence1": up(p), "sentence2": up(h)}


def paraphrase(rng: Random, label: int) -> Row:
    """Two sentences; label 1 = they mean the same."""
    same = label == 1
    kind = rng.randrange(6)
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


def answerability(rng: Random, label: int) -> Row:
    """A question and a sentence; label 1 = the sentence answers the question."""
    yes = label == 1
    x, y = who(rng)
    stem, (past, _, _, _) = rng.choice(list(PERSON_VERBS.items()))
    slots = {
        "where": f"in {rng.choice(CITIES)}", "when": f"on {rng.choice(DAYS)}", "how": rng.choice(TOOLS),
        "why": rng.choice(REASONS),
    }  # fmt: skip
    kind = rng.randrange(3)
    if kind == 0:  # the slot asked for, or another
        asked, other = two(rng, list(slots))
        told = asked if yes else other
        question = f"{asked} did {x} {stem} {y}?"
        front = rng.random() < 0.4 and told != "why"
        sentence = f"{slots[told]}, {x} {past} {y}" if front else f"{x} {past} {y} {slots[told]}"
    elif kind == 1:  # the role asked for, or the other one
        detail = slots[rng.choice(list(slots))]
        question = f"who {past} {y}?" if rng.random() < 0.5 else f"who did {x} {stem}?"
        sentence = f"{x} {past} {y} {detail}" if yes else f"{y} {past} {x} {detail}"
    else:  # two events, one with the slot
        asked, other = two(rng, ["where", "when", "how"])
        z = rng.choice([n for n in NAMES if n not in (x, y)])
        question = f"{asked} did {x} {stem} {y}?"
        told, rest = (asked, other) if yes else (other, asked)
        sentence = f"{x} {past} {y} {slots[told]}, and {z} left {slots[rest]}"
    return {"question": question[0].upper() + question[1:], "sentence": up(sentence)}
