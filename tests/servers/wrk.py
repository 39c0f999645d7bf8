"""wrk, an HTTP load generator: the one on PATH, or what deploy/dev/wrk/install has unpacked."""

import asyncio
import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

from tests.servers import absent

_TOOLS = Path(__file__).parents[2] / ".tools"
_DONE = re.compile(r"(\d+) requests in")


class Told(NamedTuple):
    """What wrk says of its run: how many answers it read, and whatever it, or its script, says of wrong ones."""

    answers: int
    complaints: list[str]


async def wrk(script: Path, connections: int, seconds: int, url: str) -> Told:
    """Run a script, https://github.com/wg/wrk/blob/master/SCRIPTING, on a thread of its own beside this loop.

    Skips or fails the test where there is no wrk.
    """
    found = shutil.which("wrk") or shutil.which("wrk", path=str(_TOOLS / "wrk" / "usr" / "bin"))
    program = found or absent("no wrk: run deploy/dev/wrk/install, or install it")
    libraries = [str(path.parent) for path in (_TOOLS / "libluajit-5.1-2").glob("usr/lib/*/libluajit-5.1.so.2")]
    process = await asyncio.create_subprocess_exec(
        program, "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), url,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "LD_LIBRARY_PATH": ":".join(libraries)},
    )  # fmt: skip
    told, _ = await process.communicate()
    text = told.decode()
    done = _DONE.search(text)
    assert done is not None, text
    lines = [line.strip() for line in text.splitlines()]
    return Told(int(done[1]), [line for line in lines if line.startswith(("Socket errors", "Non-2xx", "Wrong"))])
