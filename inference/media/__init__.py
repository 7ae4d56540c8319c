"""Reading and writing of pictures, movies and sound."""
