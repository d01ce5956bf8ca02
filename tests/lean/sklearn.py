"""In the place of sklearn where a test job does not need it: Keras imports it if it can."""

raise ImportError("this job runs without sklearn (tests/lean)")
