"""Where runs are logged: MLflow's database, made whole before anybody sees it."""

from __future__ import annotations

import logging
import sqlite3
import time
import uuid
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse
from urllib.request import urlopen

from diffground.io.locks import held

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)

SETTLED = 60.0  # seconds after which nobody is making a database any more
WAIT = 300.0  # seconds for another process that makes the database; it takes a few
ANSWER = 5.0  # seconds for a server to say that it is there


def open_store(uri: str, project: Path) -> MlflowClient:
    """A client of the store ``uri``; a relative sqlite path is relative to ``project``.

    A database that does not exist is made beside its place, under a lock, and renamed: whoever is
    killed meanwhile leaves no half of one, and of two first runs one waits. A database that was
    left torn by another program, and holds no run, is put aside.

    Raises:
        Exception: whatever MLflow, the database or the system has to say.
    """
    from mlflow.tracking import MlflowClient

    uri = resolve_uri(uri, project)
    path = _database(uri)
    if path is not None and not path.exists():
        with _making(path):
            if not path.exists():
                _create(path, project)
    if path is not None:
        _probe(path)
        if _is_torn(path):
            with _making(path):
                if _is_torn(path):
                    aside = path.with_name(f"{path.name}.torn-{time.strftime('%Y%m%d-%H%M%S')}")
                    log.warning("%s was half made; it is begun anew, kept as %s", path, aside)
                    path.rename(aside)
                    _create(path, project)
    client = MlflowClient(tracking_uri=uri)
    client.search_experiments(max_results=1)  # before, it does not look at the store
    return client


def look(uri: str, project: Path) -> str:
    """What is in the store ``uri``, in words; nothing is made or changed.

    Raises:
        Exception: whatever MLflow, the database or the system has to say.
    """
    path = _database(resolve_uri(uri, project))
    if uri.startswith(("http://", "https://")):
        with urlopen(f"{uri.rstrip('/')}/health", timeout=ANSWER) as answer:
            return f"the server answers {answer.read(20).decode(errors='replace')}"
    if path is None:
        from mlflow.tracking import MlflowClient

        return f"{len(MlflowClient(tracking_uri=uri).search_experiments())} experiments"
    if not path.exists():
        return "there is none yet; the first run makes it"
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
        found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(f"the database is damaged: {found}")
        return f"{db.execute('SELECT count(*) FROM runs').fetchone()[0]} runs"


def experiment_id(client: MlflowClient, name: str, uri: str, project: Path) -> str:
    """The id of the experiment ``name``, made if it is new.

    Its files go to ``project/mlruns`` for a sqlite store, and wherever the server keeps them
    otherwise. In a project that was copied or moved with its database they follow it.
    """
    from mlflow.exceptions import MlflowException

    resolved = resolve_uri(uri, project)
    files = (project / "mlruns").as_uri() if _database(resolved) else None
    known = client.get_experiment_by_name(name)
    if known is None:
        try:
            return str(client.create_experiment(name, artifact_location=files))
        except MlflowException:  # another process was faster
            known = client.get_experiment_by_name(name)
            if known is None:
                raise
    path = _database(resolved)
    if path is not None and files is not None and resolved != uri:
        _anchor(path, str(known.artifact_location), files)
    return str(known.experiment_id)


def resolve_uri(uri: str, project: Path) -> str:
    """Anchors a relative sqlite path (three slashes) at the project, not the current folder."""
    path = uri.removeprefix("sqlite:///")
    if path == uri or Path(path).is_absolute():
        return uri
    return f"sqlite:///{(project / path).as_posix()}"


def _database(uri: str) -> Path | None:
    """The file of a sqlite store."""
    path = uri.removeprefix("sqlite:///")
    return None if path == uri else Path(path)


def _making(path: Path) -> AbstractContextManager[None]:
    return held(path.with_name(f"{path.name}.lock"), "the making of the run log", seconds=WAIT)


def _create(path: Path, project: Path) -> None:
    """Makes the tables, which takes seconds; the caller holds the lock."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for left in path.parent.glob(f"{path.name}.*.part*"):
        left.unlink(missing_ok=True)
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    store = SqlAlchemyStore(f"sqlite:///{part.as_posix()}", (project / "mlruns").as_uri())
    store.engine.dispose()
    part.rename(path)


def _probe(path: Path) -> None:
    """Asks for the right to write; MLflow would try for minutes before it says that it has none."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("BEGIN IMMEDIATE")
        db.rollback()


def _is_torn(path: Path) -> bool:
    """Whether tables are missing and no run is lost with the rest.

    A file that cannot be read is not, nor one that another program may just be making.
    """
    if time.time() - path.stat().st_mtime < SETTLED:
        return False
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
            tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master")}
            if "runs" in tables and db.execute("SELECT count(*) FROM runs").fetchone()[0]:
                return False
            made = db.execute("SELECT version_num FROM alembic_version").fetchall()
    except sqlite3.OperationalError as error:
        return "no such table" in str(error)
    except sqlite3.Error:
        return False
    return not made or made[0][0] not in _versions()


def _versions() -> set[str]:
    """The last version of the tables, which a finished database has."""
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config

    return set(ScriptDirectory.from_config(_get_alembic_config(db_url="")).get_heads())


def _anchor(path: Path, old: str, new: str) -> None:
    """Moves the places of files that were under ``old`` to ``new``."""
    parsed = urlparse(old)
    if parsed.scheme not in ("", "file"):
        return
    before, after = Path(unquote(parsed.path)), Path(unquote(urlparse(new).path))
    if before.resolve() == after.resolve():
        return
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(
            "UPDATE experiments SET artifact_location = ? WHERE artifact_location = ?", (new, old)
        )
        db.execute(
            "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) "
            "WHERE substr(artifact_uri, 1, ?) = ?",
            (new, len(old) + 1, len(old) + 1, f"{old}/"),
        )
    log.info("the run log came from %s; files of its runs are now looked for in %s", before, after)
