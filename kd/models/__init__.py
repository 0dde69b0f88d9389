"""Model families in flax.linen, one per folder, and the parts they share."""
