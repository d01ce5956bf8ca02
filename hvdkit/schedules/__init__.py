"""Pipeline schedules: who does what when; simulated and drawn without any device."""
