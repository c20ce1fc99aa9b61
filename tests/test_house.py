"""The house: every import inside the package points to a file or a folder that CONTRIBUTING.md lists before it."""

import ast
import re
from pathlib import Path

import bplcz_ref

PACKAGE = Path(bplcz_ref.__file__).parent
FAST = {"kernels", "nn", "layers", "optim"}  # what may know of kernels


def listed():
    """The names on the map, in its order: nn for nn.py, encoders for encoders/."""
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tree = re.split(r"\n {4}(?! )", text.partition("    bplcz_ref/\n")[2])[0]
    rows = re.findall(r"^ {6}(\S+(?: \S+)*)", tree, re.MULTILINE)  # up to two spaces: then it says what is there
    return [name.removesuffix("/").removesuffix(".py") for row in rows for name in row.split()]


def imported(path):
    """What a file imports of the package, wherever in it: nn for bplcz_ref.nn, data for bplcz_ref.data.so2sat."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:  # a relative import stays in its folder
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("bplcz_ref."))


def test_each_file_is_on_the_map_and_imports_what_stands_before_it():
    order = listed()
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}
    assert sorted(order) == sorted(rooms - {"__init__"})  # which opens the others when they are asked for
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for other in set(imported(path)) & set(order) - {name} if name in order else ():
            before = order.index(other) < order.index(name)
            if not before or (other == "kernels" and name not in FAST):
                wrong.append(f"{path.relative_to(PACKAGE)} imports {other}")
    assert wrong == []
