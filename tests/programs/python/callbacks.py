"""Truth: Python calls C calls Python, in this order and no other, as the interpreter and this program told. Slots 4 to 13 by
kind; slot 0 holds their sum. Slots 10 to 12 burn in C alone, 13 in Python called by the C library's qsort."""
import functools
import hashlib
import json
import os
import re
import zlib

import oracle
from oracle import MS, ROUNDS, UNITS, account, clock, jitter, tell

try:
    import ctypes

    libc = ctypes.CDLL("libc.so.6")
    COMPARE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
except (ImportError, OSError):
    ctypes = None
try:
    import _json

    json_file = oracle.file_of(_json)
except ImportError:
    json_file = None
try:
    import _hashlib
except ImportError:
    _hashlib = None


class Odd:
    pass


random_bytes = os.urandom(1 << 18)
nested = [{"key %d" % n: [n, str(n), {"inner": [n] * 20}]} for n in range(2000)] + [Odd()]


def add(slot, since):
    spent = clock() - since
    account[0] += spent
    account[slot] += spent
    account[UNITS] += 1


def burn(slot, *native):
    tell(slot, *native)
    began, quota, x = clock(), jitter(2 * MS), 1
    while clock() - began < quota:
        for _ in ROUNDS:
            x = x * 31 & 65535
    add(slot, began)
    return 1


def sort_key(number):
    return burn(4) * number


def by_sorted():
    sorted((3, 1, 2), key=sort_key)


def mapped(number):
    return burn(5) * number


def by_map():
    list(map(mapped, (1, 2, 3)))


def wanted(number):
    return burn(6) > number


def by_filter():
    list(filter(wanted, (1, 2, 3)))


def combined(one, other):
    return burn(7) + one + other


def by_reduce():
    functools.reduce(combined, (1, 2, 3, 4))


def replaced(match):
    burn(8)
    return match.group()


def by_re():
    re.sub("[abc]", replaced, "a-b-c")


def stand_in(odd):
    return burn(9, ("iterencode", [json_file]))


def by_json_default():
    json.dumps([Odd(), Odd(), Odd()], default=stand_in)


def told_by_json(_odd):
    tell(10, ("iterencode", [json_file]), skip=1)
    return 1


def by_json():
    return json.dumps(nested, default=told_by_json)


def by_zlib():
    tell(11, ("by_zlib", [oracle.file_of(zlib), "libz"]))
    return zlib.compress(random_bytes)


def by_hashlib():
    tell(12, ("by_hashlib", [_hashlib and oracle.file_of(_hashlib), _hashlib and "libcrypto"]))
    return hashlib.sha512(random_bytes).digest()


def compared(_one, _other):
    return burn(13, ("by_qsort", ["_ctypes", "libc", "_ctypes"]))


def by_qsort():
    libc.qsort((ctypes.c_int * 4)(4, 3, 2, 1), 4, 4, COMPARE(compared))


def in_c(function, slot):
    began, quota = clock(), jitter(6 * MS)
    while clock() - began < quota:
        function()
    add(slot, began)


def main():
    kinds = [by_sorted, by_map, by_filter, by_reduce, by_re, by_json_default] + ([by_qsort] if ctypes else [])
    while True:
        for kind in kinds:
            kind()
        in_c(by_json, 10)
        in_c(by_zlib, 11)
        in_c(by_hashlib, 12)


main()
