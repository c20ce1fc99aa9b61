"""II-B1's prompts and CLIP's tokenizer in their plainest form: the second opinion on prompts.py, tokenizer.py.

Everything is worked out from the rule, letter by letter, without caches. The options of `tokenize_as` are
for wrong readings; the right one takes their defaults. The merges are those of `merges.txt`, which lies
with the vectors.
"""

import functools
import html
import unicodedata
from pathlib import Path

from bplcz_ref import paper

VECTORS = Path(__file__).resolve().parent.parent / "vectors"
MERGES = VECTORS / "merges.txt"


def prompt(f, class_index, group):
    """The template filled in; only the paper's own three descriptions are asked for."""
    identity, _ = paper.CLASSES[int(class_index)]
    description, words = paper.DESCRIPTIONS[identity], paper.GROUPS[group]["text"]
    return {"text": f"a photo of a {description} with {words} bands"}


def pre_tokens(f, text):
    return {"pieces": pieces_as(text)}


def tokenize(f, text, context, truncate):
    return tokenize_as(text, context, truncate)


def pieces_as(text, lower=True, numbers=1, contractions=True, unescape=2):
    """Entities resolved, whitespace ended, lower case; contractions, letter runs, single numbers, other runs."""
    for _ in range(unescape):
        text = html.unescape(text)
    text = text.lower() if lower else text
    pieces, at = [], 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        short = [s for s in ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d") if text[at:].startswith(s)]
        end = at + len(short[0]) if short and contractions else at + 1
        if not (short and contractions):
            longest = numbers if kind(text[at]) == "N" else len(text)
            while end < len(text) and kind(text[end]) == kind(text[at]) and end - at < longest:
                end += 1
        pieces.append(text[at:end])
        at = end
    return pieces


def kind(character):
    """L letter, N number, O other; a space for whitespace."""
    if character.isspace():
        return " "
    category = unicodedata.category(character)[0]
    return category if category in "LN" else "O"


@functools.cache
def vocabulary():
    """(byte -> character, pair -> rank, symbol -> id, SOT, EOT) of the kit's merges."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table, spare = {b: chr(b) for b in own}, 256
    for b in range(256):
        if b not in table:
            table[b], spare = chr(spare), spare + 1
    lines = MERGES.read_text(encoding="utf-8").split("\n")[1:]
    pairs = [tuple(line.split(" ")) for line in lines if line]
    symbols = [*table.values(), *(c + "</w>" for c in table.values()), *("".join(p) for p in pairs)]
    ranks, ids = {p: r for r, p in enumerate(pairs)}, {s: i for i, s in enumerate(symbols)}
    return table, ranks, ids, len(symbols), len(symbols) + 1


def merged(symbols, ranks, order):
    """Merge pairs while any has a rank: the lowest rank first, or (wrongly) the first from the left."""
    while True:
        ranked = [p for p in zip(symbols, symbols[1:], strict=False) if p in ranks]
        if not ranked:
            return symbols
        a, b = min(ranked, key=ranks.get) if order == "rank" else ranked[0]
        out, at = [], 0
        while at < len(symbols):
            if symbols[at : at + 2] == [a, b]:
                out.append(a + b)
                at += 2
            else:
                out.append(symbols[at])
                at += 1
        symbols = out


def tokenize_as(text, context, truncate, end="</w>", order="rank", eot=True, fill=0, pooled="eot", **pieces):
    """[SOT] ids [EOT] and zeros up to `context`, and the place of EOT; {"refused": 1} for what does not fit."""
    table, ranks, ids, SOT, EOT = vocabulary()
    row = [SOT]
    for piece in pieces_as(text, **pieces):
        characters = [table[b] for b in piece.encode()]
        characters[-1] += end
        row += [ids[s] for s in merged(characters, ranks, order)]
    row += [EOT] if eot else []
    if len(row) > int(context):
        if not int(truncate):
            return {"refused": 1}
        row = row[: int(context) - 1] + [EOT]
    last = len(row) - 1
    row += [EOT if fill == "eot" else fill] * (int(context) - len(row))
    return {"ids": row, "end": last if pooled == "eot" else int(context) - 1}
