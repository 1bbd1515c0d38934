"""How pixels are normalised; apart, for what describes a model without JAX."""

# ImageNet statistics of RGB in [0, 1], as torchvision's and timm's weights expect.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
