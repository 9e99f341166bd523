"""Grammars: which tokens may follow in an answer that has to have a given form.

`compiler` makes a matcher of a grammar for the model's tokenizer, `cache` keeps matchers,
`automaton` follows one sequence's tokens through its grammar, and `process` compiles grammars for
the gateway, which refuses those that cannot be compiled.
"""
