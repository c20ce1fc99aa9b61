"""Wrong readings of text: prompts, pieces, ids; the last two are the rule with one of its settings changed."""

import html
import unicodedata
from collections.abc import Callable
from typing import Any

from bplcz_ref import paper
from bplcz_ref.conform import words
from bplcz_ref.conform.words import ROW, RULE, category, filled


def prompted(of: Callable) -> Callable:
    """A prompt by of(identity of the class, its description, name of the group, text of the group)."""

    def prompt(f, class_index, group):
        identity, _ = paper.CLASSES[int(class_index)]
        return {"text": of(identity, paper.DESCRIPTIONS[identity], group, paper.GROUPS[group]["text"])}

    return prompt


def of_next_class(identity: str, description: str, group: str, words: str) -> str:
    known = list(paper.DESCRIPTIONS)
    return filled(paper.DESCRIPTIONS[known[(known.index(identity) + 1) % len(known)]], words)


def without_article(identity: str, description: str, group: str, words: str) -> str:
    return filled(description, words).replace("photo of a ", "photo of ")


def ascii_lower(text: str) -> str:
    return "".join(chr(ord(c) + 32) if "A" <= c <= "Z" else c for c in text)


def lower_letter_by_letter(text: str) -> str:
    """Without the rule for the sigma at a word's end, and one letter for one."""
    return "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


def three_entities(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def with_semicolon(text: str) -> str:
    """Only references that end in a semicolon."""
    parts = text.split("&")
    resolved = [
        html.unescape(f"&{p.split(';')[0]};") + p.partition(";")[2] if ";" in p else f"&{p}" for p in parts[1:]
    ]
    return parts[0] + "".join(resolved)


def straightened(text: str) -> str:
    """Curly quotes made straight, as ftfy does."""
    return text.translate(dict(zip(map(ord, "\u2018\u2019\u201c\u201d"), "''\"\"", strict=True)))


def composed(form: Any) -> Callable:
    return lambda text: unicodedata.normalize(form, text)


def bare(text: str) -> str:
    """Accents stripped, as some tokenizers do."""
    return "".join(c for c in unicodedata.normalize("NFD", text) if category(c) != "M")


ASCII = frozenset(" \t\n\r\v\f")
PIECES: dict = {
    "no lower-casing": RULE._replace(lower=str),
    "lower case for A to Z alone": RULE._replace(lower=ascii_lower),
    "case folded, not lower case": RULE._replace(lower=str.casefold),
    "lower case letter by letter": RULE._replace(lower=lower_letter_by_letter),
    "lower case before the entities": RULE._replace(lower_first=True),
    "numbers as runs": RULE._replace(numbers=99),
    "numbers are 0 to 9 alone": RULE._replace(number=lambda c: c in "0123456789"),
    "numbers are decimal digits alone": RULE._replace(number=str.isdecimal),
    "numbers joined to letters": RULE._replace(letter=lambda c: category(c) in "LN", number=lambda c: False),
    "letters are a to z alone": RULE._replace(letter=lambda c: c.isascii() and c.isalpha()),
    "letters are those with a case": RULE._replace(letter=lambda c: c.lower() != c.upper()),
    "marks count as letters": RULE._replace(letter=lambda c: category(c) in "LM"),
    "the underscore counts as a letter": RULE._replace(letter=lambda c: category(c) == "L" or c == "_"),
    "others one by one": RULE._replace(others=1),
    "contractions not split off": RULE._replace(contractions=()),
    "contractions not split off, the apostrophe a letter": RULE._replace(
        contractions=(), letter=lambda c: category(c) == "L" or c == "'"
    ),
    "'s and 't alone are contractions": RULE._replace(contractions=("'s", "'t")),
    "'n and 'em are contractions too": RULE._replace(contractions=(*RULE.contractions, "'n", "'em")),
    "contractions inside a run of others": RULE._replace(anywhere=True),
    "contractions only at a word's end": RULE._replace(whole_words=True),
    "whitespace is ASCII's alone": RULE._replace(space=ASCII.__contains__),
    "U+0085 no whitespace, U+FEFF whitespace, as in JavaScript": RULE._replace(
        space=lambda c: c == "\ufeff" or (c in words.WHITE_SPACE and c != "\x85")
    ),
    "U+200B counts as whitespace": RULE._replace(space=lambda c: c in words.WHITE_SPACE or c == "\u200b"),
    "entities not resolved": RULE._replace(times=0),
    "entities resolved once": RULE._replace(times=1),
    "entities resolved until none is left": RULE._replace(times=9),
    "of the entities amp, lt and gt alone": RULE._replace(entities=three_entities),
    "entities only with a semicolon": RULE._replace(entities=with_semicolon),
    "quotes straightened, as by ftfy": RULE._replace(repaired=straightened),
    "composed to NFC": RULE._replace(repaired=composed("NFC")),
    "compatibility forms folded (NFKC)": RULE._replace(repaired=composed("NFKC")),
    "accents stripped": RULE._replace(repaired=bare),
}
TOKENS: dict = {
    "no </w> at the end of a piece": ROW._replace(end=""),
    "</w> at the end of the text alone": ROW._replace(end_of_text=True),
    "characters of Latin-1 for bytes of UTF-8": ROW._replace(encoding="latin-1"),
    "bytes of UTF-16": ROW._replace(encoding="utf-16-le"),
    "bytes in the order 0 to 255": ROW._replace(in_order=True),
    "merges from the left, not by rank": ROW._replace(choose=words.first_pair),
    "the longest symbol merged first": ROW._replace(choose=words.longest_pair),
    "the longest symbol from the left, as in WordPiece": ROW._replace(choose=None),
    "no merges": ROW._replace(choose=lambda symbols, ranks: None),
    "equal pairs merged from the right": ROW._replace(step=-1),
    "SOT missing": ROW._replace(sot=False),
    "EOT missing": ROW._replace(eot=False),
    "SOT and EOT exchanged": ROW._replace(swapped=True),
    "padded with EOT": ROW._replace(fill=lambda EOT: EOT),
    "padded on the left": ROW._replace(left=True),
    "cut without EOT at the end": ROW._replace(cut=lambda row, L, EOT: row[:L]),
    "cut at the front": ROW._replace(cut=lambda row, L, EOT: [row[0], *row[1 - L :]]),
    "cut where it should be refused": ROW._replace(refuse=False),
    "a full row refused": ROW._replace(most=1),
    "the last position pooled": ROW._replace(place=lambda row, L, EOT: L - 1),
    "the place before the first 0": ROW._replace(place=lambda row, L, EOT: (row.index(0) if 0 in row else L) - 1),
    "as many places as ids other than 0": ROW._replace(place=lambda row, L, EOT: L - row.count(0) - 1),
    "the place after EOT": ROW._replace(place=lambda row, L, EOT: row.index(EOT) + 1),
    "special tokens taken from the text": ROW._replace(special=True),
}


def pieced(rule: words.Rule) -> Callable:
    return lambda f, text: words.pre_tokens(f, text, rule)


def tokenized(rule: words.Rule, how: words.Row = ROW) -> Callable:
    return lambda f, text, context, truncate: words.tokenize(f, text, context, truncate, rule, how)


def worded(of: Callable) -> Callable:
    """The right prompt, changed."""
    return lambda f, **i: {"text": of(words.prompt(f, **i)["text"])}


TEXT = {
    "prompt": {
        "class name for description": prompted(
            lambda identity, description, group, words: filled(dict(paper.CLASSES)[identity], words)
        ),
        "group name for its text": prompted(
            lambda identity, description, group, words: filled(description, group)
        ),
        "another class's description": prompted(of_next_class),
        "the word bands left out": worded(lambda text: text.removesuffix(" bands")),
        "article left out": (prompted(without_article), "prompt-grammar", "corrected"),
        "a capital at the beginning": worded(str.capitalize),
        "a full stop at the end": worded(lambda text: text + "."),
        "an image for a photo": worded(lambda text: text.replace("a photo", "an image")),
    },
    "pre_tokens": {name: pieced(rule) for name, rule in PIECES.items()},
    "tokenize": {name: tokenized(rule) for name, rule in PIECES.items()}
    | {name: tokenized(RULE, how) for name, how in TOKENS.items()},
}
