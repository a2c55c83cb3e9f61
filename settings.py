"""Settings of the flat training scripts: declared once at the top of a script, set by config files and --key=value.

A setting is a module-level line of the script above the line `# -- end of settings`:

    name = default                 # reason                (the type is the default's; ints are fine for floats)
    name: int | None = None        # reason                (or the annotation's)
    name: Count = 8                # reason                (or one of the types below, which say what values are valid)

A line `# -- NAME [marks]: words` opens a section. Its marks say how its settings belong to a run:

    kept    a resumed run keeps them: another value is an error
    once    they belong to one call: a resumed run takes them from its command line, not from its checkpoint
    free    they do not change what is computed, and so are not part of a run's identity

A config file is plain Python: `name = value` lines, later lines may use earlier ones and the defaults; names that begin
with an underscore are the file's own. Files stack from left to right, --name=value wins. Everything else is an error.
"""

import ast
import contextlib
import difflib
import itertools
import json
import math
import os
import re
import signal
import sys
import time
import types
import typing
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Annotated

STOPPED = 75  # exit status of a run that was stopped and is to be resumed: EX_TEMPFAIL of sysexits.h


class UserError(ValueError):
    """Bad input by the user: one line that names what is wrong and what would help."""


class Diverged(UserError):
    """A run whose loss is not finite: a sweep records this as a result, not an error."""


class Finished(UserError):
    """A run that is resumed but has nothing left to do: exit status 0, so that any run may be resumed."""


class Must(typing.NamedTuple):
    """What a value of the right type must satisfy, in words and as a function."""

    words: str
    holds: Callable[[typing.Any], bool]


SMALL = Must("be less than 2**32", lambda x: x < 2**32)  # more overflows, in one place or another
Natural = Annotated[int, Must("be at least 0", lambda x: x >= 0), SMALL]
Count = Annotated[int, Must("be at least 1", lambda x: x >= 1), SMALL]
Nonnegative = Annotated[float, Must("be at least 0", lambda x: x >= 0)]
Fraction = Annotated[float, Must("lie in [0, 1)", lambda x: 0 <= x < 1)]
Names = Annotated[tuple, Must("be names, each once", lambda x: all(type(n) is str for n in x) and len({*x}) == len(x))]
Rates = Annotated[dict, Must("map names to numbers that are at least 0", lambda x: all_lie(x, math.inf))]
Fractions = Annotated[dict, Must("map names to numbers in [0, 1)", lambda x: all_lie(x, 1))]


def all_lie(named, end):
    """Whether a dict maps names to numbers in [0, end)."""
    return all(type(name) is str and type(x) in (int, float) and 0 <= x < end for name, x in named.items())


class Setting(typing.NamedTuple):
    default: object
    type: object
    reason: str
    section: str = ""
    kept: bool = False
    once: bool = False
    free: bool = False


def declared(script: str) -> dict[str, Setting]:
    """{name: Setting} in the order of the script's source, up to the line `# -- end of settings`."""
    with open(script) as file:
        source = file.read().split("# -- end of settings")[0]
    lines, settings = source.splitlines(), {}
    sections = {n: found for n, line in enumerate(lines, 1) if (found := re.match(r"# -- (\w+)(?: \[(.*?)\])?", line))}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            name = (node.targets[0] if isinstance(node, ast.Assign) else node.target).id
            default = ast.literal_eval(node.value)
            kind = type(default)
            if isinstance(node, ast.AnnAssign):
                kind = eval(ast.unparse(node.annotation), vars(typing) | globals())
            reason = lines[node.end_lineno - 1][node.end_col_offset :].strip().removeprefix("#").strip()
            section = sections.get(max((n for n in sections if n < node.lineno), default=0))
            title, marks = section.groups(default="") if section else ("", "")
            marks = {mark.strip(): True for mark in marks.split(",") if mark}
            settings[name] = Setting(default, kind, reason, title, **marks)
    return settings


class Given(dict):
    """The settings that were set, {name: value}; files: by config files; line: names of those on the command line."""

    files: Mapping[str, object] = types.MappingProxyType({})
    line: Collection[str] = frozenset()


def section(settings: dict[str, Setting], title: str, cfg: dict) -> dict:
    """The values of one section's settings: {name: value}."""
    return {name: cfg[name] for name, setting in settings.items() if setting.section == title}


def parse(settings: dict[str, Setting], arguments: Sequence[str]) -> tuple[dict, Given]:
    """Command-line arguments, without the script's name -> (all settings, those that were set).

    Raises UserError. `--help` prints every setting with its default and reason, and exits.
    """
    if "--help" in arguments or "-h" in arguments:
        show_help(settings)
    given, arguments = Given(), [*arguments]
    for argument, after in itertools.zip_longest(arguments, arguments[1:], fillvalue=""):
        if argument.startswith("-") and not (argument.startswith("--") and "=" in argument):
            value = "" if "=" in argument else "=VALUE" if not after or after.startswith("-") else f"={after}"
            raise UserError(f"{argument}: write --{argument.strip('-') or 'NAME'}{value} (--help lists the names)")
    for argument in arguments:  # files first, whatever the order: the command line wins
        if not argument.startswith("-"):
            given.update(read_file(settings, argument, given))
    given.files, given.line = dict(given), set()
    for argument in arguments:
        if argument.startswith("-"):
            name, _, text = argument.removeprefix("--").partition("=")
            given[name] = checked(settings, name, meant(settings, name, text), "the command line")
            given.line.add(name)
    return {name: setting.default for name, setting in settings.items()} | given, given


def show_help(settings):
    try:
        print("settings, as name = default: set them in config files or as --name=value")
        print("(a tuple: --learn=beta1,beta2; a dict: --hyper_lr=\"{'mu': 0.1}\")\n")
        for name, setting in settings.items():
            print(f"  {name} = {setting.default!r}\n      {setting.reason}")
        sys.stdout.flush()
    except BrokenPipeError:  # `--help | head` has read enough
        os._exit(0)
    sys.exit(0)


def read_file(settings: dict[str, Setting], path: str, given: dict) -> dict:
    """The settings that the config file `path` sets, by any statement: {name: value}. Raises UserError."""
    if not os.path.isfile(path):
        known = sorted(os.listdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), "config")))
        near = difflib.get_close_matches(os.path.basename(path), known, 1)
        raise UserError(f"{path}: there is no such config file" + (f"; did you mean config/{near[0]}?" if near else ""))
    before = {name: setting.default for name, setting in settings.items()} | given
    names = dict(before)
    try:
        with open(path, encoding="utf-8") as file, warnings.catch_warnings(action="ignore"):
            tree = ast.parse(file.read(), path)
            exec(compile(tree, path, "exec"), names)  # noqa: S102 a config file is Python
    except (Exception, SystemExit) as error:
        raise UserError(f"{path}: {type(error).__name__}: {error}") from error
    set_here = {name for name in before if name not in names or names[name] is not before[name]}
    set_here |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    set_here |= {node.asname or node.name for node in ast.walk(tree) if isinstance(node, ast.alias)}
    return {
        name: checked(settings, name, value, path)
        for name, value in names.items()
        if (name in set_here or name not in before)
        and not name.startswith("_")
        and (name in settings or not isinstance(value, types.ModuleType))
    }


def literal(text: str) -> object:
    """A Python literal, or the text itself if it is not one: --out_dir=out needs no quotes."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text


def meant(settings, name, text):
    """`literal`, but text for a setting that takes no number (--dataset=1984), and names for a tuple (beta1,beta2)."""
    value, kinds = literal(text), [kind for kind, _ in choices(settings[name].type)] if name in settings else []
    if tuple in kinds and isinstance(value, str):
        return tuple(value.split(","))
    if isinstance(value, int | float) and str in kinds and not {int, float, type(value)} & {*kinds}:
        return text
    return value


def choices(kind):
    """The types of a union, each with its Musts: [(type, Musts)]."""
    members = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    split = [typing.get_args(one) if typing.get_origin(one) is Annotated else (one,) for one in members]
    return [(one[0], one[1:]) for one in split]


def checked(settings: dict[str, Setting], name: str, value: object, place: str) -> object:
    """The value in its setting's type; an int becomes a float if that takes no int. Raises UserError."""
    if name not in settings:
        near = [it for it in settings if name == "".join(word[:1] for word in it.split("_"))]  # lr: learning_rate
        near += difflib.get_close_matches(name, settings, 1, 0)
        raise UserError(f"{place}: there is no setting {name!r}; the nearest is {near[0]!r} (--help lists all)")
    known = choices(settings[name].type)
    if type(value) is int and float in (kind for kind, _ in known) and int not in (kind for kind, _ in known):
        value = float(value) if abs(value) < 1e300 else math.inf
    words = []
    for kind, musts in known:
        if typing.get_origin(kind) is typing.Literal:
            if isinstance(value, str) and value in typing.get_args(kind):
                return value
            words.append(" or ".join(map(repr, typing.get_args(kind))))
        elif type(value) is kind:
            for must in (Must("be finite", math.isfinite), *musts) if kind is float else musts:
                if not must.holds(value):
                    raise UserError(f"{place}: {name}={value!r} must {must.words}")
            return value
        else:
            words.append("None" if kind is type(None) else kind.__name__)
    raise UserError(f"{place}: {name}={shortened(value)} must be {' or '.join(words)}")


def shortened(value: object) -> str:
    """repr, at most 100 characters of it."""
    text = repr(value)
    return text if len(text) <= 100 else text[:100] + "…"


@contextlib.contextmanager
def one_line_errors(script: str) -> Iterator[None]:
    """Around a script's main: a UserError becomes one line on stderr and exit status 2; Finished, one line and 0.

    The first rank prints the line, and all ranks leave it for torchrun, which ends with that of the first to fail.
    """
    name = os.path.basename(script)
    fill_standard_streams()
    try:
        yield
    except Finished as end:
        report(f"{name}: {end}", sys.stdout)
    except UserError as error:
        line = f"{name}: {' '.join(str(error).split())}"
        tell_torchrun(line)
        report(line, sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        report(f"{name}: interrupted", sys.stderr)
        sys.exit(130)
    except Exception as error:  # a bug keeps its traceback; torchrun, which may hide that, shows this line
        what = f"{name}: {type(error).__name__}: {error}"
        tell_torchrun(what, after=20 if re.search("gloo|nccl|DistBackend|DistNetwork", what, re.IGNORECASE) else 10)
        raise


def pattern(option: str, text: str) -> re.Pattern:
    """A regular expression from the command line. Raises UserError."""
    try:
        return re.compile(text)
    except re.error as error:
        raise UserError(f"{option} {text}: not a regular expression: {error}") from None


def one_line(error: BaseException) -> str:
    """An error's type and the first line of its message."""
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]


def first_rank() -> bool:
    """Whether this process is the one that writes: torchrun's first, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def report(line, stream):
    """Print the line once: torchrun shows what the other ranks say. There may be no one to read it."""
    if first_rank() or "TORCHELASTIC_ERROR_FILE" not in os.environ:
        with contextlib.suppress(OSError, ValueError):
            print(line, file=stream, flush=True)


def tell_torchrun(line, after=0):
    """Leave a rank's last words where torchrun looks for them (torch.distributed.elastic.multiprocessing.errors).

    torchrun shows the earliest failure last; `after` seconds are added to one that another rank's may have caused.
    """
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        with contextlib.suppress(OSError), open(path, "w") as file:
            extra = {"py_callstack": line, "timestamp": str(int(time.time()) + after)}
            json.dump({"message": {"message": line, "extraInfo": extra}}, file)


def fill_standard_streams():
    """Open those of stdin, stdout and stderr that are closed, so that no file of the run gets their number."""
    for number, mode in enumerate((os.O_RDONLY, os.O_WRONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)


def main(run: Callable, script: str) -> None:
    """Call `run(settings, given)` of a flat script with the settings from its command line; see one_line_errors.

    The exit status is STOPPED if `run` returns None, because it was stopped before its end, and after a SIGTERM that
    `run` does not handle.
    """

    def leave(*_):
        report(f"{os.path.basename(script)}: stopped", sys.stderr)
        sys.exit(STOPPED)

    with one_line_errors(script):
        before = signal.signal(signal.SIGTERM, leave)
        try:
            if run(*parse(declared(script), sys.argv[1:])) is None:
                sys.exit(STOPPED)
        finally:
            signal.signal(signal.SIGTERM, before)
