"""See faults of any rank within seconds, and end the job with one message.

Each rank has a thread (`member.py`) that says once a second what the rank is doing, over TCP and
outside Horovod, to two hubs (`hub.py`): on rank 0, and as a stand-by on another host. Ranks of one
host also watch each other's processes (`processes.py`) and their launcher (`launcher.py`), and say
how fast the network to other hosts is (`links.py`). `judge.py` decides what is a fault, and
`report.py` puts it into words. `causes.py` finds what is behind an error of TensorFlow's.
"""
