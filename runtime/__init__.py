"""Plan and lanes to tokens: binding, the one batched step, and the decoder that users hold."""

from .binding.bind import bind
from .binding.bound import Bound
from .binding.draft import DraftBinder
from .binding.term_parallel import TermParallel
from .binding.weight_pool import WeightPool
from .decoder import Decoder
from .explain.inspection import Inspection
from .explain.plan_report import Report
from .loops.loglikelihood import Likelihood
from .requests.request import Completion, Request
from .service import Served, Service

__all__ = [
    "Bound",
    "Completion",
    "Decoder",
    "DraftBinder",
    "Inspection",
    "Likelihood",
    "Report",
    "Request",
    "Served",
    "Service",
    "TermParallel",
    "WeightPool",
    "bind",
]
