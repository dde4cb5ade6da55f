"""Base classes of the network: timm's and Hugging Face's interfaces, weights on disk."""
