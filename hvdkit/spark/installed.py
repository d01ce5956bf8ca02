"""Are Spark and a Java for it there, and new enough?"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet

from hvdkit.errors import HvdkitError, InstallationError

# Those of setup.cfg.
SUPPORTED_SPARK = ">=4.0,<5"
_JAVA = 17


def spark_session(given: Any) -> Any:
    """The session to run in: the given one, the active one, or a new one.

    Args:
        given: a `pyspark.sql.SparkSession`, or None.

    Raises:
        InstallationError: PySpark or Java is missing or too old.
        HvdkitError: the session is a client of Spark Connect.
    """
    install = f"Run\n    pip install 'hvdkit[spark]'    (pyspark{SUPPORTED_SPARK})"
    if importlib.util.find_spec("pyspark") is None:
        raise InstallationError(f"PySpark is not installed. {install}")
    version = getattr(importlib.import_module("pyspark"), "__version__", "of no version")
    if version not in SpecifierSet(SUPPORTED_SPARK, prereleases=True):
        raise InstallationError(
            f"hvdkit.spark needs pyspark{SUPPORTED_SPARK}, but PySpark {version} is installed. "
            f"{install}"
        )
    for package in ("pyarrow", "pandas"):
        if importlib.util.find_spec(package) is None:
            raise InstallationError(f"Spark needs {package}, which is missing. {install}")
    sql: Any = importlib.import_module("pyspark.sql")
    session = given or sql.SparkSession.getActiveSession()
    if session is None:
        require_java()
        session = sql.SparkSession.builder.appName("hvdkit").getOrCreate()
    if not isinstance(session, sql.SparkSession) or not hasattr(session, "_jsparkSession"):
        raise HvdkitError(
            "this session is a client of Spark Connect, and the ranks could not reach it: run the "
            "script on the cluster, with spark-submit."
        )
    return session


def require_java() -> None:
    """Check that there is a Java that Spark can start.

    Raises:
        InstallationError: it is missing or too old.
    """
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    remedy = f"Spark 4 needs Java {_JAVA} or later: install one (Debian: default-jre-headless)"
    if java is None or not Path(java).exists():
        where = f"there is no {java} (JAVA_HOME)" if java else "there is no java on PATH"
        raise InstallationError(f"{where}. {remedy}, or set JAVA_HOME.")
    said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60)
    found = re.search(r'version "(?:1\.)?(\d+)', said.stderr + said.stdout)
    if found is None or int(found[1]) < _JAVA:
        printed = (said.stderr + said.stdout).strip().partition("\n")[0]
        raise InstallationError(f"{java} is {printed!r}. {remedy}, or set JAVA_HOME to it.")
