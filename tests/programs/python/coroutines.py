"""Truth: three tasks (`task alpha`, `beta`, `gamma`; slots 0 to 2) take turns on one thread; each burns at the end of a
chain of four coroutines that await one another, under the event loop."""
import asyncio

from oracle import MS, ROUNDS, UNITS, account, clock, jitter, tell


async def leaf(slot):
    tell(slot)
    began, quota, x = clock(), jitter(3 * MS), 1
    while clock() - began < quota:
        for _ in ROUNDS:
            x = x * 31 & 65535
    account[slot] += clock() - began
    account[UNITS] += 1
    await asyncio.sleep(0)


async def query(slot):
    await leaf(slot)


async def handle(slot):
    await query(slot)


async def alpha():
    while True:
        await handle(0)


async def beta():
    while True:
        await handle(1)


async def gamma():
    while True:
        await handle(2)


async def main():
    loop = asyncio.get_running_loop()
    tasks = []
    for entry in (alpha, beta, gamma):
        task = loop.create_task(entry())
        task.set_name("task " + entry.__name__)
        tasks.append(task)
    await asyncio.gather(*tasks)


asyncio.run(main())
