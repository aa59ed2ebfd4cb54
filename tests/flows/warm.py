"""Fork a child for each command from a process that has imported everything, to save the imports.

It reads lines of JSON and answers each: an `Order` with the child's process id, such an id with how
it ended (minus the signal, or the exit code).
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import sklearn  # noqa: F401
import uvicorn
import vaderSentiment.vaderSentiment  # noqa: F401

import feature_repo.erase
import feature_repo.online
import feature_repo.stores.columnar
import feature_repo.stores.deletion
import feature_repo.stores.online
import feature_repo.stores.registry
import feature_repo.stores.serving
import feature_repo.watching.freshness
import flows.migrations
import transforms.features.backfill
import transforms.features.build
import transforms.features.engine.signature_parts
import transforms.sources.ingest
import transforms.staging.prepare
import transforms.staging.quarantine
import transforms.upkeep.erase
import transforms.upkeep.maintain
import transforms.upkeep.places
import transforms.upkeep.restore
import transforms.warehouse.publishing
from feature_repo import definitions, online_features, training_set  # noqa: F401
from flows.cli import main as command_line
from flows.consumer.app import Consumer, create_app
from flows.stages import (
    BackfillParameters,
    MaintainParameters,
    PipelineParameters,
    lock_home,
    run_backfill,
    run_backup,
    run_erasure,
    run_maintenance,
    run_plain,
    run_restore,
)
from transforms import replica
from transforms.errors import MillraceError
from transforms.features.registry import views
from transforms.home import Settings
from transforms.profiles.profile import _columns_of
from transforms.schemas.base import Contract
from transforms.sources.source import load_source
from transforms.text.identify import identify
from transforms.upkeep.erase import Wanted
from transforms.warehouse.snapshot import connect
from transforms.warehouse.tables import Warehouse

SPINE = (
    "select record_id, author_id, known_timestamp as event_timestamp from staging.records "
    "where not is_tombstone order by all"
)


class Order(NamedTuple):
    """A command by its name in `COMMANDS`, the files to which its output is added, variables."""

    name: str
    arguments: list[str]
    output: str
    errors: str
    environment: dict[str, str]


def read(home: str, done: str) -> None:
    """Read everything a reader can until a file exists; what is read must be consistent."""
    os.nice(19)  # ten readers must not starve the runs beside which they read
    rounds = 0
    while not Path(done).exists() or not rounds:
        made = training_set(
            SPINE, ["author_activity:n_records_lifetime", "record_quality:n_words"], home
        ).frame
        assert made.height > 0
        # a record has its own words from its instant on: a view that lags would leave them null
        assert made["record_quality__n_words"].null_count() == 0
        online_features(
            ["author_activity:n_records_lifetime"],
            made.select("author_id").head(3).to_dicts(),
            home,
        )
        with connect(Warehouse(Settings(home=Path(home)))) as connection:
            connection.sql("select count(*) from features.author_activity").fetchall()
        rounds += 1
    sys.stdout.write(f"{rounds} rounds\n")


def run_until(point: str, source: str, home: str) -> None:
    """Run, and be killed at a point."""
    die_at(point)
    run_plain(PipelineParameters(source=source, home=home))


def migrate_until(point: str, home: str) -> None:
    """Migrate a home, and be killed at a point."""
    die_at(point)
    with lock_home(Path(home)):
        pass


def backup_until(point: str, home: str, place: str) -> None:
    """Back up a home, and be killed at a point."""
    die_at(point)
    run_backup(Path(home), place, None)


def restore_until(point: str, home: str, place: str) -> None:
    """Restore a home, and be killed at a point."""
    die_at(point)
    run_restore(Path(home), place, None)


def erase(author: str, home: str) -> None:
    """Erase an author."""
    run_erasure(Path(home), Wanted(author=author), is_dry=False)


def erase_until(point: str, author: str, home: str) -> None:
    """Erase an author, and be killed at a point."""
    die_at(point)
    erase(author, home)


def millrace(folder: str, environment: str, *arguments: str) -> None:
    """Run the command line in a folder, with an environment as JSON."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(json.loads(environment))
    command_line(arguments)


def consume(source: str, home: str, port: str) -> None:
    """Take posts until SIGTERM."""
    consumer = Consumer(
        load_source(Path(source)), PipelineParameters(source=source, home=home), 1 << 20
    )
    uvicorn.run(create_app(consumer), port=int(port), log_level="warning")


def consume_until(point: str, source: str, home: str, port: str) -> None:
    """Take posts, and be killed at a point."""
    die_at(point)
    consume(source, home, port)


def die_at(point: str) -> None:
    """Be killed `before:` or `after:` a commit, or another step that leaves a trace."""

    def dying(owner: Any, attribute: str, name: Callable[[Any], str]) -> None:
        real = getattr(owner, attribute)

        def run(*arguments: Any, **options: Any) -> Any:
            label = name(arguments)
            if point == f"before:{label}":
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*arguments, **options)
            if point == f"after:{label}":
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(owner, attribute, run)

    dying(transforms.warehouse.publishing, "_commit", lambda arguments: arguments[1].relation())
    dying(feature_repo.online, "write_store_settings", lambda _: "apply")
    dying(
        feature_repo.stores.columnar, "write_done", lambda arguments: f"online.{arguments[0].stem}"
    )
    dying(flows.migrations, "write_layout", lambda arguments: f"layout.{arguments[1]}")
    dying(transforms.upkeep.places.Folder, "write", lambda arguments: arguments[1].split("/")[0])
    dying(transforms.upkeep.places.os, "fsync", lambda _: "fsync")
    dying(transforms.upkeep.restore, "_put", lambda arguments: arguments[1].split("/")[0])
    dying(transforms.upkeep.restore, "write_due", lambda _: "due")
    for module, name in ERASING:
        dying(module, name, lambda _, name=name: name)


ERASING = (
    (transforms.upkeep.erase, "begin"),
    (feature_repo.stores.deletion, "delete_entities"),
    (feature_repo.erase, "erase_online"),
    (feature_repo.erase, "replace_spine"),
    (transforms.upkeep.erase, "delete_files"),
    (transforms.upkeep.erase, "end"),
)
COMMANDS: dict[str, Callable[..., object]] = {
    "millrace": millrace,
    "run": lambda source, home: run_plain(PipelineParameters(source=source, home=home)),
    "run_until": run_until,
    "migrate_until": migrate_until,
    "backup_until": backup_until,
    "restore_until": restore_until,
    "erase": erase,
    "erase_until": erase_until,
    "maintain": lambda home: run_maintenance(MaintainParameters(home=home, keep_days=7)),
    "backfill": lambda home: run_backfill(BackfillParameters(home=home)),
    "consume": consume,
    "consume_until": consume_until,
    "read": read,
}


def child(order: Order) -> None:
    """Run a command, then leave without the parent's farewells."""
    for file, descriptor in ((order.output, 1), (order.errors, 2)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(order.environment)
    # a machine that has died is waited for, and the whole time would be half a minute
    replica.SECONDS_OF_A_LEASE = float(
        os.environ.get("SECONDS_OF_A_LEASE", replica.SECONDS_OF_A_LEASE)
    )
    code = 0
    try:
        COMMANDS[order.name](*order.arguments)
    except MillraceError as error:
        sys.stderr.write(f"millrace: {error}\n")
        code = 1
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:  # noqa: BLE001 - whatever it is, the test reads it
        traceback.print_exc()
        code = 2
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    # what each child would do again takes it most of a second: digests, contracts, the model
    for view in views():
        view.digest()
    for contract in (*Contract.__subclasses__(), *(view.contract for view in views())):
        contract.arrow_schema()
        _columns_of(contract)
    identify(["of a doubtful language"])
    for line in sys.stdin:
        asked = json.loads(line)
        if isinstance(asked, int):
            answer = os.waitstatus_to_exitcode(os.waitpid(asked, 0)[1])
        else:
            answer = os.fork()
            if not answer:
                child(Order(*asked))
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()
    # the farewells of all that was imported take seconds, and it has changed nothing
    os._exit(0)


if __name__ == "__main__":
    main()
