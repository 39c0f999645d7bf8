"""Profiles: the ones shipped, defaults, and every fault at once."""

from pathlib import Path

import pytest

from dsp.kernel.errors import ConfigError
from dsp.openrtb.profile import load_profiles

CONFIG = Path(__file__).parents[3] / "config"


def test_the_shipped_profiles() -> None:
    assert set(load_profiles(CONFIG / "exchanges")) == {"openrtb", "adx"}
    profiles = load_profiles(CONFIG / "demo" / "exchanges")
    assert set(profiles) == {"demo-first", "demo-second"}
    assert (profiles["demo-first"].billing, profiles["demo-first"].auction_default) == ("bill", 1)
    second = profiles["demo-second"]
    assert (second.billing, second.auction_default, second.price_cipher) == ("win", 2, "google")


def test_keys_do_not_show() -> None:
    profile = load_profiles(CONFIG / "demo" / "exchanges")["demo-second"]
    assert profile.price_encryption_key not in repr(profile)
    assert "***" in repr(profile)


def test_a_profile_is_named_after_its_file(tmp_path: Path) -> None:
    (tmp_path / "acme.toml").write_text('seat = "7"\n')
    profile = load_profiles(tmp_path)["acme"]
    assert (profile.name, profile.seat, profile.currencies) == ("acme", "7", ("USD",))


def test_every_fault_of_every_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('billing = "never"\nqps_max = 0\nnetwork_margin_ms = 100\ncurrencies = ["usd"]\n')
    (tmp_path / "b.toml").write_text('colour = "red"\nbids_max = "many"\nseat = ""\n')
    (tmp_path / "c.toml").write_text("name = \n")
    (tmp_path / "d.toml").write_text('name = "e"\nprice_cipher = "google"\nprice_integrity_key = "00"\n')
    keys = "\n".join(f'price_{each}_key = "{"ab" * 16}"' for each in ("encryption", "integrity"))
    (tmp_path / "f.toml").write_text(f'price_cipher = "google"\n{keys}\nprice_encryption_key_before = "{"cd" * 16}"\n')
    (tmp_path / "e.toml").write_text('billing = "win"\nwin_notice = false\nprice_encoding = "A}"\nclick_macro = "<"\n')
    with pytest.raises(ConfigError) as caught:
        load_profiles(tmp_path)
    fields = [fault.field for fault in caught.value.faults]
    assert fields[:4] == [
        "a.toml.billing",
        "a.toml.currencies",
        "a.toml.network_margin_ms, a.toml.tmax_default_ms",
        "a.toml.qps_max",
    ]
    assert fields[4:7] == ["b.toml.colour", "b.toml.bids_max", "b.toml.seat"]
    assert fields[7].endswith("c.toml")
    assert fields[8:] == [
        "d.toml.name",
        "d.toml.price_encryption_key",
        "d.toml.price_integrity_key",
        "e.toml.billing, e.toml.win_notice",
        "e.toml.price_encoding",
        "e.toml.click_macro",
        "f.toml.price_integrity_key_before",
    ]


def test_a_directory_without_profiles_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load_profiles(tmp_path)
