"""vocabulary.py: merges worked out by hand, and the bundled files byte for byte."""

import doctest

import pytest

from bplcz_ref import prompts, tokenizer, vocabulary
from bplcz_ref.tokenizer import Tokenizer
from bplcz_ref.vocabulary import train


def test_training_by_hand():
    """low low lower newer: l o w</w> x2, l o w e r</w>, n e w e r</w>.

    Counts: (l, o) 3; (o, w</w>) 2; (e, r</w>) 2; (w, e) 2; the rest 1. After lo: (lo, w</w>) 2, (e, r</w>) 2 and
    (w, e) 2, of which "e" comes first; then (w, er</w>) 2 and (lo, w</w>) 2, of which "lo" comes first.
    """
    assert train("low low lower newer", 99) == {
        ("l", "o"): 3,
        ("e", "r</w>"): 2,
        ("lo", "w</w>"): 2,
        ("w", "er</w>"): 2,
    }
    assert list(train("low low lower newer", 2)) == [("l", "o"), ("e", "r</w>")]


def test_training_counts_every_position_and_merges_from_the_left():
    # aaaab: (a, a) at three positions; merged as aa aa, then (aa, aa) occurs only once.
    assert train("aaaab", 9) == {("a", "a"): 3}
    assert train("aaaab aaaab", 9) == {("a", "a"): 6, ("aa", "aa"): 2, ("aaaa", "b</w>"): 2}
    assert train("abcdefg", 9) == train("", 9) == {}  # nothing occurs twice


@pytest.mark.parametrize("merges", [0, -1, 2.0, "9", None, True])
def test_a_wrong_number_of_merges_is_an_error(merges):
    with pytest.raises(ValueError, match="merges is .*positive integer"):
        train("low low", merges)


@pytest.mark.slow
def test_the_bundled_files_are_retrained_byte_for_byte(tmp_path):
    folder = tokenizer.vocabulary_folder()
    paths = vocabulary.write_vocabulary(tmp_path / "new")
    assert [path.name for path in paths] == [tokenizer.MACHINE_FILE, vocabulary.HUMAN_FILE]
    for path in paths:
        assert path.read_bytes() == (folder / path.name).read_bytes().replace(b"\r\n", b"\n")
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == sorted(p.name for p in paths)


def test_a_corpus_that_is_missing_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"none\.txt: cannot be read as UTF-8 text"):
        vocabulary.write_vocabulary(tmp_path, corpus=tmp_path / "none.txt")
    assert not list(tmp_path.iterdir())


def test_the_bundled_vocabulary():
    t = Tokenizer.bundled()
    assert t is Tokenizer.bundled()
    assert (t.vocab_size, t.sot, t.eot, len(t.merges)) == (1514, 1512, 1513, 1000)
    assert t.merges[:2] == (("t", "h"), ("th", "e</w>"))
    lines = (tokenizer.vocabulary_folder() / tokenizer.MACHINE_FILE).read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#version: bplcz-bpe 1 merges 1000"
    assert lines[1:3] == ["t h", "th e</w>"]
    human = (tokenizer.vocabulary_folder() / vocabulary.HUMAN_FILE).read_text(encoding="utf-8").splitlines()[4:]
    assert [int(line.split()[1]) for line in human] == list(range(512, 1512))


def test_the_corpus_speaks_of_this_field_and_holds_the_descriptions():
    corpus = (tokenizer.vocabulary_folder() / vocabulary.CORPUS_FILE).read_text(encoding="utf-8")
    assert all(text in corpus for text in prompts.DESCRIPTIONS)
    sentences = [s.strip() for s in corpus.replace("\n", " ").split(". ")]
    assert len(sentences) == len(set(sentences))
    assert len(corpus.split()) > 5000


def test_the_readme_beside_the_files_is_right():
    readme = tokenizer.vocabulary_folder() / "README.md"
    result = doctest.testfile(str(readme), module_relative=False, encoding="utf-8")
    assert result.attempted == 4
    assert result.failed == 0
