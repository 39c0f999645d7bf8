"""`python -m bidder`: run one bidder process with the settings that --config, DSP_CONFIG and DSP_BIDDER_* name."""

import argparse
import os
import sys

import msgspec

from bidder.app import run
from bidder.config import BidderConfig
from dsp.kernel import config, lifecycle, limits
from dsp.kernel.config import Platform
from dsp.kernel.errors import ConfigError

TABLES: dict[str, type[msgspec.Struct]] = {"platform": Platform, "bidder": BidderConfig}


def main() -> int:
    """Run until told to stop; return the exit status, 1 when the settings are refused or a fault ends it."""
    parser = argparse.ArgumentParser(prog="python -m bidder", description="Answer bid requests and take notices.")
    parser.add_argument("--config", metavar="FILE", help="settings (TOML); default: the file that DSP_CONFIG names")
    options = parser.parse_args()
    try:
        return lifecycle.run(run(config.load(TABLES, options.config, os.environ)), lifecycle.loop_factory())
    except ConfigError as fault:
        print(f"bidder: {fault}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    limits.hide_files()
    sys.exit(main())
