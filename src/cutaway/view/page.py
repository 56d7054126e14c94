"""The look of the report: one style sheet, light and dark, for the screen and for paper."""

from __future__ import annotations

CSP = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What the page may load: nothing but the pictures and the style inside it."""

CSS = """
:root { color-scheme: light dark; --bg: #fff; --panel: #f5f6f8; --text: #1b1f24; --muted: #586069;
  --accent: #0068b8; --warn: #8a5300; --line: #dfe3e7; }
@media (prefers-color-scheme: dark) { :root { --bg: #14161a; --panel: #1c1f25; --text: #e8eaed; --muted: #9aa3ae;
  --accent: #5cc8ff; --warn: #ffb454; --line: #2c3138; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--bg); color: var(--text); font: 14px/20px system-ui, sans-serif; }
main, header.top { max-width: 1248px; margin: 0 auto; padding: 0 24px; }
header.top { padding-top: 32px; padding-bottom: 8px; }
main { padding-bottom: 64px; }
h1 { font-size: 26px; line-height: 32px; font-weight: 600; margin: 0 0 4px; letter-spacing: -.01em; }
h2 { font-size: 20px; line-height: 28px; font-weight: 600; margin: 0 0 16px; overflow-wrap: anywhere; }
h3 { font-size: 14px; line-height: 20px; font-weight: 600; margin: 0; }
h4 { font-size: 12px; line-height: 16px; font-weight: 600; margin: 0 0 8px; color: var(--muted); }
p { margin: 0 0 8px; max-width: 72ch; }
section { margin-top: 32px; padding-top: 24px; border-top: 1px solid var(--line); }
p.lead { margin: 12px 0; }
.muted, figcaption, .small { color: var(--muted); }
figcaption, .small, td, th { font-size: 12px; line-height: 16px; }
a { color: var(--accent); }
nav ul { display: flex; flex-wrap: wrap; gap: 4px 16px; list-style: none; margin: 8px 0 0; padding: 0; }
figure { margin: 0; min-width: 0; }
figure > img { display: block; width: 100%; height: auto; border: 1px solid var(--line); }
figcaption { margin-top: 4px; }
img.cells { image-rendering: pixelated; }
img.bar { display: block; width: 100%; height: 10px; border: 1px solid var(--line); }
.num, td.n { font-variant-numeric: tabular-nums; }
.marks { display: flex; justify-content: space-between; font-size: 12px; line-height: 16px; margin-top: 2px; }
.unit { text-align: center; font-size: 12px; line-height: 16px; color: var(--muted); }
.summary { display: grid; grid-template-columns: 256px minmax(220px, 300px) 1fr; gap: 24px 32px; margin-bottom: 24px; }
.summary figure { max-width: 256px; }
.bench { display: grid; grid-template-columns: repeat(auto-fill, minmax(480px, 1fr)); gap: 16px; }
.card { border: 1px solid var(--line); padding: 16px; min-width: 0; display: flex; flex-direction: column; gap: 8px; }
.card h3 span { font-weight: 400; color: var(--muted); }
.card header { display: flex; justify-content: space-between; gap: 8px; align-items: baseline; }
.card p { margin: 0; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 8px; align-items: start; }
.pair.led { grid-template-columns: 2fr 1fr; } .pair.led > :first-child { grid-row: 1 / 3; }
.caveat { border-left: 2px solid var(--accent); padding-left: 8px; }
.flag { color: var(--warn); }
.facts { display: flex; flex-wrap: wrap; gap: 0 16px; margin: 0; font-size: 12px; line-height: 18px; }
.facts > div { max-width: 100%; } .facts dt, .facts dd { display: inline; margin: 0; } .facts dt { color: var(--muted); }
.facts dd { overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(220px, 1fr)); gap: 16px; margin: 8px 0 0; }
.panels figure { max-width: 320px; }
.panels h4 { min-height: 32px; display: flex; align-items: end; }
.inside .meter { margin: 4px 0 8px; }
.figure .row { display: flex; flex-wrap: wrap; gap: 8px 24px; align-items: start; margin-bottom: 8px; }
.figure .row > figure { max-width: 100%; }
.figure figure > img { width: auto; max-width: 100%; margin-top: 8px; }
.walk h4 { margin: 16px 0 4px; } .walk > img { display: block; max-width: 100%; height: auto; }
.block { border: 1px solid var(--line); padding: 16px; margin-top: 16px; }
ul.legend { list-style: none; margin: 8px 0 0; padding: 0; font-size: 12px; line-height: 18px; }
ul.legend b { display: inline-block; border: 6px solid; margin-right: 8px; vertical-align: -1px; }
ol.top { list-style: none; margin: 0; padding: 0; }
ol.top li { display: grid; grid-template-columns: 1fr max-content; gap: 0 8px; margin-bottom: 8px;
  overflow-wrap: anywhere; }
.meter { grid-column: 1 / -1; height: 6px; background: var(--panel); position: relative; print-color-adjust: exact; }
.meter i { position: absolute; left: 0; top: 0; border-top: 6px solid var(--text); }
.meter u { position: absolute; top: -3px; border-left: 2px solid var(--accent); height: 12px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; }
th { text-align: left; font-weight: 600; color: var(--muted); }
td, th { padding: 4px 16px 4px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; } td.n { white-space: nowrap; }
.grid td, .grid th { padding: 2px 8px 2px 0; }
details { font-size: 12px; line-height: 16px; } summary { cursor: pointer; color: var(--muted); padding: 4px 0; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
ul.plain { margin: 0; padding-left: 18px; } ul.plain li { margin-bottom: 4px; max-width: 72ch; }
pre { background: var(--panel); border: 1px solid var(--line); padding: 16px; overflow-x: auto; margin: 0; }
pre, code { font: 12px/18px ui-monospace, monospace; }
@media screen and (max-width: 900px) { .summary { grid-template-columns: minmax(0, 256px) 1fr; }
  .summary > :last-child { grid-column: 1 / -1; } }
@media screen and (max-width: 560px) { .summary, .bench { grid-template-columns: minmax(0, 1fr); }
  main, header.top { padding-left: 16px; padding-right: 16px; } }
@media print {
  :root { --bg: #fff; --panel: #f5f6f8; --text: #1b1f24; --muted: #586069; --accent: #0068b8; --warn: #8a5300;
    --line: #c9ced4; color-scheme: light; }
  @page { margin: 12mm; }
  body { zoom: .68; } nav, details:not([open]) { display: none; } main, header.top { max-width: none; padding: 0; }
  .bench { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .panels { grid-template-columns: repeat(4, minmax(0, 1fr)); }
  .card, .block, figure, .keep, tr, li { break-inside: avoid; } h2, h3, h4 { break-after: avoid; }
  section.picture + section.picture { break-before: page; } pre { white-space: pre-wrap; }
}
"""
