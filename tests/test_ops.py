"""What an operator touches: the shipped settings, profiles, catalogue, Makefile and Dockerfile."""

import re
import subprocess
import tomllib
from pathlib import Path

import msgspec

from bidder.config import BidderConfig
from dsp.api.config import ApiConfig
from dsp.kernel import config
from dsp.kernel.config import Platform
from dsp.openrtb.profile import load_profiles
from dsp.supervise import UpConfig
from dsp.workers.config import WorkersConfig
from models.training.config import TrainingConfig

ROOT = Path(__file__).parents[1]
TABLES: dict[str, type[msgspec.Struct]] = {
    "platform": Platform,
    "up": UpConfig,
    "bidder": BidderConfig,
    "api": ApiConfig,
    "workers": WorkersConfig,
    "training": TrainingConfig,
}


def test_every_table_is_declared() -> None:
    assert set(TABLES) == set(config.TABLES)


def test_shipped_settings_are_the_defaults() -> None:
    """config/dsp.toml shows every setting with its default, so that a reader sees the whole of it."""
    shipped = config.load(TABLES, ROOT / "config" / "dsp.toml", {})
    # Rates are no defaults: they are a day's, and an operator's to keep.
    assert {"USD", "EUR", "GBP", "JPY"} <= set(shipped["platform"].rates)
    rates = {"currency_rates": {}}
    shipped["platform"] = msgspec.structs.replace(shipped["platform"], **rates)
    assert shipped == {name: struct() for name, struct in TABLES.items()}
    written = tomllib.loads((ROOT / "config" / "dsp.toml").read_text(encoding="utf-8"))
    missing = {
        f"{name}.{field.name}"
        for name, struct in TABLES.items()
        for field in msgspec.structs.fields(struct)
        if field.name not in written.get(name, {})
    }
    assert not missing


def test_no_profile_with_public_keys_is_open_to_the_world() -> None:
    shipped = load_profiles(ROOT / "config" / "exchanges").values()
    assert shipped
    assert not any(profile.price_encryption_key or profile.price_integrity_key for profile in shipped)


def test_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^ +make (\w+)", shown, re.MULTILINE)) == set(phony.group(1).split())


def test_dockerfile_copies_what_exists() -> None:
    for line in (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            *sources, _ = line.split()[1:]
            assert all((ROOT / source).exists() for source in sources), line


def test_every_install_is_pinned() -> None:
    locked = {
        re.split(r"[=\[]", line)[0].lower().replace("_", "-")
        for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    wanted = [*project["project"]["dependencies"], *(each for name in extras if name != "gpu" for each in extras[name])]
    names = {re.split(r"[><=\[; ]", each)[0].lower() for each in wanted + project["build-system"]["requires"]}
    assert names <= locked
