"""Many videos in processes, of which none can end the build."""
