"""The command line of `hvdkit serve`; what it needs is imported when it runs."""

from __future__ import annotations

from typing import Any

import click

from hvdkit_cli.options import HELP, PATH, POSITIVE, Finite

_SECONDS = Finite(min=0, min_open=True, max=86400)


@click.command("serve", context_settings=HELP)
@click.argument("folder", metavar="DIR", type=PATH)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port to listen on; 0 for any free one, which the log names.",
)
@click.option("--token-file", type=PATH, help="Tokens, one a line; requests need one of them.")
@click.option("--cert", type=PATH, help="A PEM file with the certificate: speak TLS.")
@click.option("--key", type=PATH, help="A PEM file with its key.")
@click.option("--workers", type=POSITIVE, default=1, show_default=True, help="Of each model.")
@click.option("--threads", type=POSITIVE, help="Of a worker. Default: as the runtime likes.")
@click.option(
    "--batch",
    type=POSITIVE,
    default=32,
    show_default=True,
    help="Rows at most that requests are put together to; 1: each runs by itself.",
)
@click.option(
    "--wait",
    type=Finite(min=0, max=10_000),
    default=2.0,
    show_default=True,
    help="Milliseconds that a request waits for others.",
)
@click.option(
    "--queue",
    type=POSITIVE,
    default=128,
    show_default=True,
    help="Requests that may wait for a model; those beyond get 429.",
)
@click.option(
    "--timeout", type=_SECONDS, default=60.0, show_default=True, help="Seconds until an answer."
)
@click.option(
    "--run-timeout",
    type=_SECONDS,
    default=120.0,
    show_default=True,
    help="Seconds for a batch, after which its worker is ended.",
)
@click.option(
    "--load-timeout", type=_SECONDS, default=300.0, show_default=True, help="Seconds for a load."
)
@click.option(
    "--read-timeout",
    type=_SECONDS,
    default=10.0,
    show_default=True,
    help="Seconds for a request's head, and again for its body.",
)
@click.option(
    "--stop-timeout",
    type=_SECONDS,
    default=30.0,
    show_default=True,
    help="Seconds for what runs when the server is told to stop.",
)
@click.option(
    "--max-body",
    type=Finite(min=0, min_open=True, max=16384),
    default=32.0,
    show_default=True,
    help="MiB of a request.",
)
@click.option(
    "--max-elements",
    type=POSITIVE,
    default=4 * 1024 * 1024,
    show_default=True,
    help="Numbers or texts of a request.",
)
@click.option("--log-inputs", is_flag=True, help="Let the log hold what clients send.")
def serve_command(**asked: Any) -> None:
    """Serve the models in DIR over HTTP: the Open Inference Protocol, version 2.

    DIR/<model>/<version>/ holds a SavedModel, or a file that ends in .onnx, .tflite or .keras;
    versions are whole numbers, and the highest serves. A new one takes its place without a lost
    request. SIGTERM finishes what runs. See docs/serving.md.
    """
    from hvdkit_cli.serve.command import Asked, serve

    serve(Asked(**asked))
