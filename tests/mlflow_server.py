"""MLflow's server: its REST application and a store of files, without the pages for a browser.

    mlflow_server.py FOLDER PORT

`mlflow server` has it, too, but needs the packages of all of MLflow.
"""

from __future__ import annotations

import os
import sys


def main(folder: str, port: str) -> None:
    os.environ.update(
        {
            "MLFLOW_ALLOW_FILE_STORE": "true",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "_MLFLOW_SERVER_FILE_STORE": f"file://{folder}/store",
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": f"{folder}/artifacts",
        }
    )
    from mlflow.server import app
    from werkzeug.serving import run_simple

    run_simple("127.0.0.1", int(port), app, threaded=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
