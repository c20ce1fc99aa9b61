"""How a kernel becomes a node of autograd's tape, and what its forward pass hands to its backward pass.

A kernel is a pair of functions on plain arrays:

    forward(*arrays, wanted, **options) -> y, kept
    backward(g, wanted, kept, **options) -> one gradient for each argument number in `wanted`

`wanted` numbers the arguments that carry a gradient; in forward it is empty when nothing is traced, and then
`kept` is dropped at once. `kept` travels in a list made for this one call and ends in this call's node of the
tape: it lives as long as the node, is reachable from nowhere else, and calls in other threads have their own.

All arrays reach `forward` in one floating dtype; each gradient leaves in the dtype of its argument. Neither
function may write to its arguments. Kernels have first derivatives only: a second one raises an error.
"""

from collections.abc import Callable

import numpy as np
from autograd.extend import defvjp_argnums, primitive
from autograd.tracer import isbox


def on_tape(name: str, forward: Callable, backward: Callable) -> Callable:
    """The pair as one autograd primitive; the result is called as kernel(*arrays, **options)."""

    @primitive
    def node(*arrays, wanted, carrier, options):
        dtype = floating(*arrays)
        y, kept = forward(*(np.asarray(a, dtype) for a in arrays), wanted=wanted, **options)
        if wanted:
            carrier.append((kept, dtype, [np.asarray(a).dtype for a in arrays]))
        return y[()]  # 0-d arrays become scalars, as everywhere in NumPy

    def make_vjp(wanted, y, arrays, keywords):
        ((kept, dtype, dtypes),) = keywords["carrier"]
        options = keywords["options"]
        nested = any(isbox(a) for a in arrays)  # an outer trace is differentiating this derivative

        def vjp(g):
            if nested or isbox(g):
                raise NotImplementedError(
                    f"{name} has first derivatives only: its backward pass runs on plain arrays. "
                    f"For higher derivatives call nn.{name}.definition, which autograd differentiates again."
                )
            gradients = backward(np.asarray(g, dtype), wanted, kept, **options)
            return [np.asarray(d, dtypes[n])[()] for n, d in zip(wanted, gradients, strict=True)]

        return vjp

    defvjp_argnums(node, make_vjp)

    def kernel(*arrays, **options):
        wanted = tuple(n for n, a in enumerate(arrays) if isbox(a))
        return node(*arrays, wanted=wanted, carrier=[], options=options)

    return kernel


def floating(*arrays: np.ndarray) -> np.dtype:
    """The dtype NumPy's promotion gives these arrays; float64 for integers."""
    dtype = np.result_type(*arrays)
    return dtype if np.issubdtype(dtype, np.inexact) else np.dtype(np.float64)
