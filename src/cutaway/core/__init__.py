"""The instruments: everything a method is made of (torch, numpy and Pillow only)."""
