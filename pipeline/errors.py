"""The one exception whose message is written for the person at the terminal."""


class UserError(Exception):
    """Something a user can mend. Its message is one line (what, where, what to do); the command line prints it bare."""
