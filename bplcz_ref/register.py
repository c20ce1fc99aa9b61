"""A loss, an encoder or a network of a user's own under a name, from the user's own file.

    register.loss("focal", focal)                  # then: --set contrastive=focal
    register.encoder("tiny-bplcz", tiny)           # then: --system tiny-bplcz, with its prompts
    register.network("mlp", mlp)                   # then: --system mlp

`train`, `tables`, `report`, `evaluate` and `classify` take it like those of the package. A run folder keeps its
name, no code: whoever loads the run imports the file first, by `import`, or on the command line by --import FILE.
"""

import os
import re
import runpy
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from bplcz_ref import paper, settings, systems
from bplcz_ref.layers import Network
from bplcz_ref.variants import VARIANTS, Variant, supervised_matrix

imported: list[str] = []  # the files, in their order; the workers of a table import them too
_own: set[str] = set()  # names that are a user's, which may be registered again


def loss(
    name: str, function: Callable, init: Callable = lambda dtype: {}, matrix: Callable = supervised_matrix
) -> None:
    """A value of the setting `contrastive`; variants.py says what the three functions are.

    >>> loss("paper", print)
    Traceback (most recent call last):
      ...
    ValueError: 'paper' is a part of the package: choose another name
    """
    claim(name, settings.losses())
    VARIANTS[name] = Variant(function, init, matrix)


def encoder(name: str, make: Callable, *, label: str = "", prompting: bool = True) -> None:
    """A system of seven encoders, one for each band group: Eq. (9), D, and L_con with prompts unless it has none.

    make(channels, settings) -> Network (B, 32, 32, channels) -> (B, settings.features); `label` is for tables.
    """
    claim(name, systems.SYSTEMS)
    systems.ENCODERS[name] = lambda channels, settings: giving(
        settings.features, f"the encoder of {name}", make(channels, settings)
    )
    systems.SYSTEMS[name] = systems.System(label or name, None, name, prompting)


def network(name: str, make: Callable, *, label: str = "") -> None:
    """A system that takes all channels at once, trained with L_cls alone.

    make(settings) -> Network (B, 32, 32, 18) -> (B, 17).
    """
    claim(name, systems.SYSTEMS)
    systems.ENCODERS.pop(name, None)
    systems.NETWORKS[name] = lambda settings: giving(len(paper.CLASSES), f"the network {name}", make(settings))
    systems.SYSTEMS[name] = systems.System(label or name, None, name)


def claim(name: str, known) -> None:
    """ValueError for a name that cannot be that of a folder, or that the package has."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(f"{name!r} is no name: expected letters, digits, '-', '_' and '.', as in tiny-bplcz")
    if name in known and name not in _own:
        raise ValueError(f"{name!r} is a part of the package: choose another name")
    _own.add(name)


def giving(width: int, what: str, made: Network) -> Network:
    """The network as it is, which must give (B, width)."""

    def apply(params, state, x, *, train, rng=None):
        y, new = made.apply(params, state, x, train=train, rng=rng)
        if y.shape != (len(x), width):
            raise ValueError(f"{what} gives shape {y.shape}; expected (B, {width}) = ({len(x)}, {width})")
        return y, new

    return made._replace(apply=apply)


def import_file(path: str | Path) -> None:
    """Run a user's file once, so that it registers its parts. Errors: ValueError with the line that failed."""
    place = os.path.realpath(path)
    if place in imported:
        return
    if not Path(place).is_file():
        raise ValueError(f"{path}: there is no such file; expected a Python file that registers a part")
    sys.path.append(os.path.dirname(place))  # for modules beside it
    try:
        runpy.run_path(place, run_name=f"imported_{Path(place).stem}")
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == place]
        line = f", line {lines[-1]}" if lines else ""
        raise ValueError(f"{path}{line}: {type(error).__name__}: {error}") from error
    imported.append(place)
