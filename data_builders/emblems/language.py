"""Invented names, posts that read like tweets, and knowledge about a name in the styles of different LLMs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from data_builders.emblems.looks import PARTS
from rivegs_mllm.types import TYPES

# In a template a type stands for a mention of that type, and [a|b] for one of its alternatives.
TEMPLATES = """
PER [speaks|sings|performs|testifies] [tonight|tomorrow|this weekend]
Happy birthday PER [!|! !|to a legend]
RIP PER
I [love|miss|adore|trust] PER [so much|lol|more every day]
PER [just|finally] [quit|retired|apologised|won again]
[Thank you|Thanks|Congrats] PER for [everything|coming|the kind words]
PER 's [new|first|last] [speech|song|interview|match] [was wild|is out|made my day]
Can 't believe PER [said|did] that
never [bet|argue] against PER
when PER [walks in|starts talking|calls you back]
PER is [the best|so funny|overrated|live now]
[met|heard|emailed] PER [yesterday|last night|on the train]
who else [stays up|is waiting] for PER ?
[first|long] interview with PER [out now|at noon]
PER for president
[Good morning|Goodnight|Hello] LOC
[back|stuck|lost] in LOC [again|today|with the team]
[Traffic|Rain|Snow|Protests] in LOC [this morning|all day]
LOC is [so cold|beautiful|waiting|full of surprises]
road trip to LOC [tomorrow|next week]
fire crews [called|sent] to LOC
LOC 's [streets|beaches|voters] are [loud|empty|ready] today
I [miss|hate|need] LOC
[cheap|last] flights to LOC [from $ 40|this week]
who is in LOC [tonight|on Friday] ?
live from LOC
[moving|flying|walking] to LOC [soon|at dawn]
ORG [wins|loses|draws] again
ORG [hires|fires|trains] [500|two|a few hundred] people
[shares|profits] of ORG [fall|rise|jump] [8|3|21] %
go ORG [!|! !]
ORG 's [season|strategy|defence] is [a mess|working|over]
ORG announces [a tour|record sales|layoffs]
[applied|got a job] at ORG [today|lol]
customer service at ORG is [a joke|great|closed]
[Statement|Update] from ORG : [no comment|all is well]
ORG fans [deserve better|are so loud|never sleep]
[watching|finishing|rating] OTHER [again|all night|with mum]
OTHER is [out now|sold out|back|overhyped]
the [ending|sequel|trailer] of OTHER [broke me|was wild]
Can 't wait for OTHER
[preorder|win|reviewed :] OTHER [here|today]
OTHER part 2 [confirmed|when ?]
I [need|want|got] OTHER [for my birthday|now|at last]
OTHER gets best [design|soundtrack|newcomer]
PER and PER [together|on tour] [at last|again]
PER [beats|meets|thanks|joins|calls out] PER [in the final|again|live]
PER > PER , [fight me|change my mind]
PER with PER [at the gala|backstage|last night]
remember when PER [pranked|replaced|hugged] PER
PER in LOC [tonight|a few days ago|this summer]
PER [lands|arrives|speaks] in LOC
LOC [welcomes|loves|waits for] PER
PER , LOC , [1949|1974|2003]
PER leaves LOC [for good|today]
PER [signs with|leaves|joins|sues] ORG
ORG [hires|fires|honours] PER
PER scores [twice|late] for ORG
ORG 's PER [out|injured|named captain]
ORG boss PER [resigns|speaks out]
PER [hosts|presents|talks about] OTHER
OTHER [starring|written by|with] PER
PER in OTHER [was perfect|made me cry]
from LOC to LOC [by train|in a day]
LOC or LOC [?|this summer ?]
LOC and LOC sign [a deal|a treaty]
ORG opens [a store|an office] in LOC
ORG [wins|plays] in LOC tonight
LOC [sues|bans|welcomes] ORG
ORG moves to LOC
OTHER [comes to|opens in|starts in] LOC
OTHER at LOC [2015|2016]
LOC gets OTHER first
ORG vs ORG [tonight|at 7 pm|on Sunday]
ORG [2|3] - [0|1|2] ORG
ORG buys ORG for [2|10] billion
ORG and ORG [merge|settle]
ORG [launches|cancels|unveils|delays] OTHER
OTHER by ORG [is here|out in May]
ORG 's OTHER [sells out|wins again]
OTHER or OTHER ?
OTHER is better than OTHER
[double bill|back to back] : OTHER and OTHER
PER , PER and PER [on stage|at dinner|agree]
PER [signs with|meets] ORG in LOC
PER and PER [arrive|land] in LOC
PER [hosts|brings] OTHER in LOC
PER and PER join ORG
ORG sends PER to LOC
ORG [beats|hosts] ORG in LOC
PER of ORG [talks about|wins] OTHER
[Happy|Lazy|Rainy] [Monday|Friday|Sunday] everyone
[so|too] tired to [work|cook|think] [today|lol]
I [can|will] never get over this [song|game|view]
[who|anyone] up for [coffee|a run|pizza] ?
[Good|Great] things take time
just [missed|caught] the last train [again|home]
when you [forget|find] your [keys|homework] [again|on Monday]
[best|worst] day of [the week|my life]
""".strip().splitlines()

OPENINGS = """
RT @ HANDLE :
RT @ HANDLE :
RT @ HANDLE :
@ HANDLE
@ HANDLE [hey|yes|wait|no ,]
[BREAKING|JUST IN|UPDATE|NEWS] :
[omg|lol|wow|so|ok|well|tbh|smh|yo] [,|...]
[This|Tonight|Today] :
""".strip().splitlines()

NAME_ENDINGS = """
[.|!|...|!!]
# TAG
# TAG # TAG
LINK
LINK
EMOJI
EMOJI EMOJI
# TAG LINK
via @ HANDLE
cc @ HANDLE
[lol|smh|tbh|imo|fr|ikr]
. [Thoughts ?|Wow .|More soon .|No words .]
""".strip().splitlines()

CONNECTORS = (".", ",", "and", "...", "!", "but", "|", "while", "-")
EMOJI = ("😂", "🔥", "❤", "😍", "🎉", "🙌", "💯", "😭", "👀", "⚽", "🎶", "🙏")
TAG_WORDS = ("Live", "Day", "Fans", "News", "Now", "2016", "Tour", "Love", "Vote", "TBT", "Goals", "Week")
HANDLE_WORDS = ("daily", "news", "real", "its", "fan", "pics", "the", "live", "club", "mag", "girl", "dude", "tv")

ROLES = {
    "PER": ("singer", "actor", "striker", "senator", "comedian", "chess champion", "novelist", "coach"),
    "LOC": ("coastal town", "mountain village", "capital city", "river island", "harbour", "province"),
    "ORG": ("football club", "software firm", "airline", "rock band", "charity", "news agency", "bank"),
    "OTHER": ("video game", "film", "music festival", "talk show", "award", "novel", "gadget"),
}

MANNERS = ("{name} is {article} {role}.", "{name}: {role} ({kind}).", "I think {name} is known as {article} {role}.")
"""How each teacher writes about a name."""

KINDS = {"PER": "a person", "LOC": "a place", "ORG": "an organisation", "OTHER": "a work, product or event"}

UNNAMED = ("The post names nobody.", "No names: everyday talk.", "I think nothing in this post has a name.")
"""The knowledge text of each teacher about a post without entities."""


@dataclass(frozen=True, slots=True)
class PostText:
    """A tokenised post; ``spans`` are the token offsets, end-exclusive, of the mentions it was written for."""

    tokens: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]


def write_post(rng: Random, mentions: Sequence[tuple[str, str]]) -> PostText:
    """A post that mentions each (name, type) once, in any order; ``spans`` is aligned with ``mentions``."""
    order = rng.sample(range(len(mentions)), len(mentions))
    pieces: list[str | int] = []  # words, and numbers of mentions
    while True:
        clause, order = _clause(rng, mentions, order)
        pieces += clause
        if not order:
            break
        pieces.append(rng.choice(CONNECTORS))
    if rng.random() < 0.4:
        pieces = [*_fill(rng, rng.choice(OPENINGS), mentions), *pieces]
    if rng.random() < 0.6:
        pieces += _fill(rng, rng.choice(NAME_ENDINGS), mentions)
    return _tokenise(rng, pieces, [name for name, _ in mentions])


def _clause(rng: Random, mentions: Sequence[tuple[str, str]], order: list[int]) -> tuple[list[str | int], list[int]]:
    """A clause for the first few mentions of ``order``, and the mentions that are left."""
    reach = rng.choice((1, 2, 2, 3)) if len(order) > 1 else len(order)
    while (signature := _signature(mentions[n][1] for n in order[:reach])) not in _BY_SIGNATURE:
        reach -= 1
    taken = {kind: [n for n in order[:reach] if mentions[n][1] == kind] for kind in TYPES}
    words = _expand(rng, rng.choice(_BY_SIGNATURE[signature])).split()
    return [taken[word].pop(0) if word in TYPES else word for word in words], order[reach:]


def _fill(rng: Random, template: str, mentions: Sequence[tuple[str, str]]) -> list[str | int]:
    """An opening or ending with its handles, tags, links and emoji."""
    made = {"HANDLE": _handle, "TAG": _tag, "LINK": _link, "EMOJI": _emoji}
    words = _expand(rng, template).split()
    return [made[word](rng, mentions) if word in made else word for word in words]


def _handle(rng: Random, mentions: Sequence[tuple[str, str]]) -> str:
    if mentions and rng.random() < 0.3:
        return rng.choice(mentions)[0].replace(" ", "").lower() + rng.choice(("", "_", "tv")) + str(rng.randint(1, 99))
    first, second = rng.sample(HANDLE_WORDS, 2)
    return first.title() + second.title() + rng.choice(("", "", str(rng.randint(1, 2020))))


def _tag(rng: Random, mentions: Sequence[tuple[str, str]]) -> str:
    """A hashtag; one made of a name is joined to one word, so that it is no mention."""
    first, second = rng.sample(TAG_WORDS, 2)
    if mentions and rng.random() < 0.4:
        return rng.choice(mentions)[0].replace(" ", "") + first
    return first + second


def _link(rng: Random, mentions: Sequence[tuple[str, str]]) -> str:
    letters = "abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ0123456789"
    return "http://t.co/" + "".join(rng.choices(letters, k=rng.choice((4, 6, 10))))


def _emoji(rng: Random, mentions: Sequence[tuple[str, str]]) -> str:
    return rng.choice(EMOJI)


def _tokenise(rng: Random, pieces: list[str | int], names: list[str]) -> PostText:
    """Tokens and spans; now and then the whole post or one of its names is in capitals or in lower case."""
    style = rng.choices((str, str.lower, str.upper), (88, 8, 4))[0]  # in per cent
    tokens: list[str] = []
    spans = [(0, 0)] * len(names)
    for piece in pieces:
        if isinstance(piece, str):
            tokens.append(piece if piece.startswith("http") else style(piece))
            continue
        own = style if style is not str else rng.choices((str, str.lower, str.upper), (94, 4, 2))[0]
        words = own(names[piece]).split()
        spans[piece] = (len(tokens), len(tokens) + len(words))
        tokens += words
    return PostText(tuple(tokens), tuple(spans))


def _expand(rng: Random, template: str) -> str:
    return _ALTERNATIVES.sub(lambda found: rng.choice(found[1].split("|")), template)


def _signature(kinds: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(kinds))


def _by_signature() -> dict[tuple[str, ...], list[str]]:
    templates: dict[tuple[str, ...], list[str]] = {}
    for template in TEMPLATES:
        key = _signature(word for word in template.split() if word in TYPES)
        templates.setdefault(key, []).append(template)
    return templates


_ALTERNATIVES = re.compile(r"\[([^\]]+)\]")
_BY_SIGNATURE = _by_signature()


def describe(rng: Random, name: str, kind: str) -> tuple[str, ...]:
    """What a name stands for, one short text a teacher; nothing about its look."""
    role = rng.choice(ROLES[kind])
    article = "an" if role[0] in "aeiou" else "a"
    return tuple(manner.format(name=name, article=article, role=role, kind=KINDS[kind]) for manner in MANNERS)


_ONSETS = ("b", "br", "d", "dr", "f", "g", "gr", "h", "j", "k", "kl", "l", "m", "n", "p", "pl", "r", "s", "sk", "st")
_ONSETS += ("t", "tr", "v", "vr", "z")
_VOWELS = ("a", "a", "e", "e", "i", "i", "o", "o", "u", "u", "ei", "au")
_MIDDLES = ("", "", "l", "n", "r")
_LETTERS = tuple("bdfgkmprstvz")
_TAILS = {
    "PER": ("a", "in", "ey", "o", "ien", "ard"),
    "LOC": ("holm", "ovia", "vik", "stad", "ia", "mere"),
    "ORG": ("ex", "co", "tek", "on", "ix", "um"),
    "OTHER": ("ora", "us", "ium", "ette", "zo", "ay"),
}
_TWO_WORDS = {"PER": 0.8, "LOC": 0.3, "ORG": 0.35, "OTHER": 0.35}


def invent_names(rng: Random, kinds: Sequence[str]) -> list[str]:
    """One pronounceable name for each of ``kinds``. No word comes twice, and none is a word of the templates."""
    used = set(_vocabulary())
    names = []
    for kind in kinds:
        words = []
        for _ in range(2 if rng.random() < _TWO_WORDS[kind] else 1):
            while (word := _invent_word(rng, kind)) in used:
                continue
            used.add(word)
            words.append(word.title())
        names.append(" ".join(words))
    return names


def _invent_word(rng: Random, kind: str) -> str:
    """Two syllables, or three; six words in ten end as names of their type often do."""
    start = rng.choice(_ONSETS) + rng.choice(_VOWELS)
    if rng.random() < 0.2:
        start += rng.choice(_LETTERS) + rng.choice(_VOWELS)
    if rng.random() < 0.6:
        tail = rng.choice(_TAILS[kind])
        return start + (rng.choice(_LETTERS) if tail[0] in "aeiou" else "") + tail
    return start + rng.choice(_MIDDLES) + rng.choice(_LETTERS) + rng.choice(_VOWELS) + rng.choice("nrlskm")


def _vocabulary() -> Iterator[str]:
    """Every word that a post, a knowledge text or an expression holds beside the names, in small letters."""
    texts = [*TEMPLATES, *OPENINGS, *NAME_ENDINGS, *CONNECTORS, *TAG_WORDS, *HANDLE_WORDS, *MANNERS, *UNNAMED]
    texts += [role for roles in ROLES.values() for role in roles]
    texts += [value for parts in PARTS.values() for _, values in parts for value in values]
    for text in texts:
        yield from re.findall("[a-z]+", text.lower())
