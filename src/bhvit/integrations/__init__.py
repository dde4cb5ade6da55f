"""Other libraries: timm, Hugging Face transformers."""
