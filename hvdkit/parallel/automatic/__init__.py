"""An ordinary Keras model that is divided by itself over the ranks: `hvd.parallelize`."""
