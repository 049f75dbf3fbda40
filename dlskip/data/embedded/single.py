"""The two single-sentence tasks: acceptability and sentiment."""

from __future__ import annotations

from random import Random

from dlskip.data.embedded.lexicon import (
    BAD,
    CITIES,
    DAYS,
    GOOD,
    NAMES,
    PERSON_VERBS,
    PERSONS,
    THINGS,
    WORKS,
)
from dlskip.data.embedded.pairs import Row, a, plural_of, two, up

_PLACES = ["the kitchen", "the garden", "the cellar", "the hall", "the car", "the box", "the drawer"]
# without "beat", whose past is its base form
_PRESENT = [(stem, third) for stem, (past, _, third, _) in PERSON_VERBS.items() if past != stem]
_INTRANSITIVE = ["slept", "laughed", "arrived", "smiled", "coughed", "fell", "yawned", "stumbled", "sneezed"]


def acceptability(rng: Random, label: int, kind: int) -> Row:
    """A sentence; label 1 = acceptable. Both labels use the same words: only their fit differs."""
    good = label == 1
    x, y = two(rng, PERSONS)
    name = rng.choice(NAMES)
    when = rng.choice(["", f" on {rng.choice(DAYS)}", f" in {rng.choice(CITIES)}", " yesterday"])
    thing = rng.choice(THINGS)
    if kind == 0:  # agreement across a phrase
        plural = rng.random() < 0.5
        head, inner = (f"{x}s", y) if plural else (x, f"{y}s")
        link = rng.choice(["behind", "near", "next to", "beside", "in front of"])
        be = "are" if plural == good else "is"
        text = f"the {head} {link} the {inner} {be} {rng.choice(['tired', 'happy', 'late', 'hungry', 'busy', 'angry'])}"
    elif kind == 1:  # word order
        past = rng.choice(list(PERSON_VERBS.values()))[0]
        words = f"the {x} {past} the {y}{when}".split()
        if not good:
            i = rng.randrange(min(4, len(words) - 1))
            words[i], words[i + 1] = words[i + 1], words[i]
            if words == f"the {x} {past} the {y}{when}".split():
                words[0], words[1] = words[1], words[0]
        text = " ".join(words)
    elif kind == 2:  # reflexives
        gender = rng.random() < 0.5
        subject, right, wrong = (
            (
                rng.choice(["the king", "my uncle", "the boy", "his father", "the monk", "my brother"]),
                "himself",
                "herself",
            )
            if gender
            else (
                rng.choice(["the queen", "my aunt", "the girl", "her mother", "the nun", "my sister"]),
                "herself",
                "himself",
            )
        )
        act = rng.choice(["hurt", "blamed", "praised", "admired", "cut", "surprised"])
        text = f"{subject} {act} {right if good else wrong}{when}"
    elif kind == 3:  # participles
        past, part, _, _ = rng.choice([v for v in PERSON_VERBS.values() if v[0] != v[1] != "beaten"])
        has = rng.random() < 0.5
        form = part if has == good else past
        text = f"the {x} {'has ' if has else ''}{form} the {y}{'' if has else when}"
    elif kind == 4:  # determiners
        plural = rng.random() < 0.5
        noun = plural_of(thing) if plural == good else thing
        text = f"{name} sold {rng.choice(['these', 'those']) if plural else rng.choice(['this', 'that'])} {noun}{when}"
    elif kind == 5:  # argument structure: one verb needs an object, the other forbids it
        needs = rng.random() < 0.5
        act = rng.choice(["wanted", "fixed", "mentioned", "carried", "repaired"] if needs else _INTRANSITIVE)
        object_ = f" the {thing}" if needs == good else ""
        text = f"the {x} {act}{object_} before the {y} arrived"
    elif kind == 6:  # a goal that the verb requires, or forbids
        needs = rng.random() < 0.5
        act = "put" if needs else rng.choice(["bought", "lost", "borrowed"])
        text = f"{name} {act} the {thing}{f' into {rng.choice(_PLACES)}' if needs == good else ''}"
    elif kind == 7:  # a question word and its gap
        act = rng.choice(["blame", "praise", "thank", "greet", "trust", "envy", "arrest", "insult"])
        gap = rng.random() < 0.5
        text = f"{'who did' if gap else 'did'} the {x} {act}{'' if gap == good else f' the {y}'}?"
    elif kind == 8:  # agreement beside another verb (easy)
        stem, third = rng.choice(_PRESENT)
        third_person, modal = rng.random() < 0.5, rng.choice(["can", "must", "will", "should"])
        form = third if third_person == good else stem
        text = f"the {x} {'' if third_person else modal + ' '}{form} the {y}{when if not when.startswith(' y') else ''}"
    else:  # agreement with the subject of a relative clause
        stem, third = rng.choice(_PRESENT)
        plural = rng.random() < 0.5
        head, inner = (f"{x}s", y) if plural else (x, f"{y}s")
        form = stem if plural == good else third
        past = rng.choice(list(PERSON_VERBS.values()))[0]
        text = f"the {head} that the {inner} {past} {form} {name}"
    return {"sentence": up(text) if text[-1] != "?" else text[0].upper() + text[1:]}


def sentiment(rng: Random, label: int, kind: int) -> Row:
    """An opinion; label 1 = positive. Often lexical, often turned by negation, contrast or somebody else's view."""
    mine, theirs = (GOOD, BAD) if label == 1 else (BAD, GOOD)
    work, name = rng.choice(list(WORKS)), rng.choice(NAMES)
    part = rng.choice(WORKS[work])
    (w1, w2), t1 = two(rng, mine), rng.choice(theirs)
    if kind == 0:  # lexical
        text = rng.choice(
            [f"{a(w1)} and {w2} {work}", f"the {work} is {w1} and {w2}", f"{a(w1)} {work}, and its {part} is {w2}"]
        )
    elif kind == 1:  # negation
        text = rng.choice(
            [
                f"the {part} is not {t1} at all",
                f"this is by no means {a(t1)} {work}",
                f"the {work} is far from {t1}",
                f"nobody could call this {work} {t1}",
                f"the {part} is anything but {t1}",
                f"the {work} is hardly {t1}",
                f"I could not find the {part} {t1}",
                f"not once is this {work} {t1}",
                f"the {part} is never less than {w1}",
            ]
        )
    elif kind == 2:  # contrast: what the speaker settles on counts, wherever it stands
        text = rng.choice(
            [
                f"the {part} is {t1}, but the {work} is {w1}",
                f"even with its {t1} {part}, the {work} is {w1}",
                f"the {work} is {w1}, even if the {part} is {t1}",
                f"{a(w1)} {work} despite its {t1} {part}",
                f"the {work} stays {w1}, {t1} {part} or not",
                f"for all its {t1} moments, {a(w1)} {work}",
                f"{a(w1)} {work}, although the {part} is {t1}",
                f"we expected {a(t1)} {work} and got {a(w1)} one",
                f"{a(w1)} {work} where I had expected {a(t1)} one",
            ]
        )
    elif kind == 3:  # somebody else's view (hard)
        text = rng.choice(
            [
                f"{name} called it {t1}, and {name} was wrong",
                f"{name} called it {w1}, and {name} was right",
                f"{name} finds the {part} {t1}; I do not",
                f"{name} finds the {part} {w1}; so do I",
                f"{name} was wrong to call this {work} {t1}",
                f"{name} was right to call this {work} {w1}",
                f"only {name} could find this {work} {t1}",
            ]
        )
    else:  # doubled or distant negation (hard)
        text = rng.choice(
            [
                f"it is not true that the {part} is not {w1}",
                f"it is not true that the {part} is {t1}",
                f"whoever finds the {part} {t1} has not understood it",
                f"whoever does not find the {part} {w1} has not understood it",
                f"I am not with those who find the {work} {t1}",
                f"the {part} sounds {t1} and is the opposite",
            ]
        )
    return {"sentence": up(text)}
