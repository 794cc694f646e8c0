"""A Sphinx extension that writes formulas as MathML, which browsers draw by themselves: no script, no network.

Sphinx's own renderers load MathJax from the net, or need LaTeX.
"""

from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging

_LONG = 60  # characters
_logger = logging.getLogger(__name__)


def formula(latex: str, *, display: bool) -> str:
    """`latex` as a MathML element; as it stands, in a code element, where it is no formula."""
    try:
        return convert(latex, display="block" if display else "inline")
    except Exception as error:  # latex2mathml has a dozen kinds of its own, and lets others through
        _logger.warning("formula %r: %s", latex, type(error).__name__)
        escaped = latex.replace("&", "&amp;").replace("<", "&lt;")
        return f"<code>{escaped}</code>"


def _inline(translator: Any, node: nodes.math) -> None:
    latex = node.astext()
    drawn = formula(latex, display=False)
    # one that may be wider than a phone scrolls by itself, not the page
    translator.body.append(f'<span class="math-long">{drawn}</span>' if len(latex) > _LONG else drawn)
    raise nodes.SkipNode


def _display(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="math-block">{formula(node.astext(), display=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer under the name "mathml"."""
    app.add_html_math_renderer("mathml", (_inline, None), (_display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
