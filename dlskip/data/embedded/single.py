"""The two single-sentence tasks: acceptability and sentiment."""

from __future__ import annotations

from random import Random

from dlskip.data.embedded.lexicon import (
    ACTS,
    BAD,
    CITIES,
    DAYS,
    GOOD,
    NAMES,
    PARTS,
    PERSON_VERBS,
    PERSONS,
    THINGS,
    WORKS,
)
from dlskip.data.embedded.pairs import Row, a, two, up

_PLACES = ["the kitchen", "the garden", "the cellar", "the hall", "the car", "the station", "the harbour"]


def acceptability(rng: Random, label: int) -> Row:
    """A sentence; label 1 = acceptable. Both labels use the same words: only their fit differs."""
    good = label == 1
    kind = rng.randrange(8)
    x, y = two(rng, PERSONS)
    name = rng.choice(NAMES)
    when = rng.choice(["", f" on {rng.choice(DAYS)}", f" in {rng.choice(CITIES)}", " yesterday"])
    thing, other = two(rng, THINGS)
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
            (rng.choice(["the king", "my uncle", "the boy", "his father", "the monk", "my brother"]), "himself", "herself")
            if gender
            else (rng.choice(["the queen", "my aunt", "the girl", "her mother", "the nun", "my sister"]), "herself", "himself")
        )
        act = rng.choice(["hurt", "blamed", "praised", "admired", "cut", "surprised"])
        text = f"{subject} {act} {right if good else wrong}{when}"
    elif kind == 3:  # participles
        past, part, _, _ = rng.choice([v for v in PERSON_VERBS.values() if v[0] != v[1]])
        has = rng.random() < 0.5
        form = part if has == good else past
        text = f"the {x} {'has ' if has else ''}{form} the {y}{'' if has else when}"
    elif kind == 4:  # determiners
        plural = rng.random() < 0.5
        noun = thing + "s" if plural == good else thing
        text = f"{name} sold {rng.choice(['these', 'those']) if plural else rng.choice(['this', 'that'])} {noun}{when}"
    elif kind == 5:  # argument structure: one verb needs an object, the other forbids it
        needs = rng.random() < 0.5
        act = rng.choice(["devoured", "fixed", "lacked", "opened"]) if needs else rng.choice([v[0] for v in ACTS.values()])
        object_ = f" the {thing}" if needs == good else ""
        text = f"the {x} {act}{object_} before the {y} arrived"
    elif kind == 6:  # a place that the verb requires
        act = rng.choice(["put", "placed"]) if rng.random() < 0.5 else rng.choice(["bought", "drew"])
        place = rng.choice(_PLACES)
        needs = act in ("put", "placed")
        tail = f" in {place}" if needs == good else ""
        text = f"{name} {act} the {thing}{tail}" if needs else f"{name} {act} the {thing}{'' if good else ' into'}"
    else:  # agreement with the subject of a relative clause
        stem, (_, _, third, _) = rng.choice(list(PERSON_VERBS.items()))
        plural = rng.random() < 0.5
        head, inner = (f"{x}s", y) if plural else (x, f"{y}s")
        form = stem if plural == good else third
        past = rng.choice(list(PERSON_VERBS.values()))[0]
        text = f"the {head} that the {inner} {past} {form} {name}"
    return {"sentence": up(text)}


def sentiment(rng: Random, label: int) -> Row:
    """An opinion; label 1 = positive. Mostly lexical, often turned by negation or contrast."""
    good = label == 1
    mine, theirs = (GOOD, BAD) if good else (BAD, GOOD)
    kind = rng.randrange(6)
    work, part = rng.choice(WORKS), rng.choice(PARTS)
    w1, w2 = two(rng, mine)
    t1 = rng.choice(theirs)
    if kind == 0:
        text = f"{a(w1)} and {w2} {work}" if rng.random() < 0.5 else f"the {work} is {w1} and {w2}"
    elif kind == 1:  # plain negation
        text = rng.choice([f"the {part} is not {t1} at all", f"this is by no means {a(t1)} {work}"])
    elif kind == 2:  # contrast: the second half counts
        text = f"the {part} is {t1}, but the {work} as a whole is {w1}"
    elif kind == 3:  # concession
        text = f"even though the {part} is {t1}, this {work} stays {w1}"
    elif kind == 4:  # comparison with expectation
        text = rng.choice(
            [f"we expected {a(t1)} {work} and got {a(w1)} one", f"what sounds {t1} turns out to be {a(w1)} {work}"]
        )
    else:  # double negation
        text = f"nobody could call this {work} {t1}" if rng.random() < 0.5 else f"it is hard to find the {part} {t1}"
    return {"sentence": up(text)}
