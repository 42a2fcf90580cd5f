"""Truth: as errands.py tells, by asyncio's own streams, and a pool of argv[2] threads of the standard library; from 3.9 on every
other request by `asyncio.to_thread`. Listens at 127.0.0.1:argv[1]; needs nothing but Python."""
import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor

from errands import noted


async def give(path, number):
    if hasattr(asyncio, "to_thread") and number.endswith(("1", "3", "5", "7", "9")):
        return await asyncio.to_thread(noted, path, number)
    return await asyncio.get_running_loop().run_in_executor(None, noted, path, number)


async def serve(reader, writer):
    while True:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        except asyncio.IncompleteReadError:
            break
        first, *fields = head.split("\r\n")
        fields = dict(field.split(": ", 1) for field in fields if field)
        body = await give(first.split(" ")[1], fields.get("X-Request-ID", ""))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    writer.close()


async def main():
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(int(sys.argv[2])))
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]), backlog=200)
    async with server:
        await server.serve_forever()


asyncio.run(main())
