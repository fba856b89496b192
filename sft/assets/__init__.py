"""The embedded model `gpt2-nano`, its instruction records, and the generator of the text it was trained on."""
