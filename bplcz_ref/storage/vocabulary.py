"""Learning a vocabulary: the merges of tokenizer.py from a corpus, as a file for programs and one for people.

The bundled vocabulary (tokenizer_vocab/) was learned from a corpus written for this project; `write_vocabulary`
makes both of its files again, byte for byte.
"""

from collections import Counter
from itertools import pairwise
from pathlib import Path

from bplcz_ref.storage import files, schema
from bplcz_ref.tokenizer import (
    CHARACTER_BYTES,
    END,
    MACHINE_FILE,
    OWN_HEADER,
    byte_symbols,
    merge,
    pre_tokens,
    vocabulary_folder,
)

HUMAN_FILE, CORPUS_FILE = "bplcz-bpe-readable.txt", "corpus.txt"
MERGES = 1000  # merges of the bundled vocabulary


def train(text: str, merges: int) -> dict[tuple[str, str], int]:
    """Learns merges from a text: {pair: its count when it was merged}, in the order of the merges.

    Rule: the text is cut into pieces (`pre_tokens`); again and again, the adjacent pair of symbols with the
    highest count over all pieces becomes one symbol. Of pairs with equal counts, the first by the code points of
    its first symbol, then of its second, is merged. Every position counts, overlapping ones too ("aaab" has "a a"
    twice). A pair that occurs only once is never merged, so there may be fewer merges than asked for.
    Errors: ValueError for a number of merges that is not a positive integer; those of `pre_tokens`.
    Source: Sennrich, Haddow and Birch 2016 (arXiv 1508.07909); ties, left open there, by the rule above.

    >>> train("low low lower", 3)
    {('l', 'o'): 3, ('lo', 'w</w>'): 2}
    """
    schema.check(merges, schema.whole(1), "merges")
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


def write_vocabulary(
    folder: str | Path, corpus: str | Path | None = None, merges: int = MERGES
) -> tuple[Path, Path]:
    """Trains on a corpus file (the bundled one for None); writes machine file and human file into `folder`.

    Returns their paths. The same corpus gives the same bytes on every platform.
    Errors: ValueError for a corpus that cannot be read as UTF-8 text; those of `train`.
    """
    corpus = vocabulary_folder() / CORPUS_FILE if corpus is None else Path(corpus)
    with files.reading(corpus, "expected text in UTF-8"):
        text = corpus.read_text(encoding="utf-8")
    learned = train(text, merges)
    machine = [f"{OWN_HEADER}{len(learned)}", *(f"{first} {second}" for first, second in learned)]
    human = [
        f"The {len(learned)} merges of {MACHINE_FILE}, to be read by people; no program reads this file.",
        f"count: how often the pair stood in the corpus when it was merged; {END} marks the end of a piece.",
        "",
        " rank    id  count  pair -> joined",
    ]
    for rank, ((first, second), count) in enumerate(learned.items()):
        shown = " + ".join(map(_shown, (first, second)))
        human.append(f"{rank:5d} {512 + rank:5d} {count:6d}  {shown} -> {_shown(first + second)}")
    paths = Path(folder) / MACHINE_FILE, Path(folder) / HUMAN_FILE
    for path, lines in zip(paths, (machine, human), strict=True):
        files.write_text(path, "\n".join(lines) + "\n")
    return paths


def _shown(symbol):
    """A symbol as text where its bytes are text, else as \\xNN."""
    characters = symbol.removesuffix(END)
    text = bytes(CHARACTER_BYTES[c] for c in characters).decode(errors="backslashreplace")
    return text + symbol[len(characters) :]
