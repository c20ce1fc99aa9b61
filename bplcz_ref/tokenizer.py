"""Byte-level byte pair encoding by CLIP's rules: text to token ids and back.

The rules are those of `clip/simple_tokenizer.py` and `clip.tokenize` in github.com/openai/CLIP (d05afc4), written
with the standard library alone. With CLIP's own merges file the ids are CLIP's; the bundled merges
(tokenizer_vocab/) are our own; learn.py beside them learned them. The file follows the way of a text: `clean` it,
cut it into `pre_tokens`, merge the bytes of each piece (`Tokenizer.steps`), look up the ids (`encode`), pad the
rows (`batch`).

One step of CLIP's is left out: `ftfy.fix_text`, a repair of damaged text, which changes nothing in the prompts.
Outside plain ASCII it would straighten curly quotes, compose accents, narrow full-width letters, split ligatures
and undo wrongly decoded UTF-8: for such text `encode(ftfy.fix_text(text))` gives CLIP's ids. Characters younger
than Python's own Unicode tables count as "other".
"""

import functools
import gzip
import html
import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from bplcz_ref.checks import integer

SOT, EOT = "<|startoftext|>", "<|endoftext|>"
END = "</w>"  # suffix of a symbol that ends a piece
MACHINE_FILE = "bplcz-bpe.txt"

OWN_HEADER = "#version: bplcz-bpe 1 merges "  # then their number, so that a file cut short is noticed
LARGEST = 48894  # merges, as many as CLIP uses of the 262,145 lines of its file

# Byte -> the printable character that represents it, in the order of the ids: 188 bytes are their own character,
# the other 68 (blank, controls, 127-160, 173) take the code points from 256 on.
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTE_CHARACTERS = {b: chr(b) for b in _PRINTABLE} | {
    b: chr(256 + i) for i, b in enumerate(sorted(set(range(256)) - set(_PRINTABLE)))
}
CHARACTER_BYTES = {c: b for b, c in BYTE_CHARACTERS.items()}

# ------------------------------------------------------------------------------ from text to pieces (steps 1-4)

# CLIP's pattern, its first alternatives: tried before the runs, ignoring case (so the long s, U+017F, is an s).
_LITERALS = re.compile(r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d", re.IGNORECASE)
# Its last three, over kinds: a run of letters, ONE number, a run of neither letters, numbers nor whitespace.
_RUNS = re.compile("L+|N|O+")
# Unicode's White_Space. U+001C..1F are whitespace for str.isspace and str.strip, but not for the pattern.
_WHITESPACE = re.compile(r"[^\S\x1c-\x1f]+")


@functools.cache
def kind(character: str) -> str:
    """L for a letter, N for a number, O for anything else but whitespace (which includes marks, category M).

    Beside whitespace the pattern passes over U+0345 alone: a mark, but ignoring case a letter (capital iota).
    """
    category = unicodedata.category(character)[0]
    return " " if character in " \u0345" else category if category in "LN" else "O"


def clean(text: str) -> str:
    """Cleaning, steps 1 to 3: entities resolved twice, every whitespace run one space, ends stripped, lower case.

    Errors: ValueError for anything but a str.
    Source: CLIP's basic_clean (without ftfy), whitespace_clean and lower, in that order.

    >>> clean("  A \\t Photo &amp;lt;3 ")
    'a photo <3'
    """
    if not isinstance(text, str):
        raise ValueError(f"text is {text!r} of type {type(text).__name__}; expected a str")
    return _WHITESPACE.sub(" ", html.unescape(html.unescape(text))).strip().lower()


def pre_tokens(text: str) -> list[str]:
    """The pieces that are encoded on their own, step 4: contractions, letter runs, single numbers, other runs.

    Every character but whitespace and U+0345 (see `kind`) is in one piece. A contraction counts only where a piece
    begins: "it's" has "'s", but "!'s" has "!'" and "s".
    Errors: those of `clean`; ValueError for a special token in the text, which would let it set its own end.
    Source: the pattern of CLIP's SimpleTokenizer, `regex.findall(pattern, text, IGNORECASE)`.

    >>> pre_tokens("It's 2024: compact high-rise, it'LL do")
    ['it', "'s", '2', '0', '2', '4', ':', 'compact', 'high', '-', 'rise', ',', 'it', "'ll", 'do']
    """
    text, pieces, at = clean(text), [], 0
    kinds = "".join(map(kind, text))  # one kind per character, so positions agree
    while at < len(text):
        match = _LITERALS.match(text, at) or _RUNS.match(kinds, at)
        end = match.end() if match else at + 1
        if match:  # else a space, or U+0345
            pieces.append(text[at:end])
        at = end
    for piece in {SOT, EOT}.intersection(pieces):
        raise ValueError(f"text contains the special token {piece}, which only batch() may set; take it out")
    return pieces


# --------------------------------------------------------------------------- from pieces to ids (steps 5-7)


def byte_symbols(piece: str) -> tuple[str, ...]:
    """Step 5: one symbol per byte of the UTF-8 form, the last with the suffix that marks the end of the piece."""
    *most, last = (BYTE_CHARACTERS[b] for b in piece.encode())
    return (*most, last + END)


def merge(symbols: tuple[str, ...], first: str, second: str) -> tuple[str, ...]:
    """Every non-overlapping occurrence of the pair, left to right, as one symbol."""
    merged, at = [], 0
    while at < len(symbols):
        if symbols[at] == first and symbols[at + 1 : at + 2] == (second,):
            merged.append(first + second)
            at += 2
        else:
            merged.append(symbols[at])
            at += 1
    return tuple(merged)


class Tokenizer:
    """Token ids of text under an ordered list of merges.

    Ids, step 7: 0-255 the bytes in the order of BYTE_CHARACTERS ("!" is 0, "a" is 64), 256-511 the same at the end
    of a piece, then the merges in order, then `sot` and `eot`, which is the largest id.
    Attributes: `merges` (tuple of pairs of str), `vocab_size` = 512 + merges + 2, `sot`, `eot`.
    Errors: ValueError for a merge of unknown symbols, a repeated one, or one whose first symbol ends a piece.
    Source: openai/CLIP, clip/simple_tokenizer.py.

    >>> tiny = Tokenizer([("t", "h"), ("th", "e</w>")])
    >>> tiny.encode("The thin"), tiny.vocab_size
    ([513, 512, 72, 333], 516)
    """

    def __init__(self, merges: Iterable):
        self.merges = tuple(tuple(pair) for pair in merges)
        symbols = [c + end for end in ("", END) for c in BYTE_CHARACTERS.values()]
        known = set(symbols)
        self._rank: dict[tuple, int] = {}
        for rank, pair in enumerate(self.merges):
            if len(pair) != 2 or not known.issuperset(pair) or pair[0].endswith(END) or pair in self._rank:
                raise ValueError(
                    f"merge {rank} is {str(pair)[:80]}; expected two symbols that are bytes or results of earlier "
                    f"merges, the first without {END}, and no pair twice; is the file sorted or edited?"
                )
            self._rank[pair] = rank
            symbols.append("".join(pair))
            known.add(symbols[-1])
        self.vocab_size = len(symbols) + 2
        self.sot, self.eot = len(symbols), len(symbols) + 1
        # Where two merges give the same symbol the later id is used, as in CLIP's dict(zip(vocab, range(...))).
        self._id = {symbol: i for i, symbol in enumerate(symbols)}
        self._ids = functools.lru_cache(maxsize=1 << 16)(self._of_piece)  # each piece is worked out once
        # "</w>" in a symbol is always END: "<", "/" and ">" never share a piece with "w".
        self._text = [symbol.replace(END, " ") for symbol in symbols]

    @classmethod
    @functools.cache
    def bundled(cls) -> "Tokenizer":
        """The tokenizer of this project's own vocabulary, read once; ValueError if the files are not installed.

        >>> Tokenizer.bundled().vocab_size
        1514
        """
        return cls.from_merges(vocabulary_folder() / MACHINE_FILE)

    @classmethod
    def from_merges(cls, path: str | Path) -> "Tokenizer":
        """The tokenizer of a merges file, plain or gzip: a version line, then one merge per line, "first second".

        At most 48,894 merges are used, as CLIP does with its bpe_simple_vocab_16e6.txt.gz (vocab_size 49,408).
        Errors: ValueError that names the file and what is wrong with it.
        """
        try:
            data = Path(path).read_bytes()
            text = (gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data).decode()
            header, *lines = text.rstrip().splitlines() or [""]
            if "#version" not in header:
                raise ValueError(f"line 1 is {header[:80]!r}; expected a line with '#version', then the merges")
            if header.startswith(OWN_HEADER) and header != f"{OWN_HEADER}{len(lines)}":
                raise ValueError(f"found {len(lines)} merges after {header[:80]!r}; is the file cut?")
            return cls(line.split() for line in lines[:LARGEST])
        except (OSError, EOFError, zlib.error, ValueError) as error:
            raise ValueError(f"{path}: cannot be read as a merges file, plain or gzip: {error}") from None

    def steps(self, piece: str) -> Iterator[tuple[str, ...]]:
        """Step 6: the symbols of a pre-token before any merge, and after each one.

        Of the adjacent pairs that have a rank, the one of lowest rank is merged wherever it occurs, left to right;
        the last row has no such pair. `encode` looks up the ids of the last row.

        >>> list(Tokenizer([("h", "e</w>"), ("t", "h"), ("th", "e</w>")]).steps("the"))
        [('t', 'h', 'e</w>'), ('t', 'he</w>')]
        """
        symbols = byte_symbols(piece)
        yield symbols
        while ranked := [pair for pair in pairwise(symbols) if pair in self._rank]:
            # The lowest rank first: not the first pair of the piece, and not the longest symbol.
            symbols = merge(symbols, *min(ranked, key=self._rank.__getitem__))
            yield symbols

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without SOT and EOT; the empty list for empty text. Errors: those of `pre_tokens`.

        Source: SimpleTokenizer.encode.

        >>> Tokenizer([]).encode("A!")  # one byte each, and each the end of its piece
        [320, 256]
        """
        return [i for piece in pre_tokens(text) for i in self._ids(piece)]

    def _of_piece(self, piece):
        *_, symbols = self.steps(piece)  # the last row: everything merged
        return [self._id[symbol] for symbol in symbols]

    def decode(self, ids: Iterable) -> str:
        """The text of ids: the pieces, separated by one space.

        `decode(encode(t)) == " ".join(pre_tokens(t))`: ids mark where a piece ends, not whether a space follows,
        so "high-rise" and "high - rise" have the same ids. SOT is skipped, and reading ends at the first EOT. Ids
        cut inside a character of several bytes give U+FFFD.
        Errors: ValueError for an id that is not an integer in 0..vocab_size - 1.
        Source: SimpleTokenizer.decode, without its trailing space.

        >>> tokenizer = Tokenizer.bundled()
        >>> tokenizer.decode(tokenizer.encode("Compact  high-rise"))
        'compact high - rise'
        """
        text = ""
        for position, i in enumerate(ids):
            token = integer(i)
            if token is None or not 0 <= token < self.vocab_size:
                raise ValueError(f"id {i!r} at position {position}; expected an integer 0..{self.vocab_size - 1}")
            if token == self.eot:
                break
            if token != self.sot:
                text += self._text[token]
        return bytes(CHARACTER_BYTES.get(c, 32) for c in text).decode(errors="replace").removesuffix(" ")

    def batch(
        self, texts: str | Iterable[str], context_length: int | None = 77, truncate: bool = False
    ) -> np.ndarray:  # N str -> (N, L) int64
        """Token ids for the text encoder: [SOT] ids [EOT] in each row, then zeros up to L = `context_length`.

        Zero is also the id of "!", which is harmless: the encoder reads the place of the first EOT, the largest
        id, and its causal mask hides what comes after. (The other convention pads with EOT; it is not CLIP's.)
        With None, L is the longest row: the same features, less work. With `truncate`, a row that is too long is
        cut to L, and its last id becomes EOT.
        Errors: ValueError that names the text with more than L - 2 ids; for L < 2; those of `encode`.
        Source: clip.tokenize. One str counts as a list of one, as there.

        >>> Tokenizer([]).batch(["a", "a!"], context_length=5)
        array([[512, 320, 513,   0,   0],
               [512, 320, 256, 513,   0]])
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        rows = []
        for n, text in enumerate(texts):
            try:
                rows.append([self.sot, *self.encode(text), self.eot])
            except ValueError as error:
                raise ValueError(f"text {n}: {error}") from None
        L = max(map(len, rows), default=2) if context_length is None else integer(context_length)
        if L is None or L < 2:
            raise ValueError(
                f"context_length is {context_length!r}; expected an integer of 2 or more: SOT and EOT"
            )
        tokens = np.zeros((len(rows), L), dtype=np.int64)
        for n, row in enumerate(rows):
            if len(row) > L and not truncate:
                raise ValueError(
                    f"text {n} ({texts[n][:60]!r}) has {len(row)} tokens with SOT and EOT, more than the "
                    f"context_length {L}; shorten it, or cut it with truncate=True"
                )
            row = row if len(row) <= L else [*row[: L - 1], self.eot]
            tokens[n, : len(row)] = row
        return tokens


def vocabulary_folder() -> Path:
    """Where the bundled vocabulary is: inside the installed package, or beside it in a checkout.

    Errors: ValueError that names both places if it is in neither.
    """
    places = [folder / "tokenizer_vocab" for folder in Path(__file__).resolve().parents[:2]]
    for place in places:
        if (place / MACHINE_FILE).is_file():
            return place
    raise ValueError(f"no {MACHINE_FILE} in {places[0]} nor in {places[1]}; install the package again")
