"""What a training consists of besides the variables of one model and one optimizer."""
