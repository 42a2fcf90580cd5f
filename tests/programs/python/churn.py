"""Truth: the function gen_NNNNNN of the file `<gen_NNNNNN>` starts at line N % 40 + 1 and calls burn_D with D = N % 10,
one line further down. Each is generated, called once for argv[1] microseconds (1500) and freed, so that the next one's
code object, names and file take the same memory. Slot 0: all that is burnt.

With `reload` as argv[2] the functions come from a module that is written anew and reloaded each time."""
import importlib
import os
import sys
import tempfile

from oracle import ROUNDS, UNITS, account, clock, jitter


def burn(quota):
    began, x = clock(), 1
    while clock() - began < quota:
        for _ in ROUNDS[:500]:
            x = x * 31 & 65535
    account[0] += clock() - began
    account[UNITS] += 1


burners = {}
for digit in range(10):
    exec("def burn_%d(quota):\n    burn(quota)\n" % digit, {"burn": burn}, burners)


def source(number):
    return "\n" * (number % 40) + "def gen_%06d(quota):\n    burn_%d(quota)\n" % (number, number % 10)


def generated(number):
    scope = dict(burners)
    exec(compile(source(number), "<gen_%06d>" % number, "exec"), scope)
    return scope["gen_%06d" % number]


def reloaded(number, directory):
    # Nothing is cached, as a file of the same second and size would be taken for the old one.
    path = os.path.join(directory, "volatile.py")
    with open(path, "w") as file:
        file.write(source(number))
    if number == 0:
        module = importlib.import_module("volatile")
    else:
        module = importlib.reload(sys.modules["volatile"])
    module.__dict__.update(burners)
    return module.__dict__.pop("gen_%06d" % number)


def main():
    quota = (int(sys.argv[1]) if len(sys.argv) > 1 else 1500) * 1000
    directory = tempfile.mkdtemp() if sys.argv[2:] == ["reload"] else None
    if directory:
        sys.path.insert(0, directory)
        sys.dont_write_bytecode = True
    number = 0
    while True:
        function = reloaded(number, directory) if directory else generated(number)
        function(jitter(quota))
        del function
        number = (number + 1) % 1000000


main()
