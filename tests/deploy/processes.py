"""What deployment files say of a process, held against the code: its command, its settings, its ports."""

import importlib
from collections.abc import Mapping, Sequence

import msgspec

from bidder.config import BidderConfig
from dsp.api.config import ApiConfig
from dsp.kernel import config
from dsp.workers.config import METERED, WorkersConfig
from tests.deploy.files import ROOT
from tests.test_ops import TABLES

SETTINGS_FILE = ROOT / "config" / "dsp.toml"


def check_command(command: Sequence[str]) -> None:
    """Fail where `python -m MODULE ...` is not a command that its module takes."""
    assert list(command[:2]) == ["python", "-m"], command
    module = importlib.import_module(f"{command[2]}.__main__")
    if command[2] == "bidder":
        assert not command[3:]
    else:
        module._parser().parse_args(list(command[3:]))  # exits on what it does not know


def settings(env: Mapping[str, str]) -> dict[str, msgspec.Struct]:
    """Return every table as a process with this environment would read it; raises ConfigError as it would."""
    return config.load(TABLES, SETTINGS_FILE, env)


def ports(env: Mapping[str, str], command: Sequence[str]) -> dict[str, int]:
    """Return where a process with this command and environment listens, by what for."""
    tables = settings(env)
    bidder, api, workers = tables["bidder"], tables["api"], tables["workers"]
    assert isinstance(bidder, BidderConfig)
    assert isinstance(api, ApiConfig)
    assert isinstance(workers, WorkersConfig)
    if command[2] == "bidder":
        assert (bidder.host, bidder.admin_host) == ("0.0.0.0", "0.0.0.0")
        return {"bid": bidder.bid_port, "notice": bidder.notice_port, "admin": bidder.admin_port}
    if command[3] == "api":
        assert api.host == "0.0.0.0"
        return {"http": api.port}
    name = command[4] if command[3] == "worker" else command[3]
    if name not in METERED:
        return {}
    assert workers.metrics_port_base
    assert workers.metrics_host == "0.0.0.0"
    return {"metrics": workers.metrics_port_base + METERED.index(name)}
