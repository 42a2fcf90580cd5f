"""Truth: `compute` (slot 0, bytecode) and `digest` (slot 3, short hashes, which keep the GIL) hold the GIL for as long as
they run; `deflate` (slot 1) and `digest_much` (slot 2) run almost wholly inside libz and OpenSSL, without it; other
threads sleep. One thread of each."""
import hashlib
import os
import threading
import time
import zlib

from oracle import MS, ROUNDS, UNITS, account, clock, jitter, tell

much, little = os.urandom(1 << 21), os.urandom(1024)


def compute():
    tell(0)
    began, quota, x = clock(), jitter(10 * MS), 1
    while clock() - began < quota:
        for _ in ROUNDS:
            x = x * 31 & 65535
    account[0] += clock() - began
    account[UNITS] += 1


def digest():
    tell(3)
    began, quota = clock(), jitter(5 * MS)
    while clock() - began < quota:
        for _ in range(50):
            hashlib.sha256(little)
    account[3] += clock() - began


def hold():
    while True:
        compute()
        digest()


def deflate():
    tell(1)
    while True:
        began = clock()
        zlib.compress(much)
        account[1] += clock() - began


def digest_much():
    tell(2)
    while True:
        began = clock()
        hashlib.sha256(much)
        account[2] += clock() - began


def rest():
    while True:
        time.sleep(0.01)


threads = [threading.Thread(target=target, name=target.__name__) for target in (hold, deflate, digest_much, rest, rest)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
