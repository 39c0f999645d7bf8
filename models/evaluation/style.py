"""The style sheet of reports: light and dark as the reader's system is, narrow screens, and paper."""

CSS = """
:root { color-scheme: light dark; --page: #f4f6f8; --card: #ffffff; --ink: #18212c; --soft: #5a6877; --line: #dce2e8;
  --grid: #e9edf1; --accent: #1f5fbf; --good: #1d7a4a; --bad: #b4332a; --warn: #9a6200; --wash: #eef3fb; }
@media (prefers-color-scheme: dark) { :root { --page: #12171d; --card: #1b222b; --ink: #e6ebf1; --soft: #9aa8b6;
  --line: #323d49; --grid: #29323c; --accent: #7fb0ff; --good: #5fcf95; --bad: #ff8b80; --warn: #f0b85a;
  --wash: #222d3b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 20px 16px 48px; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.15rem; margin: 0 0 4px; }
  h3 { font-size: 1rem; margin: 18px 0 4px; }
p { margin: 4px 0 10px; max-width: 75ch; } .soft, figcaption { color: var(--soft); } code { overflow-wrap: anywhere; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 16px 18px;
  margin: 14px 0; }
.badge { display: inline-block; border-radius: 99px; padding: 1px 12px; font-weight: 600; border: 1.5px solid; }
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); } .open { color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 10px; margin: 14px 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 10px 14px; }
.tile b { display: block; font-size: 1.45rem; line-height: 1.25; }
  .tile span { color: var(--soft); font-size: .85rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; min-width: 60%; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 10px; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { white-space: normal; vertical-align: bottom; font-weight: 600; color: var(--soft); font-size: .85rem; }
th:first-child, td:first-child { text-align: left; }
td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 9em; }
  tr:last-child td { border-bottom: 0; }
tr.subject td { font-weight: 600; background: var(--wash); }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); gap: 14px 16px;
  margin: 10px 0; }
figure { margin: 0; } figcaption { font-size: .85rem; line-height: 1.3; overflow-wrap: anywhere; }
figcaption b { color: var(--ink); }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(270px, 1fr)); gap: 16px 28px;
  align-items: center; }
.pair figure { max-width: 360px; }
.difference { max-width: 520px; }
svg.plot { width: 100%; height: auto; display: block; }
  svg.mini { width: 132px; height: 18px; vertical-align: middle; }
svg text { fill: var(--soft); font-size: 9.5px; } .frame { fill: none; stroke: var(--line); }
.grid { stroke: var(--grid); } .ideal { stroke: var(--soft); stroke-dasharray: 3 3; }
.curve { fill: none; stroke: var(--accent); stroke-width: 1.3; opacity: .6; }
.error { stroke: var(--accent); stroke-width: 1.5; } .dot { fill: var(--accent); stroke: var(--accent); }
.dot.none { fill: var(--card); stroke: var(--accent); stroke-width: 1.5; }
.bar { stroke: currentColor; stroke-width: 6; stroke-linecap: round; opacity: .45; } .mean { fill: currentColor; }
.track { fill: var(--grid); } .fill { fill: var(--accent); } .fill.warn { fill: var(--warn); }
  .fill.bad { fill: var(--bad); }
.mark { stroke: var(--ink); stroke-width: 1.5; } details { margin-top: 10px; }
  summary { cursor: pointer; color: var(--accent); }
ul { margin: 4px 0; padding-left: 20px; }
@media (max-width: 560px) { main { padding: 12px 8px 32px; } section { padding: 12px; }
  .charts { grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); } th, td { padding: 4px 6px; }
  td:first-child { min-width: 5em; } }
@media print { :root { --page: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #bbb; --grid: #e4e4e4;
  --accent: #1f5fbf; --good: #1d7a4a; --bad: #b4332a; --warn: #9a6200; --wash: #f2f2f2; color-scheme: light; }
  html { font-size: 11px; } body { font-size: 10px; } main { max-width: none; padding: 0; }
  section, .tile { border-color: #ccc; } .scroll { overflow: visible; } th, td { padding: 2px 4px; }
  td:first-child { min-width: 6em; } svg.mini { width: 84px; height: 12px; }
  .charts { grid-template-columns: repeat(4, 1fr); }
  .tiles { grid-template-columns: repeat(5, 1fr); } .pair { grid-template-columns: 1fr 1fr; }
  .pair figure { max-width: 230px; } figure, tr, .tile { break-inside: avoid; }
  h2, section > p { break-after: avoid; } @page { margin: 12mm; } }
"""
