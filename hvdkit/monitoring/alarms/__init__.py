"""What somebody should look at, found in the figures of a job; one alarm a file."""
