"""QLoRA for small languages as plain PyTorch Lightning."""
