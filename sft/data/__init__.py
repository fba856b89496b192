"""From text to token batches: records, prompts, token ids, the plan of an epoch, batches."""
