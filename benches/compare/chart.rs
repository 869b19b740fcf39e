//! Bar charts as plain SVG: panels in two columns, a panel a metric, a bar a subject.

use std::fmt::Write;

use crate::sample::Spread;

/// One metric.
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) unit: &'static str,
    pub(crate) higher_is_better: bool,
    pub(crate) bars: Vec<Bar>,
}

/// One subject.
pub(crate) struct Bar {
    pub(crate) label: String,
    /// The median, as it is written beside the bar.
    pub(crate) value: String,
    pub(crate) spread: Spread,
    /// Drawn in the stronger colour.
    pub(crate) ours: bool,
}

// All in pixels.
const WIDTH: usize = 960;
const MARGIN: usize = 24;
const COLUMN: usize = (WIDTH - 3 * MARGIN) / 2;
const HEADER: usize = 70;
const PANEL_HEAD: usize = 30;
const BAR: usize = 22;
const PANEL_FOOT: usize = 22;
/// For the subjects' names, left of the bars.
const LABELS: usize = 140;
/// For the values, right of the bars.
const VALUES: usize = 58;

impl Panel {
    fn height(&self) -> usize {
        PANEL_HEAD + BAR * self.bars.len() + PANEL_FOOT
    }

    fn draw(&self, svg: &mut String, left: usize, top: usize) {
        let better = if self.higher_is_better {
            "more is better"
        } else {
            "less is better"
        };
        let (right, baseline) = (left + COLUMN, top + 16);
        let title = escape(&self.title);
        let _ = writeln!(
            svg,
            r#"<text class="title" x="{left}" y="{baseline}">{title}</text>"#
        );
        let unit = escape(self.unit);
        let _ = writeln!(
            svg,
            r#"<text class="unit" x="{right}" y="{baseline}" text-anchor="end">{unit}, {better}</text>"#
        );
        let highest = self
            .bars
            .iter()
            .map(|bar| bar.spread.high)
            .fold(0.0, f64::max);
        let scale = if highest > 0.0 {
            (COLUMN - LABELS - VALUES) as f64 / highest
        } else {
            0.0
        };
        let zero = left + LABELS;
        for (index, bar) in self.bars.iter().enumerate() {
            bar.draw(svg, zero, top + PANEL_HEAD + BAR * index, scale);
        }
        let (from, to) = (
            top + PANEL_HEAD - 3,
            top + PANEL_HEAD + BAR * self.bars.len(),
        );
        let _ = writeln!(svg, r#"<path class="axis" d="M{zero} {from}V{to}"/>"#);
    }
}

impl Bar {
    fn draw(&self, svg: &mut String, zero: usize, top: usize, scale: f64) {
        let class = if self.ours { "ours" } else { "other" };
        let (label, label_end, baseline) = (escape(&self.label), zero - 8, top + 13);
        let _ = writeln!(
            svg,
            r#"<text class="{class}-name" x="{label_end}" y="{baseline}" text-anchor="end">{label}</text>"#
        );
        let length = self.spread.median * scale;
        let _ = writeln!(
            svg,
            r#"<rect class="{class}" x="{zero}" y="{top}" width="{length:.1}" height="16" rx="2"/>"#
        );
        let start = zero as f64;
        let (low, high) = (
            start + self.spread.low * scale,
            start + self.spread.high * scale,
        );
        let (middle, up, down) = (top + 8, top + 4, top + 12);
        // A single round has no spread.
        if self.spread.low < self.spread.high {
            let _ = writeln!(
                svg,
                r#"<path class="spread" d="M{low:.1} {middle}H{high:.1}M{low:.1} {up}V{down}M{high:.1} {up}V{down}"/>"#
            );
        }
        let (x, value) = (high + 6.0, escape(&self.value));
        let _ = writeln!(
            svg,
            r#"<text class="value" x="{x:.1}" y="{baseline}">{value}</text>"#
        );
    }
}

/// Draws panels under a title and a line of small print.
pub(crate) fn chart(title: &str, small_print: &str, panels: &[Panel]) -> String {
    // A row is as high as the higher of its two panels.
    let rows: Vec<&[Panel]> = panels.chunks(2).collect();
    let height_of = |row: &[Panel]| row.iter().map(Panel::height).max().unwrap_or_default();
    let height = HEADER + rows.iter().map(|row| height_of(row)).sum::<usize>();
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" font-family="Helvetica, Arial, sans-serif" font-size="12">
<style>
.paper {{ fill: #ffffff }}
.head {{ font-size: 17px; font-weight: bold; fill: #1b2733 }}
.print, .unit {{ font-size: 11px; fill: #66727e }}
.title {{ font-size: 13px; font-weight: bold; fill: #1b2733 }}
.other {{ fill: #b4bfca }}
.ours {{ fill: #1f78b4 }}
.other-name, .value {{ fill: #3c4853 }}
.ours-name {{ fill: #1f78b4; font-weight: bold }}
.axis {{ stroke: #66727e; fill: none }}
.spread {{ stroke: #1b2733; fill: none }}
</style>
<rect class="paper" width="{WIDTH}" height="{height}"/>
"##
    );
    let (title, small_print) = (escape(title), escape(small_print));
    let _ = writeln!(
        svg,
        r#"<text class="head" x="{MARGIN}" y="30">{title}</text>"#
    );
    let _ = writeln!(
        svg,
        r#"<text class="print" x="{MARGIN}" y="48">{small_print}</text>"#
    );
    let mut top = HEADER;
    for row in rows {
        for (column, panel) in row.iter().enumerate() {
            panel.draw(&mut svg, MARGIN + column * (COLUMN + MARGIN), top);
        }
        top += height_of(row);
    }
    svg.push_str("</svg>\n");
    svg
}

/// Text as XML takes it.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_is_closed_and_escaped() {
        let spread = Spread {
            median: 2.0,
            low: 1.0,
            high: 3.0,
        };
        let bar = Bar {
            label: "a<b".to_owned(),
            value: "2".to_owned(),
            spread,
            ours: true,
        };
        let panel = Panel {
            title: "t".to_owned(),
            unit: "u",
            higher_is_better: true,
            bars: vec![bar],
        };
        let svg = chart("x & y", "", &[panel]);
        assert!(svg.contains("x &amp; y") && svg.contains("a&lt;b"));
        assert!(svg.ends_with("</svg>\n"));
    }

    #[test]
    fn nothing_is_drawn_beyond_the_right_edge() {
        // The longest bar ends where the values' column begins.
        assert_eq!(MARGIN + 2 * COLUMN + 2 * MARGIN, WIDTH);
        const { assert!(LABELS + VALUES < COLUMN) };
    }
}
