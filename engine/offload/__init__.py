"""Sequences whose keys and values are in host memory, as in InfiniGen (arXiv 2406.19707).

The first layers stay on the device. Of the others a step fetches either everything (`host-exact`),
or only the tokens that the layer before predicts to matter (`host-speculative`).
"""
