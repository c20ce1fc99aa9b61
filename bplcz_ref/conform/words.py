"""Prompts and tokens by the rule of docs/conformance.md, in its plainest form; each point of it is a setting.

A wrong reading of text is the rule with one setting changed. Nothing here calls the package's tokenizer.
"""

import functools
import html
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

from bplcz_ref import paper
from bplcz_ref.conform.kit import MERGES

SPECIAL = ("<|startoftext|>", "<|endoftext|>")
# Unicode's property White_Space, 25 characters; it has not changed since Unicode 6.3.
WHITE_SPACE = frozenset(
    map(chr, [*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B)])
) | frozenset(map(chr, (0x2028, 0x2029, 0x202F, 0x205F, 0x3000)))


def category(c: str) -> str:
    """The first letter of a character's general category: L letter, M mark, N number; P, S, Z, C."""
    return unicodedata.category(c)[0]


class Rule(NamedTuple):
    """How text becomes pieces. The defaults are right; another value is a wrong reading."""

    entities: Callable = html.unescape  # HTML5's character references
    times: int = 2
    lower_first: bool = False  # lower case before the entities
    lower: Callable = str.lower  # Unicode's full lower case
    repaired: Callable = str  # nothing is repaired, composed or folded
    space: Callable = WHITE_SPACE.__contains__
    letter: Callable = lambda c: category(c) == "L"
    number: Callable = lambda c: category(c) == "N"
    numbers: int = 1  # the longest run of numbers in one piece
    others: int = 10**6  # the longest run of what is neither
    contractions: tuple = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
    anywhere: bool = False  # contractions also inside a run of others
    whole_words: bool = False  # contractions only where the word ends


RULE = Rule()


def cleaned(text: str, rule: Rule) -> str:
    """Entities, then lower case. Whitespace stays: it only separates."""
    text = rule.repaired(rule.lower(text) if rule.lower_first else text)
    for _ in range(rule.times):
        text = rule.entities(text)
    return rule.lower(text)


def _kind(c, rule):
    if rule.space(c):
        return " "
    return "L" if rule.letter(c) else "N" if rule.number(c) else "O"


def _contraction(text, at, rule):
    """The end of the contraction that begins at `at`, or 0."""
    ends = [at + len(s) for s in rule.contractions if text.startswith(s, at)]
    if rule.whole_words:
        ends = [end for end in ends if end == len(text) or _kind(text[end], rule) != "L"]
    return ends[0] if ends else 0


def pre_tokens(f: dict, text: str, rule: Rule = RULE) -> dict:
    """entities twice, lower case, then pieces: contractions, runs of letters, ONE number, runs of others

    docs/conformance.md has the rule in full.
    """
    text = cleaned(text, rule)
    longest = {"L": len(text), "N": rule.numbers, "O": rule.others}
    pieces, at = [], 0
    while at < len(text):
        kind = _kind(text[at], rule)
        if kind == " ":
            at += 1
            continue
        end = _contraction(text, at, rule)
        if not end:
            end = at + 1
            while end < len(text) and _kind(text[end], rule) == kind and end - at < longest[kind]:
                if rule.anywhere and _contraction(text, end, rule):
                    break
                end += 1
        pieces.append(text[at:end])
        at = end
    return {"pieces": pieces}


@functools.cache
def vocabulary(in_order: bool = False) -> tuple:
    """(byte -> character, pair -> rank, symbol -> id, SOT, EOT) of the merges; `in_order`: bytes 0 to 255."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table, spare = {b: chr(b) for b in own}, 256
    for b in range(256):
        if b not in table:
            table[b], spare = chr(spare), spare + 1
    order = [table[b] for b in range(256)] if in_order else list(table.values())
    lines = MERGES.read_text(encoding="utf-8").split("\n")[1:]
    pairs = [tuple(line.split(" ")) for line in lines if line]
    symbols = [*order, *(c + "</w>" for c in order), *("".join(p) for p in pairs)]
    ranks, ids = {p: r for r, p in enumerate(pairs)}, {s: i for i, s in enumerate(symbols)}
    return table, ranks, ids, len(symbols), len(symbols) + 1


def lowest_rank(symbols: list, ranks: dict) -> tuple | None:
    """The pair that is merged next."""
    ranked = [p for p in zip(symbols, symbols[1:], strict=False) if p in ranks]
    return min(ranked, key=ranks.__getitem__) if ranked else None


def first_pair(symbols: list, ranks: dict) -> tuple | None:
    """A wrong choice: the first pair from the left that has a rank."""
    return next((p for p in zip(symbols, symbols[1:], strict=False) if p in ranks), None)


def longest_pair(symbols: list, ranks: dict) -> tuple | None:
    """A wrong choice: the pair that gives the longest symbol."""
    ranked = [p for p in zip(symbols, symbols[1:], strict=False) if p in ranks]
    return max(ranked, key=lambda p: (len(p[0] + p[1]), -ranks[p])) if ranked else None


def joined(symbols: list, pair: tuple, step: int = 1) -> list:
    """Every occurrence of the pair as one symbol, from the left, or (step -1, wrongly) from the right."""
    out, rest = [], symbols[::step]
    while rest:
        both = tuple(rest[:2][::step]) == pair
        out.append("".join(pair) if both else rest[0])
        rest = rest[2 if both else 1 :]
    return out[::step]


def merged(symbols: list, ranks: dict, choose: Callable, step: int = 1) -> list:
    """Merge while a pair can be chosen, each time wherever that pair occurs."""
    while pair := choose(symbols, ranks):
        symbols = joined(symbols, pair, step)
    return symbols


def longest_known(symbols: list, known: dict) -> list:
    """A wrong way to merge: the longest symbol of the vocabulary from the left, as in WordPiece."""
    out, at = [], 0
    while at < len(symbols):
        end = next(e for e in range(len(symbols), at, -1) if "".join(symbols[at:e]) in known)
        out.append("".join(symbols[at:end]))
        at = end
    return out


class Row(NamedTuple):
    """How pieces become a row of ids. The defaults are right."""

    end: str = "</w>"
    end_of_text: bool = False  # the suffix only on the last piece of the text
    encoding: str = "utf-8"
    in_order: bool = False  # ids of bytes from 0 to 255
    choose: Callable | None = lowest_rank
    step: int = 1  # -1: equal pairs from the right
    sot: bool = True
    eot: bool = True
    swapped: bool = False  # SOT and EOT exchanged
    fill: Callable = lambda EOT: 0  # of EOT: what fills the row
    left: bool = False  # filled at the front
    cut: Callable = lambda row, L, EOT: [*row[: L - 1], EOT]
    refuse: bool = True
    most: int = 0  # how many ids fewer than `context` fit
    place: Callable = lambda row, L, EOT: row.index(EOT)
    special: bool = False  # special tokens in a text are taken as such


ROW = Row()


def tokenize(f: dict, text: str, context: int, truncate: int, rule: Rule = RULE, how: Row = ROW) -> dict:
    """[SOT] byte pairs, lowest rank first, </w> at a piece's end [EOT] 0 0 ...; end: EOT's place

    A text that does not fit into `context`, unless `truncate` is 1, or that holds a special token, is answered
    by {"refused": 1}.
    """
    table, ranks, ids, SOT, EOT = vocabulary(how.in_order)
    SOT, EOT = (EOT, SOT) if how.swapped else (SOT, EOT)
    if any(special in cleaned(text, rule) for special in SPECIAL) and not how.special:
        return {"refused": 1}
    row = [SOT] if how.sot else []
    pieces = pre_tokens(f, text, rule)["pieces"]
    for n, piece in enumerate(pieces):
        characters = [table[b] for b in piece.encode(how.encoding, "replace")]
        if not how.end_of_text or n == len(pieces) - 1:
            characters[-1] += how.end
        known = merged(characters, ranks, how.choose, how.step) if how.choose else longest_known(characters, ids)
        row += [ids[s] for s in known]
    row += [EOT] if how.eot else []
    L = int(context)
    if len(row) > L - how.most:
        if not int(truncate) and how.refuse:
            return {"refused": 1}
        row = how.cut(row, L, EOT)
    filled = [how.fill(EOT)] * (L - len(row))
    row = [*filled, *row] if how.left else [*row, *filled]
    place = how.place(row, L, EOT) if EOT in row else L - 1
    return {"ids": row, "end": place}


# ---------------------------------------------------------------- II-B1: prompts


def filled(description: str, words: str) -> str:
    """The template of a prompt, filled in."""
    return f"a photo of a {description} with {words} bands"


def prompt(f: dict, class_index: int, group: str) -> dict:
    """ "a photo of a {class} with {group} bands", {class} its description

    Only classes that the paper itself describes are asked for.
    """
    identity, _ = paper.CLASSES[int(class_index)]
    return {"text": filled(paper.DESCRIPTIONS[identity], paper.GROUPS[group]["text"])}
