"""Divides the CPU into two logical devices when it is imported, before TensorFlow starts."""

import tensorflow as tf

DEVICES = ["CPU:0", "CPU:1"]

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * len(DEVICES),
)
