"""What a run shows to people: the table on the terminal and report.html, made from the files of the run directory alone.

Text of models and data is escaped wherever it stands; the page holds no script and opens from disk. Not covered: pictures.
"""
import html
import json

from files import read_json, read_jsonl, write_text

SOURCES = {"self": "own response", "paraphrase": "paraphrase", "gold": "gold"}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; margin: .5rem 0; } th, td { text-align: left; padding: .2rem .9rem .2rem 0; border-bottom: 1px solid #ddd; }
.figures td { white-space: nowrap; } .scroll { overflow-x: auto; }
.bar { display: flex; height: 1.4rem; max-width: 40rem; margin: .2rem 0 .8rem; }
.self { background: #0072b2; } .paraphrase { background: #b35900; } .gold { background: #555; }
article { border-left: 4px solid #ccc; padding: .1rem 0 .1rem 1rem; margin: 1rem 0; } pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .2rem 0 .8rem; font: 14px/1.45 ui-monospace, monospace; }
small { color: #555; } .key { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 0; }
"""


def percent(score):
    return f"{100 * score['score']:.1f} % [{100 * score['low']:.1f}, {100 * score['high']:.1f}]"


def table(scores, counts):
    """Header and rows of cells: model, one column a score, targets by source."""
    tasks = list(dict.fromkeys(task for row in scores.values() for task in row))
    header = ["model", *(f"{t}, n = {max(row[t]['n'] for row in scores.values() if t in row)}" for t in tasks), *SOURCES.values()]
    return [header] + [[name, *(percent(row[t]) if t in row else "–" for t in tasks),
                        *(str(counts[name][s]) if name in counts else "–" for s in SOURCES)] for name, row in scores.items()]


def text(scores, counts):
    """The table for a terminal."""
    rows = table(scores, counts)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows) + "\n(score in % with its 95 % Wilson interval)"


def mix(counts):
    """A bar of the target's sources over its key."""
    total = sum(counts.values()) or 1
    bar = "".join(f'<span class="{s}" style="width:{100 * n / total:.2f}%"></span>' for s, n in counts.items())
    key = " &nbsp; ".join(f'<span class="key {s}"></span>{SOURCES[s]} {n} ({100 * n / total:.0f} %)' for s, n in counts.items())
    return f'{key}<div class="bar">{bar}</div>'


def measures(out):
    """Rows (measure, value) over the paraphrases that the judge accepted."""
    kept = [p["substance"] for _, row in read_jsonl(out / "candidates.jsonl") if (p := row.get("paraphrase")) and p["correct"]]
    if not kept:
        return []
    mean = {key: sum(s[key] for s in kept) / len(kept) for key in ("length", "numbers", "copy")}
    return [("judged right", str(len(kept))), ("words, as a multiple of gold's", f"{mean['length']:.2f}"),
            ("share of gold's numbers kept", f"{mean['numbers']:.2f}"), ("verbatim copies of gold", f"{100 * mean['copy']:.0f} %")]


def html_table(rows, header=True):
    """A table; one with a header holds figures, whose cells do not wrap."""
    cells = [[html.escape(c) for c in row] for row in rows]
    head = "<tr>" + "".join(f"<th>{c}</th>" for c in cells[0]) + "</tr>" if header else ""
    body = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in cells[header:])
    return f'<div class="scroll"><table class="{"figures" if header else ""}">{head}{body}</table></div>'


def examples(out, method):
    """Three rows a source: what was asked, what is learnt, and what else there was."""
    candidates = {row["id"]: row for _, row in read_jsonl(out / "candidates.jsonl")}
    shown, parts = dict.fromkeys(SOURCES, 0), []
    for _, target in read_jsonl(out / method / "targets.jsonl"):
        if shown[target["source"]] == 3:
            continue
        shown[target["source"]] += 1
        row = candidates[target["id"]]
        blocks = [("prompt", "", row["prompt"])]
        for kind, label in SOURCES.items():
            c = {"text": row["gold"]} if kind == "gold" else row.get(kind)
            if c:
                notes = [c.get("reason", ""), f"log p {v:.1f}" if (v := row.get(f"{kind}_logprob", c.get("logprob"))) is not None else "",
                         "the target" if kind == target["source"] else ""]
                blocks.append((label, " · ".join(n for n in notes if n), c["text"]))
        parts.append((target["source"], f"<article><h3>{html.escape(str(target['id']))}: {SOURCES[target['source']]}</h3>" + "".join(
            f"<b>{name}</b> <small>{html.escape(note)}</small><pre>{html.escape(text)}</pre>" for name, note, text in blocks) + "</article>"))
    return "".join(part for source in SOURCES for s, part in parts if s == source)


def write(out, scores, counts):
    """Write `out`/report.html."""
    config = read_json(out / "config.json")
    parts = ["<h1>S3FT run</h1>", html_table(table(scores, counts)), "<small>scores in % with 95 % Wilson intervals; targets by source</small>"]
    if counts:
        parts.append("<h2>Where the targets come from</h2>" + "".join(f"<div><b>{html.escape(m)}</b> &nbsp; {mix(c)}</div>" for m, c in counts.items()))
        if rows := measures(out):
            parts.append("<h2>Paraphrases</h2>" + html_table(rows, header=False))
        method = "s3ft" if "s3ft" in counts else list(counts)[-1]
        parts.append(f"<h2>Examples of {html.escape(method)}</h2>" + examples(out, method))
    parts.append("<h2>Settings</h2>" + html_table([(k, v if isinstance(v, str) else json.dumps(v)) for k, v in config.items()], header=False))
    write_text(out / "report.html", '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
               f"<title>S3FT run</title><style>{STYLE}</style><body>{''.join(parts)}</body></html>\n")
