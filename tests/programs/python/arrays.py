"""Truth: numpy's C code burns under the function that called it: `order` sorts (slot 0), `product` multiplies matrices in
the BLAS (slot 1), and `scaled` is called back for each element (slot 2). Needs numpy as PyPI has it."""
import os
import sys

# The BLAS would work in threads of its own, which the account does not see.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy

try:
    from numpy._core._multiarray_umath import __cpu_features__
except ImportError:
    from numpy.core._multiarray_umath import __cpu_features__

# The BLAS' kernels for AVX-512 are in C. The others, which it falls back to on CPUs that it does not know, are in assembly
# that nothing tells how to unwind: stacks there are marked as cut.
CAN_UNWIND = __cpu_features__.get("AVX512F", False)
if CAN_UNWIND and "OPENBLAS_CORETYPE" not in os.environ:
    os.environ["OPENBLAS_CORETYPE"] = "SkylakeX"
    os.execv(sys.executable, [sys.executable] + sys.argv)

from oracle import MS, ROUNDS, UNITS, account, clock, jitter, tell

numbers = numpy.random.default_rng(7).random(200000)
# Their product costs the BLAS much and is small: numpy itself clears the room for it each time.
left = numpy.random.default_rng(8).random((160, 16000))
right = numpy.random.default_rng(9).random((16000, 160))
result = numpy.empty((160, 160))
NUMPY = "_multiarray_umath"
# The file's name up to its version, as `libscipy_openblas64_-32a4b2a6.so`.
libraries = os.listdir(os.path.join(os.path.dirname(numpy.__file__), "..", "numpy.libs"))
(BLAS,) = [name.split("-")[0] for name in libraries if "blas" in name]


def order():
    tell(0, ("order", [NUMPY]))
    began = clock()
    numbers.copy().sort()
    account[0] += clock() - began
    account[UNITS] += 1


def product():
    tell(1, ("product", [NUMPY, BLAS] if CAN_UNWIND else []))
    began, quota = clock(), jitter(8 * MS)
    while clock() - began < quota:
        left.dot(right, result)
    account[1] += clock() - began


def scaled(number):
    tell(2, ("elements", [NUMPY]))
    began, quota, x = clock(), jitter(MS), 1
    while clock() - began < quota:
        for _ in ROUNDS:
            x = x * 31 & 65535
    account[2] += clock() - began
    return number


scaling = numpy.frompyfunc(scaled, 1, 1)


def elements():
    scaling(numbers[:6])


def main():
    while True:
        order()
        product()
        elements()


main()
