//! Figures as SVG: panels one above the other, of lines over time or of bars beside a limit.
//!
//! By hand, because a page that says five numbers needs no drawing library: text of a fixed size, colours that
//! people who see red and green alike can tell apart, and the same scale wherever panels share an axis.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

mod kept;

const WIDTH: f64 = 900.0;
const LEFT: f64 = 74.0;
const RIGHT: f64 = 190.0;
const HEAD: f64 = 58.0;
const PANEL: f64 = 250.0;
/// Below each panel: ticks and the name of its axis.
const FOOT: f64 = 52.0;

/// After Okabe and Ito; the first is for what is under test.
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#666666"];

/// A drawing.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) title: String,
    pub(crate) note: String,
    pub(crate) panels: Vec<Panel>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Panel {
    Lines(Lines),
    Bars(Bars),
}

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Lines {
    pub(crate) x: String,
    pub(crate) y: String,
    /// The scale of y is by powers of ten.
    pub(crate) log: bool,
    pub(crate) series: Vec<Series>,
    /// Moments, each with a word.
    pub(crate) marks: Vec<(f64, String)>,
    /// Limits, each with a word.
    pub(crate) limits: Vec<(f64, String)>,
}

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Series {
    pub(crate) name: String,
    #[serde(with = "kept::points")]
    pub(crate) points: Vec<(f64, f64)>,
}

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Bars {
    pub(crate) y: String,
    pub(crate) log: bool,
    /// What each colour stands for.
    pub(crate) series: Vec<String>,
    /// A group of bars each: its name, and a value for each series.
    #[serde(with = "kept::groups")]
    pub(crate) groups: Vec<(String, Vec<f64>)>,
    pub(crate) limits: Vec<(f64, String)>,
}

/// How limits are drawn.
const LIMIT: &str = "stroke=\"#b00020\" stroke-dasharray=\"6 4\"";

/// So many letters have room beside a panel.
const NAME: usize = 23;

/// Letters that stay legible over lines and bars.
const OVER: &str = "stroke=\"#ffffff\" stroke-width=\"3\" paint-order=\"stroke\"";

/// From values to places.
struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    log: bool,
}

// === impl Figure ===

impl Figure {
    pub(crate) fn svg(&self) -> String {
        let height = HEAD + self.panels.len() as f64 * (PANEL + FOOT) + 6.0;
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
             height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
        );
        text(&mut out, LEFT, 24.0, "start", "font-size=\"16\" font-weight=\"bold\"", &self.title);
        text(&mut out, LEFT, 43.0, "start", "fill=\"#555555\"", &self.note);
        for (index, panel) in self.panels.iter().enumerate() {
            let top = HEAD + 10.0 + index as f64 * (PANEL + FOOT);
            match panel {
                Panel::Lines(lines) => lines.draw(&mut out, top),
                Panel::Bars(bars) => bars.draw(&mut out, top),
            }
        }
        out.push_str("</svg>\n");
        out
    }
}

// === impl Lines ===

impl Lines {
    fn draw(&self, out: &mut String, top: f64) {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let moments = points().map(|point| point.0).chain(self.marks.iter().map(|mark| mark.0));
        let (first, last) = range(moments);
        let x = Scale { low: first.min(0.0), high: last, from: LEFT, to: WIDTH - RIGHT, log: false };
        let y = vertical(points().map(|point| point.1), &self.limits, self.log, top);
        frame(out, &y, &self.y, top);
        for tick in ticks(x.low, x.high) {
            let at = x.place(tick);
            rule(out, (at, top + PANEL - 30.0), (at, top + PANEL - 26.0), "stroke=\"#333333\"");
            text(out, at, top + PANEL - 12.0, "middle", "", &number(tick));
        }
        text(out, f64::midpoint(x.from, x.to), top + PANEL + 6.0, "middle", "fill=\"#333333\"", &self.x);
        for (index, (at, word)) in self.marks.iter().enumerate() {
            let place = x.place(*at);
            rule(
                out,
                (place, top),
                (place, top + PANEL - 30.0),
                "stroke=\"#999999\" stroke-dasharray=\"2 3\"",
            );
            // One below the other, so that those that are near stay legible.
            let height = top + 12.0 + 13.0 * (index % 3) as f64;
            text(out, place + 4.0, height, "start", "fill=\"#555555\" font-size=\"11\"", word);
        }
        // The first is drawn last, over the others.
        for (index, series) in self.series.iter().enumerate().rev() {
            let mut path = String::new();
            for (index, (when, value)) in series.points.iter().enumerate() {
                let letter = if index == 0 { 'M' } else { 'L' };
                let _ = write!(path, "{letter}{:.1} {:.1}", x.place(*when), y.place(drawn(*value)));
            }
            let width = if index == 0 { 2.4 } else { 1.3 };
            let _ = writeln!(
                out,
                "<path d=\"{path}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{width}\" stroke-linejoin=\"round\"/>",
                colour(index)
            );
        }
        let below = legend(out, self.series.iter().map(|series| series.name.as_str()), top);
        limits(out, &self.limits, &y, below);
    }
}

// === impl Bars ===

impl Bars {
    fn draw(&self, out: &mut String, top: f64) {
        let values = self.groups.iter().flat_map(|(_, values)| values.iter().copied());
        let y = vertical(values, &self.limits, self.log, top);
        frame(out, &y, &self.y, top);
        let room = (WIDTH - RIGHT - LEFT) / self.groups.len().max(1) as f64;
        let width = (room * 0.8 / self.series.len().max(1) as f64).min(60.0);
        let mut numbers = String::new();
        for (group, (name, values)) in self.groups.iter().enumerate() {
            let middle = LEFT + room * (group as f64 + 0.5);
            let left = middle - width * values.len() as f64 / 2.0;
            for (index, value) in values.iter().copied().map(drawn).enumerate() {
                let (at, place) = (left + width * index as f64, y.place(value));
                let _ = writeln!(
                    out,
                    "<rect x=\"{at:.1}\" y=\"{place:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\"/>",
                    width - 2.0,
                    (y.from - place).max(0.5),
                    colour(index)
                );
                let over = at + width / 2.0 - 1.0;
                let style = format!("font-size=\"10\" {OVER}");
                text(&mut numbers, over, place - 4.0, "middle", &style, &number(value));
            }
            text(out, middle, top + PANEL - 12.0, "middle", "font-size=\"10\"", name);
        }
        let below = legend(out, self.series.iter().map(String::as_str), top);
        limits(out, &self.limits, &y, below);
        out.push_str(&numbers);
    }
}

// === impl Scale ===

impl Scale {
    fn place(&self, value: f64) -> f64 {
        let at = |value: f64| if self.log { value.max(self.low).log10() } else { value };
        let share = (at(value) - at(self.low)) / (at(self.high) - at(self.low)).max(1e-12);
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    fn ticks(&self) -> Vec<f64> {
        if !self.log {
            return ticks(self.low, self.high);
        }
        let (low, high) = (self.low.log10().round() as i32, self.high.log10().round() as i32);
        (low..=high).map(|power| 10f64.powi(power)).collect()
    }
}

/// The scale of values: from zero, or between powers of ten.
fn vertical(values: impl Iterator<Item = f64>, limits: &[(f64, String)], log: bool, top: f64) -> Scale {
    let all: Vec<f64> =
        values.chain(limits.iter().map(|limit| limit.0)).filter(|value| value.is_finite()).collect();
    let (low, high) = if log {
        let (low, high) = range(all.into_iter().filter(|&value| value > 0.0));
        let low = 10f64.powf(low.log10().floor());
        (low, 10f64.powf(high.log10().ceil()).max(low * 10.0))
    } else {
        (0.0, range(all.into_iter()).1.max(1e-9) * 1.12)
    };
    Scale { low, high, from: top + PANEL - 30.0, to: top, log }
}

/// What is no number is drawn as what has no end, for where figures are kept the two are one.
fn drawn(value: f64) -> f64 {
    if value.is_nan() { f64::INFINITY } else { value }
}

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low <= high { (low, high) } else { (0.0, 1.0) }
}

/// Round numbers, about six of them.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low).max(1e-9) / 6.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|part| part * power).find(|&step| step >= rough);
    let step = step.unwrap_or(power * 10.0);
    let first = (low / step).ceil() as i64;
    (first..).map(|count| count as f64 * step).take_while(|&tick| tick <= high + step * 1e-6).collect()
}

fn frame(out: &mut String, y: &Scale, name: &str, top: f64) {
    for tick in y.ticks() {
        let at = y.place(tick);
        rule(out, (LEFT, at), (WIDTH - RIGHT, at), "stroke=\"#e4e4e4\"");
        text(out, LEFT - 6.0, at + 4.0, "end", "", &number(tick));
    }
    rule(out, (LEFT, top), (LEFT, y.from), "stroke=\"#333333\"");
    rule(out, (LEFT, y.from), (WIDTH - RIGHT, y.from), "stroke=\"#333333\"");
    let (across, down) = (18.0, f64::midpoint(y.from, y.to));
    let turn = format!("transform=\"rotate(-90 {across} {down:.1})\" fill=\"#333333\"");
    text(out, across, down, "middle", &turn, name);
}

/// Last of all, over series and bars, for these are mostly where the limit is; its words beside the panel, where they
/// hide nothing, at its height or below what is there already.
fn limits(out: &mut String, limits: &[(f64, String)], y: &Scale, legend: f64) {
    let mut limits: Vec<_> = limits.iter().map(|(value, word)| (y.place(*value), word)).collect();
    limits.sort_by(|one, other| one.0.total_cmp(&other.0));
    let mut free = legend;
    for (at, word) in limits {
        rule(out, (LEFT, at), (WIDTH - RIGHT, at), LIMIT);
        let mut below = free.max(at + 4.0);
        let left = WIDTH - RIGHT + 8.0;
        rule(out, (left, below - 4.0), (left + 16.0, below - 4.0), LIMIT);
        for line in wrapped(word, NAME + 2) {
            text(out, left + 20.0, below, "start", "fill=\"#b00020\" font-size=\"11\"", &line);
            below += 13.0;
        }
        free = below;
    }
}

/// Gives back where there is room below it.
fn legend<'a>(out: &mut String, names: impl Iterator<Item = &'a str>, top: f64) -> f64 {
    let mut at = top + 14.0;
    for (index, name) in names.enumerate() {
        let left = WIDTH - RIGHT + 8.0;
        let _ = writeln!(
            out,
            "<rect x=\"{left}\" y=\"{:.1}\" width=\"14\" height=\"4\" fill=\"{}\"/>",
            at - 6.0,
            colour(index)
        );
        for (number, line) in wrapped(name, NAME).into_iter().enumerate() {
            at += if number == 0 { 0.0 } else { 13.0 };
            text(out, left + 20.0, at, "start", "", &line);
        }
        at += 17.0;
    }
    at
}

/// In lines of so many letters, where a word is no longer than that.
fn wrapped(words: &str, most: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in words.split(' ') {
        let line = lines.last().map_or(0, |line| line.chars().count());
        match lines.last_mut() {
            Some(last) if line == 0 => last.push_str(word),
            Some(last) if line + 1 + word.chars().count() <= most => {
                last.push(' ');
                last.push_str(word);
            }
            _ => lines.push(word.into()),
        }
    }
    lines
}

fn colour(index: usize) -> &'static str {
    COLOURS[index % COLOURS.len()]
}

fn rule(out: &mut String, from: (f64, f64), to: (f64, f64), style: &str) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _ = writeln!(out, "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" {style}/>");
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, style: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {style}>{words}</text>");
}

/// As many digits as people read.
pub(crate) fn number(value: f64) -> String {
    let text = match value.abs() {
        size if size == 0.0 || size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        size if size >= 0.001 => format!("{value:.3}"),
        _ => format!("{value:.1e}"),
    };
    match text.contains('.') && !text.contains('e') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_ticks_are_round() {
        let said: Vec<String> = [0.0, 1234.5, 12.34, 2.5, 0.25, 0.00001].into_iter().map(number).collect();
        assert_eq!(said, ["0", "1234", "12.3", "2.5", "0.25", "1.0e-5"]);
        assert_eq!(ticks(0.0, 12.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0]);
        assert_eq!(ticks(3.0, 3.0).len(), 1);
    }

    #[test]
    fn long_names_are_wrapped_at_words() {
        let name = "while all five are replaced, twenty times";
        assert_eq!(wrapped(name, NAME), ["while all five are", "replaced, twenty times"]);
        assert_eq!(wrapped("weighted_round_robin_of_all", NAME), ["weighted_round_robin_of_all"]);
    }

    #[test]
    fn a_figure_holds_what_it_was_given_and_stays_within_its_frame() {
        let series =
            |name: &str, points: &[(f64, f64)]| Series { name: name.into(), points: points.to_vec() };
        let lines = Lines {
            x: "seconds".into(),
            y: "p99, ms".into(),
            log: true,
            series: vec![
                series("p2c", &[(0.0, 1.0), (0.5, f64::INFINITY), (1.0, 900.0)]),
                series("a < b & c", &[]),
            ],
            marks: vec![(0.5, "killed".into())],
            limits: vec![(40.0, "limit 40".into())],
        };
        let bars = Bars {
            y: "ns".into(),
            log: false,
            series: vec!["3".into(), "10,000".into()],
            groups: vec![("p2c".into(), vec![10.0, f64::NAN])],
            limits: vec![(100.0, "100 ns".into())],
        };
        let figure = Figure {
            title: "Scene".into(),
            note: String::new(),
            panels: vec![Panel::Lines(lines), Panel::Bars(bars)],
        };
        let svg = figure.svg();
        for part in ["Scene", "p99, ms", "limit 40", "100 ns", "killed", "a &lt; b &amp; c", ">10<"] {
            assert!(svg.contains(part), "{part}");
        }
        assert!(svg.ends_with("</svg>\n"));
        // Whatever is where the limit is, is below it.
        let at = |part: &str| svg.find(part).unwrap_or_else(|| panic!("{part}"));
        assert!(at("limit 40") > at("<path") && at("100 ns") > at("fill=\"#0072b2\""));
        assert!(!svg.contains("NaN"), "{svg}");
        // It is drawn the same after it was kept.
        let kept = serde_json::to_string(&figure).expect("a figure as JSON");
        assert_eq!(serde_json::from_str::<Figure>(&kept).expect("the same").svg(), svg);
        let scale = Scale { low: 1.0, high: 1000.0, from: 200.0, to: 0.0, log: true };
        assert_eq!([0.1, 1.0, 1000.0, 1e9].map(|value| scale.place(value)), [200.0, 200.0, 0.0, 0.0]);
    }
}
