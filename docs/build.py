"""Turns docs/*.md into a static site: python docs/build.py OUT/, then open OUT/index.html. Needs the extra "docs".

Mathematics becomes MathML, figures inline SVG; the only JavaScript is the widget of chapter 4 (site/widget.html).
No page asks for anything outside OUT/. Files of the checkout that the text links to become pages that show them.
"""

import html
import re
import sys
from pathlib import Path
from typing import NamedTuple

from latex2mathml.converter import convert
from markdown_it import MarkdownIt

DOCS = Path(__file__).parent
ROOT = DOCS.parent
WIDGET = "<!-- widget -->"  # where site/widget.html goes
BEFORE_A_SIGN = "<mo[^>]*>(?:&#x00028;|&#x0002C;|&#x0003D;|&#x02265;|&#x0005B;|\\(|,|=|\\[)</mo>"
BARS = {"l": 'form="prefix" stretchy="false"', "r": 'form="postfix" stretchy="false"'}
CHAPTERS = sorted((DOCS / "mathematics").glob("*.md"))
OTHERS = [DOCS / f"{name}.md" for name in ("readings", "equations", "guide", "conformance", "trace", "speed")]
# {Markdown file: its page}, in the order of the contents
TEXTS = {DOCS / "mathematics.md": "index.html"} | {path: f"{path.stem}.html" for path in (*CHAPTERS, *OTHERS)}


class Page(NamedTuple):
    """A page of the site: its file name, its title, its sections as (anchor, title), and its body."""

    name: str
    title: str
    sections: list
    body: str


def link(target: str, text: Path, shown: dict[Path, str]) -> str:
    """A link of `text` as it is on the site; a file of the checkout gets a page, which is noted in `shown`.

    Errors: ValueError for a file that is not there.
    """
    if target.startswith(("https://", "#")):
        return target
    place, _, anchor = target.partition("#")
    path = (text.parent / place).resolve()
    if path in TEXTS:
        return TEXTS[path] + (f"#{anchor}" if anchor else "")
    if not path.exists():
        raise ValueError(f"{text}: links to {target}, which is not there")
    return shown.setdefault(path, f"source-{'-'.join(path.relative_to(ROOT).parts)}.html")


# ---------------------------------------------------------------- from Markdown to HTML


def page(text: Path, shown: dict[Path, str]) -> Page:
    """A Markdown file as a page."""
    markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
    markdown.inline.ruler.before("escape", "math", inline_math)
    sections: list = []
    rules = markdown.renderer.rules

    def heading(tokens, at, options, env):
        words = re.sub(r"[*`$\\]", "", tokens[at + 1].content)
        anchor = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")  # as GitHub makes them
        if tokens[at].tag in ("h1", "h2"):
            sections.append((anchor, words))
        return f'<{tokens[at].tag} id="{anchor}">'

    def link_open(tokens, at, options, env):
        return f'<a href="{html.escape(link(tokens[at].attrs["href"], text, shown))}">'

    def image(tokens, at, options, env):
        return figure(text.parent / tokens[at].attrs["src"], tokens[at].content)

    rules["heading_open"], rules["link_open"], rules["image"] = heading, link_open, image
    rules["fence"] = lambda tokens, at, options, env: fence(tokens[at].info, tokens[at].content)
    rules["math"] = lambda tokens, at, options, env: mathml(tokens[at].content, "inline")
    rules["table_open"] = lambda *_: '<div class="wide"><table>'
    rules["table_close"] = lambda *_: "</table></div>"
    body = markdown.render(text.read_text(encoding="utf-8"))
    body = re.sub(r"<p>(<figure.*?</figure>)</p>", r"\1", body, flags=re.DOTALL)
    body = re.sub(r"<h\d.*?</h\d>", lambda found: subscripts(found[0]), body)
    body = body.replace(WIDGET, (DOCS / "site" / "widget.html").read_text(encoding="utf-8"))
    return Page(TEXTS[text], sections[0][1], sections[1:], body)


def subscripts(text: str) -> str:
    """L_con in a heading as it is set elsewhere."""
    return re.sub(r"\b([A-Z])_(\w+)", r"<i>\1</i><sub>\2</sub>", text)


def inline_math(state, silent: bool) -> bool:
    """The rule for $...$, as GitHub reads it: no space after the first dollar, none before the last."""
    found = re.compile(r"\$(?!\s)([^$]+?)(?<!\s)\$").match(state.src, state.pos)
    if not found:
        return False
    if not silent:
        state.push("math", "math", 0).content = found[1]
    state.pos = found.end()
    return True


def mathml(tex: str, display: str) -> str:
    """TeX as MathML. Errors: ValueError for a command that latex2mathml or GitHub's page does not understand."""
    # In $...$, GitHub's Markdown takes a backslash before a sign away (github/markup, issue 1746).
    if broken := re.search(r"\\operatorname" if display == "block" else r"\\operatorname|\\[^a-zA-Z]", tex):
        raise ValueError(f"mathematics with {broken[0]}, which GitHub does not show here: {tex.strip()}")
    # Upright letters are words; latex2mathml makes a row of single letters of them, and one letter slanted.
    made = convert(re.sub(r"\\mathrm\{([^{}]*)\}", r"\\text{\1}", tex), display=display)
    sides = iter(re.findall(r"\\([lr])Vert", tex))
    bars = re.compile(r"<mo([^>]*)>(?:&#x02016;|\\[lr]Vert)</mo>")  # ‖ does not say on which side of a norm it is
    made = bars.sub(lambda found: f"<mo{found[1]} {BARS[next(sides)]}>‖</mo>", made)
    # A minus after an opening bracket, a comma or a relation is a sign.
    made = re.sub(rf"({BEFORE_A_SIGN})<mo>(&#x02212;|-)</mo>", r'\1<mo form="prefix">−</mo>', made)
    # TeX sets a thin space after the name of a function, unless a bracket follows.
    made = re.sub(r"(<m[io]>(?:ln|log|sin|cos|max)</m[io]>)(?=<m(?!o))", r'\1<mspace width="0.17em" />', made)
    if unknown := re.search(r"\\[a-zA-Z]+|<mi>&<", made):
        raise ValueError(f"mathematics with {unknown[0]}, which latex2mathml leaves as it is: {tex.strip()}")
    return made


def fence(language: str, content: str) -> str:
    """A block of code, or of mathematics. In doctests, what is printed is set apart from what is typed."""
    if language == "math":
        return f'<div class="wide">{mathml(content, "block")}</div>\n'
    lines = [html.escape(line) for line in content.rstrip("\n").split("\n")]
    if language == "python":
        typed = re.compile(r"(&gt;&gt;&gt;|\.\.\.) ")
        lines = [line if typed.match(line) or not line else f'<span class="out">{line}</span>' for line in lines]
    return f"<pre><code>{chr(10).join(lines)}</code></pre>\n"


def figure(path: Path, alt: str) -> str:
    """An SVG file inline, at most as wide as the page, its ids made unique by its name."""
    if path.suffix != ".svg":
        raise ValueError(f"{path}: figures of the site are SVG files, which the page holds; draw it as one")
    svg = path.read_text(encoding="utf-8")
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{path.stem}-", svg)
    head, rest = svg.split(">", 1)
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', head)[1])
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    # On a narrow screen a figure is not shrunk below what can be read; it scrolls.
    least = 34 if width < 700 else 46 if width < 1000 else 54
    head += f' role="img" aria-label="{html.escape(alt)}" style="width: {width:g}pt; min-width: {least}rem"'
    return f'<figure class="wide">{head}>{rest}</figure>'


def source(path: Path, name: str) -> Page:
    """A file of the checkout as it is; of a folder, its files."""
    place = path.relative_to(ROOT).as_posix()
    body = [f"<h1>{place}</h1>\n"]
    for file in sorted(path.glob("*.*")) if path.is_dir() else [path]:
        title = f"<h2>{file.name}</h2>\n" if path.is_dir() else ""
        body.append(title + fence("text", file.read_text(encoding="utf-8")))
    return Page(name, place, [], "".join(body))


# ---------------------------------------------------------------- from pages to files


def whole(made: Page, pages: list[Page]) -> str:
    """The HTML of a page, with the contents of the site."""
    entries = []
    for other in pages:
        here = other.name == made.name
        title = lambda words: subscripts(html.escape(words))
        name = f'<a href="{other.name}"{" aria-current=page" if here else ""}>{title(other.title)}</a>'
        inner = "".join(f'<li><a href="#{anchor}">{title(words)}</a></li>' for anchor, words in made.sections)
        entries.append(f"<li>{name}{f'<ul>{inner}</ul>' if here and inner else ''}</li>")
    beside = ""
    if made in pages:
        at = pages.index(made)
        before = [f'<a href="{other.name}">← {html.escape(other.title)}</a>' for other in pages[:at][-1:]]
        after = [f'<a href="{other.name}">{html.escape(other.title)} →</a>' for other in pages[at + 1 :][:1]]
        beside = f'<p class="beside">{"".join((before or ["<span></span>"]) + after)}</p>'
    style = (DOCS / "site" / "style.css").read_text(encoding="utf-8")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(made.title)} · BP-LCZ</title>
<link rel="icon" href="data:,">
<style>
{style}</style>
</head>
<body>
<a class="to-contents" href="#contents">Contents</a>
<main>
{made.body}{beside}
</main>
<nav id="contents"><ul>
{chr(10).join(entries)}
</ul></nav>
</body>
</html>
"""


def main(out: Path) -> None:
    shown: dict[Path, str] = {}
    pages = [page(text, shown) for text in TEXTS]
    files = [source(path, name) for path, name in shown.items()]
    out.mkdir(parents=True, exist_ok=True)
    for made in pages + files:
        (out / made.name).write_text(whole(made, pages), encoding="utf-8")
    print(f"{out / 'index.html'}: {len(pages)} pages of text, {len(files)} files of the checkout")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/build.py OUT/")
    main(Path(sys.argv[1]))
