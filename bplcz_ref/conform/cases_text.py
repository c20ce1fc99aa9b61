"""The kit's cases, second part: prompts, pieces, ids. Each sample of text is there for a point of the rule.

Every character has had its kind (letter, number, other, whitespace) since Unicode 4.1, or is an emoji, which
counts as other where it is unknown: any table of a library will do.
"""

from collections.abc import Iterator

from bplcz_ref import paper
from bplcz_ref.conform.kit import Case

SAMPLES = {  # name -> (text, why)
    "words": ("compact high-rise", "a hyphen is a piece"),
    "capitals": ("Dense TREES and Water", "lower case first"),
    "numbers": ("12,117 samples in 2024", "each digit is a piece"),
    "contractions": ("it's what they'll map, don't", "'s 'll 't are pieces"),
    "accents": ("Café naïve Zürich", "two bytes a letter"),
    "emoji": ("a wave 👋 of water", "four bytes a character"),
    "spaces": ("  short \t wave\n infrared  ", "whitespace only separates"),
    "entities": ("built &amp;amp; paved &lt;b&gt;", "entities are resolved twice"),
    "punctuation": ("lakes, or seas...(blue)!", "runs of what is no letter and no number"),
    "empty": ("", "no piece at all"),
    "example": (paper.EXAMPLE_PROMPT, "the prompt that the paper prints"),
    "all-contractions": ("i'm we're you've he'd she'll it's can't", "all seven"),
    "other-apostrophes": ("rock'n'roll o'clock 'em y'all'x", "an apostrophe is otherwise a run of others"),
    "apostrophe-runs": (
        "!'s 'tis a''s --'re (it's) 'seas",
        "a contraction counts where a piece begins, word or not",
    ),
    "capital-contractions": ("IT'S DON'T WE'LL", "lower case comes before the contractions"),
    "curly-quotes": ("it’s “blue” ‘sea’", "curly quotes stay, and are others"),
    "other-numbers": ("½ of ²³ Ⅷ x³! m²½", "fractions, superscripts and Roman numerals are numbers, one by one"),
    "other-digits": ("٣٤ १२ ８", "digits of every script, one by one"),
    "digits-and-letters": ("b8a 3d lcz10 10m", "letters and numbers part"),
    "underscore": ("open_low rise_2 _a", "the underscore is an other"),
    "greek": ("ΟΔΟΣ ΣΑΣ", "the sigma at a word's end is ς"),
    "cyrillic": ("Плотная ЗАСТРОЙКА", "Cyrillic letters"),
    "german": ("Straße MÜHLE", "ß stays: lower case, not case folding"),
    "turkish": ("İzmir ılık", "İ becomes i and a combining dot, which is an other"),
    "chinese": ("水体与城市 日本", "letters without case"),
    "arabic": ("ماء عميق", "letters without case, from right to left"),
    "hindi": ("जल क्षेत्र", "vowel signs and the virama are marks, and marks are others"),
    "korean": ("물 도시", "letters of three bytes"),
    "modifier-letters": ("ʰa nª ǅ", "modifier, ordinal and title case letters are letters"),
    "combining": ("cafe\u0301 e\u0301e\u0301", "a combining accent is an other: nothing is composed"),
    "wide": ("ＡＢｃ ﬁre ①", "full-width letters and ligatures stay as they are"),
    "symbols": ("5€ +- 20° §7 ©™ ~^`|", "symbols of every kind are others, in runs"),
    "emoji-runs": ("🌊🌊 👩\u200d🚀!", "emoji, joiners and punctuation are one run"),
    "wide-spaces": ("a\u00a0b\u3000c\u2003d\u2028e\u1680f", "every White_Space separates"),
    "next-line": ("a\u0085b!\u0085!", "U+0085 is White_Space"),
    "no-spaces": ("a\ufeffb !\u200b! c\u200bd", "U+FEFF and U+200B are no White_Space but others"),
    "controls": ("a\u0001b \u007f!", "control characters are others"),
    "entities-thrice": ("a &amp;amp;amp;lt; b", "twice, not until none is left"),
    "entities-numeric": ("&#65;&#x42;&#233; &#8364;", "decimal and hexadecimal references"),
    "entities-named": ("&Eacute;t&eacute; &Dagger; &nbsp;x&nbsp;y", "HTML's names, before the lower case"),
    "entities-open": ("&ltb&gt &copy 2024 &ampx", "some names need no semicolon"),
    "entities-unknown": ("&bogus; &; a&b", "what is no reference stays"),
    "ascii": ("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", "every other of ASCII in one run"),
    "repeats": ("oooo ooooo pppp mmmm", "of equal pairs that overlap, the left one is merged"),
    "bytes": ("¡¢£ ¬® ±´ ¿ ÀÁ ðþÿ ãí", "every kind of byte, 0xA1 to 0xFF"),
    "id-zero": ("!? !a !!!", "id 0 is the byte !, not only padding"),
    "merges": (
        "accompanied agreement activity amsterdam banana",
        "the lowest rank first, not the leftmost or longest",
    ),
    "long-words": ("characterized representing backscatter uniform", "many merges a word"),
    "one-letter": ("a b z", "one letter is a piece with </w>"),
    "order-of-words": ("water blue water", "a piece comes as often as it stands there"),
}


def cases() -> Iterator[Case]:
    """Suite 5: prompts of the paper's own three descriptions, pieces, ids."""
    for k in (0, 8, 16):
        for group in paper.GROUPS:
            identity = paper.CLASSES[k][0]
            why = f"class index {k} is LCZ {identity}"
            yield Case(f"prompt/{identity}-{group}", why, {"class_index": k, "group": group})
    for name, (sample, why) in SAMPLES.items():
        yield Case(f"pre_tokens/{name}", why, {"text": sample})
        context = 77 if len(sample) > 30 else 40
        yield Case(f"tokenize/{name}", why, {"text": sample, "context": context, "truncate": 0})
    long = "bare soil or sand and bare rock or paved"
    for name, why, sample, context, truncate in (
        ("too-long", "more tokens than the context: refused (the answer is refused = 1)", long, 6, 0),
        ("cut", "cut to the context, the last id set to EOT", long, 6, 1),
        ("exact-fit", "SOT, three bytes, EOT fill the context to its end", "; 7 7", 5, 0),
        ("exact-fit-cut", "what fits is not cut", "; 7 7", 5, 1),
        ("one-too-long", "one id more than fit", "; 7 7", 4, 0),
        ("one-too-long-cut", "one id more than fit, cut", "; 7 7", 4, 1),
        ("empty-fit", "SOT and EOT alone fill the context", "", 2, 0),
        ("special", "a text with a special token is refused", "water <|endoftext|> trees", 40, 0),
        ("special-capitals", "in capitals too: it is in lower case that it counts", "a <|StartOfText|> b", 40, 1),
        ("nearly-special", "only the whole token is special", "a <|endof text|> b <|end|>", 40, 0),
    ):
        inputs = {"text": sample, "context": context, "truncate": truncate}
        yield Case(f"tokenize/{name}", why, inputs, flag="EDGE")
