"""From one impression to the few line items worth scoring, and why the others are not.

Recall, match, caps, rank. `select` serves, `explain` tells people; both run the stages of stages.py. Pacing, prices and
money come later.
"""

from dsp.funnel.explanation import Explanation, Stage, Verdict, explain
from dsp.funnel.offered import offered
from dsp.funnel.selection import Selection, select

__all__ = ["Explanation", "Selection", "Stage", "Verdict", "explain", "offered", "select"]
