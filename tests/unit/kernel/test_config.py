"""Settings: types, overrides, secrets, and every fault at once."""

from pathlib import Path

import msgspec
import pytest

from dsp.__main__ import main
from dsp.kernel import config
from dsp.kernel.errors import ConfigError


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    port: int = 80
    ratio: float = 0.5
    names: list[str] = []
    token: str

    def __post_init__(self) -> None:
        if self.port > 65_535:
            raise ValueError("port is above 65535")


def read(tmp_path: Path, text: str, env: dict[str, str] | None = None) -> Server:
    path = tmp_path / "dsp.toml"
    path.write_text(text, encoding="utf-8")
    server = config.load({"bidder": Server}, path, env or {})["bidder"]
    assert isinstance(server, Server)
    return server


def test_file_then_environment(tmp_path: Path) -> None:
    env = {"DSP_BIDDER_PORT": "9000", "DSP_BIDDER_NAMES": '["a", "b"]', "PATH": "/bin", "DSP_API_PORT": "1"}
    server = read(tmp_path, '[bidder]\nport = 81\ntoken = "t"\n[api]\nport = 8000\n', env)
    assert server == Server(port=9000, names=["a", "b"], token="t")


def test_every_fault_is_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, '[bidder]\nport = "many"\nratio = []\ncolour = 1\n[kitchen]\nx = 1\n', {"DSP_NOSUCH_X": "1"})
    fields = {fault.field for fault in refused.value.faults}
    assert fields == {"bidder.port", "bidder.ratio", "bidder.colour", "bidder.token", "kitchen", "DSP_NOSUCH_X"}


def test_rule_across_fields_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="port is above 65535"):
        read(tmp_path, '[bidder]\nport = 70000\ntoken = "t"\n')


@pytest.mark.parametrize("text", ["[bidder", "bidder = 3\n", "\x00"])
def test_broken_files_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        read(tmp_path, text)


def test_unknown_variable_of_a_known_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"bidder\.prot"):
        read(tmp_path, '[bidder]\ntoken = "t"\n', {"DSP_BIDDER_PROT": "1"})


def test_digest_follows_the_values(tmp_path: Path) -> None:
    one, two = Server(token="a"), Server(token="b")
    assert config.digest({"bidder": one}) == config.digest({"bidder": Server(token="a")})
    assert config.digest({"bidder": one}) != config.digest({"bidder": two})


def test_secrets_are_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "dsp.toml"
    path.write_text('[platform]\nsigning_keys = ["abcdef0123456789abcdef0123456789"]\n', encoding="utf-8")
    settings = config.load({"platform": config.Platform}, path, {})
    assert settings["platform"].signing_keys == ["abcdef0123456789abcdef0123456789"]
    assert "abcdef" not in repr(settings)
    assert len(config.digest(settings)) == 12


def test_the_databases_password_is_read_and_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "dsp.toml"
    path.write_text('[platform]\ndatabase_url = "postgresql://dsp:hunter2@host/dsp"\n', encoding="utf-8")
    settings = config.load({"platform": config.Platform}, path, {})
    assert settings["platform"].database_url == "postgresql://dsp:hunter2@host/dsp"
    assert "hunter2" not in f"{settings!r} {settings['platform']}"
    assert repr(config.Platform().database_url) == "''"
    overridden = config.load({"platform": config.Platform}, path, {"DSP_PLATFORM_DATABASE_URL": "sqlite:///x.db"})
    assert overridden["platform"].database_url == "sqlite:///x.db"
    assert config.digest(settings) != config.digest(overridden)


@pytest.mark.parametrize(("name", "told"), [("DSP_PLATFORM_LOG_LEVEL", "loud"), ("DSP_API_PORT", "abc")])
def test_up_says_which_setting_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, told: str
) -> None:
    monkeypatch.setenv("DSP_PLATFORM_DATA_DIR", str(tmp_path))
    monkeypatch.setenv(name, told)
    assert main(["up"]) == 1
    assert name.split("_", 2)[2].lower() in capsys.readouterr().err
