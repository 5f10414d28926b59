"""Finds a class by the ``type:`` of an option file, and imports only the file that defines it.

Each registry knows one folder and one file suffix. Its index is made by *reading* those files (their syntax tree),
never by importing them: a plug-in with a broken or missing dependency harms nobody who did not ask for it, and start-up
stays fast.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from basicsr.errors import OptionError


@dataclass(frozen=True)
class Entry:
    """One registered name as the index read it: where it stands and the first line of its docstring."""

    name: str
    file: Path
    line: int
    summary: str


class Registry:
    """Names and the objects behind them, found lazily.

    Args:
        name: What the registry holds, for messages (``arch``), as in BasicSR.
        package: Package whose files are indexed, such as ``basicsr.archs``.
        pattern: Which files of it, such as ``*_arch.py``.
    """

    def __init__(self, name: str, package: str, pattern: str) -> None:
        self.name = name
        self.package = package
        self.pattern = pattern
        self._objects: dict[str, Any] = {}
        self._index: dict[str, list[Entry]] | None = None
        self._unreadable: list[str] = []

    def register(self, obj: Any = None, suffix: str | None = None) -> Any:
        """Registers a class or function, as a decorator (``@ARCH_REGISTRY.register()``) or by a call.

        Args:
            obj: The object; None when used as a decorator with brackets.
            suffix: Appended to the name with ``_``, as in BasicSR.

        Raises:
            OptionError: Another object already has this name.
        """
        if obj is None:
            return lambda o: self.register(o, suffix)
        name = f'{obj.__name__}_{suffix}' if suffix else obj.__name__
        known = self._objects.get(name)
        if known is not None and known is not obj and not _is_reload(known, obj):
            raise OptionError(_duplicate_text(self.name, name, _origin(known), _origin(obj)))
        self._objects[name] = obj
        return obj

    def get(self, name: str) -> Any:
        """Returns the object called ``name``, importing its file if that has not happened yet.

        ``name`` also finds ``name_basicsr``, which some of BasicSR's files register (``suffix='basicsr'``).

        Raises:
            OptionError: No such name (near matches and the folders searched are named), several files define it, or its
                file cannot be imported.
        """
        name = self._full_name(name)
        files = {e.file.resolve(): e.file for e in self.index().get(name, [])}
        if name in self._objects:
            file = Path(_file_of(self._objects[name]))
            files.setdefault(file.resolve(), file)
        if len([f for f in files if f.suffix == '.py']) > 1:
            raise OptionError(_duplicate_text(self.name, name, *sorted(map(str, files.values()))[:2]))
        if name not in self._objects:
            if not files:
                raise OptionError(self._unknown_text(name))
            self._import(name, next(iter(files.values())))
        return self._objects[name]

    def index(self) -> dict[str, list[Entry]]:
        """Names that the files of the folder define, without importing them."""
        if self._index is None:
            self._index = {}
            for file in self.files():
                for entry in self._read(file):
                    self._index.setdefault(entry.name, []).append(entry)
        return self._index

    def files(self) -> list[Path]:
        """The files that are indexed."""
        return sorted(f for folder in self.folders() for f in folder.glob(self.pattern) if f.stem != '__init__')

    def folders(self) -> list[Path]:
        """The folders that are searched."""
        spec = importlib.util.find_spec(self.package)
        return [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []

    def refresh(self) -> None:
        """Forgets the index, so that files added since are found."""
        self._index, self._unreadable = None, []

    def keys(self) -> list[str]:
        """All names, indexed or registered."""
        return sorted({*self.index(), *self._objects})

    def summary(self, name: str) -> str:
        """First docstring line of ``name``, without importing an indexed file."""
        if name in self.index():
            return self.index()[name][0].summary
        return (inspect.getdoc(self._objects[name]) or '').partition('\n')[0]

    def __contains__(self, name: object) -> bool:
        return self._full_name(name) in {*self.index(), *self._objects}

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter([(name, self.get(name)) for name in self.keys()])

    def _full_name(self, name: Any) -> Any:
        known = {*self.index(), *self._objects}
        return f'{name}_basicsr' if name not in known and f'{name}_basicsr' in known else name

    def _import(self, name: str, file: Path) -> None:
        try:
            importlib.import_module(f'{self.package}.{file.stem}')
        except OptionError:
            raise
        except Exception as error:
            text = f"{self.name} '{name}' is in {file}, which cannot be imported: {_reason(error)}"
            raise OptionError(text) from error
        if name not in self._objects:
            raise OptionError(f"{file} has a {self.name} '{name}', but importing the file did not register it.")

    def _read(self, file: Path) -> Iterator[Entry]:
        try:
            tree = ast.parse(file.read_text(encoding='utf-8'), filename=str(file))
        except (SyntaxError, UnicodeDecodeError, ValueError) as error:
            self._unreadable.append(f'{file}: {error}')
            return
        definitions = {n.name: n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef)}
        for node in definitions.values():
            for call in filter(self._is_register, node.decorator_list):
                yield _entry(node, file, call)
        for node in tree.body:  # the call form: ARCH_REGISTRY.register(MyNet)
            call = node.value if isinstance(node, ast.Expr) else None
            if isinstance(call, ast.Call) and self._is_register(call) and call.args:
                named = definitions.get(getattr(call.args[0], 'id', ''))
                if named is not None:
                    yield _entry(named, file, call)

    def _is_register(self, node: ast.expr) -> bool:
        """True for ``X.register`` and ``X.register(...)`` where X is this registry by its name, ``ARCH_REGISTRY``."""
        function = node.func if isinstance(node, ast.Call) else node
        if not (isinstance(function, ast.Attribute) and function.attr == 'register'):
            return False
        owner = function.value
        return getattr(owner, 'id', getattr(owner, 'attr', '')) == f'{self.name.upper()}_REGISTRY'

    def _unknown_text(self, name: str) -> str:
        near = nearest(name, self.keys(), count=3)
        hint = f' Did you mean {" or ".join(near)}?' if near else ''
        known = f' Write one of: {", ".join(self.keys()) or "none is there"}.'
        where = ', '.join(str(f / self.pattern) for f in self.folders()) + ', and what imports: and --import name'
        broken = f' Not readable: {"; ".join(self._unreadable)}.' if self._unreadable else ''
        return f"No {self.name} named '{name}'.{hint}{known} Searched: {where}.{broken}"


def nearest(name: Any, names: Iterable[str], count: int = 1, cutoff: float = 0.6) -> list[str]:
    """The names most like ``name``, best first; case and underscores do not count."""
    folded: dict[str, str] = {}
    for known in names:
        folded.setdefault(_fold(known), known)
    return [folded[f] for f in difflib.get_close_matches(_fold(name), folded, n=count, cutoff=cutoff)]


def _fold(name: Any) -> str:
    return str(name).casefold().replace('_', '').replace('-', '')


def _entry(node: ast.ClassDef | ast.FunctionDef, file: Path, register: ast.expr) -> Entry:
    suffix = [k.value for k in getattr(register, 'keywords', []) if k.arg == 'suffix']
    name = f'{node.name}_{suffix[0].value}' if suffix and isinstance(suffix[0], ast.Constant) else node.name
    return Entry(name, file, node.lineno, (ast.get_docstring(node) or '').partition('\n')[0])


def _reason(error: BaseException) -> str:
    """What went wrong while a file ran, and where."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if 'importlib' not in f.filename and Path(f.filename) != Path(__file__)]
    where = f' ({own[-1].filename}:{own[-1].lineno})' if own else ''
    return f'{type(error).__name__}: {error}{where}.'


def _origin(obj: Any) -> str:
    return f'{_file_of(obj)} ({obj.__module__})'


def _file_of(obj: Any) -> str:
    return getattr(sys.modules.get(obj.__module__), '__file__', None) or obj.__module__


def _is_reload(known: Any, obj: Any) -> bool:
    """The same module run again (importlib.reload): its new objects replace the old."""
    return (known.__module__, known.__qualname__) == (obj.__module__, obj.__qualname__)


def _duplicate_text(kind: str, name: str, first: str, second: str) -> str:
    same_file = first.rpartition(' (')[0] == second.rpartition(' (')[0] != ''
    if same_file:
        return f"The {kind} '{name}' was imported as two modules, {first} and {second}. Import it in one way only."
    return f"Two {kind}s are named '{name}': {first} and {second}. Rename one of them."


ARCH_REGISTRY = Registry('arch', 'basicsr.archs', '*_arch.py')
DATASET_REGISTRY = Registry('dataset', 'basicsr.data', '*_dataset.py')
DEGRADATION_REGISTRY = Registry('degradation', 'basicsr.data', '*_degradation.py')
LOSS_REGISTRY = Registry('loss', 'basicsr.losses', '*_loss.py')
MODEL_REGISTRY = Registry('model', 'basicsr.models', '*_model.py')
SCHEDULER_REGISTRY = Registry('scheduler', 'basicsr.models', '*_scheduler.py')
METRIC_REGISTRY = Registry('metric', 'basicsr.metrics', '*.py')
SCORER_REGISTRY = Registry('scorer', 'basicsr.iqa', '*_scorer.py')

REGISTRIES: dict[str, Registry] = {
    r.name: r
    for r in (
        ARCH_REGISTRY,
        DATASET_REGISTRY,
        DEGRADATION_REGISTRY,
        LOSS_REGISTRY,
        MODEL_REGISTRY,
        SCHEDULER_REGISTRY,
        METRIC_REGISTRY,
        SCORER_REGISTRY,
    )
}


def import_plugins(names: list[str]) -> None:
    """Imports what ``imports:`` and ``--import`` name: modules (``my_pkg.my_arch``) or files (``path/my_arch.py``).

    A module is looked for where Python looks, and then in the current folder. A file is imported under its own name,
    and its folder is searched last from then on, so that loader processes find it again. A file with relative imports
    (BasicSR's ``from .arch_util import ...``) becomes a member of the plug-in folder that its ending tells.

    Raises:
        OptionError: One of them cannot be imported; the text names it and the reason.
    """
    for name in names:
        try:
            _import_file(Path(name).expanduser()) if name.endswith('.py') else _import_module(name)
        except OptionError as error:
            raise OptionError(f"'{name}' cannot be imported: {error}") from error
        except Exception as error:
            raise OptionError(f"'{name}' cannot be imported: {_reason(error)}") from error


def _import_module(name: str) -> None:
    if not all(part.isidentifier() for part in name.split('.')):
        raise OptionError('write a module (my_pkg.my_arch) or a file that ends in .py (path/my_arch.py).')
    _search_last(Path.cwd())
    importlib.import_module(name)


def _import_file(path: Path) -> None:
    if not path.is_file():
        raise OptionError(f'there is no file {path.absolute()}.')
    if not path.stem.isidentifier():
        raise OptionError('the name of the file is no Python name.')
    path = path.resolve()
    package = next((r.package for r in REGISTRIES.values() if fnmatch(path.name, r.pattern)), None)
    if package and (_relative_imports(path) or _find_file(f'{package}.{path.stem}') == path):
        _import_as_member(package, path)
        return
    _search_last(path.parent)
    found = _find_file(path.stem)
    if found != path:
        raise OptionError(f"'{path.stem}' is also the name of {found or 'a built-in module'}; rename the file.")
    importlib.import_module(path.stem)


def _import_as_member(package: str, path: Path) -> None:
    """Imports a file as if it stood in a plug-in folder, after those of its neighbours that the folder lacks."""
    name = f'{package}.{path.stem}'
    found = _find_file(name)
    if found is not None and found != path:
        raise OptionError(f'{found} has the same name; rename one of them.')
    if name not in sys.modules and path.stem in sys.modules and _find_file(path.stem) == path:
        sys.modules[name] = sys.modules[path.stem]  # it was imported under its own name before
    if name in sys.modules:
        return
    for neighbour in _relative_imports(path):
        file = path.with_name(f'{neighbour}.py')
        if file.is_file() and _find_file(f'{package}.{neighbour}') is None:
            _import_as_member(package, file)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise OptionError('it is no Python file.')
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _relative_imports(path: Path) -> list[str]:
    """Names of the neighbours that a file imports by ``from .name import ...``."""
    tree = ast.parse(path.read_text(encoding='utf-8'), filename=str(path))
    return [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level == 1 and n.module]


def _find_file(module: str) -> Path | None:
    """The file that ``import module`` runs or has run."""
    loaded = sys.modules.get(module)
    if loaded is not None:
        return Path(loaded.__file__).resolve() if getattr(loaded, '__file__', None) else None
    importlib.invalidate_caches()
    spec = importlib.util.find_spec(module)
    return Path(spec.origin).resolve() if spec and spec.has_location and spec.origin else None


def _search_last(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def build(registry: Registry, block: dict[str, Any], **given: Any) -> Any:
    """Builds the object that a block of options describes: ``type`` names it, the other keys are its arguments.

    Args:
        registry: Where ``type`` is looked up.
        block: The options, left unchanged; objects that YAML cannot hold are passed on as they are.
        given: Arguments that do not come from the option file.

    Raises:
        OptionError: The type or a key is not known, a key is missing, or a value is of the wrong type.
    """
    from basicsr.schema import checked_arguments  # which itself reads registries

    target: Callable[..., Any]
    target, arguments = checked_arguments(registry, block, frozenset(given))
    return target(**arguments, **given)
