"""Settings of the flat training scripts: declared once at the top of a script, set by config files and --key=value.

A setting is a module-level line of the script above the line `# -- end of settings`:

    name = default                 # reason                (the type is the default's; ints are fine for floats)
    name: int | None = None        # reason                (or the annotation's)

A config file is plain Python: `name = value` lines, later lines may use earlier ones and the defaults; names that begin
with an underscore are the file's own. Files stack from left to right, --name=value wins. Everything else is an error.
"""

import ast
import contextlib
import difflib
import os
import sys
import types
import typing


class UserError(ValueError):
    """Bad input by the user: one line that names what is wrong and what would help."""


class Diverged(UserError):
    """A run whose loss is not finite: for who runs many, a result."""


class Finished(UserError):
    """A run that is to be resumed but has nothing left to do."""


@contextlib.contextmanager
def one_line_errors(script):
    """Around a script's main: a UserError becomes one line on stderr (from rank 0) and exit status 2."""
    try:
        yield
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"{os.path.basename(script)}: {' '.join(str(error).splitlines())}", file=sys.stderr)
        sys.exit(2)


class Setting(typing.NamedTuple):
    default: object
    type: object
    reason: str


def declared(script):
    """{name: Setting} in the order of the script's source, up to the line `# -- end of settings`."""
    source = open(script).read().split("# -- end of settings")[0]
    lines, settings = source.splitlines(), {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            name = (node.targets[0] if isinstance(node, ast.Assign) else node.target).id
            default = ast.literal_eval(node.value)
            kind = type(default) if isinstance(node, ast.Assign) else eval(ast.unparse(node.annotation), vars(typing))
            reason = lines[node.end_lineno - 1][node.end_col_offset :].strip().removeprefix("#").strip()
            settings[name] = Setting(default, kind, reason)
    return settings


def parse(settings, arguments):
    """Command-line arguments, without the script's name -> (all settings, those that were set), two dicts.

    Raises UserError. `--help` prints every setting with its default and reason, and exits.
    """
    if "--help" in arguments or "-h" in arguments:
        lines = [f"  {name} = {setting.default!r}\n      {setting.reason}" for name, setting in settings.items()]
        try:
            print(
                "settings, as name = default: set them in config files or as --name=value\n",
                *lines,
                sep="\n",
                flush=True,
            )
        except BrokenPipeError:  # `--help | head` has read enough
            os._exit(0)
        sys.exit(0)
    given = {}
    for argument in arguments:  # files first, whatever the order: the command line wins
        if not argument.startswith("-"):
            given.update(read_file(settings, argument, given))
    for argument in arguments:
        if argument.startswith("-"):
            name, equals, text = argument.removeprefix("--").partition("=")
            if not equals or not argument.startswith("--"):
                raise UserError(f"{argument}: write --name=value (--help lists the names)")
            given[name] = checked(settings, name, literal(text), "the command line")
    return {name: setting.default for name, setting in settings.items()} | given, given


def read_file(settings, path, given):
    """The settings that the config file `path` assigns: {name: value}."""
    if not os.path.isfile(path):
        known = sorted(os.listdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), "config")))
        near = difflib.get_close_matches(os.path.basename(path), known, 1)
        raise UserError(f"{path}: there is no such config file" + (f"; did you mean config/{near[0]}?" if near else ""))
    before = {name: setting.default for name, setting in settings.items()} | given
    names = dict(before)
    try:
        tree = ast.parse(open(path).read(), path)
        exec(compile(tree, path, "exec"), names)
    except Exception as error:
        raise UserError(f"{path}: {type(error).__name__}: {error}") from error
    assigned = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return {
        name: checked(settings, name, value, path)
        for name, value in names.items()
        if not name.startswith("_")
        and not isinstance(value, types.ModuleType)
        and (name in assigned or name not in before)
    }


def literal(text):
    """A Python literal, or the text itself where it is none: --out_dir=out needs no quotes."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def checked(settings, name, value, place):
    """The value, as its setting's type; an int becomes a float where one is meant. Raises UserError."""
    if name not in settings:
        near = difflib.get_close_matches(name, settings, 1, 0)
        raise UserError(f"{place}: there is no setting {name!r}; the nearest is {near[0]!r} (--help lists all)")
    kind = settings[name].type
    choices = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    for choice in choices:
        if typing.get_origin(choice) is typing.Literal:
            if isinstance(value, str) and value in typing.get_args(choice):
                return value
        elif type(value) is choice:
            return value
    if float in choices and type(value) is int:
        return float(value)
    words = [
        " or ".join(map(repr, typing.get_args(choice)))
        if typing.get_origin(choice) is typing.Literal
        else "None"
        if choice is type(None)
        else choice.__name__
        for choice in choices
    ]
    raise UserError(f"{place}: {name}={value!r} must be {' or '.join(words)}")


def main(run, script):
    """Run `run(settings, given)` of a flat script with the settings of its command line."""
    with one_line_errors(script):
        run(*parse(declared(script), sys.argv[1:]))
