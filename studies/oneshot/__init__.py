"""One-shot pruning of a small perceptron by every criterion, and what finetuning makes of it."""
