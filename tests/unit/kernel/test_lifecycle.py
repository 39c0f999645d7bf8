"""Start order, stop order, and the three ways to end."""

import asyncio
import os
import signal

import pytest
from structlog.testing import capture_logs

from dsp.kernel.errors import ConfigError, Fault, UnavailableError
from dsp.kernel.lifecycle import PARENT_PIPE, Lifecycle, Phase, run


async def test_stops_in_reverse_and_past_a_failure() -> None:
    lifecycle, order = Lifecycle(), []

    def step(name: str) -> None:
        order.append(name)

    async def start(name: str) -> None:
        step(f"+{name}")

    async def stop_a() -> None:
        step("-a")

    async def stop_b() -> None:
        raise RuntimeError("b is stuck")

    async def stop_c() -> None:
        step("-c")

    await lifecycle.start(start("a"), stop_a)
    await lifecycle.start(start("b"), stop_b)
    await lifecycle.start(start("c"), stop_c)
    with pytest.raises(ExceptionGroup, match="while stopping"):
        await lifecycle.stop()
    assert order == ["+a", "+b", "+c", "-c", "-a"]
    assert lifecycle.phase is Phase.STOPPED


async def test_sigterm_drains() -> None:
    lifecycle = Lifecycle()
    lifecycle.ready()
    waiting = asyncio.create_task(lifecycle.wait_for_stop())
    await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(waiting, 5)
    assert lifecycle.phase is Phase.DRAINING


async def test_supervisors_death_drains(monkeypatch: pytest.MonkeyPatch) -> None:
    read_end, write_end = os.pipe()
    monkeypatch.setenv(PARENT_PIPE, str(read_end))
    lifecycle = Lifecycle()
    waiting = asyncio.create_task(lifecycle.wait_for_stop())
    await asyncio.sleep(0)
    assert not waiting.done()
    os.close(write_end)
    await asyncio.wait_for(waiting, 5)
    os.close(read_end)


@pytest.mark.parametrize(
    ("fault", "traced"),
    [(UnavailableError("the port is taken"), False), (OSError("no space left"), False), (KeyError("ours"), True)],
)
def test_a_fault_that_ends_a_process_is_a_line_of_its_log(fault: Exception, traced: bool) -> None:
    async def main() -> None:
        raise fault

    with capture_logs() as logs:
        assert run(main()) == 1
    (line,) = logs
    assert (line["event"], line["fault"]) == ("ended by a fault", str(fault))
    assert (line["log_level"], line["exc_info"]) == ("critical", traced)


def test_settings_that_name_what_is_not_there_are_for_a_person() -> None:
    async def main() -> None:
        raise ConfigError([Fault("platform.exchanges_dir", "there is none")])

    with capture_logs() as logs, pytest.raises(ConfigError):
        run(main())
    assert not logs
