"""Pacing benchmark: second-price replay of recorded auctions under tight budgets."""

import argparse

HELP = "replay recorded second-price auctions under budgets, beside reference bidders and the hindsight optimum"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's options."""
    parser.add_argument("--auctions", required=True, help="CSV.gz: campaign, split, click, market_price, pctr")
    parser.add_argument("--campaign", required=True)


def run(options: argparse.Namespace) -> int:
    """Run the benchmark and print its result; return the exit status."""
    print(options.campaign)
    return 0
