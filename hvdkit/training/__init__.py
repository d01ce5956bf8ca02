"""What hvdkit adds to Keras's fit, evaluate and predict."""
