//! Curves as an SVG: panels side by side, each with its axes, lines and their names.
//!
//! Invariant: a text is escaped; a panel without points has axes alone.
//! Does not know: what the curves are of.

use std::fmt::Write as _;

/// A line of a panel.
#[derive(Debug, Clone)]
pub struct Curve {
    /// Its name.
    pub name: String,
    /// Where it goes, from left to right.
    pub points: Vec<(f64, f64)>,
}

/// A panel.
#[derive(Debug, Clone)]
pub struct Panel {
    /// What it shows.
    pub title: String,
    /// What goes to the right.
    pub across: String,
    /// What goes up.
    pub up: String,
    /// Places across that have a mark, and what stands there.
    pub marks: Vec<(f64, String)>,
    /// The curves.
    pub curves: Vec<Curve>,
}

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 330.0;
/// Left, right, top and bottom of the axes within a panel.
const FRAME: (f64, f64, f64, f64) = (70.0, 440.0, 40.0, 240.0);
/// Lines of names below the axes.
const NAME_LINE: f64 = 16.0;
/// Told apart by those who don't see all colours, too (Okabe and Ito).
const COLOURS: [&str; 6] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9",
];

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;");
    text.replace('<', "&lt;").replace('>', "&gt;")
}

/// A step of 1, 2 or 5 times a power of ten, of which about four reach `most`.
fn step(most: f64) -> f64 {
    let rough = (most / 4.0).max(f64::MIN_POSITIVE);
    let power = 10f64.powf(rough.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|times| times * power);
    steps
        .into_iter()
        .find(|step| *step >= rough)
        .unwrap_or(rough)
}

/// A number as short as it can be.
fn short(value: f64) -> String {
    if value >= 10_000.0 {
        return format!("{:.0}k", value / 1000.0);
    }
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, content: &str) {
    let content = escaped(content);
    let _ = writeln!(
        out,
        r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{content}</text>"#
    );
}

fn panel(out: &mut String, panel: &Panel) {
    let (left, right, top, bottom) = FRAME;
    let points = || panel.curves.iter().flat_map(|curve| curve.points.iter());
    let places = || {
        let marks = panel.marks.iter().map(|(at, _)| *at);
        marks.chain(points().map(|(x, _)| *x))
    };
    let least = places().fold(f64::INFINITY, f64::min);
    let most = places().fold(f64::NEG_INFINITY, f64::max);
    let highest = points().map(|(_, y)| *y).fold(0.0, f64::max);
    let step = step(highest);
    let ceiling = (highest / step).ceil().max(1.0) * step;
    let x_of = |x: f64| left + (x - least) / (most - least).max(f64::MIN_POSITIVE) * (right - left);
    let y_of = |y: f64| bottom - y / ceiling * (bottom - top);
    text(
        out,
        (f64::midpoint(left, right), 18.0),
        "middle",
        &panel.title,
    );
    text(out, (left, top - 8.0), "end", &panel.up);
    let mut level = 0.0;
    while level <= ceiling + step / 2.0 {
        let y = y_of(level);
        let _ = writeln!(
            out,
            r##"<path d="M{left} {y:.1}H{right}" stroke="#ddd" fill="none"/>"##
        );
        text(out, (left - 6.0, y + 4.0), "end", &short(level));
        level += step;
    }
    for (at, name) in &panel.marks {
        let x = x_of(*at);
        let _ = writeln!(
            out,
            r##"<path d="M{x:.1} {bottom}v5" stroke="#333" fill="none"/>"##
        );
        text(out, (x, bottom + 18.0), "middle", name);
    }
    text(
        out,
        (f64::midpoint(left, right), bottom + 34.0),
        "middle",
        &panel.across,
    );
    let _ = writeln!(
        out,
        r##"<path d="M{left} {top}V{bottom}H{right}" stroke="#333" fill="none"/>"##
    );
    let mut below = bottom + 34.0;
    for (number, (curve, colour)) in panel.curves.iter().zip(COLOURS.iter().cycle()).enumerate() {
        let places = curve.points.iter().map(|(x, y)| (x_of(*x), y_of(*y)));
        let path: Vec<String> = places
            .clone()
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let path = path.join(" ");
        let _ = writeln!(
            out,
            r#"<polyline points="{path}" stroke="{colour}" stroke-width="2" fill="none"/>"#
        );
        for (x, y) in places {
            let _ = writeln!(
                out,
                r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" fill="{colour}"/>"#
            );
        }
        // Two names to a line.
        let is_left = number % 2 == 0;
        if is_left {
            below += NAME_LINE;
        }
        let x = if is_left { 30.0 } else { WIDTH / 2.0 + 10.0 };
        let _ = writeln!(
            out,
            r#"<rect x="{x}" y="{:.1}" width="10" height="10" fill="{colour}"/>"#,
            below - 9.0
        );
        text(out, (x + 15.0, below), "start", &curve.name);
    }
}

/// All panels.
pub fn draw(panels: &[Panel]) -> String {
    let width = panels.iter().fold(0.0, |width, _| width + WIDTH);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {HEIGHT}\" \
         width=\"{width}\" height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    let mut left = 0.0;
    for one in panels {
        let _ = writeln!(out, "<g transform=\"translate({left} 0)\">");
        panel(&mut out, one);
        out.push_str("</g>\n");
        left += WIDTH;
    }
    out.push_str("</svg>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(points: Vec<(f64, f64)>) -> Panel {
        Panel {
            title: "a < b & c".into(),
            across: "disks".into(),
            up: "MiB/s".into(),
            marks: vec![(8.0, "8".into()), (24.0, "24".into())],
            curves: vec![Curve {
                name: "reads".into(),
                points,
            }],
        }
    }

    #[test]
    fn points_lie_within_the_axes_and_texts_are_escaped() {
        let drawn = draw(&[one(vec![(8.0, 0.0), (16.0, 900.0), (24.0, 1000.0)])]);
        assert!(drawn.contains("a &lt; b &amp; c"));
        assert!(
            drawn.contains(r#"points="70.0,240.0 255.0,60.0 440.0,40.0""#),
            "{drawn}"
        );
        assert!(drawn.starts_with("<svg ") && drawn.ends_with("</svg>\n"));
        assert_eq!(drawn.matches("<g ").count(), drawn.matches("</g>").count());
    }

    #[test]
    fn nothing_is_drawn_of_nothing_and_nothing_divides_by_it() {
        let drawn = draw(&[one(Vec::new()), one(vec![(8.0, 0.0)])]);
        assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
    }

    #[test]
    fn levels_are_round() {
        let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(
            close(step(1000.0), 500.0) && close(step(1.1), 0.5) && close(step(190_000.0), 50_000.0)
        );
        assert_eq!(
            [short(150_000.0), short(0.5), short(40.0)],
            ["150k", "0.5", "40"]
        );
    }
}
