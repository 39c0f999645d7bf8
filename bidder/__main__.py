"""`python -m bidder`: run one bidder process with the settings that --config, DSP_CONFIG and DSP_BIDDER_* name."""

import argparse
import asyncio
import os
import sys

import msgspec

from bidder.app import run
from bidder.config import BidderConfig
from dsp.kernel import config
from dsp.kernel.config import Platform
from dsp.kernel.errors import DspError
from dsp.kernel.lifecycle import loop_factory

TABLES: dict[str, type[msgspec.Struct]] = {"platform": Platform, "bidder": BidderConfig}


def main() -> int:
    """Run until told to stop; return the exit status, 1 when the settings are refused or a start step fails."""
    parser = argparse.ArgumentParser(prog="python -m bidder", description="Answer bid requests and take notices.")
    parser.add_argument("--config", metavar="FILE", help="settings (TOML); default: the file that DSP_CONFIG names")
    options = parser.parse_args()
    try:
        settings = config.load(TABLES, options.config, os.environ)
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(run(settings))
    except (DspError, OSError) as fault:
        print(f"bidder: {fault}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
