"""Drawing: numbers in, pictures and pages out. Sees numpy and Pillow, never torch."""
