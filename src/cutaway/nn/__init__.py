"""Networks that are interpretable by design, and heads that make them so."""
