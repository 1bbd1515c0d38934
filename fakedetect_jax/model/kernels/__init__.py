"""CPU only: GPUs and TPUs compile the plain operations."""
