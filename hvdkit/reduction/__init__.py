"""What happens to gradients between ranks."""
