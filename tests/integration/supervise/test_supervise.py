"""The supervisor with small children: restarts them, stops them in order, and keeps its directory to itself."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dsp.supervise import CHECKS, LOCK_FILE, UpConfig, platform
from dsp.workers.config import METERED, WORKERS
from tests.servers import free_port
from tests.waiting import alive, eventually

DEADLINE_SECONDS = 60.0

#: A child that follows the house's life cycle and writes down when it begins and ends.
CHILD = """
import asyncio, os, sys, time
from pathlib import Path
from dsp.kernel.lifecycle import Lifecycle

def note(text):
    with open("journal", "a") as file:
        file.write(f"{text} {sys.argv[1]} {os.getpid()}\\n")

async def main():
    stop = asyncio.create_task(Lifecycle().wait_for_stop())
    await asyncio.sleep(0)  # from here on SIGTERM is a request
    note("begin")
    await stop
    await asyncio.sleep(float(sys.argv[2]))
    note("end")

asyncio.run(main())
"""
#: A child that answers /readyz with 503 until a file is there, and not at all while another is, and writes down each
#: time it is asked.
SERVER = """
import os, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from dsp.kernel.lifecycle import PROCESS_HEADER

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        with open("journal", "a") as file:
            file.write(f"begin {sys.argv[1]} {os.getpid()}\\n")
        if Path("stuck").exists() and self.path == "/readyz":
            threading.Event().wait()
        self.send_response(200 if Path("open").exists() and self.path == "/readyz" else 503)
        self.send_header(PROCESS_HEADER, str(os.getpid()))
        self.end_headers()

def end_with_parent():
    os.read(int(os.environ["DSPCTL_PARENT_FD"]), 1)
    os._exit(0)

threading.Thread(target=end_with_parent, daemon=True).start()
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
"""
#: Starts the supervisor on the children described by its arguments.
PARENT = """
import sys, json
from pathlib import Path
from dsp.kernel import logging
from dsp.kernel.errors import DspError
from dsp.supervise import Child, Patience, run
logging.configure("supervisor")
def child(name, arguments, seconds, ready, relief=None, nice=0):
    ready = tuple(ready) if ready else None
    return Child(name, tuple(arguments), ready, seconds, relief=relief and child(*relief), nice=nice)

children = [child(*each) for each in json.loads(sys.argv[1])]
patience = Patience(wait_seconds_min=0.02, deaths_max=4, ask_seconds=0.1, silences_max=int(sys.argv[2]),
                    orphans_seconds=float(sys.argv[3]), window_seconds=float(sys.argv[4]))
try:
    refused = "import os.path; raise SystemExit(os.path.exists('{}'))"
    checks = [("-c", refused.format(name)) for name in ("bad", "worse")]
    sys.exit(run(children, Path("data"), patience=patience, checks=checks))
except DspError as fault:
    print(fault, file=sys.stderr)
    sys.exit(3)
"""

Spec = tuple[Any, ...]  # name, arguments, seconds to stop, where it answers /readyz, the Spec of its relief


def child(name: str, linger_seconds: float = 0.0, stop_seconds: float = DEADLINE_SECONDS) -> Spec:
    return (name, ["-c", CHILD, name, str(linger_seconds)], stop_seconds, None)


class Up:
    """Supervisors of one directory, ended when the test is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.started: list[subprocess.Popen[str]] = []

    def start(
        self, *children: Spec, silences_max: int = 20, orphans_seconds: float = 25.0, window_seconds: float = 60.0
    ) -> subprocess.Popen[str]:
        """Start one; a child that is silent so often, which takes a second or longer each time, it takes for hung."""
        numbers = [str(number) for number in (silences_max, orphans_seconds, window_seconds)]
        command = [sys.executable, "-c", PARENT, json.dumps(children), *numbers]
        with (self.path / "errors").open("a") as errors:
            process = subprocess.Popen(command, cwd=self.path, stderr=errors, text=True)
        self.started.append(process)
        return process

    def journal(self) -> list[tuple[str, str, int]]:
        path = self.path / "journal"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(what, who, int(pid)) for what, who, pid in (line.split() for line in lines)]

    def begun(self, name: str) -> list[int]:
        return [pid for what, who, pid in self.journal() if (what, who) == ("begin", name)]

    def status(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.path / "data/up.json").read_text())
        except FileNotFoundError:
            return {"children": {}}
        return found

    def ready(self, name: str) -> bool:
        return bool(self.status()["children"].get(name, {}).get("ready"))

    def errors(self) -> str:
        return (self.path / "errors").read_text()


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    found = Up(tmp_path)
    yield found
    for process in found.started:
        process.kill()
        process.wait()
    eventually(lambda: not any(alive(pid) for what, _, pid in found.journal() if what == "begin"))


def test_a_killed_child_is_started_again(up: Up) -> None:
    up.start(child("a"), child("b"))
    eventually(lambda: up.begun("a") and up.begun("b"))
    os.kill(up.begun("a")[0], signal.SIGKILL)
    eventually(lambda: len(up.begun("a")) == 2)
    eventually(lambda: up.status()["children"].get("a", {}).get("pid") == up.begun("a")[1])
    assert up.status()["children"]["a"]["restarts"] == 1
    assert len(up.begun("b")) == 1


def test_children_end_when_the_supervisor_is_killed(up: Up) -> None:
    process = up.start(child("a"), child("b"))
    eventually(lambda: up.begun("a") and up.begun("b"))
    process.kill()
    process.wait()
    eventually(lambda: not alive(up.begun("a")[0]) and not alive(up.begun("b")[0]))
    assert {who for what, who, _ in up.journal() if what == "end"} == {"a", "b"}  # drained, not cut off


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_takes_the_children_one_after_the_other_last_first(up: Up, number: signal.Signals) -> None:
    process = up.start(child("a"), child("b"), child("c", linger_seconds=0.3))
    eventually(lambda: all(up.begun(name) for name in "abc"))
    process.send_signal(number)
    assert process.wait(DEADLINE_SECONDS) == 0
    assert [who for what, who, _ in up.journal() if what == "end"] == ["c", "b", "a"]
    assert not (up.path / "data/up.json").exists()


def test_a_child_that_will_not_stop_is_killed_and_reported(up: Up) -> None:
    process = up.start(child("a"), child("b", linger_seconds=60.0, stop_seconds=0.3))
    eventually(lambda: up.begun("a") and up.begun("b"))
    process.terminate()
    assert process.wait(DEADLINE_SECONDS) == 1
    assert [who for what, who, _ in up.journal() if what == "end"] == ["a"]
    assert not alive(up.begun("b")[0])


def test_a_stop_right_after_the_start_leaves_nobody_behind(up: Up) -> None:
    process = up.start(*[child(name) for name in "abcdef"])
    eventually((up.path / "data/up.lock").exists)
    process.terminate()
    process.wait(DEADLINE_SECONDS)
    # A process that began late would still write to the journal: the fixture waits for all of them to be gone.
    eventually(lambda: not any(alive(pid) for what, _, pid in up.journal() if what == "begin"))


def test_a_child_that_cannot_live_ends_the_platform_with_a_failure(up: Up) -> None:
    # Not before the other can end in order.
    dies = "import os, time\nwhile not os.path.exists('journal'): time.sleep(0.01)\nraise SystemExit(7)"
    process = up.start(child("a"), ("b", ["-c", dies], 5.0, None))
    assert process.wait(DEADLINE_SECONDS) == 1
    assert [who for what, who, _ in up.journal() if what == "end"] == ["a"]


def test_a_child_that_has_lived_is_started_again_however_often_it_dies(up: Up, tmp_path: Path) -> None:
    dies = """
import os, time
with open("journal", "a") as file:
    file.write(f"begin b {os.getpid()}\\n")
parent = os.getppid()
while os.getppid() == parent and not os.path.exists("cursed"): time.sleep(0.01)
raise SystemExit(7)
"""
    process = up.start(child("a"), ("b", ["-c", dies], 5.0, None), window_seconds=5.0)
    eventually(lambda: up.begun("a") and up.begun("b"))
    time.sleep(6.0)  # it has lived for a window
    (tmp_path / "cursed").touch()
    eventually(lambda: len(up.begun("b")) > 7)
    assert process.poll() is None
    assert len(up.begun("a")) == 1
    (tmp_path / "cursed").unlink()
    eventually(lambda: up.status()["children"]["b"]["pid"] == up.begun("b")[-1] and alive(up.begun("b")[-1]))


def test_a_child_is_ready_when_it_says_so(up: Up, tmp_path: Path) -> None:
    up.start(server("a"), child("b"))
    eventually(lambda: up.ready("b") and len(up.begun("a")) >= 3)  # asked thrice
    assert not up.ready("a")
    (tmp_path / "open").touch()
    eventually(lambda: up.ready("a"))


def server(name: str, relief: Spec | None = None) -> Spec:
    port = free_port()
    return (name, ["-c", SERVER, name, str(port)], DEADLINE_SECONDS, ("127.0.0.1", port), relief)


def test_a_child_that_hangs_is_killed_and_started_again(up: Up, tmp_path: Path) -> None:
    (tmp_path / "open").touch()
    up.start(server("a"), silences_max=2)
    eventually(lambda: up.ready("a"))
    os.kill(up.begun("a")[0], signal.SIGSTOP)
    eventually(lambda: len(set(up.begun("a"))) >= 2)
    eventually(lambda: up.ready("a"))


def test_a_child_whose_readiness_waits_for_another_server_is_not_taken_for_hung(up: Up, tmp_path: Path) -> None:
    (tmp_path / "open").touch()
    up.start(server("a"), silences_max=1)
    eventually(lambda: up.ready("a"))
    (tmp_path / "stuck").touch()
    asked = len(up.begun("a"))
    eventually(lambda: len(up.begun("a")) >= asked + 20)
    assert len(set(up.begun("a"))) == 1


def test_an_answer_on_a_childs_port_is_not_the_childs_if_another_process_gives_it(up: Up, tmp_path: Path) -> None:
    (tmp_path / "open").touch()
    other = server("a")
    name, arguments, stop_seconds, _ = child("b")
    up.start(other, (name, arguments, stop_seconds, other[3]))
    eventually(lambda: up.ready("a") and up.begun("b"))
    asked = len(up.begun("a"))
    eventually(lambda: len(up.begun("a")) >= asked + 20)
    assert not up.ready("b")


def test_a_rolling_restart_ends_a_child_once_its_relief_is_ready(up: Up, tmp_path: Path) -> None:
    process = up.start(child("w"), server("a", server("b")))
    eventually(lambda: len(up.begun("a")) >= 1 and up.begun("w"))
    (tmp_path / "open").touch()
    eventually(lambda: up.ready("a"))
    (tmp_path / "open").unlink()
    process.send_signal(signal.SIGHUP)
    eventually(lambda: len(up.begun("w")) == 2 and up.begun("b"))
    assert alive(up.begun("a")[0])
    (tmp_path / "open").touch()
    eventually(lambda: not alive(up.begun("a")[0]))
    eventually(lambda: set(up.status()["children"]) == {"w", "b"})  # the supervisor hears of the end a moment later
    process.send_signal(signal.SIGHUP)
    eventually(lambda: "a" in up.status()["children"] and not alive(up.begun("b")[0]))
    process.terminate()
    assert process.wait(DEADLINE_SECONDS) == 0


def test_a_relief_that_cannot_live_leaves_the_old_child_where_it_is(up: Up, tmp_path: Path) -> None:
    (tmp_path / "open").touch()
    broken: Spec = ("b", ["-c", "raise SystemExit(7)"], 5.0, ("127.0.0.1", 9))
    process = up.start(server("a", broken), child("w"))
    eventually(lambda: up.ready("a") and up.begun("w"))
    process.send_signal(signal.SIGHUP)
    eventually(lambda: "the old process stays" in up.errors())
    eventually(lambda: set(up.status()["children"]) == {"a", "w"})
    assert len(up.begun("w")) == 1  # what follows is left alone: the next version is no good
    assert len(set(up.begun("a"))) == 1
    process.terminate()
    assert process.wait(DEADLINE_SECONDS) == 0


def test_nothing_is_started_where_what_children_would_read_is_refused(up: Up, tmp_path: Path) -> None:
    """All others started, and the one that was refused died nine times before the platform ended."""
    (tmp_path / "bad").touch()
    assert up.start(child("w")).wait(DEADLINE_SECONDS) == 1
    assert "nothing is started" in up.errors()
    assert not up.journal()


def test_nothing_is_restarted_while_what_children_would_read_is_refused(up: Up, tmp_path: Path) -> None:
    """A slip in the settings ended the one bidder of a host, and its successors did not live until it was mended."""
    process = up.start(child("w"), child("bidder"))
    eventually(lambda: up.begun("w") and up.begun("bidder"))
    (tmp_path / "worse").touch()
    process.send_signal(signal.SIGHUP)
    eventually(lambda: "nothing is restarted" in up.errors())
    (tmp_path / "worse").unlink()
    assert [what for what, _, _ in up.journal()] == ["begin", "begin"]
    process.send_signal(signal.SIGHUP)
    eventually(lambda: len(up.begun("w")) == len(up.begun("bidder")) == 2)
    process.terminate()
    assert process.wait(DEADLINE_SECONDS) == 0


def checked(check: tuple[str, ...], told: dict[str, str], data_path: Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"DSP_PLATFORM_DATA_DIR": str(data_path)} | told
    return subprocess.run(
        [sys.executable, *check], env=env, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("told", [{}, {"DSP_PLATFORM_LOG_LEVEL": "loud"}])
def test_the_platforms_checks_tell_settings_that_are_refused(
    check: tuple[str, ...], told: dict[str, str], tmp_path: Path
) -> None:
    done = checked(check, told, tmp_path)
    assert (done.returncode == 0) == (not told)
    assert ("log_level" in done.stderr) == bool(told)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("check", CHECKS[:2])
def test_the_platforms_checks_tell_all_addresses_that_are_none(check: tuple[str, ...], tmp_path: Path) -> None:
    """Each process died of one, nine times; after a SIGHUP, processes that had served until then."""
    told = {"STREAM_URL": "kafka:/host:9092", "CACHE_URL": "http://host", "DATABASE_URL": "mysql://host/dsp"}
    done = checked(check, {f"DSP_PLATFORM_{name}": address for name, address in told.items()}, tmp_path)
    assert done.returncode == 1
    refused = {name for name in told if f"platform.{name.lower()}: " in done.stderr}
    assert refused == told.keys() - ({"DATABASE_URL"} if "bidder" in check else set())  # which has no database
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [CHECKS[0], ("-m", "dsp", "worker", "training_log")])
def test_a_worker_whose_extra_is_not_installed_is_told_of_in_a_sentence(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    """It died of a traceback, nine times, and then the platform ended."""
    (tmp_path / "pyarrow.py").write_text("raise ModuleNotFoundError(\"No module named 'pyarrow'\")")
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    done = checked(command, {"PYTHONPATH": path}, tmp_path / "data")
    assert done.returncode == 1
    told = "  worker training_log: needs an extra that is not installed: No module named 'pyarrow'"
    assert done.stderr.splitlines() == ["configuration refused:", told]


def test_up_tells_what_is_wrong_in_all_tables_at_once(tmp_path: Path) -> None:
    """And each once, though several programs read the table; what was wrong in its own tables hid the rest."""
    told = {
        "DSP_PLATFORM_LOG_LEVEL": "loud",
        "DSP_UP_BIDDERS": "0",
        "DSP_BIDDER_ADMIN_PORT": "x",
        "DSP_API_PORT": "99999",
        "DSP_WORKERS_WAIT_MS": "x",
        "DSP_TRAINING_BLOCKS": "x",
    }
    done = checked(("-m", "dsp", "up"), told, tmp_path)
    assert done.returncode == 1
    settings = {name.removeprefix("DSP_").lower().replace("_", ".", 1) for name in told}
    assert sorted(line.partition(":")[0] for line in done.stderr.splitlines()) == sorted(
        ["configuration refused", *(f"  {name}" for name in settings)]
    )
    assert not list(tmp_path.iterdir())


def test_up_tells_which_ports_others_have_and_starts_nothing(tmp_path: Path) -> None:
    """Whoever was to listen there died of it nine times, which took minutes, and the last lines did not say of what."""
    taken = {
        "DSP_API_PORT": "api",
        "DSP_BIDDER_BID_PORT": "bidder-1",
        "DSP_BIDDER_ADMIN_PORT": "bidder-1",
        "DSP_WORKERS_METRICS_PORT_BASE": "ledger-1",
    }
    with ExitStack() as held:
        ports = {name: held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for name in taken}
        told = {name: str(port) for name, port in ports.items()} | {
            "DSP_BIDDER_NOTICE_PORT": "0",
            "DSP_UP_BIDDERS": "2",
            "DSP_UP_WORKERS": '{"ledger": 2}',
        }
        done = checked(("-m", "dsp", "up"), told, tmp_path)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[0] == "configuration refused:"
    for name, child in taken.items():
        assert any(line.startswith(f"  {child}: cannot listen on 127.0.0.1:{ports[name]}: ") for line in lines)
    assert [each.name for each in tmp_path.iterdir()] == [LOCK_FILE]


def test_all_that_processes_listen_on_is_looked_at(tmp_path: Path) -> None:
    told = {"DSP_WORKERS_METRICS_PORT_BASE": "9400", "DSP_BIDDER_HOST": "0.0.0.0"}
    children = platform(UpConfig(workers={"ledger": 2}), None, told)
    listens = {each.name: each.listens for each in children}
    assert listens["bidder"] == (("0.0.0.0", 8080), ("0.0.0.0", 8081), ("127.0.0.1", 9090))
    assert listens["api"] == (("127.0.0.1", 8000),)
    assert listens["online"] == (("127.0.0.1", 9405),)
    assert listens["ledger-2"] == (("127.0.0.1", 9406),)
    first, second = platform(UpConfig(bidders=2), None, {"DSP_BIDDER_ADMIN_PORT": "0"})[-2:]
    assert first.listens == second.listens == (("127.0.0.1", 8080), ("127.0.0.1", 8081))
    assert platform(UpConfig(), None, {"DSP_API_PORT": "0"})[-2].listens == ()


def test_a_child_that_nobody_waits_for_yields_the_processor(up: Up) -> None:
    up.start((*child("a"), None, 5), child("b"))
    eventually(lambda: up.begun("a") and up.begun("b"))
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    expected = [min(ours + 5, 19), ours]
    eventually(lambda: [os.getpriority(os.PRIO_PROCESS, *up.begun(name)) for name in ("a", "b")] == expected)
    # Priorities count among the processes of one session, where the kernel groups them (sched(7), autogroup).
    assert {os.getsid(up.begun(name)[0]) for name in ("a", "b")} == {os.getsid(0)}
    assert {each.name for each in platform(UpConfig(), None, {}) if not each.nice} == {"api", "bidder", "online"}


def test_a_second_supervisor_on_the_directory_is_refused(up: Up) -> None:
    first = up.start(child("a"))
    eventually(lambda: up.begun("a"))
    second = up.start(child("a"))
    assert second.wait(DEADLINE_SECONDS) == 3
    assert f"in use by another `up` (process {first.pid})" in up.errors()
    assert len(up.begun("a")) == 1
    assert alive(up.begun("a")[0])


def test_a_new_supervisor_waits_for_what_a_killed_one_left(up: Up) -> None:
    first = up.start(child("a", linger_seconds=1.0))
    eventually(lambda: up.begun("a"))
    first.kill()
    first.wait()
    up.start(child("a"))
    eventually(lambda: len(up.begun("a")) == 2)
    assert [what for what, _, _ in up.journal()] == ["begin", "end", "begin"]


def test_what_a_killed_supervisor_said_of_its_processes_is_not_taken_for_what_the_next_says(
    up: Up, tmp_path: Path
) -> None:
    first = up.start(child("a"))
    eventually(lambda: up.ready("a") and up.begun("a"))
    first.kill()
    first.wait()
    assert up.ready("a")
    (tmp_path / "bad").touch()  # so that the next has nothing to say
    assert up.start(child("a")).wait(DEADLINE_SECONDS) == 1
    assert up.status() == {"children": {}}


def test_what_a_killed_supervisor_left_and_does_not_end_is_told_apart_from_a_living_one(up: Up) -> None:
    first = up.start(child("a", linger_seconds=600.0))
    eventually(lambda: up.ready("a") and up.begun("a"))
    (left,) = up.begun("a")
    first.kill()
    first.wait()
    assert up.start(child("a"), orphans_seconds=0.3).wait(DEADLINE_SECONDS) == 3
    assert "which has died" in up.errors()
    assert up.status()["children"]["a"]["pid"] == left
    os.kill(left, signal.SIGKILL)


def test_the_platform_stops_the_bidder_first_and_asks_it_whether_it_is_ready(tmp_path: Path) -> None:
    settings = tmp_path / "dsp.toml"
    settings.write_text("[bidder]\nadmin_port = 9_191\n")
    children = platform(UpConfig(), str(settings), {})
    assert children[-1].name == "bidder"
    assert children[-1].ready == ("127.0.0.1", 9_191)
    assert platform(UpConfig(), None, {"DSP_BIDDER_ADMIN_PORT": "9292"})[-1].ready == ("127.0.0.1", 9_292)
    assert platform(UpConfig(), str(settings), {"DSP_BIDDER_ADMIN_PORT": "0"})[-1].ready is None
    assert platform(UpConfig(), None, {})[-2].ready == ("127.0.0.1", 8_000)
    assert platform(UpConfig(), None, {"DSP_API_HOST": "::1", "DSP_API_PORT": "9393"})[-2].ready == ("::1", 9_393)
    assert {each.name for each in children} == {*WORKERS, "online", "api", "bidder"}


def test_several_bidders_share_ports_and_have_names_and_admin_ports_of_their_own() -> None:
    children = platform(UpConfig(bidders=2, workers={"ledger": 2}), None, {"DSP_BIDDER_ADMIN_PORT": "9300"})
    bidders = children[-2:]
    reliefs = [each.relief for each in bidders if each.relief is not None]
    everyone = [*bidders, *reliefs]
    assert {each.environment["DSP_BIDDER_HOLDER"] for each in everyone} == {
        "bidder-1", "bidder-2", "bidder-1b", "bidder-2b",
    }  # fmt: skip
    assert {each.ready for each in everyone} == {("127.0.0.1", port) for port in (9300, 9301, 9302, 9303)}
    assert all(each.environment["DSP_BIDDER_REUSE_PORT"] == "true" for each in everyone)
    assert {"ledger-1", "ledger-2", "pacing"} <= {each.name for each in children}


def test_several_workers_of_a_kind_have_metrics_ports_of_their_own(tmp_path: Path) -> None:
    settings = tmp_path / "dsp.toml"
    settings.write_text("[workers]\nmetrics_port_base = 9_100\n")
    up = UpConfig(workers={"ledger": 3, "traffic": 2})
    for path, env, base in ((str(settings), {}, 9_100), (None, {"DSP_WORKERS_METRICS_PORT_BASE": "9400"}, 9_400)):
        listening = []
        for each in platform(up, path, env):
            if each.arguments[:3] == ("-m", "dsp", "worker"):
                told = int(each.environment.get("DSP_WORKERS_METRICS_PORT_BASE", base))
                listening.append(told + METERED.index(each.arguments[3]))
        assert len(listening) == len(WORKERS) + 3
        assert len(set(listening)) == len(listening)
        assert base + METERED.index("online") not in listening
    assert not any(each.environment for each in platform(up, None, {}) if each.name.startswith("ledger"))


def test_settings_of_up_are_checked() -> None:
    for wrong in ({"bidders": 0}, {"workers": {"nobody": 1}}, {"workers": {"ledger": 0}}):
        with pytest.raises(ValueError, match=r"must be above 0|no such worker"):
            UpConfig(**wrong)  # type: ignore[arg-type]
