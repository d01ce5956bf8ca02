"""In the place of huggingface_hub where a test job does not need it: Keras imports it if it can."""

raise ImportError("this job runs without huggingface_hub (tests/lean)")
