"""What the caller gives, checked, up to the arrays of a step. Nothing here knows a backend or a run."""
