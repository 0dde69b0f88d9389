"""Images: read, checked, decoded and resized."""
