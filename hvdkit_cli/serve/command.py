"""What `hvdkit serve` does with its options."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from hvdkit_cli.errors import CommandError

_PACKAGES = ("fastapi", "prometheus_client", "uvicorn")


@dataclass(frozen=True)
class Asked:
    """The options; see `hvdkit serve --help`."""

    folder: Path
    host: str
    port: int
    token_file: Path | None
    cert: Path | None
    key: Path | None
    workers: int
    threads: int | None
    batch: int
    wait: float
    queue: int
    timeout: float
    run_timeout: float
    load_timeout: float
    read_timeout: float
    stop_timeout: float
    max_body: float
    max_elements: int
    log_inputs: bool


def serve(asked: Asked) -> None:
    """Serve until a signal.

    Raises:
        CommandError: a package is missing, or an option can't be.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise CommandError(
            f"hvdkit serve needs {', '.join(missing)}, which is not installed.",
            "pip install 'hvdkit[serve]'",
        )
    from hvdkit.serving.access import TokenError, read_tokens
    from hvdkit.serving.server import StartError, run
    from hvdkit.serving.settings import MIB, Batching, Limits, Running, Settings

    body = int(asked.max_body * MIB)
    try:
        tokens = read_tokens(asked.token_file) if asked.token_file else ()
        settings = Settings(
            folder=asked.folder,
            host=asked.host,
            port=asked.port,
            tokens=tokens,
            certificate=asked.cert,
            key=asked.key,
            log_inputs=asked.log_inputs,
            limits=Limits(
                body=body,
                bodies=8 * body,
                elements=asked.max_elements,
                read=asked.read_timeout,
                seconds=asked.timeout,
            ),
            batching=Batching(asked.batch, asked.wait / 1000, asked.queue),
            running=Running(
                workers=asked.workers,
                threads=asked.threads,
                load=asked.load_timeout,
                run=asked.run_timeout,
                stop=asked.stop_timeout,
            ),
        )
        run(settings)
    except TokenError as error:
        remedy = "umask 077; python -c 'import secrets; print(secrets.token_urlsafe())' > FILE"
        raise CommandError(str(error), f"make one that only you can read: {remedy}") from error
    except StartError as error:
        raise CommandError(str(error), error.remedy) from error
