"""TFDS builder that packages FaceForensics++ and its neighbours."""
