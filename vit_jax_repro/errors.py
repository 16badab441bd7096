"""The exception for whatever a user can get wrong."""


class InputError(ValueError):
  """An argument, flag, setting or file is wrong; the message is for the user.

  The message is one line: what is wrong, the value, what is allowed, the
  remedy. Commands print it without a traceback. Any other ValueError is a bug
  and keeps its traceback.
  """


def line_of(error: InputError | OSError) -> str:
  """Returns the one-line message of an error."""
  if isinstance(error, OSError) and error.strerror and error.filename:
    return f'{error.strerror}: {error.filename}'
  return str(error)
