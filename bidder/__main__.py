"""`python -m bidder`: run one bidder process with the settings that --config, DSP_CONFIG and DSP_BIDDER_* name."""

import argparse
import os
import sys
from typing import cast

import msgspec

from bidder.app import run
from bidder.config import BidderConfig
from dsp.cache.connect import lease_store
from dsp.kernel import config, lifecycle, limits
from dsp.kernel.clock import SystemClock
from dsp.kernel.config import Platform
from dsp.kernel.errors import ConfigError
from dsp.openrtb.profile import load_profiles
from dsp.stream.connect import event_log

TABLES: dict[str, type[msgspec.Struct]] = {"platform": Platform, "bidder": BidderConfig}


def main() -> int:
    """Run until told to stop; return the exit status, 1 when the settings are refused or a fault ends it."""
    parser = argparse.ArgumentParser(prog="python -m bidder", description="Answer bid requests and take notices.")
    parser.add_argument("--config", metavar="FILE", help="settings (TOML); default: the file that DSP_CONFIG names")
    parser.add_argument("--check", action="store_true", help="check settings and exchange profiles, and do nothing")
    options = parser.parse_args()
    try:
        settings = config.load(TABLES, options.config, os.environ)
        if options.check:
            platform = cast(Platform, settings["platform"])
            config.check(
                lambda: load_profiles(platform.exchanges_dir),
                lambda: event_log(platform, SystemClock()),
                lambda: lease_store(platform),
            )
            return 0
        return lifecycle.run(run(settings), lifecycle.loop_factory())
    except ConfigError as fault:
        print(fault, file=sys.stderr)
        return 1


if __name__ == "__main__":
    limits.hide_files()
    sys.exit(main())
