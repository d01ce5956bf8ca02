"""In the place of pandas where a test job does not need it.

Keras imports it if it can: that takes a while, and a thread of its libraries then keeps TensorFlow
from being forked.
"""

raise ImportError("this job runs without pandas (tests/without_pandas)")
