"""See faults of any rank within seconds, and end the job with one message.

Each rank has a thread (`member.py`) that says once a second what the rank is doing, over TCP and
outside Horovod, to two hubs (`hub.py`): on rank 0, and as a stand-by on rank 1. Ranks of one host
also watch each other's processes (`processes.py`). `judge.py` decides what is a fault, and
`report.py` puts it into words. `causes.py` finds what is behind an error of TensorFlow's.
"""
