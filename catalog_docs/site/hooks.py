"""MkDocs calls these while it builds the site; what they add is in diffground.adapters.site."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from diffground.adapters.site import code, links, papers

# What Material's script would fetch from elsewhere if a page had such a diagram, or an old browser
# opened it. No page has, and nobody is to be asked.
ELSEWHERE = "https://unpkg.com/"


def _project(config: MkDocsConfig) -> Path:
    return Path(config.config_file_path).parent


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the pages of the code to the navigation."""
    assert config.nav is not None
    pages = code.pages(_project(config))
    named = [{Path(path).stem: path} for path in pages if not path.endswith("README.md")]
    config.nav.append({"Code": [f"{code.FOLDER}/README.md", *named]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds pages of the code, and of files of the repository that pages link to."""
    project = _project(config)
    made = code.pages(project)
    copied = links.copies(project)
    made |= {links.page_of(path): text for path, text in copied.items()}
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fills in tables, and leads links to where things are in the site."""
    project, path = _project(config), page.file.src_uri
    if path.startswith((f"{code.FOLDER}/", f"{links.COPIES}/")):
        page.meta["search"] = {"boost": 0.5}  # below the written pages
    if path.startswith(f"{code.FOLDER}/"):
        return markdown
    source = path.removeprefix(f"{links.COPIES}/")
    if source == path:
        source = f"{links.PAGES}/{path}"
        markdown = papers.filled(markdown, project)
        markdown = code.with_code_links(markdown, project)
    elif not (project / source).is_file():  # a copy of a file that is no Markdown
        source = source.removesuffix(".md")
    return links.relinked(markdown, source, links.page_of)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns roles of docstrings into links."""
    return code.with_roles(html) if page.file.src_uri.startswith(f"{code.FOLDER}/") else html


def on_post_build(config: MkDocsConfig) -> None:
    """Takes foreign addresses out of the theme's script."""
    for script in Path(config.site_dir, "assets/javascripts").glob("bundle.*.js"):
        script.write_text(script.read_text("utf-8").replace(ELSEWHERE, "#"), encoding="utf-8")
