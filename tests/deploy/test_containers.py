"""The image and compose.yaml: by a linter and by Docker Compose itself, and against the code. Nothing is built here."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from dsp.workers.config import METERED
from tests.deploy import processes
from tests.deploy.files import PROMETHEUS, ROOT, read_yaml
from tests.servers import absent

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
CONTEXT_BYTES_MAX = 8 * 1024 * 1024
VARIABLES = {"SIGNING_KEY": "0123456789abcdef" * 4, "POSTGRES_PASSWORD": "hunter2"}


def program(name: str) -> str:
    """Return a program of the extra `deploy`."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    return found or absent(f"no {name}: install the extra `deploy`")


def image_environment() -> dict[str, str]:
    """Return what the runtime stage sets."""
    stage = DOCKERFILE.partition(" AS runtime\n")[2].partition("\nFROM ")[0]
    (block,) = re.findall(r"^ENV ((?:.*\\\n)*.*)$", stage, re.MULTILINE)
    return dict(pair.split("=", 1) for pair in shlex.split(block.replace("\\\n", " ")))


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """Return compose.yaml as Docker Compose understands it, all profiles in."""
    command = [
        program("docker-compose"),
        "--file",
        str(ROOT / "compose.yaml"),
        "--profile",
        "*",
        "config",
        "--format=json",
    ]
    done = subprocess.run(command, env={**os.environ, **VARIABLES}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def ours(compose: dict[str, Any]) -> dict[str, Any]:
    return {name: service for name, service in compose["services"].items() if "build" in service}


def dsp_variables(service: dict[str, Any]) -> dict[str, str]:
    env = {**image_environment(), **service.get("environment", {})}
    return {name: value for name, value in env.items() if name.startswith("DSP_") and name != "DSP_CONFIG"}


def test_the_dockerfile_passes_the_linter() -> None:
    done = subprocess.run(
        [program("hadolint"), "--no-color", str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_image_runs_as_nobody_in_particular() -> None:
    stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?$", DOCKERFILE, re.MULTILINE)
    assert [name for _, name in stages][-2:] == ["gpu", "cpu"]  # what is last is built by default
    assert {base for base, name in stages if name in ("cpu", "gpu")} == {"runtime"}
    assert re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE) == ["10001:10001"]
    assert DOCKERFILE.count("\nHEALTHCHECK ") == 1
    assert "--uid 10001" in DOCKERFILE


def test_the_image_exposes_what_processes_listen_on() -> None:
    (listed,) = re.findall(r"^EXPOSE (.*)$", DOCKERFILE, re.MULTILINE)
    exposed: set[int] = set()
    for part in listed.split():
        first, _, last = part.partition("-")
        exposed |= set(range(int(first), int(last or first) + 1))
    env = {name: value for name, value in image_environment().items() if name.startswith("DSP_")}
    env.pop("DSP_CONFIG")
    commands = [["bidder"], ["dsp", "api"], *(["dsp", "worker", name] for name in METERED)]
    listening = {port for command in commands for port in processes.ports(env, ["python", "-m", *command]).values()}
    assert exposed == listening


def test_the_image_s_own_command_exists() -> None:
    (command,) = re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    processes.check_command(json.loads(command))


def test_no_process_is_the_first_of_its_container(compose: dict[str, Any]) -> None:
    """The first never hears of a SIGTERM that comes before it has asked for it, that is while it starts."""
    (entry,) = re.findall(r"^ENTRYPOINT (\[.*\])$", DOCKERFILE, re.MULTILINE)
    (installed,) = re.findall(r"apt-get install (.*) \\$", DOCKERFILE, re.MULTILINE)
    assert json.loads(entry) == ["tini", "--"]
    assert "tini" in installed.split()
    assert not [name for name, service in ours(compose).items() if service.get("entrypoint")]


def test_the_context_is_small_and_has_what_is_copied() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert lines[1] == "*"
    let_in = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert copied == let_in
    files = [
        path for name in let_in for path in ([ROOT / name] if (ROOT / name).is_file() else (ROOT / name).rglob("*"))
    ]
    sent = [path for path in files if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in sent) < CONTEXT_BYTES_MAX


def test_extras_of_the_image_exist() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (shared,) = re.findall(r"^ARG EXTRAS=(.*)$", DOCKERFILE, re.MULTILINE)
    assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in ["cpu", "gpu", *shared.split(",")])


def test_compose_asks_for_secrets() -> None:
    command = [program("docker-compose"), "--file", str(ROOT / "compose.yaml"), "config", "--quiet"]
    env = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "SIGNING_KEY" in done.stderr + done.stdout or "POSTGRES_PASSWORD" in done.stderr + done.stdout


def test_every_process_of_the_platform_is_in_compose(compose: dict[str, Any]) -> None:
    commands = sorted(" ".join(service["command"][2:]) for service in ours(compose).values())
    assert commands == sorted(
        ["bidder", "bidder", "dsp api", "dsp migrate", "models nightly", "models online"]
        + [f"dsp worker {name}" for name in METERED if name != "online"]
    )


def test_services_have_commands_settings_and_ports_that_exist(compose: dict[str, Any]) -> None:
    for name, service in ours(compose).items():
        command = service["command"]
        processes.check_command(command)
        listening = processes.ports(dsp_variables(service), command)
        published = {int(port["target"]) for port in service.get("ports", ())}
        assert published <= set(listening.values()), name
        health = service.get("environment", {}).get("HEALTH_URL")
        if not service.get("healthcheck", {}).get("disable"):
            assert urlsplit(health or image_environment()["HEALTH_URL"]).port in listening.values(), name
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name


def test_bidders_have_names_and_notice_urls_of_their_own(compose: dict[str, Any]) -> None:
    found = [processes.settings(dsp_variables(ours(compose)[name]))["bidder"] for name in ("bidder-1", "bidder-2")]
    assert len({bidder.holder for bidder in found}) == 2  # type: ignore[attr-defined]
    for name, bidder in zip(("bidder-1", "bidder-2"), found, strict=True):
        published = {int(port["target"]): int(port["published"]) for port in ours(compose)[name]["ports"]}
        assert urlsplit(bidder.notice_base_url).port == published[8081]  # type: ignore[attr-defined]


def test_compose_waits_longer_than_a_drain(compose: dict[str, Any]) -> None:
    bidder: Any = processes.settings({})["bidder"]
    seconds = int(re.fullmatch(r"(\d+)s", ours(compose)["bidder-1"]["stop_grace_period"])[1])  # type: ignore[index]
    assert seconds >= (bidder.drain_wait_ms + 4 * bidder.drain_timeout_ms) / 1_000


def test_stores_are_the_servers_of_compose(compose: dict[str, Any]) -> None:
    for name, service in ours(compose).items():
        platform: Any = processes.settings(dsp_variables(service))["platform"]
        hosts = {urlsplit(url).hostname for url in (platform.database_url, platform.stream_url, platform.cache_url)}
        assert hosts == {"postgres", "kafka", "valkey"}, name
        assert hosts <= set(compose["services"])


def test_valkey_forgets_users_at_its_bound_and_leases_never(compose: dict[str, Any]) -> None:
    """What docs/cache.md says it must be set to; without a bound it takes all of the machine's memory."""
    _, *given = compose["services"]["valkey"]["command"]
    told = dict(zip(given[::2], given[1::2], strict=True))
    assert (told["--appendonly"], told["--maxmemory-policy"]) == ("yes", "volatile-ttl")
    assert re.fullmatch(r"[1-9]\d*[mg]b", told["--maxmemory"])


def test_prometheus_scrapes_what_compose_runs(compose: dict[str, Any]) -> None:
    config = read_yaml(PROMETHEUS / "prometheus.yml")
    targets = {
        target: job["job_name"]
        for job in config["scrape_configs"]
        for group in job["static_configs"]
        for target in group["targets"]
    }
    kinds = {"admin": "dsp-bidder", "http": "dsp-api", "metrics": "dsp-worker"}
    wanted = {
        f"{name}:{port}": kinds[what]
        for name, service in ours(compose).items()
        for what, port in processes.ports(dsp_variables(service), service["command"]).items()
        if what in kinds
    }
    assert targets == wanted


def test_volumes_share_models_and_training_data(compose: dict[str, Any]) -> None:
    shared: dict[tuple[str, str], set[bool]] = {}
    for name, service in ours(compose).items():
        for volume in service.get("volumes", ()):
            if volume["source"] in ("models", "training"):
                assert volume["target"] == f"/var/lib/dsp/{volume['source']}"
                shared[volume["source"], name] = {bool(volume.get("read_only"))}
    assert {key for key, read_only in shared.items() if read_only == {False}} == {
        ("models", "nightly"), ("models", "online"), ("training", "training-log"),
    }  # fmt: skip
    assert {key for key, read_only in shared.items() if read_only == {True}} == {
        ("models", "bidder-1"), ("models", "bidder-2"), ("training", "nightly"),
    }  # fmt: skip


def test_each_bidder_keeps_what_it_acknowledged_on_a_named_volume(compose: dict[str, Any]) -> None:
    """One without a name would be a new one, and empty, whenever the container is made anew."""
    found = []
    for name in ("bidder-1", "bidder-2"):
        platform: Any = processes.settings(dsp_variables(ours(compose)[name]))["platform"]
        (volume,) = [one for one in ours(compose)[name]["volumes"] if one["target"] == platform.data_dir]
        assert volume["type"] == "volume", name
        assert not volume.get("read_only"), name
        found.append(volume["source"])
    assert len(set(found)) == 2
    assert set(found) <= set(compose["volumes"])
