"""Analyses of classification models: responses and gradients of their layers, and lists of backbones."""
