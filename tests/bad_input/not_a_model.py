"""load_model of something else than a model: the paths come as arguments."""

import sys

import hvdkit as hvd

hvd.init()
*before, last = sys.argv[1:]
for path in before:
    try:
        hvd.load_model(path)
    except (FileNotFoundError, ValueError) as error:
        print(f"refused: {error}", flush=True)
    else:
        raise SystemExit(f"{path} was not refused")
hvd.load_model(last)
