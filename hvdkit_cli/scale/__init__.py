"""`hvdkit scale`: run the user's own script on several numbers of ranks, and say how it scales.

Each start goes through `hvdkit run`. Which ones there are is in `plan.py`; `start.py` makes one;
`figures.py` reads what its ranks have written; `result.py` puts the starts together; `limits.py`
says what keeps it from being faster. The rest shows it. What it imports of hvdkit loads no
TensorFlow.
"""
