"""For CPUs alone: GPUs and TPUs compile the plain operations.

config.model.cpu_kernels=False has CPUs do so too. batch_norm's gradient is for all.
Delete it when XLA's CPU backend convolves as fast.
"""
