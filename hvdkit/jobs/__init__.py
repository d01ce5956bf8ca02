"""Ranks that another system starts (Ray, Spark), over Gloo: each in a process of its own.

A *keeper*, an actor of Ray or a task of Spark, runs beside each rank and looks after its process.
The *driver* is the user's process; it holds the place where the ranks find each other. Neither
loads TensorFlow or Horovod.
"""
