"""Layer responses and gradient norms of backbones (figure 7 of the ResNet paper)."""
