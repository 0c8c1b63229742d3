"""svg.py: a small line chart as a self-contained SVG: axes, round ticks, one line a series, a legend. No dependencies."""
import math
from xml.sax.saxutils import escape

COLOURS = ["#1b6ca8", "#d1495b", "#2e933c", "#e08e0b", "#7b4fa3", "#4a4a4a", "#00a6a6", "#a0522d"]
W, H, LEFT, RIGHT, TOP, BOTTOM = 760, 440, 70, 190, 40, 56


def ticks(lo, hi, n=6):
    step = 10 ** math.floor(math.log10((hi - lo) / n))
    for k in (1, 2, 5, 10):
        if (hi - lo) / (step * k) <= n:
            step *= k
            break
    first = math.ceil(lo / step - 1e-9) * step
    out = []
    while first <= hi + 1e-9 * step:
        out.append(round(first, 10))
        first += step
    return out


def chart(title, xlabel, ylabel, series, ylines=(), ymax=None, front=()):
    """series: [(label, [(x, y), ...])]; ylines: [(label, y)] dashed; front: points to ring (the Pareto front)."""
    xs = [x for _, pts in series for x, _ in pts]
    ys = [y for _, pts in series for _, y in pts] + [y for _, y in ylines]
    if not xs:
        raise ValueError("nothing to draw")
    x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)
    if ymax is not None:
        y1 = min(y1, ymax)
    if x1 == x0:
        x1 = x0 + 1
    pad = 0.06 * ((y1 - y0) or 1)
    y0, y1 = y0 - pad, y1 + pad
    xpad = 0.03 * (x1 - x0)
    x0, x1 = x0 - xpad, x1 + xpad

    def px(x):
        return LEFT + (x - x0) / (x1 - x0) * (W - LEFT - RIGHT)

    def py(y):
        return TOP + (y1 - y) / (y1 - y0) * (H - TOP - BOTTOM)

    o = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {W} {H}" width="{W}" height="{H}" '
         'font-family="sans-serif" font-size="12">', f'<rect width="{W}" height="{H}" fill="white"/>',
         f'<clipPath id="c"><rect x="{LEFT}" y="{TOP - 4}" width="{W - LEFT - RIGHT}" height="{H - TOP - BOTTOM + 4}"/></clipPath>',
         f'<text x="{LEFT}" y="22" font-size="15">{escape(title)}</text>']
    for v in ticks(y0, y1):
        o.append(f'<path d="M{LEFT} {py(v):.1f}H{W - RIGHT}" stroke="#ddd"/>'
                 f'<text x="{LEFT - 8}" y="{py(v) + 4:.1f}" text-anchor="end">{v:g}</text>')
    for v in ticks(x0, x1):
        o.append(f'<path d="M{px(v):.1f} {H - BOTTOM}v5" stroke="#333"/>'
                 f'<text x="{px(v):.1f}" y="{H - BOTTOM + 20}" text-anchor="middle">{v:g}</text>')
    o.append(f'<path d="M{LEFT} {TOP}V{H - BOTTOM}H{W - RIGHT}" fill="none" stroke="#333"/>')
    o.append(f'<text x="{(LEFT + W - RIGHT) / 2}" y="{H - 14}" text-anchor="middle">{escape(xlabel)}</text>')
    o.append(f'<text x="16" y="{(TOP + H - BOTTOM) / 2}" transform="rotate(-90 16 {(TOP + H - BOTTOM) / 2})" '
             f'text-anchor="middle">{escape(ylabel)}</text>')
    for label, y in ylines:
        o.append(f'<path d="M{LEFT} {py(y):.1f}H{W - RIGHT}" stroke="#888" stroke-dasharray="5 4"/>'
                 f'<text x="{W - RIGHT - 4}" y="{py(y) + 14:.1f}" text-anchor="end" fill="#666">{escape(label)}</text>')
    o.append('<g clip-path="url(#c)">')
    for x, y in front:
        o.append(f'<circle cx="{px(x):.1f}" cy="{py(y):.1f}" r="8" fill="none" stroke="#999"/>')
    for i, (label, pts) in enumerate(series):
        colour, pts = COLOURS[i % len(COLOURS)], sorted(pts)
        path = "L".join(f"{px(x):.1f} {py(y):.1f}" for x, y in pts)
        o.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        o += [f'<circle cx="{px(x):.1f}" cy="{py(y):.1f}" r="3.5" fill="{colour}"><title>{escape(label)}: {x:g}, {y:.4f}'
              "</title></circle>" for x, y in pts]
    o.append("</g>")
    for i, (label, _) in enumerate(series):
        y = TOP + 8 + 20 * i
        o.append(f'<path d="M{W - RIGHT + 14} {y}h22" stroke="{COLOURS[i % len(COLOURS)]}" stroke-width="3"/>'
                 f'<text x="{W - RIGHT + 42}" y="{y + 4}">{escape(label)}</text>')
    o.append("</svg>\n")
    return "\n".join(o)
