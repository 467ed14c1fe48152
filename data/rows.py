"""Checks that several loaders share."""

from files import InputError, check_text, parse_all

# What parsing raises on a row of another form than the published one.
OTHER_FORM = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def parse_rows(file, rows, parse):
    """[parse(number, row)] of rows numbered from 1. InputError names file and row of bad ones."""

    def parse_row(numbered):
        number, row = numbered
        try:
            return parse(number, check_text(row))
        except InputError as error:
            fault = str(error)
        except OTHER_FORM as error:
            fault = f"not as published ({type(error).__name__}: {error})"
        raise InputError(f"{file}: row {number}: {fault}; mend or remove it")

    return parse_all(enumerate(rows, 1), parse_row)


def text(row, key):
    """The text row[key]. InputError if it is absent, empty or no text."""
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f'"{key}" should be a text that is not empty')
    return check_text(value)


def some(examples, file):
    """`examples`. InputError if there are none."""
    if not examples:
        raise InputError(f"{file}: no examples; download it again, or name another one")
    return examples
