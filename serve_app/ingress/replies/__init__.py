"""The JSON bodies that go out, typed: checked by mypy here, shown in the OpenAPI document.

Typed dictionaries and not models: a reply is built from numbers and texts of our own, so there is
nothing to validate, and a stream builds one for each piece of text.
"""
