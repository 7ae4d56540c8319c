"""The character: its properties, portrait and evaluated coefficients."""
