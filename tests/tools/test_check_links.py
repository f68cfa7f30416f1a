"""Dead links are found, in what is made from pages and in the pages of this project."""

import subprocess
from pathlib import Path

import pytest

from tools.check_links import check_file, check_markdown, check_site, files_in_git, markdown_pages

ROOT = Path(__file__).resolve().parents[2]


def write(folder: Path, **pages: str) -> Path:
    for name, text in pages.items():
        (folder / name.replace("__", "/").replace("_", ".")).write_text(text)
    return folder


def test_the_pages_of_this_project_have_no_dead_link() -> None:
    files = files_in_git(ROOT)
    pages = markdown_pages(files)
    assert {"README.md", "docs/sam.md", "docs/tutorial.ipynb"} <= {
        page.relative_to(ROOT).as_posix() for page in pages
    }
    said, elsewhere = check_markdown(ROOT, pages, files)
    assert said == []
    assert any("arxiv.org" in one for one in elsewhere)


def test_a_site_without_a_dead_link(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    site = write(
        tmp_path,
        index_html='<a href="sub/">s</a><a href="#here">h</a><p id="here"><img src="i.svg?v=1">'
        '<link rel="canonical" href="https://example.org/"><a href="https://example.org">e</a>'
        '<img src="data:image/png;base64,xx"><a href="i.svg#anything">i</a><a href="#">up</a>',
        sub__index_html='<a href="../index.html#here">h</a><a name="old"></a><a href="#old">o</a>',
        i_svg="<svg></svg>",
        style_css="a { background: url('i.svg') }",
    )
    (site / "404.html").write_text('<a href="/index.html">home</a>')
    assert check_site(site) == ([], {"https://example.org/", "https://example.org"})


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ('<a href="gone.html">x</a>', "gone.html is not there"),
        ('<a href="#gone">x</a>', "#gone names a place that is not in the page"),
        ('<a href="other.html#gone">x</a>', "other.html#gone names a place"),
        ('<a href="">x</a>', "(empty) leads nowhere"),
        ('<a href="/other.html">x</a>', "begins at the top of the server"),
        ('<a href="../outside.html">x</a>', "leads out of here"),
        ('<a href="sub">x</a>', "sub is not there"),
        ('<img src="gone.png">', "gone.png is not there"),
        ('<img srcset="other.html 1x, gone.png 2x">', "gone.png is not there"),
        ('<p style="background: url(gone.png)">', "gone.png is not there"),
        ("<style>p { background: url(gone.png) }</style>", "gone.png is not there"),
        ('<style>@import "gone.css";</style>', "gone.css is not there"),
        ('<svg><use xlink:href="#gone"/></svg>', "#gone names a place"),
        ('<a href="https:/example.org">x</a>', "is no address of a page"),
        ('<a href="https://…/page">x</a>', "is no address of a page"),
        ('<script src="https://unpkg.com/mermaid"></script>', "would be loaded from elsewhere"),
        ('<link rel="stylesheet" href="//fonts.example.org/x.css">', "would be loaded"),
        ('<link rel="preconnect" href="https://fonts.gstatic.com">', "would be loaded"),
    ],
)
def test_what_is_wrong_is_said_once(tmp_path: Path, page: str, said: str) -> None:
    (tmp_path / "outside.html").write_text("")
    (tmp_path / "site").mkdir()
    write(tmp_path / "site", index_html=page, other_html="")
    (found,) = check_site(tmp_path / "site")[0]
    assert found.startswith("index.html: ")
    assert said in found


def test_a_style_sheet_that_loads_from_elsewhere_is_found(tmp_path: Path) -> None:
    write(tmp_path, style_css="@font-face { src: url(https://fonts.gstatic.com/x) }")
    (found,) = check_site(tmp_path)[0]
    assert "style.css: https://fonts.gstatic.com/x would be loaded" in found


def test_headings_are_called_as_github_calls_them(tmp_path: Path) -> None:
    write(
        tmp_path,
        a_md="# Sharpness, *measured* with `rho`\n\n## Twice\n\n## Twice\n\n"
        "[1](#sharpness-measured-with-rho) [2](#twice-1) [3](b.md#ρ-and-p) [4](#twice-2)\n\n"
        "```\n[no link](gone.md)\n```\n",
        b_md="# ρ and p\n",
    )
    (found,) = check_markdown(tmp_path, sorted(tmp_path.glob("*.md")))[0]
    assert found == "a.md: #twice-2 names a place that is not in the page"


@pytest.mark.parametrize(
    ("heading", "place"),
    [
        ("## Speed & size", "speed--size"),
        ('## The "best" of <three>', "the-best-of-three"),
        ('<h2 align="center">In the middle</h2>', "in-the-middle"),
        ('<h2 id="mine">By another name</h2>', "by-another-name"),
    ],
)
def test_a_heading_of_any_kind_has_its_name(tmp_path: Path, heading: str, place: str) -> None:
    write(tmp_path, a_md=f"{heading.replace('<three>', '&lt;three&gt;')}\n\n[x](#{place})\n")
    assert check_markdown(tmp_path, [tmp_path / "a.md"]) == ([], set())


def test_a_link_that_is_defined_nowhere_is_found(tmp_path: Path) -> None:
    write(
        tmp_path,
        a_md="[x][here] [**y**][nowhere] `a[0][1]`\n\n```\na[x][y]\n```\n\n[here]: a.md\n",
    )
    (found,) = check_markdown(tmp_path, [tmp_path / "a.md"])[0]
    assert found == "a.md: [nowhere] is defined nowhere in the page"


def test_only_what_git_holds_is_there(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "site").mkdir()
    write(tmp_path, README_md="[r](site/r.html) [s](site) [ü](über.md)", _gitignore="/site/\n")
    write(tmp_path, über_md="[gone](site/r.html)", old_md="", site__r_html="")
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    (tmp_path / "old.md").unlink()
    files = files_in_git(tmp_path)
    pages = markdown_pages(files)
    assert [page.name for page in pages] == ["README.md", "über.md"]
    assert check_markdown(tmp_path, pages, files)[0] == [
        "README.md: site/r.html is not in git: only you have it",
        "README.md: site is not in git: only you have it",
        "über.md: site/r.html is not in git: only you have it",
    ]


def test_a_page_that_stands_alone(tmp_path: Path) -> None:
    write(tmp_path, report_html='<a href="#a">x</a><p id="a">')
    assert check_file(tmp_path / "report.html") == ([], set())
