from pathlib import Path

from typer.testing import CliRunner

from odvla_bench.cli.main import app


def test_writes_a_tree_and_says_what(tmp_path: Path) -> None:
    options = ["--scenes", "1", "--keyframes", "3", "--no-maps", "--no-can-bus", "--no-sweeps"]
    result = CliRunner().invoke(app, ["make-synthetic", str(tmp_path / "out"), *options])
    assert result.exit_code == 0, result.output
    assert "v1.0-mini, 1 scenes" in result.output
    assert result.output.split("sample_data")[1].split()[0] == "36"
    assert (tmp_path / "out/v1.0-mini/sample.json").is_file()
    assert not (tmp_path / "out/can_bus").exists()
    assert not (tmp_path / "out/maps/expansion").exists()
