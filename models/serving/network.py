"""The network at serving: names that its graphs and those who run them share."""

INPUT = "inputs"
OUTPUT = "logits"
#: Click, and conversion given a click.
HEADS = 2
