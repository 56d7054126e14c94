"""What a network's weights say by themselves, without any picture."""
