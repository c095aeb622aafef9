"""What each section of a configuration may hold, fairchem's own sections included."""
