"""A bare proxy on aiohttp, its server and its client: passes on, stores and checks nothing.

python -m benchmarks.rivals.proxy --port 9000 --to http://127.0.0.1:18789
"""

import argparse
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web

PATH = "/v1/chat/completions"
TO = web.AppKey("to", str)
CLIENT = web.AppKey("client", aiohttp.ClientSession)


async def client(app: web.Application) -> AsyncIterator[None]:
    """One client for all requests."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(app[TO], connector=connector) as made:
        app[CLIENT] = made
        yield


async def complete(request: web.Request) -> web.StreamResponse:
    """The gateway's answer, whole or as it comes."""
    body = await request.json()
    async with request.app[CLIENT].post(PATH, json=body) as answer:
        if not body["stream"]:
            return web.json_response(await answer.json())
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
        return response


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--to", required=True)
    given = parser.parse_args()
    app = web.Application()
    app[TO] = given.to
    app.cleanup_ctx.append(client)
    app.router.add_post(PATH, complete)
    web.run_app(app, host="127.0.0.1", port=given.port, access_log=None, print=None)


if __name__ == "__main__":
    main()
