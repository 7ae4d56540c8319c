"""Networks that estimate coefficients from pictures."""
