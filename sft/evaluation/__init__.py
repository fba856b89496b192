"""What did it learn? Answers to held-out instructions, by the tuned model and by its base, and their measure."""
