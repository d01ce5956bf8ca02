"""`hvdkit top`: what a job does, live, on another terminal."""
