"""Make the page in which ``dvc plots show`` draws, with all that it needs: no network is asked.

``python docs/make_plots_page.py`` downloads Vega, Vega-Lite and vega-embed (BSD 3-clause) from
npm's registry, checks them against the hashes below, and writes them into one page.
"""

import base64
import hashlib
import io
import sys
import tarfile
import urllib.request
from pathlib import Path

PAGE = Path(".dvc/plots/page.html")
LIBRARIES = {
    "vega": (
        "5.33.1",
        "1fArfVDUqVbb5z8n+/nVQb+VNBzx8svY6CrsyTK4Ujm4yrd9I1auoKxBAPXLCavY1LcrbHUskQbGUP8gXOzyQw==",
    ),
    "vega-lite": (
        "5.23.0",
        "l4J6+AWE3DIjvovEoHl2LdtCUkfm4zs8Xxx7INwZEAv+XVb6kR6vIN1gt3t2gN2gs/y4DYTs/RPoTeYAuEg6mA==",
    ),
    "vega-embed": (
        "6.29.0",
        "PmlshTLtLFLgWtF/b23T1OwX53AugJ9RZ3qPE2c01VFAbgt3/GSNI/etzA/GzdrkceXFma+FDHNXUppKuM0U6Q==",
    ),
}
"""Version, and SHA-512 as npm's registry says it."""
LICENCE_OF = "vega-lite"
"""Whose text stands for all three: they are one project's, under one licence."""


def fetch(name: str) -> tuple[str, str]:
    """The minified library, and its licence's text if the package has one."""
    version, digest = LIBRARIES[name]
    address = f"https://registry.npmjs.org/{name}/-/{name}-{version}.tgz"
    with urllib.request.urlopen(address) as answer:
        content = answer.read()
    if base64.b64encode(hashlib.sha512(content).digest()).decode() != digest:
        sys.exit(f"error: {address} is not what it was")
    with tarfile.open(fileobj=io.BytesIO(content)) as package:
        files = {member.name: member for member in package.getmembers()}

        def text(path: str) -> str:
            file = package.extractfile(files[path]) if path in files else None
            return file.read().decode() if file else ""

        return text(f"package/build/{name}.min.js"), text("package/LICENSE")


def main() -> None:
    """Write the page; DVC puts the plots in place of ``{plot_divs}``."""
    found = {name: fetch(name) for name in LIBRARIES}
    scripts = []
    for name, (script, _) in found.items():
        # What DVC replaces, and what ends a script, must not stand in one.
        lines = (one for one in script.splitlines() if not one.startswith("//# sourceMappingURL"))
        text = "\n".join(lines)
        if any(mark in text for mark in ("</script", "{scripts}", "{plot_divs}", "{refresh_tag}")):
            sys.exit(f"error: {name} cannot stand in a page of DVC's")
        scripts.append(f"<script>/* {name} {LIBRARIES[name][0]} */\n{text}</script>")
    licence = found[LICENCE_OF][1].replace("--", "- -")
    PAGE.write_text(
        f"""<!DOCTYPE html>
<!-- Written by docs/make_plots_page.py. Vega, Vega-Lite and vega-embed, which stand below, are

{licence.strip()}
-->
<html lang="en">
<head>
<meta charset="utf-8">
{{refresh_tag}}
<title>DVC plots</title>
{chr(10).join(scripts)}
<style>body {{ font-family: sans-serif; margin: 1rem }}</style>
</head>
<body>
{{plot_divs}}
</body>
</html>
""",
        encoding="utf-8",
    )
    sys.stdout.write(f"{PAGE}: {PAGE.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main()
