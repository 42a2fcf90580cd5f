"""Who kept whom from a CPU, by the kernel's own telling of switches and wake-ups, as `perf record` writes it down."""
import collections
import pathlib
import re
import subprocess
import tempfile

SWITCH = re.compile(r"prev_pid=(\d+) .*prev_state=(\S+) .*next_pid=(\d+)")
WAKE_UP = re.compile(r" pid=(\d+) .*target_cpu=(\d+)")


def threads(pid):
    return {int(task.name) for task in pathlib.Path(f"/proc/{pid}/task").iterdir()}


def record(seconds):
    """What CPUs did for so long: (time in seconds, CPU, event, its fields), in the order of time."""
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/perf.data"
        subprocess.run(["perf", "record", "-q", "-a", "-e", "sched:sched_switch,sched:sched_wakeup", "-o", path,
                        "sleep", str(seconds)], check=True, stderr=subprocess.DEVNULL)
        text = subprocess.run(["perf", "script", "--ns", "-i", path, "-F", "cpu,time,event,trace"],
                              capture_output=True, text=True, check=True).stdout
    lines = (re.match(r"\s*\[(\d+)\]\s+([\d.]+):\s+sched:(\w+): (.*)", line) for line in text.splitlines())
    return sorted((float(line[2]), int(line[1]), line[3], line[4]) for line in lines if line)


def delays(events, waiting, running):
    """Seconds of each time that a thread of `waiting` was runnable and one of `running` had the CPU that it waited for."""
    runnable, present, delayed = {}, {}, collections.Counter()
    found = []
    for now, cpu, event, fields in events:
        if event == "sched_wakeup":
            tid, target = map(int, WAKE_UP.search(fields).groups())
            if tid in waiting:
                runnable.setdefault(tid, (now, target))
            continue
        before, state, after = SWITCH.search(fields).groups()
        began, tid = present.get(cpu, (now, 0))
        if tid in running:
            for waiter, (since, target) in runnable.items():
                if target == cpu:
                    delayed[waiter] += now - max(since, began)
        present[cpu] = (now, int(after))
        if runnable.pop(int(after), None) and delayed[int(after)]:
            found.append(delayed.pop(int(after)))
        if state.startswith("R") and int(before) in waiting:
            runnable[int(before)] = (now, cpu)
    return found


def delays_by(pid, others, seconds):
    """The same, of all threads of the processes `others`, by those of `pid`, from now on for so long."""
    waiting = set().union(*map(threads, others))
    events = record(seconds)
    return delays(events, waiting, threads(pid))
