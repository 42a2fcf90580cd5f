"""Truth: for minutes the Python frames do not change: `hold` is inside OpenSSL, below a generator, a comprehension and
recursion. Slot 0 is set as it goes in."""
import hashlib

from oracle import account


def hold():
    account[0] = 1
    hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 1 << 30)


def steps():
    yield [hold() for _ in "x"]


def middle(depth):
    if depth:
        return middle(depth - 1)
    return list(steps())


middle(3)
