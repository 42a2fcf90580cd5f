"""Truth: as task_app.py tells, by asyncio's own streams: a coroutine for each connection, which serves its requests one after
another. Listens at 127.0.0.1:argv[1]; needs nothing but Python."""
import asyncio
import sys


async def listen(answer):
    """Serves what `answer` makes of a path and an X-Request-ID."""

    async def serve(reader, writer):
        while True:
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
            except asyncio.IncompleteReadError:
                break
            first, *fields = head.split("\r\n")
            fields = dict(field.split(": ", 1) for field in fields if field)
            body = await answer(first.split(" ")[1], fields.get("X-Request-ID", ""))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]), backlog=200)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    from task_app import answer

    asyncio.run(listen(answer))
