"""The house style in numbers: length, documentation, types, errors, prints and paths."""

import ast
import re
import statistics

MODULE_LINES = 400
FUNCTION_LINES = 80
FUNCTION_MEDIAN = 15
FUNCTION_P90 = 45
BROAD = ("Exception", "BaseException")
MAY_PRINT = ("bridge/worldloom/cli/", "benchmarks/", "examples/", "tools/", "tests/")
# Folders of the machines that this is written on; pieced together so as not to find itself.
MACHINE_PATHS = re.compile(
    r"(?<![\w./-])/(?:" + "|".join(["wo" + "rk", "ro" + "ot", "fa" + "rm", "tmp/w" + "l"]) + r")/"
    r"|/opt/wh" + "eels"
)
TEXT = (
    ".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".sh", ".usda", ".json", ".cfg", ".proto",
    ".html", ".css", ".js", ".svg", "Makefile", "run", ".gitignore",
)  # fmt: skip
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def listing(lines):
    """One violation a line; pytest would cut a long list."""
    return "\n" + "\n".join(lines)


def functions(tree):
    """Every function and method, nested ones too."""
    return [node for node in ast.walk(tree) if isinstance(node, FUNCTIONS)]


def public(tree):
    """Public functions of a module and public methods of its public classes."""
    for node in tree.body:
        if isinstance(node, FUNCTIONS) and not node.name.startswith("_"):
            yield node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from (
                item
                for item in node.body
                if isinstance(item, FUNCTIONS) and not item.name.startswith("_")
            )


def length(node):
    return node.end_lineno - node.lineno + 1


def untyped(function):
    """Names of parameters without a type, and `return` when the result has none.

    Kernels that numba compiles are exempt: it derives their types itself.
    """
    if any("njit" in ast.unparse(decorator) for decorator in function.decorator_list):
        return []
    arguments = function.args
    every = arguments.posonlyargs + arguments.args + arguments.kwonlyargs
    every += [item for item in (arguments.vararg, arguments.kwarg) if item]
    found = [a.arg for a in every if a.annotation is None and a.arg not in ("self", "cls")]
    return found + (["return"] if function.returns is None else [])


def test_modules_are_short(sources):
    wrong = [
        f"{source.path}: {count} lines"
        for source in sources
        if (count := source.text.count("\n")) > MODULE_LINES
    ]
    assert not wrong, listing(wrong)


def test_functions_are_short(sources):
    wrong = [
        f"{source.path}:{node.lineno}: {node.name} has {length(node)} lines"
        for source in sources
        for node in functions(source.tree)
        if length(node) > FUNCTION_LINES
    ]
    assert not wrong, listing(wrong)


def test_functions_are_short_on_the_whole(product):
    lengths = sorted(length(node) for source in product for node in functions(source.tree))
    assert statistics.median(lengths) <= FUNCTION_MEDIAN
    assert lengths[int(0.9 * len(lengths))] <= FUNCTION_P90


def test_modules_say_what_they_are(sources):
    wrong = [
        source.path
        for source in sources
        if source.text.strip() and ast.get_docstring(source.tree) is None
    ]
    assert not wrong, listing(wrong)


def test_public_functions_and_classes_are_documented(product):
    wrong = []
    for source in product:
        named = [n for n in source.tree.body if isinstance(n, ast.ClassDef) and n.name[0] != "_"]
        # A setter is documented by its property.
        for node in [*named, *public(source.tree)]:
            setter = any(".setter" in ast.unparse(d) for d in node.decorator_list)
            if ast.get_docstring(node) is None and not setter:
                wrong.append(f"{source.path}:{node.lineno}: {node.name}")
    assert not wrong, listing(wrong)


def test_public_functions_are_typed(product):
    wrong = [
        f"{source.path}:{node.lineno}: {node.name} lacks {', '.join(missing)}"
        for source in product
        for node in public(source.tree)
        if (missing := untyped(node))
    ]
    assert not wrong, listing(wrong)


def test_no_more_than_one_default_is_positional(product):
    """A call with two bare optional values cannot be read."""
    wrong = [
        f"{source.path}:{node.lineno}: {node.name}"
        for source in product
        for node in public(source.tree)
        if len(node.args.defaults) > 1
    ]
    assert not wrong, listing(wrong)


def test_no_exception_is_swallowed(sources):
    wrong = []
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ExceptHandler) and is_broad(node) and does_nothing(node):
                wrong.append(f"{source.path}:{node.lineno}")
    assert not wrong, listing(wrong)


def is_broad(handler):
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or getattr(kind, "id", "") in BROAD for kind in kinds)


def does_nothing(handler):
    return all(isinstance(item, ast.Pass | ast.Continue) or is_dots(item) for item in handler.body)


def is_dots(item):
    return isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant)


def test_nothing_prints_but_commands(sources):
    wrong = [
        f"{source.path}:{node.lineno}"
        for source in sources
        if not source.path.startswith(MAY_PRINT)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
    ]
    assert not wrong, listing(wrong)


def test_input_is_not_checked_by_assert(product):
    """Asserts vanish under -O and carry no message for the user."""
    wrong = [
        f"{source.path}:{node.lineno}"
        for source in product
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Assert)
    ]
    assert not wrong, listing(wrong)


def test_no_file_names_a_place_on_one_machine(files, repository):
    wrong = []
    for name in files:
        if not name.endswith(TEXT):
            continue
        text = (repository / name).read_text(encoding="utf-8", errors="replace")
        for number, line in enumerate(text.splitlines(), 1):
            if found := MACHINE_PATHS.search(line):
                wrong.append(f"{name}:{number}: {found.group(0)} in {line.strip()[:60]!r}")
    assert not wrong, listing(wrong)


def test_source_is_ascii(sources):
    """Text that people type is ASCII; tests may hold what users throw at us."""
    wrong = [
        f"{source.path}:{number}: {line.strip()[:60]!r}"
        for source in sources
        if not source.path.startswith("tests/")
        for number, line in enumerate(source.text.splitlines(), 1)
        if not line.isascii()
    ]
    assert not wrong, listing(wrong)


def test_tests_are_named_as_sentences(sources):
    """At least three words after test_: a failing name must say what is broken."""
    wrong = [
        f"{source.path}:{node.lineno}: {node.name}"
        for source in sources
        if source.path.startswith("tests/")
        for node in ast.walk(source.tree)
        if isinstance(node, FUNCTIONS)
        and node.name.startswith("test_")
        and node.name.count("_") < 3
    ]
    assert not wrong, listing(wrong)
