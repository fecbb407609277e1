"""The documents say what is so: links lead somewhere, quoted commands exist, made parts are fresh, stories run."""

import contextlib
import os
import random
import re
import shlex
import socket
import subprocess
import sysconfig
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from queue import Empty, Queue

import pytest

from tests.support import documents
from tests.support.documents import Block, name_of
from tests.test_house import HOME_FOLDERS, wrong_citations

PAGES = documents.pages()
STORIES = documents.stories()
ROOMS = ("common", "pledge", "registrar", "masa", "interop")
SERVICES = {"serve", "join-proxy"}
PORTS = ("9443", "8443", "8444")  # as the pages have them: MASA, registrar, join proxy
ENDS = {  # what the last block of a story shows; of the others it is enough that every command succeeds
    "maker": r"SN-0001.*proximity",
    "plant": r"SN-0001 +Example Maker +operational",
    "firmware": r"I am .*SN-0001[\s\S]*state +operational",
}
PORT_RANGE = (20_000, 32_000)
START_SECONDS = 60.0
STEP_SECONDS = 120.0


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


# What a page says


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    def leads(target: str) -> bool:
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        return found.exists() and (not anchor or anchor in documents.anchors(text_of(found)))

    relative = [target for target in documents.links(text_of(page)) if "://" not in target]
    assert [target for target in relative if not leads(target)] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_quoted_command_exists(page: Path) -> None:
    wrong = [documents.complaint(words) for words in documents.commands(text_of(page))]
    assert [complaint for complaint in wrong if complaint] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_made_part_is_fresh(page: Path) -> None:
    assert documents.refreshed(text_of(page)) == text_of(page), "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_page_names_a_folder_of_one_machine_or_cites_in_a_form_of_its_own(page: Path) -> None:
    assert HOME_FOLDERS.search(text_of(page)) is None
    assert wrong_citations(text_of(page)) == []


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_tells_what_it_is_for(room: str) -> None:
    text = text_of(documents.ROOT / room / "README.md")
    assert text.startswith(f"# brski-{room}\n")
    assert len(text.split()) > 30


def test_the_two_commands_come_first() -> None:
    first = [line.strip() for line in text_of(documents.ROOT / "README.md").splitlines() if line.strip()][1:3]
    assert [line.partition("#")[0].strip() for line in first] == ["make demo", "make test"]


def test_the_readme_has_a_story_for_each_audience() -> None:
    found = {match["story"] for match in documents._RUN.finditer(text_of(documents.ROOT / "README.md"))}
    assert found == set(ENDS)


def test_the_picture_is_a_picture() -> None:
    svg = documents.PICTURE.read_text(encoding="utf-8")
    assert svg.startswith("<svg")
    assert "operational" in svg
    assert "://" not in re.sub(r'xmlns="[^"]*"|<!--.*?-->', "", svg), "it fetches something"


# What a page has you do


class Stage:
    """A folder in which a story is played, with ports of its own; services end with it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.services = folder, list["Service"]()
        self.ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
        masa, registrar = self.ports["9443"], self.ports["8443"]
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("BRSKI_")} | {
            "PATH": f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}",
            "BRSKI_MASA_LISTEN__PORT": masa,
            "BRSKI_MASA_MAKER__MASA_URL": f"127.0.0.1:{masa}",
            "BRSKI_REGISTRAR_LISTEN__PORT": registrar,
            "COLUMNS": "100",
        }

    def play(self, block: Block) -> str:
        """Write the block's file, or run its commands; what they said."""
        text = re.sub("|".join(PORTS), lambda found: self.ports[found[0]], block.text)
        if block.file is not None:
            (self.folder / block.file).write_text(text, encoding="utf-8")
            return ""
        return "".join(self.run(line) for line in documents.shell_lines(text))

    def run(self, line: str) -> str:
        words = shlex.split(line, comments=True)
        if words[0] in documents.PROGRAMS and words[1] in SERVICES:
            self.services.append(Service(words, self.folder, self.environment))
            return ""
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=STEP_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return f"{done.stdout}{done.stderr}"

    def close(self) -> list[int]:
        return [service.stop() for service in reversed(self.services)]


class Service:
    """A `serve` in another terminal."""

    def __init__(self, words: list[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._said: Queue[str] = Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        heard = ""
        try:
            while "listen" not in heard:
                heard += (line := self._said.get(timeout=START_SECONDS))
                assert line, f"{' '.join(words)} ended: {heard}"
        except (Empty, AssertionError):
            self.stop()
            raise

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._said.put(line)
        self._said.put("")

    def stop(self) -> int:
        self.process.terminate()
        try:
            return self.process.wait(timeout=START_SECONDS)
        finally:
            self.process.kill()
            self._reader.join()
            assert self.process.stdout is not None
            self.process.stdout.close()


def free_ports(count: int) -> list[int]:
    """Ports that nobody has, below those that the kernel gives to whoever asks for any."""
    found: set[int] = set()
    while len(found) < count:
        port = random.randrange(*PORT_RANGE)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.add(port)
    return list(found)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    try:
        yield stage
    finally:
        stage.close()


@pytest.mark.parametrize("story", sorted(STORIES))
def test_what_the_pages_have_you_type_works(story: str, stage: Stage) -> None:
    said = [stage.play(block) for block in STORIES[story]]
    assert re.search(ENDS.get(story, ""), said[-1]), said[-1]
    assert stage.close() == [0] * len(stage.services), "a service did not end in order"


# The checks catch what they are for


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("brski-masa idevid --serial 1 --csr x", None),
        ("brski-masa idevid --sreial 1", "brski-masa idevid has no option --sreial"),
        ("brski-masa device shwo", "brski-masa device has no verb shwo"),
        ("brski-registrar policy allow NAME --serial SN-1", None),
        ("brski-registrar plicy", "brski-registrar has no verb plicy"),
        ("brski-pledge onboard --state=x --no-mdns", None),
        ("brski-pledge onboard --sate x", "brski-pledge onboard has no option --sate"),
        ("brski-pledge enrol", "brski-pledge has no verb enrol"),
        ("brski demo --pledges 5", None),
    ],
)
def test_a_wrong_command_is_seen(line: str, wrong: str | None) -> None:
    assert documents.complaint(shlex.split(line)) == wrong


def test_commands_are_found_in_blocks_and_in_sentences() -> None:
    page = "see `brski demo`\n```sh\n# no\n$ brski-masa init \\\n  maker  # why\ncat x | brski inspect -\n```\n"
    assert documents.commands(page) == [["brski-masa", "init", "maker"], ["brski", "inspect", "-"], ["brski", "demo"]]


def test_links_in_code_are_no_links() -> None:
    page = '[a](b.md) `[c](d.md)` ![e](f.svg)\n```text\n[g](h.md)\n```\n<img src="i.svg">'
    assert documents.links(page) == ["b.md", "f.svg", "i.svg"]


def test_a_stale_part_is_seen() -> None:
    page = "<!-- made: pledge-phases -->\nold\n<!-- /made -->\n"
    assert "stateDiagram" in documents.refreshed(page)
    assert documents.refreshed(documents.refreshed(page)) == documents.refreshed(page)
