"""Projecting activity back to pixels."""
