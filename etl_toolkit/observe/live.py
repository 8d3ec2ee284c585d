"""Where a card is shown while it changes: as a widget with a button where clicks reach a busy kernel, else as plain HTML.

When the load is over, either becomes static HTML, which is what the notebook keeps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class LiveHtml:
    """HTML in the output of the cell that runs, replaced in place."""

    def __init__(self, html: str) -> None:
        from IPython.display import HTML, display

        self._html = HTML
        self._handle: Any = display(HTML(html), display_id=True)  # type: ignore[no-untyped-call]

    def show(self, html: str) -> None:
        self._handle.update(self._html(html))  # type: ignore[no-untyped-call]

    settle = show


class LiveWidget:
    """The same with a button below it; `press` is called in a thread of the kernel that serves widgets."""

    def __init__(self, html: str, caption: str, press: Callable[[], None]) -> None:
        import ipywidgets as widgets

        self._text = widgets.HTML(html)
        self._button = widgets.Button(description=caption, icon="stop", button_style="danger")
        self._button.on_click(lambda _: self._press(press))
        self.box = widgets.VBox([self._text, self._button])
        # ipykernel 7.4 hands the answers to a widget to the loop that sent it last: here the one that is busy with the cell.
        # Without this note of it, they go where JupyterLab sends them.
        vars(self._button.comm).pop("_reply_subshell_id", None)

    def show(self, html: str) -> None:
        self._text.value = html

    def settle(self, html: str) -> None:
        self.show(html)
        self.box.children = (self._text,)

    def _press(self, press: Callable[[], None]) -> None:
        self._button.disabled = True
        self._button.description = "Stopping …"
        press()


class LiveOutput(LiveWidget):
    """Such a widget in the output of the cell that runs, of which static HTML is left there."""

    def __init__(self, html: str, caption: str, press: Callable[[], None]) -> None:
        from IPython.display import display

        super().__init__(html, caption, press)
        self._handle: Any = display(self.box, display_id=True)  # type: ignore[no-untyped-call]

    def settle(self, html: str) -> None:
        from IPython.display import HTML

        self._handle.update(HTML(html))  # type: ignore[no-untyped-call]
        for widget in (self._button, self._text, self.box):
            widget.close()


def open_live(html: str, caption: str, press: Callable[[], None], kernel: Any) -> LiveHtml | LiveOutput:
    """Show `html` in the cell that runs, with a button if ipywidgets is installed and `kernel` takes clicks while it is busy.

    It does with subshells (ipykernel 7), over which JupyterLab sends what a widget does; an older kernel would hand the
    click over once the cell is done.
    """
    if "kernel subshells" in getattr(kernel, "kernel_info", {}).get("supported_features", ()):
        try:
            return LiveOutput(html, caption, press)
        except ImportError:
            pass
    return LiveHtml(html)
