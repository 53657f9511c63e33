"""Personal data: finding it, replacing it."""
