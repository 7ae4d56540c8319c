"""One module for each stage of training a bank."""
