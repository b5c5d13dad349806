"""Syntax tree to plan: names and kinds checked, like terms collected, every number a column.

This package knows what a formula means and nothing of weights or devices. It imports sympy, in one
file, when the first formula is planned; it never imports torch.
"""

from .names import Names
from .nodes import Linear, Read
from .plan import Plan
from .planner import make_plan, make_reward
from .reward import RewardExpression
from .scalar import Scalar
from .terms import Term
from .words.stages import STAGES, Stage

__all__ = [
    "STAGES", "Linear", "Names", "Plan", "Read", "RewardExpression", "Scalar", "Stage", "Term",
    "make_plan", "make_reward",
]  # fmt: skip
