"""Who does what when, without any device: stages of a pipeline, simulated and drawn; workers."""
