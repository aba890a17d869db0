"""The errors and warnings of triptych: each says what is wrong, where, and what to do."""

__all__ = ["InferenceWarning", "InputError"]


class InputError(ValueError):
    """Input that was refused before any work started; the text says what, where and what to do."""


class InferenceWarning(UserWarning):
    """An answer that should not be used as it is; the text says why and names the cure."""
