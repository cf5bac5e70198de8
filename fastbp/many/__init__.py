"""Many networks at once; loaded on first use."""
