"""From evaluated coefficients to a face strip: shots, rendering, preview, farm jobs, dubbing."""
