"""In the place of pandas where a test job does not need it: Keras imports it if it can."""

raise ImportError("this job runs without pandas (tests/lean)")
