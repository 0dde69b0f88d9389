"""Scripts that create TPU slices and run kd.main on them."""
