"""What single units look for: their best pictures, what they ignore, and their colours."""
