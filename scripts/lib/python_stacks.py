"""Python stacks as the measuring scripts read them, from txprof and from its peers: lists of (function names root
first, samples). Programs with a known truth are those of tests/programs/python."""
import os
import pathlib
import re
import subprocess
import sys

import measure

PROGRAMS = measure.PROGRAMS / "python"
CHAINS = [["<module>", "main", f"{letter}1", f"{letter}2", f"{letter}3"] for letter in "ab"]


def interpreters(paths):
    """(name, path) of the given interpreters, or of /usr/bin/python3 and those of pyenv from 3.8 on."""
    if not paths:
        root = pathlib.Path(os.environ.get("PYENV_ROOT", pathlib.Path.home() / ".pyenv"))
        paths = ["/usr/bin/python3", *sorted(map(str, root.glob("versions/3.*/bin/python3")))]
    found = []
    for path in paths:
        code = "import sys; print(sys.version_info >= (3, 8), sys.version.split()[0])"
        supported, version = subprocess.run([path, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout.split()
        if supported == "True":
            found.append((f"{version} {'system' if path.startswith('/usr/bin/') else 'other'}", path))
    return sorted(found, key=lambda pair: [int(part) for part in re.findall(r"\d+", pair[0])])


def program(python, name, *arguments):
    """The command that runs a program of tests/programs/python."""
    return [python, "-B", str(PROGRAMS / name), *map(str, arguments)]


def of_json(document):
    """Of a txprof profile: (Python frames as (function, line) root first, samples, complete)."""
    complete = {outcome["number"] for outcome in document["outcomes"] if outcome["complete"]}
    frames, stacks = document["frames"], document["stacks"]
    for sample in document["samples"]:
        calls = [frames[index] for index in reversed(stacks[sample["stack"]]) if frames[index]["kind"] == "python"]
        yield [(call["function"], call.get("line", 0)) for call in calls], sample["count"], sample["outcome"] in complete


def of_py_spy(text):
    """Of py-spy's raw form: `name (file:line);name (file:line) count`."""
    for line in text.splitlines():
        stack, count = line.rsplit(" ", 1)
        yield [frame.rsplit(" (", 1)[0] for frame in stack.split(";")], int(count)


def of_austin(text):
    """Of austin's: `P1;T0:1;/path/file.py:name:line;… microseconds`, a line for each sample."""
    for line in text.splitlines():
        if line.startswith("P"):
            frames = line.rsplit(" ", 1)[0].split(";")[2:]
            yield [frame.rsplit(":", 2)[1] for frame in frames if frame.count(":") >= 2], 1


def is_possible(names):
    """Whether a stack of torn.py can be: a part of one of its chains, from the root on."""
    return any(chain[:len(names)] == list(names) for chain in CHAINS)


def peers():
    """The folder of py-spy and austin, which are installed if need be."""
    script = measure.ROOT / "scripts" / "python-packages"
    return pathlib.Path(subprocess.run([script, "peers"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()) / "bin"


def marked_lines(name):
    """The lines of a program that end in `# slot N`: {N: {line, …}}."""
    marked = {}
    for number, line in enumerate((PROGRAMS / name).read_text().splitlines(), 1):
        found = re.search(r"# slot (\d+)$", line)
        if found:
            marked.setdefault(int(found[1]), set()).add(number)
    return marked


def need_feature(document):
    if not any(frame["kind"] == "python" for frame in document["frames"]):
        sys.exit("error: no Python frame was seen")
