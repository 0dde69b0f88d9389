"""Scripts that create TPU slices and run kd on them."""
