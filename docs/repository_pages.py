"""What mkdocs does so that the pages read alike on the site and in the repository's browser.

Links in the pages are those of the repository. Some of them lead out of docs/: to pages that the
site has under another name, or to files, which are at the repository's address only.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent

# Pages outside of docs/, and what the site calls them.
ELSEWHERE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "mpi/README.md": "several_hosts.md",
}
_IN_REPOSITORY = {page: path for path, page in ELSEWHERE.items()}
_LINK = re.compile(r"(?<=\]\()([^)\s:#]+)(?=[)#])")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are outside of docs/."""
    for path, page in ELSEWHERE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links of the site."""
    source = page.file.src_uri
    folder = posixpath.dirname(_IN_REPOSITORY.get(source, f"docs/{source}"))

    def on_site(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[0]))
        if not (ROOT / target).exists():
            return link[0]  # no link, or a broken one, of which mkdocs tells
        if target in ELSEWHERE or target.startswith("docs/"):
            there = ELSEWHERE.get(target, target.removeprefix("docs/"))
            return posixpath.relpath(there, posixpath.dirname(source) or ".")
        kind = "tree" if (ROOT / target).is_dir() else "blob"
        return f"{str(config.repo_url).rstrip('/')}/{kind}/main/{target}"

    return _LINK.sub(on_site, markdown)
