"""Whether the ports that processes are to listen on are to be had: who cannot listen dies of it again and again."""

import asyncio
from collections.abc import Iterable
from contextlib import ExitStack

from dsp.kernel.errors import ConfigError, Fault

Address = tuple[str, int]  # host and port


async def check(listens: Iterable[tuple[str, Address]]) -> None:
    """Listen for a moment on all addresses at once; each comes with who is to listen there, and several may share one.

    Raises:
        ConfigError: with all that are taken, or are not to be had at all.
    """
    faults: list[Fault] = []
    tried: set[Address] = set()
    with ExitStack() as held:
        for who, address in listens:
            if address in tried:
                continue
            tried.add(address)
            host, port = address
            try:
                server = await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port)
                held.callback(server.close)
            except OSError as fault:
                faults.append(Fault(who, f"cannot listen on {host}:{port}: {fault.strerror or fault}"))
    if faults:
        raise ConfigError(faults)
