"""What `glm-serve doctor` does: looks at machine and model, says what is wrong and what to do."""
