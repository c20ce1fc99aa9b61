"""vocabulary.py: merges worked out by hand, and the bundled files byte for byte."""

import doctest

import pytest

from bplcz_ref import prompts, tokenizer
from bplcz_ref.storage import vocabulary
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


@pytest.mark.parametrize(("text", "merges", "expected"), BY_HAND)
def test_training_by_hand(text, merges, expected):
    learned = vocabulary.train(text, merges)
    assert ", ".join(f"{first} {second} {count}" for (first, second), count in learned.items()) == expected


def test_a_wrong_number_of_merges_is_an_error():
    for merges in (0, 2.0, "9"):
        with pytest.raises(ValueError, match="merges is .*expected a whole number, 1 or more"):
            vocabulary.train("low low", merges)


@pytest.mark.slow
def test_the_bundled_files_are_retrained_byte_for_byte(tmp_path):
    paths = vocabulary.write_vocabulary(tmp_path / "new")
    assert [path.name for path in paths] == [tokenizer.MACHINE_FILE, vocabulary.HUMAN_FILE]
    for path in paths:
        bundled = (tokenizer.vocabulary_folder() / path.name).read_bytes()
        assert path.read_bytes() == bundled.replace(b"\r\n", b"\n")
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == sorted(p.name for p in paths)


def test_a_corpus_that_is_missing_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"none\.txt: there is no such file"):
        vocabulary.write_vocabulary(tmp_path, corpus=tmp_path / "none.txt")
    assert not list(tmp_path.iterdir())


def test_the_bundled_vocabulary_and_its_corpus():
    t = Tokenizer.bundled()
    assert t is Tokenizer.bundled()
    assert (t.vocab_size, t.sot, t.eot, len(t.merges)) == (1514, 1512, 1513, 1000)
    assert t.merges[:2] == (("t", "h"), ("th", "e</w>"))
    machine, human, corpus = (
        (tokenizer.vocabulary_folder() / name).read_text(encoding="utf-8")
        for name in (tokenizer.MACHINE_FILE, vocabulary.HUMAN_FILE, vocabulary.CORPUS_FILE)
    )
    assert machine.splitlines()[:3] == ["#version: bplcz-bpe 1 merges 1000", "t h", "th e</w>"]
    assert [int(line.split()[1]) for line in human.splitlines()[4:]] == list(range(512, 1512))
    assert all(text in corpus for text in prompts.DESCRIPTIONS)


def test_the_readme_beside_the_files_is_right():
    readme = tokenizer.vocabulary_folder() / "README.md"
    result = doctest.testfile(str(readme), module_relative=False, encoding="utf-8")
    assert (result.attempted, result.failed) == (4, 0)
