"""How the project is written: what a formatter, a linter and a few rules of this house can check."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
SKIPPED = ('tests', 'recipes', '.venv', 'data', 'models', 'logdir')
FILES = sorted(f for f in ROOT.rglob('*.py') if f.relative_to(ROOT).parts[0] not in SKIPPED)
TREES = {f: ast.parse(f.read_text()) for f in FILES}
NAMES = [str(f.relative_to(ROOT)) for f in FILES]
each = pytest.mark.parametrize('file', FILES, ids=NAMES)
LAYERS = [  # imports go downwards only: to a later line, or within one
    {'bench'},
    {'benchmarks'},
    {'train', 'predict'},
    {'eval', 'prepare', 'compare'},
    {'preparation'},
    {'checkpoint'},
    {'conversion'},
    {'dataset', 'network', 'loss', 'metric'},
    {'trunks'},
    {'datasets', 'heads', 'sync_bn'},
    {'utils'},
    {'settings'},
]


def ruff(*args):
    return subprocess.run(
        [sys.executable, '-m', 'ruff', *args, '.'], cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.parametrize('args', [('format', '--check'), ('check',)], ids=' '.join)
def test_ruff(args):
    result = ruff(*args)
    assert result.returncode == 0, result.stdout


def test_twelve_scripts_and_eighty_settings():
    scripts = [f.name for f in FILES if f.parent == ROOT]
    assert len(scripts) <= 12, scripts
    body = TREES[ROOT / 'settings.py'].body
    names = [line for line in body if isinstance(line, (ast.Assign, ast.AnnAssign))]
    assert len(names) <= 80
    imports = [line for line in body if isinstance(line, (ast.Import, ast.ImportFrom))]
    assert [line.module for line in imports] == ['typing']


@each
def test_files_and_functions_are_short(file):
    assert len(file.read_text().splitlines()) <= 420
    for node in ast.walk(TREES[file]):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= 50, f'{node.name} has {lines} lines'


def is_boolean(node):
    return isinstance(node, (ast.Compare, ast.BoolOp)) or (
        isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'bool'
    )


def is_sequence(node):
    return isinstance(node, (ast.List, ast.Tuple, ast.JoinedStr)) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def faults(tree):
    """Idioms that the house does not use, as (line, what)."""
    comprehensions = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    for node in ast.walk(tree):
        line = getattr(node, 'lineno', 0)
        if isinstance(node, ast.IfExp):
            if any(isinstance(part, ast.IfExp) for part in (node.body, node.orelse, node.test)):
                yield line, 'a conditional expression inside another'
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            for a, b in ((node.left, node.right), (node.right, node.left)):
                if is_sequence(a) and is_boolean(b):
                    yield line, 'a string or list times a boolean'
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
            for bound in (node.slice.lower, node.slice.upper):
                if bound is not None and any(is_boolean(part) for part in ast.walk(bound)):
                    yield line, 'a slice by a boolean'
        elif isinstance(node, ast.Assign):
            if isinstance(node.value, ast.Lambda):
                yield line, 'a lambda with a name'
            for target in node.targets:
                if isinstance(target, ast.Tuple):
                    attributes = [t for t in target.elts if isinstance(t, ast.Attribute)]
                    if len(attributes) > 2:
                        yield line, 'three or more attributes in one assignment'
        elif isinstance(node, comprehensions):
            if len(node.generators) > 1:
                yield line, 'a comprehension with two for'
            if any(isinstance(part, ast.NamedExpr) for part in ast.walk(node)):
                yield line, 'a walrus in a comprehension'
        elif isinstance(node, (ast.Name, ast.arg)):
            if (node.id if isinstance(node, ast.Name) else node.arg) == 'found':
                yield line, 'a name that says nothing: found'


@each
def test_idioms_of_the_house(file):
    listed = [f'line {line}: {what}' for line, what in faults(TREES[file])]
    assert not listed, listed
    if file != ROOT / 'utils' / 'config.py':
        text = file.read_text()
        assert 'vars(settings)' not in text and 'globals()[' not in text


def test_syntax_nodes_per_line_of_code():
    """At most 7, without Load, Store and Del, over lines that are neither blank, comment nor docstring."""
    nodes = lines = 0
    for file, tree in TREES.items():
        docstrings = set()
        for node in ast.walk(tree):
            nodes += not isinstance(node, ast.expr_context)
            is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if is_text and isinstance(node.value.value, str):
                docstrings |= set(range(node.lineno, node.end_lineno + 1))
        for number, line in enumerate(file.read_text().splitlines(), 1):
            code = line.strip() and not line.strip().startswith('#')
            lines += bool(code) and number not in docstrings
    assert nodes / lines <= 7


@each
def test_docstrings_say_it_in_one_line(file):
    for node in ast.walk(TREES[file]):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            text = ast.get_docstring(node)
            if text:
                assert re.search(r'[.:?)]$', text.splitlines()[0]), text.splitlines()[0]


# ------------------------------------------------------------------------------------- imports


def project_imports(file):
    """Names of this project's top-level modules and packages that a file imports."""
    own = set().union(*LAYERS)
    for node in imports(file):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module]
        for module in modules:
            top = module.split('.')[0]
            if top in own:
                yield top


def imports(file):
    """Import statements of a file, but those of a notebook's calls in FROM_PYTHON."""
    if str(file.relative_to(ROOT)) in FROM_PYTHON:
        return [n for n in TREES[file].body if isinstance(n, (ast.Import, ast.ImportFrom))]
    return [n for n in ast.walk(TREES[file]) if isinstance(n, (ast.Import, ast.ImportFrom))]


def layer(name):
    return next(i for i, names in enumerate(LAYERS) if name in names)


@each
def test_imports_go_downwards(file):
    parts = file.relative_to(ROOT).parts
    here = parts[0].removesuffix('.py')
    for other in project_imports(file):
        if here == other:
            continue
        assert layer(other) > layer(here) or (here, other) in ALLOWED, f'{here} imports {other}'


FROM_PYTHON = 'heads/frame.py', 'utils/notebook.py'  # network.load and so on reach upwards
ALLOWED = {
    ('network', 'heads'),
    ('dataset', 'loss'),  # median_frequency
}


def test_no_circle_among_files():
    """Files within a package, too."""
    names = {}
    for file in FILES:
        dotted = '.'.join(file.relative_to(ROOT).with_suffix('').parts)
        names[dotted.removesuffix('.__init__')] = file
    needs = {}
    for name, file in names.items():
        needs[name] = set()
        for node in imports(file):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    whole = f'{node.module}.{alias.name}'
                    needs[name] |= {whole} if whole in names else {node.module} & set(names)
            else:
                needs[name] |= {alias.name for alias in node.names} & set(names)
    while needs:
        leaves = [name for name, others in needs.items() if not others - {name} & set(needs)]
        assert leaves, f'a circle among {sorted(needs)}'
        for name in leaves:
            del needs[name]


IMPORT_EACH = """
import os, sys
import torch, torchvision  # once for all: they take seconds
for name in sys.argv[1:]:
    child = os.fork()
    if not child:
        __import__(name)
        print(name, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_every_file_imports_alone():
    """Each in a process of its own, without GPU, data or weights, and without doing anything."""
    names = []
    for file in FILES:
        name = '.'.join(file.relative_to(ROOT).with_suffix('').parts)
        names.append(name.removesuffix('.__init__'))
    result = subprocess.run(
        [sys.executable, '-u', '-c', IMPORT_EACH, *names], cwd=ROOT, capture_output=True, text=True
    )
    assert result.stderr == '' and result.stdout.split() == names


def test_networks_know_nothing_of_the_rest():
    for file in FILES:
        if file.name == 'network.py' or file.parent.name in ('heads', 'sync_bn', 'trunks'):
            known = {'heads', 'sync_bn', 'network', 'trunks'}
            assert set(project_imports(file)) <= known, file


def test_readme_is_short():
    assert len((ROOT / 'README.md').read_text().splitlines()) <= 130
