"""bplcz_ref: the exact, runnable mathematics of BP-LCZ, in NumPy and autograd alone.

Band prompting aided data fusion for local climate zone classification (arXiv 2412.18235). Begin with
`in_one_file.py`, the whole method in one file; or with `paper.py` (what the paper states), then `loops.py` and
`equations.py` (its equations), then `model.py`. To train and use a network: docs/guide.md.
"""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

__version__ = "0.1.0"


def program(*words: object) -> str:
    """The command as it was called, with further words: a line that a message can tell to run."""
    called = "bplcz-ref" if Path(sys.argv[0]).stem == "bplcz-ref" else "python -m bplcz_ref"
    return shlex.join([*called.split(), *map(str, words)])


def classify(run: Any, sen1: "np.ndarray", sen2: "np.ndarray") -> tuple["np.ndarray", "np.ndarray"]:
    # (B, 32, 32, 8), (B, 32, 32, 10) -> (B,), (B, 17)
    """(class numbers, probabilities) of patches as they are in So2Sat's files, by a trained run.

    run: a run folder, or what `training.evaluate.load` made of it, which saves opening it for each call. Values
    are standardised as in training, so they come raw: reflectance, linear SAR. Class k is paper.CLASSES[k].
    Errors: ValueError for arrays of other shapes, in another scale, or with values that are not finite.
    """
    from bplcz_ref.training import evaluate  # here, so that `import bplcz_ref` stays light

    return evaluate.classify(run, sen1, sen2)
