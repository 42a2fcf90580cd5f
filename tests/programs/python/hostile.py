"""Truth: nothing. A parent starts children, one after the other, that overwrite what a profiler reads of them: frames that
are their own callers, code objects at addresses that do not exist, texts of 2^63 characters, lists of threads without
end. Each is held while bytecode burns (slot 0), flickers, and is undone, but for the last one of a child, which may die
of it. Slot 4 counts children, slot 5 attacks. argv[1] `child` and a number is a child."""
import ctypes
import os
import random
import resource
import subprocess
import sys
import threading
import time

from oracle import MS, ROUNDS, account, clock

GARBAGE = [0, 1, 16, 4095, (1 << 47) - 8, 1 << 47, 0xDEAD0000BEEF0000, 0xFFFF888000000000, (1 << 64) - 8, (1 << 64) - 1]
SIZES = [0, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 40, 65536]
MASK = ~7 & (1 << 64) - 1


def read(address):
    return ctypes.c_uint64.from_address(address).value


def write(address, value):
    ctypes.c_uint64.from_address(address).value = value & (1 << 64) - 1


def find(base, words, wanted):
    """Addresses of the first `words` words from `base` on that hold `wanted`, tagged or not."""
    return [base + 8 * n for n in range(words) if read(base + 8 * n) & MASK == wanted]


def frame_of(frame):
    """The structure that the interpreter walks: up to 3.10 the object itself, then what its fourth word points to."""
    return id(frame) if sys.version_info < (3, 11) else read(id(frame) + 24)


def burn(milliseconds):
    began, x = clock(), 1
    while clock() - began < milliseconds * MS:
        for _ in ROUNDS:
            x = x * 31 & 65535
    account[0] += clock() - began


def of_frames(frame):
    """What to overwrite in the caller's caller, and the values."""
    own, back = frame_of(frame), frame_of(frame.f_back)
    cycles = [own, back, own + 8, back + 4, id(frame.f_code), id(frame.f_globals), id(0), id([])]
    attacks = [(place, value) for place in find(own, 12, back) for value in GARBAGE + cycles]
    return attacks + [(place, value) for place in find(own, 12, id(frame.f_code)) for value in GARBAGE + cycles]


def of_code(code):
    """Pointers of a code object, the sizes of its texts, and all of its first words."""
    table = code.co_linetable if hasattr(code, "co_linetable") else code.co_lnotab
    texts = [code.co_name, code.co_filename, getattr(code, "co_qualname", code.co_name), table]
    attacks = [(place, value) for text in texts for place in find(id(code), 32, id(text))
               for value in GARBAGE + [id(code), id(text) + 1, id(0), id([])]]
    attacks += [(id(text) + 16, size) for text in texts for size in SIZES]
    attacks += [(id(text) + 32, random.getrandbits(64)) for text in texts[:3] for _ in range(8)]
    return attacks + [(id(code) + 8 * n, random.getrandbits(64)) for n in range(2, 20) for _ in range(2)]


def thread_state():
    get = ctypes.pythonapi.PyThreadState_Get
    get.restype = ctypes.c_void_p
    return get()


def of_threads():
    """The thread state's neighbours in the list of threads."""
    return [(thread_state() + offset, value) for offset in (0, 8) for value in GARBAGE + [thread_state(), thread_state() + 8]]


def of_current(frame):
    """The thread's way to its frames: in the thread state, or, in 3.11 and 3.12, in what its eighth word points to."""
    state, own, places = thread_state(), frame_of(sys._getframe()), []
    by_c_frame = sys.version_info[:2] in ((3, 11), (3, 12))
    base, words = (read(state + 56), 2) if by_c_frame else (state, 64)
    # In this very frame: what is looked for is the innermost one.
    for place in range(base, base + 8 * words, 8):
        if ctypes.c_uint64.from_address(place).value == own:
            places.append(place)
    if by_c_frame and places:
        places.append(state + 56)
    return [(place, value) for place in places for value in GARBAGE + [state, id(frame), id(frame) + 8]]


def attack_current(place, value):
    """No call of a Python function may see the way to the frames while it leads astray."""
    account[5] += 1
    word, x, began = ctypes.c_uint64.from_address(place), 1, clock()
    before = word.value
    word.value = value
    while clock() - began < 3 * MS:
        for _ in ROUNDS:
            x = x * 31 & 65535
    word.value = before
    account[0] += clock() - began


def attack(place, value, milliseconds, undo=True):
    account[5] += 1
    before = read(place)
    write(place, value)
    burn(milliseconds)
    for _ in range(500):
        write(place, before)
        write(place, value)
    if undo:
        write(place, before)


def victim(rounds):
    """Its own frame is not touched while it runs, but its caller's are."""
    frame = sys._getframe(1)
    attacks = of_frames(frame) + of_frames(frame.f_back) + of_code(frame.f_code) + of_code(frame.f_back.f_code) + of_threads()
    random.shuffle(attacks)
    ways = of_current(frame)
    for number, (place, value) in enumerate(attacks[:rounds]):
        attack(place, value, 2)
        if ways and number % 4 == 0:
            attack_current(*random.choice(ways))
    attack(*attacks[-1], 20, undo=False)


def inner(rounds):
    victim(rounds)
    return rounds


def outer(rounds):
    return inner(rounds)


def child(seed):
    random.seed(seed)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    outer(150)
    os._exit(0)


def main():
    seed = 0
    while True:
        account[4] += 1
        seed += 1
        subprocess.call([sys.executable, __file__, "child", str(seed)], stderr=subprocess.DEVNULL)


if sys.argv[1:2] == ["child"]:
    child(int(sys.argv[2]))
main()
