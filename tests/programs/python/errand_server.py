"""Truth: as errands.py tells, by stream_server.py's connections, and a pool of argv[2] threads of the standard library; from 3.9 on
every other request by `asyncio.to_thread`. Each work tells the loop argv[3] things first, or none. Listens at
127.0.0.1:argv[1]; needs nothing but Python."""
import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor

from errands import noted
from stream_server import listen

tellings = int(sys.argv[3]) if len(sys.argv) > 3 else 0


def work(loop, path, number):
    for _ in range(tellings):
        loop.call_soon_threadsafe(int)
    return noted(path, number)


async def give(path, number):
    loop = asyncio.get_running_loop()
    if hasattr(asyncio, "to_thread") and number.endswith(("1", "3", "5", "7", "9")):
        return await asyncio.to_thread(work, loop, path, number)
    return await loop.run_in_executor(None, work, loop, path, number)


async def main():
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(int(sys.argv[2])))
    await listen(give)


asyncio.run(main())
