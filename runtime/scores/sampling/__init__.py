"""What samplers that people name do to scores: tensors in, tensors out, and no wait."""
