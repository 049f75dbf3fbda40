"""What `make docs` does to the pages: brings along the files that they link to, and makes links of code names."""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
_LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s#]+)((?:#[^)]*)?\))")
_PICTURE = re.compile(r"!\[[^\]]*\]\(([^)\s]+\.svg)\)")
_NAME = re.compile(r"`(dlskip(?:\.\w+){2,})`")
_OUTSIDE = "repository/"  # where files from outside docs/ stand in the site


def on_files(files: Files, config: Any) -> Files:
    """Adds every Markdown page, picture and report that a page links to, directly or through another."""
    waiting = [(f"docs/{page.src_uri}", Path(str(page.abs_src_path))) for page in files.documentation_pages()]
    seen = set()
    while waiting:
        name, path = waiting.pop()
        for _, target, _ in _LINK.findall(path.read_text(encoding="utf-8")):
            found = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
            if "://" in target or found in seen or found.startswith("docs/") or not (ROOT / found).is_file():
                continue
            seen.add(found)
            if found == "README.md":
                continue
            files.append(File.generated(config, _OUTSIDE + found, abs_src_path=str(ROOT / found)))
            if found.endswith(".md"):
                waiting.append((found, ROOT / found))
    for page in ROOT.glob("docs/notebooks/*.ipynb"):
        files.remove(files.src_uris[f"notebooks/{page.name}"])
        files.append(File.generated(config, f"notebooks/{page.stem}.md", content=_notebook(page)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Points links at the copies, drawings at their files, and the code names of method.md at the API reference."""
    place = page.file.src_uri
    name = place.removeprefix(_OUTSIDE) if place.startswith(_OUTSIDE) else f"docs/{place}"

    def pointed(match: re.Match[str]) -> str:
        before, target, after = match.groups()
        found = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
        if "://" in target or not (ROOT / found).exists():
            return match[0]
        to = found.removeprefix("docs/") if found.startswith("docs/") else _OUTSIDE + found
        to = {f"{_OUTSIDE}README.md": "index.md"}.get(to, to)
        to = re.sub(r"\.ipynb$", ".md", to)
        if to.startswith(_OUTSIDE) and not (ROOT / found).is_file():
            return match[0]
        return before + posixpath.relpath(to, posixpath.dirname(place) or ".") + after

    markdown = _PICTURE.sub(r"[\g<0>](\1)", _LINK.sub(pointed, markdown))
    return _NAME.sub(r"[`\1`][\1]", markdown) if place == "method.md" else markdown


def _notebook(path: Path) -> str:
    """A notebook as a page: its text, its code, and what its cells printed and drew."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                parts.append(f'<img alt="what the cell drew" src="data:image/png;base64,{data["image/png"].strip()}">')
            elif printed := "".join(output.get("text", data.get("text/plain", []))):
                parts.append(f"```text\n{printed.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"
