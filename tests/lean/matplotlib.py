"""In the place of matplotlib where a test job does not need it: Keras imports it if it can."""

raise ImportError("this job runs without matplotlib (tests/lean)")
