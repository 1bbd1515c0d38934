"""Who is seen in frames: faces, where they are over time, whose they are."""
