"""bplcz_ref: the exact, runnable mathematics of BP-LCZ, in NumPy and autograd alone.

Band prompting aided data fusion for local climate zone classification (arXiv 2412.18235). Begin with
`in_one_file.py`, the whole method in one file; or with `paper.py` (what the paper states), then `loops.py` and
`equations.py` (its equations), then `model.py`.
"""

__version__ = "0.1.0"
