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


@pytest.mark.long
def test_the_wheel_works_without_the_checkout(tmp_path):
    site = tmp_path / "site"
    run("-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=ROOT)
    with zipfile.ZipFile(*tmp_path.glob("*.whl")) as wheel:
        wheel.extractall(site)
    options = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(site)}}
    code = "import bplcz_ref; from bplcz_ref.tokenizer import Tokenizer; t = Tokenizer.bundled();"
    code += "print(bplcz_ref.__file__); print(t.decode(t.encode('short wave infrared')))"
    where, text = run("-c", code, **options).splitlines()
    assert Path(where).is_relative_to(site)
    assert text.strip() == "short wave infrared"
    assert "Eq. (5)" in run("-m", "bplcz_ref", "explain", **options)
    run("-m", "bplcz_ref", "conform", "export", "SET.json", **options)
    assert (tmp_path / "SET.json").exists()
    assert (site / "bplcz_ref" / "py.typed").exists()
    assert not (site / "tests").exists()
    packed, here = (sorted(p.name for p in (at / "bplcz_ref" / "vectors").iterdir()) for at in (site, ROOT))
    assert "set-0.json" in packed == here
    assert "bplcz-ref = bplcz_ref.__main__:main" in next(site.glob("*/entry_points.txt")).read_text()


@pytest.mark.slow
def test_the_core_imports_no_optional_package():
    code = "import sys, pkgutil, importlib, bplcz_ref\n"
    code += "for m in pkgutil.walk_packages(bplcz_ref.__path__, 'bplcz_ref.'): importlib.import_module(m.name)\n"
    code += f"print([m for m in {OPTIONAL!r} if m in sys.modules])"
    assert run("-c", code, cwd=ROOT).strip() == "[]"
