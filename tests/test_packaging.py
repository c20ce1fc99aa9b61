"""A wheel, installed elsewhere, works without the checkout, and the core imports no optional package."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OPTIONAL = ("torch", "jax", "matplotlib", "sklearn", "tqdm", "dask", "pandas", "PIL", "regex", "ftfy")


def run(*command, **options):
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of an installed wheel, and an environment in which Python finds that one alone."""
    folder = tmp_path_factory.mktemp("wheel")
    run("-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return folder / "site", environment | {"PYTHONPATH": str(folder / "site")}


@pytest.mark.slow
def test_the_wheel_works_without_the_checkout(installed, tmp_path):
    site, environment = installed
    code = "import bplcz_ref; from bplcz_ref.tokenizer import Tokenizer; t = Tokenizer.bundled();"
    code += "print(bplcz_ref.__file__); print(t.decode(t.encode('short wave infrared')))"
    where, text = run("-c", code, cwd=tmp_path, env=environment).splitlines()
    assert Path(where).is_relative_to(site)
    assert text.strip() == "short wave infrared"
    assert "Eq. (5)" in run("-m", "bplcz_ref", "explain", cwd=tmp_path, env=environment)
    run("-m", "bplcz_ref", "conform", "export", "SET.json", cwd=tmp_path, env=environment)
    assert (tmp_path / "SET.json").exists()


@pytest.mark.slow
def test_the_wheel_holds_what_it_should(installed):
    site, _ = installed
    assert (site / "bplcz_ref" / "py.typed").exists()
    assert list((site / "bplcz_ref" / "tokenizer_vocab").glob("*.txt"))
    packed = {path.name for path in (site / "bplcz_ref" / "vectors").iterdir()}
    assert packed == {path.name for path in (ROOT / "bplcz_ref" / "vectors").iterdir()}
    assert "set-0.json" in packed
    assert not (site / "tests").exists()
    scripts = next(site.glob("*.dist-info/entry_points.txt")).read_text()
    assert "bplcz-ref = bplcz_ref.__main__:main" in scripts


@pytest.mark.slow
def test_the_core_imports_no_optional_package():
    code = "import sys, pkgutil, importlib, bplcz_ref\n"
    code += "for m in pkgutil.walk_packages(bplcz_ref.__path__, 'bplcz_ref.'): importlib.import_module(m.name)\n"
    code += f"print([m for m in {OPTIONAL!r} if m in sys.modules])"
    assert run("-c", code, cwd=ROOT).strip() == "[]"
