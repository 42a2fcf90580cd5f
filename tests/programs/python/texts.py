"""Truth: `str` objects of every form, as they lie in memory, and what they say.

Prints a line for each: the object's bytes in hexadecimal, and its characters as numbers; `-` for an object
that is not compact.
"""
import ctypes
import sys


class Derived(str):
    pass


def tell(text):
    size = text.__sizeof__()
    expected = "-" if type(text) is Derived else ",".join(str(ord(c)) for c in str(text))
    print(ctypes.string_at(id(text), size).hex(), "=" + expected)


def sample(first, count):
    return "".join(chr(first + n % 50) for n in range(count))


TEXTS = [sample(first, count) for first in (0x20, 0xB0, 0x3B1, 0x1F600) for count in (0, 1, 2, 7, 100, 5000)]
# What has been asked for its UTF-8 keeps it behind a pointer; single letters and names are made in advance.
TEXTS += ["é", "a", "\0", "\n\t", "x\0y", "\ud800", "a\udfffb", "\U0010ffff", "\x7f\x80\xff", "\u0100"]
TEXTS += [sys.intern("name_that_is_interned"), sys.intern("größe"), "__init__", tell.__code__.co_filename]
TEXTS += [tell.__code__.co_name, Derived("derived"), Derived("dérivé")]
for text in TEXTS:
    tell(text)
