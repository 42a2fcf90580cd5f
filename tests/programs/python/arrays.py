"""Truth: numpy's C code burns under the function that called it: `order` sorts (slot 0), `product` multiplies matrices in
the BLAS (slot 1), and `scaled` is called back for each element (slot 2). Needs numpy."""
import numpy

from oracle import MS, ROUNDS, UNITS, account, clock, jitter, tell

numbers = numpy.random.default_rng(7).random(200000)
left = numpy.random.default_rng(8).random((160, 160))
NUMPY = "_multiarray_umath"


def order():
    tell(0, ("order", [NUMPY]))
    began = clock()
    numbers.copy().sort()
    account[0] += clock() - began
    account[UNITS] += 1


def product():
    tell(1, ("product", [NUMPY, "libblas"]))
    began, quota = clock(), jitter(8 * MS)
    while clock() - began < quota:
        left.dot(left)
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
