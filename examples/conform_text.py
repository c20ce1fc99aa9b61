"""Prompts, pieces of text and token ids by the rule of docs/conformance.md, with Python's standard library alone.

conform_pytorch.py and conform_jax.py answer the kit's texts with it.
"""

import html
import re
import unicodedata
from itertools import pairwise

WORDS = {"RGB": "red green blue", "VRE": "vegetation red edge", "NIR": "near infrared"}
WORDS |= {"SWIR": "short wave infrared", "VH": "vh", "VV": "vv", "PolSAR": "pol"}
CONTRACTION, RUN = re.compile("'(?:s|t|re|ve|m|ll|d)"), re.compile(" +|L+|N|O+")
SPECIAL = re.compile(r"<\|(?:start|end)oftext\|>")


def prompter(descriptions):
    """The operation `prompt` by the descriptions that the set holds, of class 0, 1, ..."""
    return lambda class_index, group: {
        "text": f"a photo of a {descriptions[int(class_index)]} with {WORDS[group]} bands"
    }


def cleaned(text):
    return html.unescape(html.unescape(text)).lower()


def kind(c):  # of a character: whitespace, letter, number, other
    if c.isspace() and not "\x1c" <= c <= "\x1f":  # Unicode's White_Space, which lacks these four
        return " "
    category = unicodedata.category(c)[0]
    return category if category in "LN" else "O"


def pre_tokens(text):
    text = cleaned(text)
    kinds = "".join(map(kind, text))
    pieces, at = [], 0
    while at < len(text):
        end = (CONTRACTION.match(text, at) or RUN.match(kinds, at)).end()
        if kinds[at] != " ":
            pieces.append(text[at:end])
        at = end
    return {"pieces": pieces}


def tokenizer(merges):
    """The operation `tokenize` by the merges that the set holds."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]  # bytes that are their own character
    others = sorted(set(range(256)) - set(own))
    character = {b: chr(b) for b in own} | {b: chr(256 + n) for n, b in enumerate(others)}
    pairs = [tuple(line.split(" ")) for line in merges]
    symbols = [*character.values(), *(c + "</w>" for c in character.values()), *map("".join, pairs)]
    rank, ids = ({x: n for n, x in enumerate(names)} for names in (pairs, symbols))
    SOT, EOT = len(symbols), len(symbols) + 1

    def merged(piece):
        word = [character[b] for b in piece.encode()]
        word[-1] += "</w>"
        first = lambda pair: rank.get(pair, len(rank))
        while (pair := min(pairwise(word), key=first, default=None)) in rank:
            joined = []
            for symbol in word:  # wherever the pair occurs, from the left
                if joined and (joined[-1], symbol) == pair:
                    joined[-1] += symbol
                else:
                    joined.append(symbol)
            word = joined
        return [ids[symbol] for symbol in word]

    def tokenize(text, context, truncate):
        row, context = [SOT], int(context)
        for piece in pre_tokens(text)["pieces"]:
            row += merged(piece)
        row.append(EOT)
        if SPECIAL.search(cleaned(text)) or (len(row) > context and not truncate):
            return {"refused": 1}
        if len(row) > context:
            row = [*row[: context - 1], EOT]
        return {"ids": row + [0] * (context - len(row)), "end": len(row) - 1}

    return tokenize
