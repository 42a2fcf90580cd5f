"""Truth: for each code object of real and made-up sources, what the interpreter says of its lines.

Prints a line for each: co_firstlineno, `=` and the table in hexadecimal, and the line of every two bytes of the
code, `-` for none.
"""
import dis
import importlib.util
import sys

MODULES = sys.argv[1:]

# Distances that need several entries or long ones: more than 127 lines forward and backward, more than 255
# bytes on one line, lines that the compiler made up, no lines at all.
MADE_UP = [
    "def f(x):\n" + "\n" * 1000 + "    return x\n\n\n" + "def g(): return 1\n",
    "x = [\n" + "\n" * 200 + "f(\n1,\n" + "\n" * 300 + "2)]\n",
    "y = " + " + ".join("a%d" % n for n in range(400)) + "\n" + "z = 1\n",
    "def h(a):\n    while True:\n        try:\n            with a as b:\n                yield b\n"
    "        except%s ValueError:\n            pass\n        finally:\n            del a\n"
    % ("*" if sys.version_info >= (3, 11) else ""),
    "\n" * 70000 + "class C:\n    a = lambda s: (\n" + "\n" * 40 + "        s.x\n\n.y\n(1))\n",
    "async def k():\n    async with a, b:\n        return [x async for x in y\n if x]\n",
    "",
]


def lines(code):
    """The line of each unit of two bytes."""
    if hasattr(code, "co_lines"):
        ranges = list(code.co_lines())
    else:
        starts = list(dis.findlinestarts(code))
        ends = [start for start, _ in starts[1:]] + [len(code.co_code)]
        ranges = [(start, end, line) for (start, line), end in zip(starts, ends)]
    of_unit = ["-"] * (len(code.co_code) // 2)
    for start, end, line in ranges:
        for unit in range(start // 2, min(end // 2, len(of_unit))):
            of_unit[unit] = "-" if line is None else str(line)
    return of_unit


def tell(code):
    table = code.co_linetable if hasattr(code, "co_linetable") else code.co_lnotab
    print(code.co_firstlineno, "=" + table.hex(), ",".join(lines(code)))
    for constant in code.co_consts:
        if hasattr(constant, "co_code"):
            tell(constant)


for module in MODULES:
    path = importlib.util.find_spec(module).origin
    with open(path, encoding="utf-8") as source:
        tell(compile(source.read(), path, "exec"))
for source in MADE_UP:
    tell(compile(source, "made up", "exec"))
