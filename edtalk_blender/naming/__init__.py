"""Give names to the sliders of a bank that only numbers them."""
