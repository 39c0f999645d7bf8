"""Settings: types, overrides, secrets, and every fault at once."""

from pathlib import Path

import msgspec
import pytest

from dsp.__main__ import main
from dsp.kernel import config
from dsp.kernel.errors import ConfigError

SHIPPED = Path(__file__).parents[3] / "config" / "dsp.toml"


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    port: int = 80
    ratio: float = 0.5
    names: list[str] = []
    token: str

    def __post_init__(self) -> None:
        config.require(
            ("port", self.port <= 65_535, "must be at most 65535"),
            ("ratio", 0 <= self.ratio <= 1, "must be 0 to 1"),
            ("port, names", self.port > len(self.names), "must be above the number of names"),
        )


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


def test_every_rule_that_is_broken_is_reported_at_once_beside_what_is_mistyped(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, '[bidder]\nport = 70000\nratio = 3\ncolour = 1\ntoken = "t"\n')
    assert [str(fault) for fault in refused.value.faults] == [
        "bidder.colour: unknown setting",
        "bidder.port: must be at most 65535",
        "bidder.ratio: must be 0 to 1",
    ]


def test_a_rule_across_fields_names_them_all_and_nothing_is_held_against_a_default_in_place_of_what_was_refused(
    tmp_path: Path,
) -> None:
    names = ", ".join(f'"{one}"' for one in range(100))
    for port, broken in (("81", ["bidder.port, bidder.names"]), ('"x"', ["bidder.port"])):
        with pytest.raises(ConfigError) as refused:
            read(tmp_path, f'[bidder]\nport = {port}\nnames = [{names}]\ntoken = "t"\n')
        assert [fault.field for fault in refused.value.faults] == broken


def test_what_prices_and_keys_hang_on_is_refused_with_all_else_that_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "dsp.toml"
    path.write_text(
        '[platform]\ncurrency = "EURO"\ncurrency_rates = { eur = 1.0, JPY = -0.1, CHF = nan, PLN = inf, GBP = 0 }\n'
        'signing_keys = ["zz", "abababababababababababababababab"]\nhash_key = "00"\nlog_level = "loud"\n',
        encoding="utf-8",
    )
    with pytest.raises(ConfigError) as refused:
        config.load({"platform": config.Platform}, path, {})
    told = {fault.field: fault.message for fault in refused.value.faults}
    assert list(told) == [
        f"platform.{name}" for name in ("currency", "currency_rates", "signing_keys[0]", "hash_key", "log_level")
    ]
    assert all(code in told["platform.currency_rates"] for code in ("JPY", "CHF", "PLN", "GBP"))
    assert "eur" in str(refused.value)


def test_the_books_currency_is_worth_itself_and_no_other_is_taken_for_it(tmp_path: Path) -> None:
    """Rates per dollar, kept where the book goes over to euros, had every bid in euros a sixth too high or too low."""
    assert config.Platform(currency="EUR").rates == {"EUR": 1.0}
    assert config.Platform(currency="EUR", currency_rates={"EUR": 1.0, "USD": 0.86}).rates == {"EUR": 1.0, "USD": 0.86}
    with pytest.raises(
        ConfigError, match=r"platform\.currency, platform\.currency_rates: EUR is the book's own.*1\.16"
    ):
        config.load({"platform": config.Platform}, SHIPPED, {"DSP_PLATFORM_CURRENCY": "EUR"})


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
