"""Arrays of decimal.Decimal with gradients: the arithmetic of the kit's expected values.

A formula written with the functions below runs on an `Exact` array, to as many digits as decimal's context has
and with the same bits on every platform. The same formula runs on autograd.numpy's arrays in floating point.
Beside its value an `Exact` carries its mass, the sum of the absolute terms of its last sum, which is the unit of
errors. There are only the operations that the kit's formulas need, and nothing here is fast.

>>> x = variable(numpy.array([3.0, 4.0]))
>>> norm = sqrt(sum(x * x))
>>> gradients(norm, [x])[0].value.astype(str).tolist()
['0.60', '0.80']
"""

import decimal
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import autograd.numpy as anp
import numpy
from autograd import make_vjp
from autograd.scipy.special import erf as float_erf
from autograd.tracer import getval

from bplcz_ref import loops

Array = Any  # an Exact, or an array of NumPy's or autograd's


class Exact:
    """A NumPy array of Decimals. Those made by `variable`, and all computed from them, keep what gradients need.

    `parents` are pairs (Exact that this one was computed from, function that pulls a gradient back to it).
    """

    __slots__ = ("value", "mass", "parents", "tracked")
    __array_ufunc__ = None  # so that numpy leaves `array * Exact` to __rmul__

    def __init__(self, value, mass=None, parents=(), tracked=False):
        self.value = numpy.asarray(value, dtype=object)
        self.mass = numpy.asarray(abs(self.value) if mass is None else mass, dtype=object)
        self.parents = [(p, pull) for p, pull in parents if p.tracked]
        self.tracked = tracked or bool(self.parents)

    shape = property(lambda self: self.value.shape)
    ndim = property(lambda self: self.value.ndim)
    size = property(lambda self: self.value.size)
    T = property(lambda self: transpose(self, tuple(range(self.ndim))[::-1]))

    def __len__(self):
        return len(self.value)

    def __add__(self, other):
        a, b = self, exact(other)
        return Exact(
            a.value + b.value,
            a.mass + b.mass,
            [(a, lambda g: _fit(g, a.shape)), (b, lambda g: _fit(g, b.shape))],
        )

    def __neg__(self):
        return Exact(-self.value, self.mass, [(self, lambda g: -g)])

    def __mul__(self, other):
        a, b = self, exact(other)
        A, B = Exact(a.value), Exact(b.value)  # without their history
        plain = not isinstance(other, Exact)
        return Exact(
            a.value * b.value,
            a.mass * abs(b.value) if plain else None,
            [(a, lambda g: _fit(g * B, a.shape)), (b, lambda g: _fit(g * A, b.shape))],
        )

    def __truediv__(self, other):
        a, b = self, exact(other)
        A, B = Exact(a.value), Exact(b.value)
        plain = not isinstance(other, Exact)
        return Exact(
            a.value / b.value,
            a.mass / abs(b.value) if plain else None,
            [(a, lambda g: _fit(g / B, a.shape)), (b, lambda g: _fit(-(g * (A / B / B)), b.shape))],
        )

    def __matmul__(self, other):
        a, b = self, exact(other)
        A, B = Exact(a.value), Exact(b.value)
        swap = lambda x: transpose(x, (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))
        return Exact(
            numpy.matmul(a.value, b.value),
            numpy.matmul(abs(a.value), abs(b.value)),
            [(a, lambda g: _fit(g @ swap(B), a.shape)), (b, lambda g: _fit(swap(A) @ g, b.shape))],
        )

    def __getitem__(self, index):
        def pull(g):
            value, mass = _zeros(self.shape), _zeros(self.shape)
            numpy.add.at(value, index, g.value)
            numpy.add.at(mass, index, g.mass)
            return Exact(value, mass)

        return Exact(self.value[index], self.mass[index], [(self, pull)])

    __radd__ = __add__
    __rmul__ = __mul__

    def __sub__(self, other):
        return self + (-exact(other))

    def __rsub__(self, other):
        return exact(other) + (-self)

    def __rtruediv__(self, other):
        return exact(other) / self

    def __rmatmul__(self, other):
        return exact(other) @ self


def _zeros(shape):
    array = numpy.empty(shape, dtype=object)
    array.fill(Decimal(0))
    return array


def _fit(g, shape):
    """Undo broadcasting: sum g to `shape`."""
    while g.ndim > len(shape):
        g = sum(g, axis=0)
    for axis, n in enumerate(shape):
        if n == 1 and g.shape[axis] != 1:
            g = sum(g, axis=axis, keepdims=True)
    return g


def decimal_of(x: Any) -> Decimal:
    """A number as the Decimal of its shortest text: 0.9 is nine tenths."""
    if isinstance(x, Decimal):
        return x
    if isinstance(x, (bool, numpy.bool_, int, numpy.integer)):
        return Decimal(int(x))
    return Decimal(x) if isinstance(x, str) else Decimal(repr(float(x)))


def exact(x: Any) -> Exact:
    """Anything numeric as an Exact; an Exact is returned unchanged."""
    if isinstance(x, Exact):
        return x
    array = numpy.asarray(x)
    out = numpy.empty(array.shape, dtype=object)
    for place in numpy.ndindex(array.shape):
        out[place] = decimal_of(array[place])
    return Exact(out)


def variable(x: Any) -> Exact:
    """An Exact of which gradients can be taken."""
    return Exact(exact(x).value, tracked=True)


def gradients(y: Exact, variables: list) -> list:
    """dy/dx of a single number y for each x, as Exact arrays (zeros where y does not depend on x)."""
    order: list = []  # every node that y was computed from, each after its parents
    seen = set()

    stack = [(y, False)]  # a stack of our own: the chain's three steps are deeper than Python's recursion
    while stack:
        node, parents_done = stack.pop()
        if parents_done:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack += [(parent, False) for parent, _ in reversed(node.parents)]
    grads = {id(y): Exact(numpy.full(y.shape, Decimal(1), dtype=object))}
    for node in reversed(order):
        for parent, pull in node.parents:
            part, before = pull(grads[id(node)]), grads.get(id(parent))
            grads[id(parent)] = part if before is None else before + part
    return [grads.get(id(x), Exact(_zeros(x.shape))) for x in variables]


# ---------------------------------------------------------------- functions that take either kind of array


def like(x: Array, number: Any) -> Decimal | float:
    """A coefficient in the kind of number of x: from its text for Decimals, as a Python float for floats."""
    return decimal_of(number) if isinstance(x, Exact) else float(number)


def value(x: Array) -> numpy.ndarray:
    """The numbers of x as a plain array without history, from which masks and maxima are decided."""
    return x.value if isinstance(x, Exact) else numpy.asarray(getval(x))


def without_history(x: Array) -> Array:
    """The same numbers, for which gradients stop."""
    return exact(x.value) if isinstance(x, Exact) else value(x)


def mask(condition: Any, x: Array) -> numpy.ndarray:
    """A boolean array as 0 and 1 in the kind of number of x, so that a product with it keeps its type."""
    condition = numpy.asarray(condition).astype(bool)
    return condition.astype(int) if isinstance(x, Exact) else condition.astype(value(x).dtype)


def root(n: int, x: Array) -> Array:
    """The square root of a whole number, in the kind of number of x."""
    return sqrt(exact(n)) if isinstance(x, Exact) else math.sqrt(n)


def sum(x: Array, axis: Any = None, keepdims: bool = False) -> Array:
    """The sum over `axis`."""
    if not isinstance(x, Exact):
        return anp.sum(x, axis=axis, keepdims=keepdims)

    def pull(g):
        shape = [1 if axis is None or i in numpy.atleast_1d(axis) % x.ndim else n for i, n in enumerate(x.shape)]
        g = reshape(g, tuple(shape))
        return Exact(numpy.broadcast_to(g.value, x.shape), numpy.broadcast_to(g.mass, x.shape))

    add = lambda a: numpy.sum(a, axis=axis, keepdims=keepdims)
    return Exact(add(x.value), add(x.mass), [(x, pull)])


def mean(x: Array, axis: Any = None, keepdims: bool = False) -> Array:
    """The sum over `axis` divided by the number of terms."""
    axes = range(x.ndim) if axis is None else numpy.atleast_1d(axis)
    return sum(x, axis, keepdims) / math.prod(x.shape[a] for a in axes)


def reshape(x: Array, shape: tuple) -> Array:
    if not isinstance(x, Exact):
        return anp.reshape(x, shape)
    return Exact(x.value.reshape(shape), x.mass.reshape(shape), [(x, lambda g: reshape(g, x.shape))])


def transpose(x: Array, axes: tuple) -> Array:
    if not isinstance(x, Exact):
        return anp.transpose(x, axes)
    back = tuple(int(i) for i in numpy.argsort(axes))
    return Exact(x.value.transpose(axes), x.mass.transpose(axes), [(x, lambda g: transpose(g, back))])


def concat(parts: list, axis: int) -> Array:
    if not any(isinstance(x, Exact) for x in parts):
        return anp.concatenate(parts, axis=axis)
    parts, starts = [exact(x) for x in parts], [0]
    for x in parts:
        starts.append(starts[-1] + x.shape[axis])

    def pull(i):
        index = (slice(None),) * (axis % parts[0].ndim) + (slice(starts[i], starts[i + 1]),)
        return lambda g: g[index]

    join = lambda arrays: numpy.concatenate(arrays, axis=axis)
    return Exact(
        join([x.value for x in parts]),
        join([x.mass for x in parts]),
        [(x, pull(i)) for i, x in enumerate(parts)],
    )


def stack(parts: list) -> Array:
    """Equal arrays along a new first axis."""
    return concat([reshape(x, (1, *x.shape)) for x in parts], 0)


def pad(x: Array, widths: tuple) -> Array:
    """Zeros around x: ((before, after) for each axis)."""
    for axis, (before, after) in enumerate(widths):
        for n, first in ((before, True), (after, False)):
            if n:
                zeros = numpy.zeros((*x.shape[:axis], n, *x.shape[axis + 1 :]), dtype=_dtype(x))
                x = concat([zeros, x] if first else [x, zeros], axis)
    return x


def _dtype(x):
    return int if isinstance(x, Exact) else value(x).dtype


def _elementwise(of_decimal, slope, of_float):
    """A function of one number: on Decimals with its slope (of x and y), or autograd's."""
    run = numpy.frompyfunc(of_decimal, 1, 1)

    def function(x):
        if not isinstance(x, Exact):
            return of_float(x)
        y = Exact(run(x.value))
        return Exact(y.value, None, [(x, lambda g: g * slope(Exact(x.value), y))])

    return function


def _tanh(x):
    e = (-2 * abs(x)).exp()
    return ((1 - e) / (1 + e)).copy_sign(x)


def _erf(x):
    """2 / sqrt(pi) sum (-1)^n x^(2n+1) / (n! (2n+1)), with digits to spare for the sum's cancellation."""
    with decimal.localcontext() as context:
        asked = context.prec
        if x * x > 3 * asked:  # 1 - |erf| is below e^-3asked
            return Decimal(1).copy_sign(x)
        context.prec = asked + 10 + int(x * x)
        term, total, n = x, x, 0
        while term and abs(term) > Decimal(10) ** -(asked + 5):
            n += 1
            term *= -x * x / n
            total += term / (2 * n + 1)
        y = 2 / _PI.sqrt() * total
    return +y


_PI = Decimal(
    "3.1415926535897932384626433832795028841971693993751058209749445923078164062862089986280348253421170679"
)


def _softplus(x):
    return max(x, Decimal(0)) + loops.log1p((-abs(x)).exp())


def _float_sigmoid(x):
    return anp.exp(-anp.logaddexp(0, -x))  # keeps the digits of a small sigma


exp = _elementwise(Decimal.exp, lambda x, y: y, anp.exp)
log = _elementwise(Decimal.ln, lambda x, y: 1 / x, anp.log)
sqrt = _elementwise(Decimal.sqrt, lambda x, y: 1 / (2 * y), anp.sqrt)
tanh = _elementwise(_tanh, lambda x, y: 1 - y * y, anp.tanh)
erf = _elementwise(_erf, lambda x, y: 2 / exact(_PI.sqrt()) * exp(-x * x), float_erf)
sigmoid = _elementwise(loops.sigmoid, lambda x, y: y * (1 - y), _float_sigmoid)
softplus = _elementwise(_softplus, lambda x, y: sigmoid(x), lambda x: anp.logaddexp(0, x))


def differentiate(function: Callable, params: dict) -> tuple:
    """(y, aux, {name: dy / d params[name]}) of function(params) -> (number y, dict of arrays aux)."""
    if any(isinstance(x, Exact) for x in params.values()):
        params = {name: variable(x) for name, x in params.items()}
        y, aux = function(params)
        return y, aux, dict(zip(params, gradients(y, list(params.values())), strict=True))
    kept = []

    def number(p):  # autograd wants the number alone; aux is taken out without its history
        y, aux = function(p)
        kept.append({name: value(x) for name, x in aux.items()})
        return y

    pull, y = make_vjp(number)(params)
    return y, kept[0], pull(numpy.ones_like(y))
