"""docs/build.py: the site's links, its mathematics, and its pages in a real browser, where there is one."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from docs_scripts import ROOT, script

from bplcz_ref import paper, theory

pytest.importorskip("markdown_it")
pytest.importorskip("latex2mathml")
WINDOWS = {"desktop": 1280, "phone": 390}


@pytest.fixture(scope="module")
def build():
    return script("build")


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

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.getpos()


@pytest.fixture(scope="module")
def pages(site):
    return {path.name: Read(path.read_text(encoding="utf-8")) for path in site.iterdir()}


# ---------------------------------------------------------------- without a browser


def test_every_markdown_file_is_a_page_and_every_link_leads_somewhere(pages):
    texts = {path.stem for path in ROOT.rglob("*.md")}
    assert {name.removesuffix(".html") for name in pages if not name.startswith("source-")} == (
        texts - {"mathematics"} | {"index"}
    )
    for name, page in pages.items():
        for link in page.links:
            if not link.startswith("https://"):
                place, _, anchor = link.partition("#")
                assert (place or name) in pages, (name, link)
                assert not anchor or anchor in pages[place or name].ids, (name, link)


def test_ids_are_unique_and_nothing_is_loaded_from_elsewhere(pages):
    for name, page in pages.items():
        assert len(page.ids) == len(set(page.ids)), name
        assert all(target.startswith(("#", "data:")) for target in page.loaded), name
        assert page.tags.count("script") == (name.startswith("4-"))


def test_every_formula_is_mathml(pages):
    for path in [ROOT / "mathematics.md", *(ROOT / "mathematics").glob("*.md")]:
        text = path.read_text(encoding="utf-8")
        blocks = len(re.findall(r"^```math$", text, re.MULTILINE))
        prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
        inline = re.sub(r"`[^`]*`", "", prose).count("$")
        page = pages["index.html" if path.stem == "mathematics" else f"{path.stem}.html"]
        assert page.tags.count("math") == blocks + inline / 2, path


def test_a_wrong_formula_or_link_is_refused(build, tmp_path):
    with pytest.raises(ValueError, match=r"with \\nosuchcommand, which latex2mathml leaves"):
        build.mathml(r"a \nosuchcommand b", "inline")
    with pytest.raises(ValueError, match="latex2mathml leaves"):
        build.mathml(r"\begin{aligned} a &= b \end{aligned}", "block")
    for tex, display in ((r"a\,b", "inline"), (r"\operatorname{sp}", "block")):
        with pytest.raises(ValueError, match="which GitHub does not show here"):
            build.mathml(tex, display)
    with pytest.raises(ValueError, match="links to nowhere.md, which is not there"):
        build.Site().link("nowhere.md", ROOT / "mathematics.md")


def test_norms_signs_and_words_are_set_as_such(build):
    made = build.mathml(r"\lVert x \rVert \ge -\mathrm{sp}(-R)", "inline")
    assert made.index('form="prefix" stretchy="false">‖') < made.index('form="postfix" stretchy="false">‖')
    assert made.count('<mo form="prefix">−</mo>') == 2
    assert "<mtext>sp</mtext>" in made


# ---------------------------------------------------------------- in a browser

in_a_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no chromium (Debian: apt-get install chromium)"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


def problems(browser):
    """What failed to load, what was asked for beyond the folder, and errors of scripts, since the last `open`."""
    found = []
    for event in browser.events:
        method, given = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent" and not given["request"]["url"].startswith(("file:", "data:")):
            found.append(given["request"]["url"])
        if method in ("Network.loadingFailed", "Runtime.exceptionThrown"):
            found.append(str(given))
        if method == "Log.entryAdded" and given["entry"]["level"] == "error":
            found.append(given["entry"]["text"])
    return found


@in_a_browser
@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    ['<img src="missing.png">', "<script>undefined.name</script>", '<img src="https://example.invalid/x.png">'],
)
def test_a_page_with_a_fault_is_noticed(browser, tmp_path, fault):
    (tmp_path / "x.html").write_text(f'<link rel="icon" href="data:,">{fault}', encoding="utf-8")
    browser.open(tmp_path / "x.html")
    assert problems(browser)
    (tmp_path / "x.html").write_text('<link rel="icon" href="data:,">', encoding="utf-8")
    browser.open(tmp_path / "x.html")
    assert not problems(browser)


# In pixels: the least formula and figure, the smallest text in a figure, what is wider than the window.
SIZES = """(() => {
  const boxes = (name) => [...document.querySelectorAll(name)].map((one) => one.getBoundingClientRect());
  const least = (name, side) => Math.min(9999, ...boxes(name).map((box) => box[side]));
  return {formula: least("math", "width"), height: least("math", "height"), figure: least("figure svg", "height"),
    letters: least("figure svg text", "height"), over: document.documentElement.scrollWidth - innerWidth};
})()"""


@in_a_browser
@pytest.mark.slow
@pytest.mark.parametrize("window", WINDOWS)
def test_every_page_loads_and_fits_its_window(browser, site, window, request):
    keep = request.config.getoption("--screenshots")
    for path in sorted(site.iterdir()):
        for dark in (False, True):
            browser.open(path, width=WINDOWS[window], dark=dark)
            assert problems(browser) == [], path.name
            sizes = browser.run(SIZES)
            assert sizes["formula"] > 3, path.name
            assert sizes["height"] > 3, path.name
            assert sizes["figure"] > 150, path.name
            assert sizes["letters"] > 8, path.name
            assert sizes["over"] <= 0, path.name
            ground = browser.run("getComputedStyle(document.body).backgroundColor")
            assert (ground == "rgb(20, 20, 20)") == dark
            if keep:
                Path(keep).mkdir(parents=True, exist_ok=True)
                browser.screenshot(Path(keep) / f"{path.stem}-{window}-{'dark' if dark else 'light'}.png")


@in_a_browser
@pytest.mark.slow
def test_a_printed_page_is_black_on_white_without_what_moves(browser, site):
    path = next(site.glob("4-*.html"))
    browser.open(path, width=800, dark=True, print_=True)
    assert browser.run("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    for name in ("nav", ".widget", ".beside"):
        assert browser.run(f"getComputedStyle(document.querySelector('{name}')).display") == "none"


@in_a_browser
@pytest.mark.slow
def test_the_widget_moves_to_the_expected_optimum(browser, site):
    browser.open(next(site.glob("4-*.html")))
    move = """((given) => {
      const widget = document.getElementById("widget");
      for (const [name, value] of Object.entries(given)) widget.querySelector(`[name=${name}]`).value = value;
      widget.querySelector("input").dispatchEvent(new Event("input", {bubbles: true}));
      const circle = widget.querySelector("circle");
      return [...["a", "b", "loss"].map((name) => Number(widget.dataset[name])),
        ...["cx", "cy"].map((name) => Number(circle.getAttribute(name))), widget.querySelector("p").textContent];
    })"""
    for alpha, K, B in ((0.25, 17, 32), (0.25, 17, 8), (1, 17, 32), (0.5, 3, 100), (0.1, 40, 128), (0.25, 2, 2)):
        a, b, L, x, y, text = browser.run(f"{move}({{alpha: {alpha}, K: {K}, B: {B}}})")
        R = alpha * len(paper.GROUPS)
        best = theory.expected_optimum(R, K, 1 / B + (1 - 1 / B) / K)
        assert (L, a, b) == pytest.approx(best[:3], abs=1e-6), (alpha, K, B)
        assert (x, y) == pytest.approx((a / R, -b / R), abs=1e-9)
        assert f"{L:.4f}" in text
    assert problems(browser) == []
