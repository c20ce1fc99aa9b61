"""docs/build.py: the site's links, its mathematics, and its widget in a browser, where there is one."""

import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from scripts import DOCS, script

from bplcz_ref import paper, theory

pytest.importorskip("markdown_it")
pytest.importorskip("latex2mathml")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def build():
    return script("docs/build")


@pytest.fixture(scope="module")
def site(build, tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    build.main(out)
    return out


class Read(HTMLParser):
    """Ids, links, what a page would load, and the tags of a page; tags closed out of order are an error."""

    VOID = ("meta", "link", "br", "hr", "img", "input")

    def __init__(self, page):
        super().__init__()
        self.ids, self.links, self.loaded, self.tags, self.open = [], [], [], [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag == "a":
            self.links.append(attributes["href"])
        else:
            self.loaded += [attributes[name] for name in ("src", "href", "xlink:href") if name in attributes]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag in self.VOID or self.open.pop() == tag, self.getpos()


@pytest.fixture(scope="module")
def pages(site):
    return {path.name: Read(path.read_text(encoding="utf-8")) for path in site.iterdir()}


def test_every_link_leads_somewhere_and_nothing_is_loaded_from_elsewhere(pages):
    texts = {path.stem for path in DOCS.rglob("*.md")}
    named = {name.removesuffix(".html") for name in pages if not name.startswith("source-")}
    assert named == texts - {"mathematics"} | {"index"}
    for name, page in pages.items():
        for link in page.links:
            if not link.startswith("https://"):
                place, _, anchor = link.partition("#")
                assert (place or name) in pages, (name, link)
                assert not anchor or anchor in pages[place or name].ids, (name, link)
        assert len(page.ids) == len(set(page.ids)), name
        assert all(target.startswith(("#", "data:")) for target in page.loaded), name


def test_every_formula_is_mathml(pages):
    for path in [DOCS / "mathematics.md", *(DOCS / "mathematics").glob("*.md")]:
        text = path.read_text(encoding="utf-8")
        blocks = len(re.findall(r"^```math$", text, re.MULTILINE))
        prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
        inline = re.sub(r"`[^`]*`", "", prose).count("$")
        page = pages["index.html" if path.stem == "mathematics" else f"{path.stem}.html"]
        assert page.tags.count("math") == blocks + inline / 2, path


def test_a_wrong_formula_or_link_is_refused(build):
    for tex, display in ((r"a \nosuchcommand b", "inline"), (r"\begin{aligned} a &= b \end{aligned}", "block")):
        with pytest.raises(ValueError, match="latex2mathml leaves"):
            build.mathml(tex, display)
    for tex, display in ((r"a\,b", "inline"), (r"\operatorname{sp}", "block")):
        with pytest.raises(ValueError, match="which GitHub does not show here"):
            build.mathml(tex, display)
    with pytest.raises(ValueError, match="links to nowhere.md, which is not there"):
        build.link("nowhere.md", DOCS / "mathematics.md", {})


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium (Debian: apt-get install chromium)")
def test_the_widget_starts_at_the_expected_optimum_in_a_browser(site):
    """The page as the browser has it after its script has run, from a file and with nothing else to load."""
    page = next(site.glob("4-*.html"))
    asked = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", page.as_uri()]
    shown = subprocess.run(asked, capture_output=True, text=True, encoding="utf-8", timeout=120).stdout
    read = lambda pattern, names: (float(re.search(pattern.format(name), shown)[1]) for name in names)
    a, b, L = read('data-{}="([^"]*)"', ("a", "b", "loss"))
    alpha, K, B = read('name="{}"[^>]*value="([^"]*)"', ("alpha", "K", "B"))
    best = theory.expected_optimum(alpha * len(paper.GROUPS), int(K), 1 / B + (1 - 1 / B) / K)
    assert (L, a, b) == pytest.approx(best[:3], abs=1e-6)
