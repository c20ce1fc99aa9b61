"""bplcz_ref: the exact, runnable mathematics of BP-LCZ, without a deep-learning framework.

NumPy, autograd and SciPy, and h5py for files.

Band prompting aided data fusion for local climate zone classification (arXiv 2412.18235). Begin with
`paper.py` (what the paper states), then `loops.py` and `equations.py` (its equations), then `model.py`.
"""

__version__ = "0.1.0"
