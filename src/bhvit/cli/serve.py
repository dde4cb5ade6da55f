"""`bhvit serve`: packed models over HTTP. Needs the extra `serve`, and no PyTorch."""

from __future__ import annotations

import argparse
from pathlib import Path

from .console import Subparsers, add_engine, command, positive


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to `bhvit`."""
    parser = command(
        subparsers,
        "serve",
        "answer requests over HTTP",
        "Serve packed models: pictures by POST /classify and /segment, and the Open Inference Protocol v2 (Triton's\n"
        "clients), with metrics for Prometheus and a page at /docs. Files may be replaced and added while it runs.",
        "bhvit serve cifar10\nbhvit serve models/ --host 0.0.0.0 --port 8080\n"
        "curl --data-binary @cat.jpg 'http://127.0.0.1:8000/classify?top=3'",
    )
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help="packed models: files, folders of them, bundled names"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine only)"
    )
    parser.add_argument("--port", type=_port, default=8000, help="port (default 8000; 0 takes a free one)")
    parser.add_argument("--workers", type=positive, metavar="N", help="requests that run at once (default: cores)")
    add_engine(parser)
    parser.add_argument("--queue", type=positive, default=64, metavar="N", help="requests that wait (default 64)")
    parser.add_argument("--max-body", type=positive, default=16, metavar="MIB", help="largest request (default 16)")
    parser.add_argument("--max-batch", type=positive, default=64, metavar="N", help="images a request (default 64)")
    parser.add_argument(
        "--max-pixels", type=positive, default=50_000_000, metavar="N", help="pixels (default 50 million)"
    )
    parser.add_argument("--timeout", type=positive, default=30, metavar="S", help="seconds a request (default 30)")
    parser.add_argument(
        "--drain", type=positive, default=20, metavar="S", help="seconds to finish at SIGTERM (default 20)"
    )
    parser.add_argument("--web", type=Path, metavar="FOLDER", help="a built page for browsers, shown at /")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal ends it; 0. Raises UserError."""
    from ..errors import require_extra
    from ..system import allowed_cores

    try:
        from ..serve.limits import Limits
        from ..serve.models import SessionOptions
        from ..serve.server import serve
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("bhvit"):
            raise
        raise require_extra(error.name, "serve") from None
    serve(
        args.models,
        host=args.host,
        port=args.port,
        workers=args.workers or max(1, allowed_cores() // args.threads),
        options=SessionOptions(threads=args.threads, isa=args.isa, max_memory=args.max_memory),
        limits=Limits(
            queue=args.queue,
            body=args.max_body << 20,
            bodies=max(256, args.max_body) << 20,
            pixels=args.max_pixels,
            batch=args.max_batch,
            seconds=float(args.timeout),
        ),
        drain=float(args.drain),
        web=args.web,
    )
    return 0


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 1 << 16):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 0 to 65535")
    return int(text)
