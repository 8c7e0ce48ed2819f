"""The socket that the service listens on."""

import asyncio
import socket

from orchestrator.api.service.process import listening_socket


async def test_responses_do_not_wait_for_acknowledgements():
    accepted = asyncio.get_running_loop().create_future()

    async def note(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    async with await asyncio.start_server(note, sock=listening_socket("127.0.0.1", 0)) as server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await asyncio.wait_for(accepted, 5)
        writer.close()
        await writer.wait_closed()
