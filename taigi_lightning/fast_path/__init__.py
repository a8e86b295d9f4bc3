"""Decoder layers written out: forward and backward, 4-bit products, attention, loss, prefill."""
