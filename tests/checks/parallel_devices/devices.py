"""Divides the CPU into logical devices when it is imported, before TensorFlow starts."""

import tensorflow as tf

COUNT = 4
DEVICES = [f"CPU:{i}" for i in range(COUNT)]

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * COUNT
)
