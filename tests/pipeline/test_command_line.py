"""The command line: sorted arguments, one-line errors, and a start that costs nothing when there is nothing to do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from pipeline.__main__ import parse
from tests.drive import ROOT, Toy


def test_a_bare_first_word_is_the_command() -> None:
    assert parse(["plan", "target=sft"]).command == "plan"
    assert parse(["target=sft"]).command == "run"
    assert parse(["-m", "a.b=1,2"]).command == "run"


def test_keys_are_added_or_replaced_and_groups_are_chosen() -> None:
    line = parse(["pretrain.lr=1e-3", "model=1b", "zero=3", "+extra.key=1", "~gone", "hydra.job.name=x"])
    assert line.hydra == ("~gone", "++pretrain.lr=1e-3", "model=1b", "++zero=3", "+extra.key=1", "hydra.job.name=x", "command=run")


def test_values_that_hydra_would_misread_are_quoted() -> None:
    assert parse(["root=~/x y", "name=1e5", "tokenizer.pin=12e4"]).hydra[:3] == (
        "++root='~/x y'", "++name='1e5'", "++tokenizer.pin='12e4'",
    )  # fmt: skip


def test_flags_of_hydra_come_first_with_their_values() -> None:
    assert parse(["a=1", "--config-dir", "conf", "-m"]).hydra == ("--config-dir", "conf", "-m", "++a=1", "command=run")


def test_plain_words_after_chat_are_no_overrides() -> None:
    line = parse(["chat", "What is 2+3=?", "--really", "root=out"])
    assert line.words == ("What is 2+3=?", "--really")
    assert line.hydra == ("++root='out'", "command=chat")


def test_after_two_dashes_all_words_are_plain() -> None:
    line = parse(["chat", "root=out", "--", "x=5", "-m", "--"])
    assert line.words == ("x=5", "-m", "--")
    assert line.hydra == ("++root='out'", "command=chat")


def test_chat_takes_flags_of_hydra_too() -> None:
    line = parse(["chat", "hello", "--config-dir", "mine", "recipe=mine"])
    assert (line.words, line.hydra) == (("hello",), ("--config-dir", "mine", "recipe=mine", "command=chat"))


def test_a_flag_whose_value_may_be_left_out_takes_no_override_for_it() -> None:
    assert parse(["plan", "--info", "a=1"]).hydra[:3] == ("--info", "all", "++a=1")


@pytest.mark.parametrize("name", ["it's", "end\\", "a\\'b", "a b", "x,y=z", "[1]", "é"])
def test_any_folder_name_reaches_the_kernel_as_it_is(toy: Toy, name: str) -> None:
    assert toy.rows("plan", f"root={toy.folder}/{name}")["clean"]["path"].startswith(f"{toy.folder}/{name}/store/")


def test_a_reader_that_goes_away_ends_the_command_without_a_word(toy: Toy) -> None:
    process = toy.start("plan")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == -signal.SIGPIPE


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    toy = Toy(tmp_path)
    toy.write(one="a bee sat in the clover")
    return toy


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("shout.mrk=x", "shout.mrk: no such setting; did you mean mark?"),
        ("shout.case=uper", "shout.case=uper: invalid enum value 'uper'; allowed: upper, lower"),
        ("clean.shorter_than=0", "clean.shorter_than=0: expected `int` >= 1; words longer than this are rejected"),
        ("clean.run.cpu=2", "clean.run.cpu: no such setting; did you mean cpus?"),
        ("tagret=join", "tagret: no such setting; did you mean target?"),
        ("target=jion", "target=jion: no such stage; did you mean join?"),
        ("only=[jion]", "only=jion: no such stage; did you mean join?"),
        ("join.needs.corpsu=shout", "join.needs.corpsu: no such setting; did you mean corpus?"),
        ("join.needs.corpus=null", "join.needs.corpus: not set, join cannot do without; name the stage that gives it"),
        (
            "source.prompts=[/tmp/a.jsonl]",
            "source.prompts: no stage of recipe=toy reads it; leave it out, or choose a recipe that does (recipe=web)",
        ),
        ("join.needs.corpus=shuot", "join.needs.corpus=shuot: no such stage; did you mean shout?"),
        ("clean.needs.x=join", "needs: clean → join → shout → clean go in a circle; remove one of these needs"),
        ("source.pages=[]", "source.pages: empty, clean has nothing to read; set source.pages=[/path/to/files*]"),
        ("source.pages=[/nowhere/*]", "clean.sources: /nowhere/*: matches no file"),
        ("source.pages=[/tmp]", "clean.sources: /tmp: a folder; name its files, for example /tmp/*"),
        ("vocabulary.pin=abc", "vocabulary.pin=abc: none of that name is published"),
        ("recipe=ty", "Could not find 'recipe/ty'"),
        ("start=shout", "start=shout: clean stands before it and is MISSING"),
        ("stages.clean=tests.toy.stages.gone", "stages.clean=tests.toy.stages.gone: cannot be imported"),
        ("zero=7", "zero=7: expected `int` <= 3"),
        ("clean.run=5", "clean.run=5: the settings of clean.run are a mapping; set single values with clean.run.<key>="),
        ("shout.needs=5", "shout.needs=5: expected `object`, got `int`"),
        ("shout.needs.corpus=5", "shout.needs[...]: Expected `str | null`, got `int`"),
        ("stages=5", "stages=5: expected `object`, got `int`"),
        ("commands=5", "commands=5: expected `object`, got `int`"),
        ("shout.sleep_s=inf", "shout.sleep_s is inf: only finite numbers"),
        ("name=a/b", "name=a/b: a run is one folder"),
        ("recipe=null", "Could not find 'recipe/null'"),
        ("shout.mark=${nowhere}", "Interpolation key 'nowhere' not found"),
        ("shout.mark=a=b", "quote a value that holds spaces"),
        ("root=/dev/null", "/dev/null/cache/sources.json: not a directory; a file stands where a folder is needed"),
        ("status", "status: neither a setting (key=value) nor a flag; the command comes first"),
        ("--config-dir", "--config-dir: needs a value after it"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_is_allowed(toy: Toy, argument: str, line: str) -> None:
    result = toy.run("plan", argument, expect=1)
    assert line in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_forcing_what_the_target_does_not_need_is_a_mistake(toy: Toy) -> None:
    result = toy.run("plan", "target=clean", "force=[join]", expect=1)
    assert "force=[join]: clean does not need it; leave it out, or set target=join" in result.stderr


def test_an_unknown_command_is_one_line(toy: Toy) -> None:
    result = subprocess.run([sys.executable, "-m", "pipeline", "plam"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("crawl2chat: plam: no such command; there are run, plan,")


def test_a_relative_root_is_refused_off_this_machine(toy: Toy) -> None:
    assert "a relative folder is another one on every node" in toy.run("plan", "cluster=existing", "root=out", expect=1).stderr


PROBE = """
import sys
sys.argv = ['crawl2chat', *sys.argv[1:]]
from pipeline.__main__ import main
try:
    main()
finally:
    print('HEAVY', sorted({'ray', 'torch', 'deepspeed', 'pyarrow', 'numpy', 'datasets'} & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize("recipe", ["demo", "web", "tiny", "upcycled"])
def test_planning_any_recipe_imports_nothing_heavy(recipe: str, tmp_path: Path) -> None:
    for name in ("a", "validation"):
        (tmp_path / f"{name}.jsonl").write_text('{"text": "hello"}\n')
    kinds = ("pages", "conversations", "preferences", "prompts", "test_prompts", "questions") if recipe == "web" else ()
    sources = [f"source.{kind}=[{tmp_path}/*.jsonl]" for kind in kinds]
    command = [sys.executable, "-c", PROBE, "plan", f"recipe={recipe}", f"root={tmp_path}/root", *sources]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
    assert "HEAVY []" in result.stderr


def test_a_run_with_nothing_to_do_is_quick_and_starts_nothing(tmp_path: Path, ray_head: str) -> None:
    toy = Toy(tmp_path, ray_head)
    toy.write(one="a bee sat in the clover")
    toy.run()
    again = toy.run("shout.run.cpus=2")
    assert again.stderr == ""
    # a second on a machine where Hydra takes half of it; a busy machine makes both longer, never shorter
    ours, hydras = [], []
    while len(ours) < 8 and not (ours and min(ours) < max(1.0, 2 * min(hydras))):
        hydras.append(seconds_of([sys.executable, "-c", "import hydra, hydra.compose, omegaconf"])[0])
        seconds, result = seconds_of([sys.executable, "-c", PROBE, *toy.command()[3:]])
        ours.append(seconds)
        assert "HEAVY []" in result.stderr, result.stderr
    assert min(ours) < max(1.0, 2 * min(hydras)), (ours, hydras)


def seconds_of(command: list[str]) -> tuple[float, subprocess.CompletedProcess[str]]:
    begun = time.monotonic()
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    return time.monotonic() - begun, result


def test_the_version_is_that_of_this_package(toy: Toy) -> None:
    process = subprocess.run([sys.executable, "-m", "pipeline", "--version"], capture_output=True, text=True, check=True)
    assert process.stdout.split() == ["crawl2chat", version("crawl2chat")]


@pytest.mark.parametrize("empty", ["root=", "name="])
def test_an_empty_folder_or_name_is_refused(toy: Toy, empty: str) -> None:
    assert f"crawl2chat: {empty.removesuffix('=')}" in toy.run("status", empty, expect=1).stderr


def test_a_sweep_keeps_its_scratch_in_a_folder_of_the_users_own(toy: Toy) -> None:
    toy.run("plan", "-m", "shout.mark=1st,2nd", TMPDIR=str(toy.folder))
    assert (toy.folder / f"crawl2chat-sweeps-{os.getuid()}").is_dir()
