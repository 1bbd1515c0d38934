"""Process, devices, hosts and the folder of a run."""
