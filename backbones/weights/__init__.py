"""Weights of backbones: from files, from torchvision and timm, and from the Hugging Face hub."""
