"""The style sheet of a report."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root {
  --page: #ffffff; --panel: #f6f8fa; --ink: #1f2328; --muted: #59636e; --line: #d8dee4; --link: #0b62a8;
  --good: #0b6b4f; --good-bg: #dff3ea; --bad: #a13a00; --bad-bg: #fde7d8;
  --plot-ink: #1f2328; --plot-muted: #667079; --plot-grid: #dfe3e8; --plot-blue: #0072b2;
  --plot-vermillion: #d55e00; --plot-green: #009e73; --plot-purple: #b5638f; --plot-orange: #e69f00;
  --plot-sky: #56b4e9;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --page: #14181d; --panel: #1c2128; --ink: #e3e8ee; --muted: #9aa5b1; --line: #343c46; --link: #6cb6ff;
    --good: #6fd6ae; --good-bg: #11352a; --bad: #ffab7d; --bad-bg: #43220d;
    --plot-ink: #e3e8ee; --plot-muted: #98a3af; --plot-grid: #2c343d; --plot-blue: #3f9ddb;
    --plot-vermillion: #ee7a28; --plot-green: #1fb98c; --plot-purple: #d487b3; --plot-orange: #f0b23a;
    --plot-sky: #79c6f2;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif;
}
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1.25rem 3rem; }
header { display: flex; flex-wrap: wrap; gap: 1rem; align-items: center; justify-content: space-between;
  margin-bottom: 1.25rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0; letter-spacing: -0.01em; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 0 0 0.5rem; }
p { margin: 0 0 0.75rem; max-width: 46rem; }
a { color: var(--link); }
.subtitle { color: var(--muted); margin: 0.3rem 0 0; }
.verdict { margin: 0; padding: 0.4rem 0.9rem; border-radius: 999px; font-weight: 600; white-space: nowrap; }
.pass { color: var(--good); background: var(--good-bg); }
.fail { color: var(--bad); background: var(--bad-bg); }
.mark { display: inline-block; padding: 0.05rem 0.55rem; border-radius: 999px; font-size: 0.8125rem;
  font-weight: 600; white-space: nowrap; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: 0.75rem;
  margin-bottom: 2rem; }
.card { background: var(--panel); border-radius: 0.5rem; padding: 0.75rem 1rem; }
.card .name { display: block; color: var(--muted); font-size: 0.8125rem; line-height: 1.35; }
.card .value { font-size: 1.5rem; font-weight: 600; white-space: nowrap; }
.card small { font-size: 0.8125rem; font-weight: 400; color: var(--muted); }
section { margin-top: 2.5rem; }
nav { margin-top: 2rem; padding: 0.75rem 1rem; background: var(--panel); border-radius: 0.5rem; font-size: 0.9375rem; }
nav ol { margin: 0; padding-left: 1.25rem; columns: 18rem; }
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.9375rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: 0.4rem 0.75rem 0.4rem 0;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
thead th { color: var(--muted); font-size: 0.8125rem; vertical-align: bottom; line-height: 1.35; }
tbody tr:last-child > * { border-bottom: 0; }
tr.group th { padding-top: 1.1rem; }
td:first-child { white-space: nowrap; }
.number { text-align: right; white-space: nowrap; padding-left: 0.75rem; padding-right: 0; }
.number + :not(.number) { padding-left: 1.25rem; }
thead .number { white-space: normal; }
.note { display: block; color: var(--muted); font-size: 0.8125rem; line-height: 1.4; }
.provenance th { width: 14rem; font-weight: 400; color: var(--muted); }
.provenance td { overflow-wrap: anywhere; }
figure { margin: 1.5rem 0 2rem; }
figcaption { color: var(--muted); font-size: 0.875rem; line-height: 1.5; max-width: 46rem; }
figcaption b { color: var(--ink); }
figure.table figcaption { margin-bottom: 0.4rem; }
.plot { display: block; width: 100%; max-width: var(--share); height: auto; margin: 0 auto 0.5rem 0; }
.plot * { stroke-linejoin: round; stroke-linecap: butt; }
footer { margin-top: 3rem; color: var(--muted); font-size: 0.8125rem; }
@media (max-width: 40rem) { .plot { max-width: 100%; } main { padding-top: 1.25rem; } }
@media print {
  body { font-size: 10pt; }
  main { max-width: none; padding: 0; }
  nav { display: none; }
  figure, .cards, tr { break-inside: avoid; }
  h2 { break-after: avoid; }
  .pass, .fail, .card { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
""".strip()
