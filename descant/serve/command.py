"""``descant serve``: from options to a server. server.py and process.py do the work."""

from __future__ import annotations

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ..extras import require
from ..options import Capture, Imports, MemoryUtilization, Overrides, PrefixCaching, RunFilePath
from .protocol.limits import Limits

KEY = "DESCANT_API_KEY"
LogLevel = StrEnum("LogLevel", ("critical", "error", "warning", "info", "debug"))


def _min(low: float, help: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, min=low, help=help, **more)


_CertificateFile = Annotated[
    Path | None, typer.Option(exists=True, dir_okay=False, help="For https.")
]


def _draft(draft: str | None, length: str | None) -> list[str]:
    """The options as changes of the run file."""
    values = {"draft": json.dumps(draft) if draft is not None else None, "draft_length": length}
    return [f"generate.{name}={value}" for name, value in values.items() if value is not None]


def serve(
    file: RunFilePath,
    set_: Overrides = None,
    import_: Imports = None,
    capture: Capture = None,
    enable_prefix_caching: PrefixCaching = None,
    gpu_memory_utilization: MemoryUtilization = None,
    draft: Annotated[
        str | None, typer.Option(help="Who proposes tokens: a formula, prompt, or auto.")
    ] = None,
    draft_length: Annotated[
        str | None, typer.Option(help="How many at once, at most; or adaptive.", metavar="N")
    ] = None,
    host: Annotated[str, typer.Option(help="0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, _min(0, "0 takes a free one.", max=65535)] = 8000,
    slots: Annotated[
        int, _min(1, "Rows decoded at once.", "--slots", "--max-num-seqs")
    ] = Limits.slots,
    max_model_len: Annotated[
        int, _min(2, "Tokens of a row, prompt and answer.")
    ] = Limits.max_model_len,
    max_queue: Annotated[int, _min(0, "Rows that may wait; then 429.")] = Limits.max_queue,
    max_tokens: Annotated[int, _min(1, "New tokens of a row, at most.")] = Limits.max_tokens,
    timeout: Annotated[float, _min(0.1, "Seconds of a request, at most.")] = Limits.timeout,
    max_body: Annotated[
        int, _min(1024, "Of a request, at most.", metavar="BYTES")
    ] = Limits.max_body,
    max_logprobs: Annotated[
        int, _min(0, "Of the best tokens, told with each one.")
    ] = Limits.max_logprobs,
    api_key: Annotated[
        list[str] | None,
        typer.Option(help=f"Clients must send it; may be repeated. Better in {KEY}."),
    ] = None,
    allow_formulas: Annotated[
        bool, typer.Option("--allow-formulas", help="A model's name may be any formula.")
    ] = False,
    max_formulas: Annotated[int, _min(1, "Of these, kept compiled.")] = Limits.max_formulas,
    shutdown_timeout: Annotated[
        float, _min(0, "Seconds to finish the running requests.")
    ] = Limits.shutdown_timeout,
    allowed_media_domains: Annotated[
        list[str] | None,
        typer.Option(help="A host that images are fetched from; may be repeated.", metavar="HOST"),
    ] = None,
    runtime_lora_dir: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="A folder below which clients may load adapters; may be repeated.",
        ),
    ] = None,
    tool_call_parser: Annotated[
        str | None, typer.Option(help="The format of tool calls, where templates do not say it.")
    ] = None,
    reasoning_parser: Annotated[
        str | None, typer.Option(help="The marks of thought, by the name of vLLM's parser.")
    ] = None,
    otlp_traces_endpoint: Annotated[
        str | None,
        typer.Option(help="A collector of OpenTelemetry traces.", metavar="URL"),
    ] = None,
    ssl_keyfile: _CertificateFile = None,
    ssl_certfile: _CertificateFile = None,
    log_level: Annotated[LogLevel, typer.Option(help="What is logged.")] = LogLevel["info"],
) -> None:
    """The formulas of a run file behind OpenAI's HTTP interface, and a playground."""
    from ..inputs.runfile import RunFileError, read_run_file

    run = read_run_file(
        file, [*(set_ or []), *_draft(draft, draft_length)], capture=capture,
        enable_prefix_caching=enable_prefix_caching, gpu_memory_utilization=gpu_memory_utilization,
    )  # fmt: skip
    require("descant serve", "fastapi", "prometheus_client", "uvicorn")
    from .frontend.server import Server
    from .http.process import serve as serve_http
    from .parsers import FORMATS, REASONING
    from .parsers.chosen import known, with_marks

    limits = Limits(
        slots, max_model_len, max_queue, max_tokens, timeout, max_body, max_formulas,
        shutdown_timeout, tuple(allowed_media_domains or ()),
        tuple(map(str, runtime_lora_dir or ())), max_logprobs,
    )  # fmt: skip
    # A key that comes from a file often ends in a line break; no header can hold one.
    keys = [key.strip() for key in [*(api_key or []), *filter(None, [os.environ.get(KEY)])]]
    if "" in keys:
        raise RunFileError("--api-key is empty")
    known(tool_call_parser, "--tool-call-parser", FORMATS)
    if known(reasoning_parser, "--reasoning-parser", REASONING):
        run = with_marks(run, *REASONING[str(reasoning_parser)])
    server = Server(
        run, limits, allow_formulas=allow_formulas, keys=keys, tool_call_parser=tool_call_parser,
        otlp_traces_endpoint=otlp_traces_endpoint,
    )  # fmt: skip
    certificate = {"ssl_keyfile": ssl_keyfile, "ssl_certfile": ssl_certfile}
    if not serve_http(server, host=host, port=port, log_level=str(log_level), **certificate):
        raise typer.Exit(1)
