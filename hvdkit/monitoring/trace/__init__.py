"""What all ranks did in some steps, as one file for Perfetto."""
