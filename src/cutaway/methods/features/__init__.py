"""What a network's layers answer to a picture."""
