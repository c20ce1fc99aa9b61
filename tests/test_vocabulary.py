"""tokenizer_vocab/: merges worked out by hand, and the bundled files byte for byte."""

import pytest
from scripts import script

from bplcz_ref import prompts, tokenizer
from bplcz_ref.tokenizer import Tokenizer

BY_HAND = [
    # l o w</w> x2, l o w e r</w>, n e w e r</w>. Counts: (l, o) 3; (o, w</w>) 2; (e, r</w>) 2; (w, e) 2; the
    # rest 1. After lo: (lo, w</w>) 2, (e, r</w>) 2 and (w, e) 2, of which "e" comes first; then (w, er</w>) 2
    # and (lo, w</w>) 2, of which "lo" comes first.
    ("low low lower newer", 99, "l o 3, e r</w> 2, lo w</w> 2, w er</w> 2"),
    ("low low lower newer", 2, "l o 3, e r</w> 2"),
    ("aaaab", 9, "a a 3"),  # at three positions; merged as aa aa, then (aa, aa) occurs only once
    ("aaaab aaaab", 9, "a a 6, aa aa 2, aaaa b</w> 2"),
    ("abcdefg", 9, ""),  # nothing occurs twice
    ("", 9, ""),
]
learning = script("tokenizer_vocab/learn")


@pytest.mark.parametrize(("text", "merges", "expected"), BY_HAND)
def test_learning_by_hand(text, merges, expected):
    learned = learning.learn(text, merges)
    assert ", ".join(f"{first} {second} {count}" for (first, second), count in learned.items()) == expected


@pytest.mark.slow
def test_the_bundled_files_are_learned_again_byte_for_byte(tmp_path):
    learning.write_vocabulary(tmp_path)
    for name in (tokenizer.MACHINE_FILE, learning.HUMAN_FILE):
        bundled = (tokenizer.vocabulary_folder() / name).read_bytes()
        assert (tmp_path / name).read_bytes() == bundled.replace(b"\r\n", b"\n")


def test_the_bundled_vocabulary_and_its_corpus():
    t = Tokenizer.bundled()
    assert t is Tokenizer.bundled()
    assert (t.vocab_size, t.sot, t.eot, len(t.merges)) == (1514, 1512, 1513, 1000)
    assert t.merges[:2] == (("t", "h"), ("th", "e</w>"))
    corpus = (tokenizer.vocabulary_folder() / "corpus.txt").read_text("utf-8")
    assert all(text in corpus for text in prompts.DESCRIPTIONS)
