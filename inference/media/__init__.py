"""Read and write pictures, movies and sound."""
