"""tokenizer.py against ids worked out by hand, and CLIP's ids where its file is installed."""

import gzip
import importlib.util
import random
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from bplcz_ref import prompts, tokenizer
from bplcz_ref.tokenizer import Tokenizer, clean, pre_tokens

# The tiny vocabulary. Ids by hand: a byte has the id code - 33, so a 64, e 68, h 71, i 72, l 75, o 78, s 82, t 83,
# u 84, w 86 and "!" 0, 2 17; at the end of a piece 256 more; then the merges from 512 on; SOT 518 and EOT 519.
TINY = [("t", "h"), ("h", "e</w>"), ("th", "e</w>"), ("i", "s</w>"), ("l", "o"), ("lo", "lo")]
#        512         513            514             515           516         517
BY_HAND = {
    "": [],
    "!": [256],
    "a": [320],
    "The": [514],  # t h e -> th e -> the
    "he": [513],
    "she": [82, 513],  # the end e</w> joins h, s stays
    "this": [512, 515],
    "lolo lo": [516, 75, 334, 75, 334],  # at the end the o is o</w>, and (l, o</w>) is no merge
    "lololou": [517, 516, 340],
    "hihe": [71, 72, 513],
    "22": [273, 273],  # each digit is a piece
    "THE  the\n": [514, 514],
    "the!!the": [514, 0, 256, 514],
    "w\u00fc": [86, 127, 376],  # C3 BC: 106 + C3 - AE; 106 + BC - AE, + 256 at the end
    "\U0001f30a": [172, 253, 234, 488],  # F0: 106 + F0 - AE; 9F, 8C and 8A moved to 188 + 33 + themselves - 7F
    "it's": [72, 339, 6, 338],  # "it" and "'s"
}


TINY_TOKENIZER = Tokenizer(TINY)


@pytest.mark.parametrize(("text", "ids"), BY_HAND.items())
def test_ids_by_hand(text, ids):
    assert TINY_TOKENIZER.encode(text) == ids


def test_of_two_merges_to_one_symbol_the_later_gives_the_id():
    t = Tokenizer([("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc")])
    assert t.encode("abcd") == [515, 67 + 256]  # as a dict(zip(symbols, ids)) has it
    assert t.decode([514, 323]) == t.decode([515, 323]) == "abcd"


PIECES = {
    "IT'LL We'Re": ["it", "'ll", "we", "'re"],
    "!'s": ["!'", "s"],  # a contraction counts only where a piece begins
    "'\u017fa": ["'\u017f", "a"],  # the long s is an s, ignoring case
    "\u00bd\u00b2\u2167x": ["\u00bd", "\u00b2", "\u2177", "x"],  # No, No, Nl: numbers, one each
    "a_b": ["a", "_", "b"],  # not a letter, though str.isidentifier and \w say so
    "e\u0301x": ["e", "\u0301", "x"],  # a mark is no letter
    "\u0130x": ["i", "\u0307", "x"],  # lower case of I with dot is two characters
    "\u0391\u03a3 \u03a3": ["\u03b1\u03c2", "\u03c3"],  # final sigma
    "a\u200bb\x1cc": ["a", "\u200b", "b", "\x1c", "c"],  # neither is whitespace for the pattern
    "&amp;amp;lt;\u2018": ["&", "lt", ";\u2018"],  # entities twice and no more; ftfy would straighten the quote
    "a\x85b\u3000c\x0bd": ["a", "b", "c", "d"],
    "\u03b1\u0345\u03b2": ["\u03b1", "\u03b2"],  # dropped by CLIP: a mark, but a letter when case is ignored
    "!!<|endoftext|>": ["!!<|", "endoftext", "|>"],  # begins inside a run: no special token for the pattern
    "<|\u017ftartoftext|>": ["<|\u017ftartoftext|>"],  # one piece, yet not the token
}


@pytest.mark.parametrize(("text", "pieces"), PIECES.items())
def test_pieces(text, pieces):
    assert pre_tokens(text) == pieces


PARTS = [
    *"abcxyzABC\u0130\u03a30189\u00bd'!-_<|>/&;# \t\n\u00a0\u0301\u0308\u0345\x1c",
    *("'s", "'LL", "&lt;", "&amp;gt;", "<|end", "</w>", "high-rise", "\u65e5\u672c", "\U0001f44b\U0001f3fd"),
]


def random_text(rng):
    """Up to 23 of PARTS, and one character of any kind among them."""
    parts = [rng.choice(PARTS) for _ in range(rng.randrange(24))]
    strange = chr(rng.choice((rng.randrange(0x3000), rng.randrange(0xE000, 0x110000))))
    parts.insert(rng.randrange(len(parts) + 1), strange)
    return "".join(parts)


def test_decode_is_the_inverse_on_ids_and_on_text_except_for_spaces():
    rng, t = random.Random(47), Tokenizer.bundled()
    for _ in range(500):
        text = random_text(rng)
        assert t.decode(t.encode(text)) == " ".join(pre_tokens(text))
        text = text.replace("\u0345", "")  # which CLIP drops: what it hid from strip() is bare in the decoded text
        decoded = t.decode(t.encode(text))
        assert t.encode(decoded) == t.encode(text)
        assert decoded.replace(" ", "") == clean(text).replace(" ", "")
        assert t.decode(t.batch([text], context_length=None)[0]) == decoded


def test_decode_of_rows_and_of_ids_that_no_text_gives():
    t = TINY_TOKENIZER
    assert t.decode([518, 514, 256, 519, 0, 0]) == "the !"  # the zeros after EOT are padding, not "!"
    assert t.decode([514, 0]) == "the !"
    assert t.decode([]) == t.decode([519]) == ""
    assert t.decode([86, 127]) == "w\ufffd"  # cut inside a character
    assert t.decode(np.array([514, 514], dtype=np.int32)) == "the the"


SPECIAL = ["<|endoftext|>", "a <|StartOfText|>", "x<|ENDOFTEXT|>y", "&lt;|endoftext|&gt;", "&amp;lt;|endoftext|>"]
BAD = [
    *[(lambda t, text=text: t.batch(["fine", text]), r"text 1: .*special token <\|\w+\|>, which only batch")
      for text in SPECIAL],
    *[(lambda t, i=i: t.decode([i]), r"id .* at position 0; expected an integer 0\.\.519")
      for i in (520, -1, 1.0, "a", None, True)],
    (lambda t: t.encode(b"the"), "expected a str"),
    (lambda t: t.batch([None]), "text 0: .*expected a str"),
    (lambda t: t.batch(["the", "the! he"], context_length=4),
     r"text 1 \('the! he'\) has 5 tokens .* context_length 4; .*truncate=True"),
    (lambda t: t.batch(["a " * 76]), "has 78 tokens"),
    *[(lambda t, L=L: t.batch(["the"], context_length=L), "context_length is .*2 or more") for L in (1, 2.5)],
    *[(lambda t, pair=pair: Tokenizer([("t", "h"), pair]), "merge 1 is .*expected two symbols")
      for pair in (("t",), ("t", "h", "e"), ("\u65e5", "h"), ("t ", "h"), ("t", "h"), ("t</w>", "h"))],
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), BAD)
def test_what_is_wrong_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(TINY_TOKENIZER)


def test_batch_by_hand():
    t, texts = TINY_TOKENIZER, ["the", "", "the! he"]
    tokens = t.batch(texts, context_length=5)
    assert tokens.tolist() == [[518, 514, 519, 0, 0], [518, 519, 0, 0, 0], [518, 514, 256, 513, 519]]
    assert tokens.dtype == np.int64
    assert np.array_equal(t.batch(texts, context_length=None), tokens)  # as long as the longest row
    assert np.array_equal(t.batch(texts), np.pad(tokens, ((0, 0), (0, 72))))
    assert t.batch("the", context_length=4).tolist() == [[518, 514, 519, 0]]
    assert (t.batch([]).shape, t.batch([], context_length=None).shape) == ((0, 77), (0, 2))
    cut = t.batch((text for text in texts), context_length=4, truncate=True)  # EOT last
    assert cut.tolist() == [[518, 514, 519, 0], [518, 519, 0, 0], [518, 514, 256, 519]]
    assert t.batch(["the"], context_length=2, truncate=True).tolist() == [[518, 519]]
    assert t.batch(["a " * 75])[0, -1] == t.eot  # 77 exactly


# ---- the bundled vocabulary


def test_the_119_prompts():
    t, every = Tokenizer.bundled(), prompts.prompts()
    tokens = t.batch(every)
    assert tokens.shape == (119, 77)
    assert len({tuple(row) for row in tokens.tolist()}) == 119
    ends = tokens.argmax(axis=1)  # of the largest id, EOT
    np.testing.assert_array_equal(ends, [1 + len(t.encode(text)) for text in every])
    assert (tokens[:, 0] == t.sot).all()
    assert ((tokens == t.eot).sum(axis=1) == 1).all()
    assert [t.decode(row) for row in tokens] == [" ".join(pre_tokens(text)) for text in every]


# ---- files


def test_the_vocabulary_is_found_from_anywhere_and_missed_clearly(tmp_path, monkeypatch):
    package = tmp_path / "site" / "bplcz_ref"
    package.mkdir(parents=True)
    monkeypatch.setattr(tokenizer, "__file__", str(package / "tokenizer.py"))
    with pytest.raises(ValueError, match=r"no bplcz-bpe\.txt in .*bplcz_ref.tokenizer_vocab nor in .*site.token"):
        tokenizer.vocabulary_folder()
    for place in (package.parent / "tokenizer_vocab", package / "tokenizer_vocab"):  # beside it, then inside it
        place.mkdir()
        (place / tokenizer.MACHINE_FILE).write_text("x")
        assert tokenizer.vocabulary_folder() == place


MERGES_TEXT = "".join(f"{a} {b}\n" for a, b in TINY)


@pytest.mark.parametrize("header", ["#version: 0.2", "#version: bplcz-bpe 1 merges 6"])
def test_merges_files_plain_and_gzip(tmp_path, monkeypatch, header):
    path, text = tmp_path / "merges.txt", f"{header}\n{MERGES_TEXT}"
    for data in (text, text.replace("\n", "\r\n"), text[:-1]):
        for packed in (bytes, gzip.compress):
            path.write_bytes(packed(data.encode()))
            assert Tokenizer.from_merges(str(path)).merges == tuple(TINY)
    monkeypatch.setattr(tokenizer, "LARGEST", 2)  # as CLIP uses no more than it has ids for
    assert Tokenizer.from_merges(path).merges == tuple(TINY[:2])


WRONG_FILES = [
    (b"", "line 1 is ''"),
    (b"t h\nh e</w>\n", "line 1 is 't h'; expected a line with '#version'"),
    (b"#version: bplcz-bpe 1 merges 7\nt h\n", "found 1 merges after .* merges 7'; is the file cut"),
    (b"#version: 0.2\nt h\n\nh e\n", r"merge 1 is \(\); expected two symbols"),
    (gzip.compress(b"#version: 0.2\nt h\n", mtime=0)[:-9], "cannot be read as a merges file"),
    (None, "cannot be read as a merges file, .*No such file"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "message"), WRONG_FILES)
def test_a_wrong_merges_file_is_named(tmp_path, data, message):
    path = tmp_path / "merges.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"merges\.txt: .*{message}"):
        Tokenizer.from_merges(path)


# ---- CLIP's own file and CLIP's own pattern, where they are installed


@pytest.fixture(scope="module")
def clips():
    """The tokenizer of CLIP's file, from the copy inside open_clip, which is found without being imported."""
    found = importlib.util.find_spec("open_clip")
    path = found and Path(found.origin).parent / "bpe_simple_vocab_16e6.txt.gz"
    if not path or not path.is_file():
        pytest.skip("CLIP's vocabulary comes with open_clip_torch, which is not installed")
    return Tokenizer.from_merges(path)


CLIPS_IDS = {
    "Hello World!": [3306, 1002, 256], "it's 2024": [585, 568, 273, 271, 273, 275], "don't": [847, 713], "": [],
    "compact high-rise": [13690, 1400, 268, 3151], "A  Photo\tof a DOG!!": [320, 1125, 539, 320, 1929, 748],
    "z\u00fcrich": [89, 6522, 4021], "12,117 samples": [272, 273, 267, 272, 272, 278, 13387],
    "x&lt;y": [343, 283, 344], "&amp;lt;b&gt;": [283, 321, 285], "vh": [23847], "vv": [35686], "pol": [7649],
    "Caf\u00e9  na\u00efve": [15304, 1097, 35689, 563], "\U0001f30a water": [14302, 1573],
    "red green blue": [736, 1901, 1746], "vegetation red edge": [33947, 736, 5461],
    "near infrared": [2252, 22867], "short wave infrared": [3005, 4535, 22867],
}  # fmt: skip


def test_clips_ids(clips):
    assert (clips.vocab_size, clips.sot, clips.eot) == (49408, 49406, 49407)
    assert clips.merges[0] == ("i", "n")
    assert clips.merges[-1] == ("jeky", "ll</w>")
    assert {text: clips.encode(text) for text in CLIPS_IDS} == CLIPS_IDS
    water = [320, 1125, 539, 320, 9799, 539, 1573, 2046, 601, 10723, 267, 9265, 267, 541, 9556, 267, 18759, 601,
             11075, 1746, 5429, 525, 4952, 593, 736, 1901, 1746, 7858]  # fmt: skip
    assert clips.encode(prompts.prompt(16, "RGB")) == water
    lengths = (clips.batch(prompts.prompts()) == clips.eot).argmax(axis=1).reshape(17, 7) + 1
    assert [(int(lengths[k].min()), int(lengths[k].max())) for k in (0, 8, 16)] == [(24, 26), (24, 26), (28, 30)]


@pytest.mark.slow
def test_pieces_are_those_of_clips_own_pattern():
    """Alone, between letters, between signs and around an apostrophe: every assigned character below U+3400, and
    every twentieth above, where the large blocks of one category are. And random texts."""
    regex = pytest.importorskip("regex")
    pattern = regex.compile(
        r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
        regex.IGNORECASE,
    )
    assigned = [c for c in map(chr, range(0x110000)) if unicodedata.category(c) not in ("Cn", "Cs")]
    characters = [c for i, c in enumerate(assigned) if c < "\u3400" or i % 20 == 0]
    rng, known = random.Random(3), set(assigned)  # the two need not know the same version of Unicode
    texts = [text for text in (random_text(rng) for _ in range(2000)) if known.issuperset(text)]
    for i in range(0, len(characters), 500):
        texts.append(" ".join(f"{c} a{c}b !{c}! '{c} {c}'s" for c in characters[i : i + 500]))
    assert len(texts) > 1000
    for text in texts:
        cleaned = regex.sub(r"\s+", " ", clean(text)).strip()
        assert (cleaned, pre_tokens(text)) == (clean(text), pattern.findall(cleaned))
