"""The command ``serve``: a trained system behind HTTP."""

from __future__ import annotations

import argparse

from rivegs_mllm.cli.common import add_command
from rivegs_mllm.runtime.logs import check_installed, quiet_transformers
from rivegs_mllm.types import UserError

_MOST_MEGABYTES = 1024


def add_serve(commands) -> None:
    """The command's parser."""
    own = add_command(commands, "serve", "a trained system as an HTTP API, with a page to try it", _serve, True)
    own.add_argument(
        "source", metavar="RUN", help="a trained or merged model's folder, a recipe of it or of a cascade, or a hub id"
    )
    own.add_argument("--host", default="127.0.0.1", help="the address to listen on (default 127.0.0.1: this machine)")
    own.add_argument("--port", type=int, default=8000, help="0 for one that is free (default 8000)")
    own.add_argument("--batch-size", type=int, metavar="N", help="posts answered at a time (default: the recipe's)")
    own.add_argument("--queue", type=int, default=256, metavar="N", help="posts that may wait (default 256)")
    own.add_argument("--deadline", type=float, default=60.0, metavar="S", help="seconds for an answer (default 60)")
    own.add_argument("--max-body", type=int, default=16, metavar="MB", help="a request's size at most (default 16)")


def _serve(args: argparse.Namespace, overrides: list[str]) -> None:
    for name, value in (("--batch-size", args.batch_size), ("--queue", args.queue), ("--max-body", args.max_body)):
        if value is not None and value < 1:
            raise UserError(f"{name}: {value} is not a whole number of at least 1")
    if not 0 < args.deadline <= 86400:
        raise UserError(f"--deadline: {args.deadline:g} is not a number of seconds up to a day")
    if args.max_body > _MOST_MEGABYTES:
        raise UserError(f"--max-body: {args.max_body} is more than {_MOST_MEGABYTES} MB")
    if not 0 <= args.port <= 65535:
        raise UserError(f"--port: {args.port} is not a port, from 0 to 65535")
    from rivegs_mllm.cli.early import check_source, is_recipe

    if overrides and not is_recipe(args.source):
        args.parser.refuse_rest(overrides)
    for module in ("fastapi", "prometheus_client", "python_multipart", "uvicorn"):
        check_installed(module)
    check_source(args.source, overrides)
    quiet_transformers()
    from rivegs_mllm.serving.limits import Limits
    from rivegs_mllm.serving.server import serve

    size = args.max_body * 2**20
    limits = Limits(
        queue=args.queue,
        posts=min(64, args.queue),
        deadline=args.deadline,
        body_bytes=size,
        held_bytes=max(512 * 2**20, 4 * size),
    )
    serve(args.source, args.host, args.port, limits, args.batch_size, overrides)
