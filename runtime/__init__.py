"""Plan and lanes to tokens: binding, the one batched step, and the decoder that users hold."""

from .bind import bind
from .bound import Bound
from .decoder import Decoder
from .house import House
from .inspection import Inspection
from .ranks import Ranks
from .report import Report
from .requests import Completion, Request
from .service import Served, Service
from .teacher import Likelihood

__all__ = [
    "Bound",
    "Completion",
    "Decoder",
    "House",
    "Inspection",
    "Likelihood",
    "Ranks",
    "Report",
    "Request",
    "Served",
    "Service",
    "bind",
]
