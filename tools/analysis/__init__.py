"""Analysis of classification models: responses and gradients, layer by layer."""
