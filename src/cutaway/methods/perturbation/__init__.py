"""What changes when part of the picture changes."""
