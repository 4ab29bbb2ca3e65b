"""What the commands do, as functions; `moa_tf` itself has them all by name."""
