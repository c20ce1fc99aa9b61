"""Learns the bundled vocabulary from corpus.txt: the merges of tokenizer.py, for programs and for people.

    python tokenizer_vocab/learn.py [FOLDER]

writes both files into a folder, by default over those beside this script: the same bytes on every platform.
"""

import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

from bplcz_ref.storage import files
from bplcz_ref.tokenizer import CHARACTER_BYTES, END, MACHINE_FILE, OWN_HEADER, byte_symbols, merge, pre_tokens

HERE = Path(__file__).parent
HUMAN_FILE = "bplcz-bpe-readable.txt"
MERGES = 1000  # of the bundled vocabulary


def learn(text: str, merges: int) -> dict[tuple[str, str], int]:
    """Merges learned from a text: {pair: its count when it was merged}, in the order of the merges.

    Rule: the text is cut into pieces (`pre_tokens`); again and again, the adjacent pair of symbols with the
    highest count over all pieces becomes one symbol. Of pairs with equal counts, the first by the code points of
    its first symbol, then of its second, is merged. Every position counts, overlapping ones too ("aaab" has "a a"
    twice). A pair that occurs only once is never merged, so there may be fewer merges than asked for.
    Source: Sennrich, Haddow and Birch 2016 (arXiv 1508.07909); ties, left open there, by the rule above.

    >>> learn("low low lower", 3)
    {('l', 'o'): 3, ('lo', 'w</w>'): 2}
    """
    frequencies = Counter(pre_tokens(text))
    words, times = [byte_symbols(piece) for piece in frequencies], list(frequencies.values())
    counts: Counter = Counter()
    for word, n in zip(words, times, strict=True):
        for pair in pairwise(word):
            counts[pair] += n
    learned: dict[tuple[str, str], int] = {}
    while len(learned) < merges and (most := max(counts.values(), default=0)) > 1:
        best = min(pair for pair, count in counts.items() if count == most)
        learned[best] = most
        for w, word in enumerate(words):
            if best[0] in word:  # count the word out, merge, count it in
                for pair in pairwise(word):
                    counts[pair] -= times[w]
                words[w] = merge(word, *best)
                for pair in pairwise(words[w]):
                    counts[pair] += times[w]
    return learned


def shown(symbol: str) -> str:
    """A symbol as text where its bytes are text, else as \\xNN."""
    characters = symbol.removesuffix(END)
    text = bytes(CHARACTER_BYTES[c] for c in characters).decode(errors="backslashreplace")
    return text + symbol[len(characters) :]


def write_vocabulary(folder: Path) -> None:
    """Both files, learned from corpus.txt, into `folder`."""
    learned = learn((HERE / "corpus.txt").read_text("utf-8"), MERGES)
    machine = [f"{OWN_HEADER}{len(learned)}", *(f"{first} {second}" for first, second in learned)]
    human = [
        f"The {len(learned)} merges of {MACHINE_FILE}, to be read by people; no program reads this file.",
        f"count: how often the pair stood in the corpus when it was merged; {END} marks the end of a piece.",
        "",
        " rank    id  count  pair -> joined",
    ]
    for rank, ((first, second), count) in enumerate(learned.items()):
        joined = f"{shown(first)} + {shown(second)} -> {shown(first + second)}"
        human.append(f"{rank:5d} {512 + rank:5d} {count:6d}  {joined}")
    for name, lines in ((MACHINE_FILE, machine), (HUMAN_FILE, human)):
        files.write_text(folder / name, "\n".join(lines) + "\n")


if __name__ == "__main__":
    write_vocabulary(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
