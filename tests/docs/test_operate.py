"""What `docs/operate.md` says of backups and upgrades is true: its commands run, in its order."""

from pathlib import Path

from click.testing import CliRunner

from flows.cli import main
from tests.docs.shell import blocks
from transforms.layout import LAYOUT, read_layout, write_layout
from transforms.schemas.staging import StagedRecord
from transforms.warehouse.tables import Warehouse

PAGE = Path(__file__).parents[2] / "docs" / "operate.md"
SECTIONS = ("## Back up and restore", "## Upgrade a home")


def commands_of(section: str) -> list[str]:
    """The commands of a section, without the words beside them."""
    page = PAGE.read_text("utf-8").partition(f"{section}\n")[2].partition("\n## ")[0]
    (console,) = [content for language, _, content in blocks(page) if language == "console"]
    return [line.partition(" #")[0].strip() for line in console.splitlines()]


def test_commands_of_backups_and_upgrades_do_what_the_page_says(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    warehouse.create(StagedRecord)
    home = warehouse.settings.root

    def run(command: str) -> str:
        words = command.replace("/mnt", str(tmp_path)).replace("/srv", str(tmp_path)).split()
        ended = CliRunner().invoke(main, words[1:], env={"MILLRACE_HOME": str(home)})
        assert ended.exit_code == 0, ended.output
        return ended.output

    copied, checked, restored = map(run, commands_of(SECTIONS[0]))
    assert "copied 2 of them" in copied
    assert "all as they were written" in checked
    assert restored.endswith(f"{tmp_path / 'restored'} is whole\n")
    assert Warehouse(
        warehouse.settings.model_copy(update={"home": tmp_path / "restored"})
    ).versions() == {"staging.records": 0}

    backed_up, shown, migrated = commands_of(SECTIONS[1])
    run(backed_up)
    write_layout(home, 0)
    assert run(shown).endswith("Nothing was changed.\n")
    assert read_layout(home) == 0
    assert "Rename `staging.repeats`" in run(migrated)
    assert read_layout(home) == LAYOUT
