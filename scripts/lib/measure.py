"""What the measuring scripts share: programs, windows, counters, median and spread.

The machines that this runs on are noisy: windows without and with the tool
alternate on one running target, each tool window is compared with the mean of
the plain windows around it, and windows in which the host stole more than 6 %
of a core are thrown away and repeated.
"""
import contextlib
import json
import os
import pathlib
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PROGRAMS = ROOT / "tests" / "programs"
UNITS = 15  # The last slot of the account; see tests/programs/oracle.h.
STOLEN_LIMIT = 0.06
STATS = pathlib.Path("/proc/sys/kernel/bpf_stats_enabled")


def need_root():
    if os.geteuid() != 0:
        sys.exit("error: sampling needs root\nhint: run it with sudo")


def txprof():
    """The release build, made if need be; its table cache is one of its own, kept between measurements."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    os.environ.setdefault("TXPROF_CACHE_DIR", str(target / "measured-cache"))
    if "TXPROF" in os.environ:
        return os.environ["TXPROF"]
    subprocess.run(["cargo", "build", "--release", "--locked", "--quiet"], cwd=ROOT, check=True)
    return str(target / "release" / "txprof")


def compile_program(source, directory, flags="gcc -O2 -g -fomit-frame-pointer", name=None):
    path = pathlib.Path(directory) / (name or pathlib.Path(source).stem)
    subprocess.run([*flags.split(), "-o", path, PROGRAMS / source, "-pthread"], check=True)
    return str(path)


class Target:
    """A test program, running until the end of the `with` block."""

    def __init__(self, command, directory, cpu=None, burns=True):
        self.account_path = pathlib.Path(tempfile.mkstemp(dir=directory)[1])
        self.account_path.write_bytes(bytes(128))
        pinned = ["taskset", "-c", str(cpu)] if cpu is not None else []
        self.process = subprocess.Popen([*pinned, *command], stdin=subprocess.DEVNULL,
                                        env=dict(os.environ, ORACLE=str(self.account_path), ORACLE_SECONDS="36000"))
        self.pid = self.process.pid
        while burns and not any(self.account()):
            time.sleep(0.005)

    def account(self):
        return struct.unpack("<16Q", self.account_path.read_bytes())

    def cpu_ns(self):
        """Run time of all threads, by the scheduler's account."""
        tasks = pathlib.Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def recording(tool, settle_seconds=1.5):
    """Runs `tool` (a command) in the background; interrupted, as by Ctrl-C, at the end."""
    process = subprocess.Popen(tool, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        time.sleep(settle_seconds)
        if process.poll() is not None:
            sys.exit(f"error: {tool[0]} ended early: {process.stderr.read().decode()}")
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate()


def stolen_seconds():
    """Taken by the host from all CPUs since boot."""
    return int(pathlib.Path("/proc/stat").read_text().split()[8]) / os.sysconf("SC_CLK_TCK")


def window(target, seconds, tool=None, settle_seconds=1.5):
    """(units per wall second, target CPU ns per unit) over one quiet window."""
    for _ in range(20):
        with recording(tool, settle_seconds) if tool else contextlib.nullcontext():
            stolen, began = stolen_seconds(), time.monotonic()
            units, cpu = target.account()[UNITS], target.cpu_ns()
            time.sleep(seconds)
            units, cpu = target.account()[UNITS] - units, target.cpu_ns() - cpu
            elapsed, stolen = time.monotonic() - began, stolen_seconds() - stolen
        if stolen / elapsed <= STOLEN_LIMIT:
            return units / elapsed, cpu / max(units, 1)
        print(f"  (host stole {stolen / elapsed:.0%} of a core: repeated)", file=sys.stderr)
    sys.exit("error: the host steals too much CPU time; try again later")


def slow_down(target, tool, seconds, rounds):
    """Percent by which the tool lowers throughput and raises CPU per unit, one pair a round, and the noise:
    how far the plain windows around it differ from each other, in percent of throughput and of CPU per unit."""
    return slow_downs(target, {"": tool}, seconds, rounds)[""]


def slow_downs(target, tools, seconds, rounds, settle_seconds=1.5):
    """The same of several tools by name, which take turns; each has run for `settle_seconds` when its window begins."""
    results = {name: ([], [], [], []) for name in tools}
    before = window(target, seconds)
    for _ in range(rounds):
        for name, tool in tools.items():
            with_tool = window(target, seconds, tool, settle_seconds)
            after = window(target, seconds)
            plain = [(one + other) / 2 for one, other in zip(before, after)]
            values = ((1 - with_tool[0] / plain[0]) * 100, (with_tool[1] / plain[1] - 1) * 100,
                      abs(before[0] - after[0]) / plain[0] * 100, abs(before[1] - after[1]) / plain[1] * 100)
            for column, value in zip(results[name], values):
                column.append(value)
            before = after
    return results


def spread(values, unit="", digits=2):
    """`median unit (min … max, n)`."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} {unit} ({low:.{digits}f} … {high:.{digits}f}, n={len(values)})"


def middle(values, unit="", digits=2):
    """The mean of the middle three fifths, its standard error, and between which values these lie."""
    kept = sorted(values)[len(values) // 5:len(values) - len(values) // 5]
    # Of a normal distribution the middle three fifths spread by half as much as the whole; the error of their mean is
    # hardly larger than that of all.
    error = statistics.pstdev(kept) * 2.3 / len(values) ** 0.5
    return f"{statistics.mean(kept):.{digits}f} ± {error:.{digits}f} {unit} ({kept[0]:.{digits}f} … {kept[-1]:.{digits}f}, n={len(values)})"


@contextlib.contextmanager
def bpf_stats():
    """Has the kernel measure BPF programs, which costs them some 50 ns a run; undone at the end."""
    before = STATS.read_text()
    STATS.write_text("1")
    try:
        yield
    finally:
        STATS.write_text(before)


def run_to_end(command):
    """Runs a command; returns its own CPU seconds, peak RSS in MiB, wall seconds and stderr."""
    with tempfile.TemporaryFile() as words:
        began = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=words)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        elapsed = time.monotonic() - began
        words.seek(0)
        text = words.read().decode()
    if process.returncode != 0:
        sys.exit(f"error: {' '.join(map(str, command))}: exit code {process.returncode}\n{text}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, elapsed, text


def profile(command, directory):
    """Records to JSON: the profile, own CPU seconds, peak RSS in MiB, wall seconds."""
    path = pathlib.Path(directory) / "profile.json"
    cpu, rss, elapsed, _ = run_to_end([*command, "-o", str(path)])
    return json.loads(path.read_text()), cpu, rss, elapsed


def counts(document):
    """(all samples, complete ones) of a JSON profile."""
    complete = {outcome["number"] for outcome in document["outcomes"] if outcome["complete"]}
    samples = document["samples"]
    return (sum(sample["count"] for sample in samples),
            sum(sample["count"] for sample in samples if sample["outcome"] in complete))


def machine():
    """One line that names machine and kernel, for every claim of speed."""
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    return f"{model}, {os.cpu_count()} CPUs, Linux {os.uname().release}"
