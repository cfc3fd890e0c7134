"""What `glm-serve plan` does: a card and a load become a Helm values file, every figure with its reason."""
