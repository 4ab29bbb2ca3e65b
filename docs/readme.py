"""A hook of MkDocs: pages take sections from the README, so that nothing is written twice.

A line `{{ README.md#serving }}` stands for what is below the heading whose anchor is `serving`, up to the next heading
of the same or a higher level, with the headings in it moved to the page's own level; `{{ README.md#serving lead }}` for
what comes before its first heading; without an anchor it stands for the whole file but its title. Links are made to
fit: those to files in docs/ become links to pages, those to headings that some page includes lead to it, and all others
lead to the repository.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PICTURES = ("benchmarks/leaderboard_nci60.png",)
"""Outside docs/, and part of the site."""
DIRECTIVE = re.compile(r"^\{\{ ([\w./]+\.md)(?:#([\w-]+))?( lead)? \}\}$", re.MULTILINE)
HEADING = re.compile(r"^(#+) (.+)$")
LINK = re.compile(r"\]\((?![a-z]+:)([^)#\s]*)(#[\w-]+)?\)")


def anchor(title: str) -> str:
    """A heading's anchor, as GitHub and MkDocs have it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def headings(text: str) -> list[tuple[int, int, str]]:
    """(line, level, anchor) of each, those in blocks of code apart."""
    found, fenced = [], False
    for number, line in enumerate(text.splitlines()):
        fenced ^= line.startswith("```")
        match = None if fenced else HEADING.match(line)
        if match:
            found.append((number, len(match[1]), anchor(match[2])))
    return found


def section(text: str, name: str, lead: bool) -> str:
    """What is below the heading `name`, its own headings from level 2 on, or what comes before these.

    Raises:
        KeyError: there is no such heading.
    """
    lines, there = text.splitlines(), headings(text)
    start, level = next(((n, depth) for n, depth, each in there if each == name), (None, 0))
    if start is None:
        raise KeyError(f"no heading #{name}")
    end = next((n for n, depth, _ in there if n > start and (lead or depth <= level)), len(lines))
    for n, depth, _ in there:
        if start < n < end:
            lines[n] = "#" * (depth - level + 1) + lines[n].lstrip("#")
    return "\n".join(lines[start + 1 : end]).strip()


def places(docs: Path) -> dict[str, str]:
    """Anchor of the README -> where, relative to docs/, the section with that heading is: a page, or a place in one."""
    readme, found = (ROOT / "README.md").read_text(encoding="utf-8"), {}
    for path in sorted(docs.rglob("*.md")):
        page, text = path.relative_to(docs).as_posix(), path.read_text(encoding="utf-8")
        own = {each for _, _, each in headings(text)}
        for file, name, lead in DIRECTIVE.findall(text):
            if file == "README.md" and name:
                inside = headings(section(readme, name, bool(lead)))
                found[name] = f"{page}#{name}" if name in own else page
                found |= {each: f"{page}#{each}" for _, _, each in inside}
    return found


def on_files(files: Files, *, config: Any) -> Files:
    """MkDocs calls this with the files of the site."""
    for path in PICTURES:
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """MkDocs calls this with each page's text."""
    docs, here = Path(config["docs_dir"]), posixpath.dirname(page.file.src_uri) or "."
    repository = f"{config['extra']['repository']}/blob/main"

    def include(match: re.Match) -> str:
        file, name, lead = match.groups()
        of_readme = places(docs) if file == "README.md" else {}

        def link(found: re.Match) -> str:
            path, fragment = found[1], found[2] or ""
            if not path and fragment[1:] in of_readme:
                target = of_readme[fragment[1:]]
            elif path in PICTURES:
                target = path
            elif path.startswith("docs/"):
                target = path.removeprefix("docs/") + fragment
            else:
                return f"]({repository}/{path or file}{fragment})"
            return f"]({posixpath.relpath(target, here)})"

        text = (ROOT / file).read_text(encoding="utf-8")
        return LINK.sub(link, section(text, name, bool(lead)) if name else text.partition("\n")[2].strip())

    return DIRECTIVE.sub(include, markdown)
