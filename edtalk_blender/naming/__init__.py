"""Names for the coefficients of a bank that has none."""
