"""The HTML report of an evaluation: one file that needs no network.

Figures are matplotlib SVGs inside the page and what moves is a small script of its own, so there is
no charting bundle to ship, the page prints, and it reads in full without JavaScript. Pictures are
background images of one style sheet, each embedded once however often it is shown. A content
security policy lets only the page's own style and script run.

`page` puts it together; `verdict` says in words who is best; `standings`, `tables`, `mistakes`,
`classes` and `thresholds` work the contents out from scores; `charts`, `svg` and `thumbnails` draw.
"""
