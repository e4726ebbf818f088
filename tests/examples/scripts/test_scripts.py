import os

SCRIPT = """
import os, sys
print("rank", os.environ["RANK"], "got", sys.argv[1:])
"""


def test_script(elastic_launch, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    result = elastic_launch(script, "--steps", 3, nproc=2)
    assert result.stdout[1] == "rank 1 got ['--steps', '3']\n"


def test_command(elastic_launch):
    result = elastic_launch("sh", "-c", "echo $RANK of $WORLD_SIZE", nproc=2)
    assert result.stdout[0] == "0 of 2\n"


def colors():
    return os.environ["COLOR"], os.environ["SHADE"], os.getcwd()


def test_environment(elastic_launch, monkeypatch, tmp_path):
    monkeypatch.setenv("COLOR", "blue")
    monkeypatch.chdir(tmp_path)
    result = elastic_launch(colors, nproc=2, env={"SHADE": "dark"})
    assert result[1] == ("blue", "dark", str(tmp_path))
