//! What scenes found: figures, each with its limit where it has one, for people and for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::chart::{Figure, number};
use crate::machine::Machine;
use crate::report::Target;

/// A scene after it was played.
pub(crate) struct Scene {
    pub(crate) number: u8,
    pub(crate) title: &'static str,
    /// What happened in it, in words.
    pub(crate) setup: String,
    pub(crate) findings: Vec<Finding>,
    pub(crate) figure: Figure,
}

/// One figure of one subject.
pub(crate) struct Finding {
    /// What was measured: a policy, or a way of doing it.
    pub(crate) subject: String,
    pub(crate) what: String,
    pub(crate) value: f64,
    pub(crate) limit: Option<Target>,
}

// === impl Finding ===

impl Finding {
    /// Beside others, for comparison.
    pub(crate) fn beside(subject: &str, what: &str, value: f64) -> Self {
        Self { subject: subject.into(), what: what.into(), value, limit: None }
    }

    pub(crate) fn at_most(subject: &str, what: &str, value: f64, limit: f64) -> Self {
        Self::limited(subject, what, Target::at_most(format!("{subject}: {what}"), value, limit))
    }

    pub(crate) fn at_least(subject: &str, what: &str, value: f64, limit: f64) -> Self {
        Self::limited(subject, what, Target::at_least(format!("{subject}: {what}"), value, limit))
    }

    /// At most the limit if the subject is what has to hold it.
    pub(crate) fn most_if(held: bool, subject: &str, what: &str, value: f64, limit: f64) -> Self {
        if held { Self::at_most(subject, what, value, limit) } else { Self::beside(subject, what, value) }
    }

    /// At least the limit if the subject is what has to hold it.
    pub(crate) fn least_if(held: bool, subject: &str, what: &str, value: f64, limit: f64) -> Self {
        if held { Self::at_least(subject, what, value, limit) } else { Self::beside(subject, what, value) }
    }

    fn limited(subject: &str, what: &str, target: Target) -> Self {
        Self { subject: subject.into(), what: what.into(), value: target.value, limit: Some(target) }
    }

    /// The limit and whether it is met, for tables.
    pub(crate) fn verdict(&self) -> (String, String) {
        let Some(target) = &self.limit else { return (String::new(), String::new()) };
        let said = target.missed_by().map_or("met".into(), |by| format!("MISSED by {by}"));
        let sign = if target.bound().starts_with('≥') { '≥' } else { '≤' };
        (format!("{sign} {}", number(target.limit)), said)
    }
}

// === impl Scene ===

impl Scene {
    /// The name of its figure's file.
    pub(crate) fn file(&self) -> String {
        file(self.number)
    }
}

/// One table of all.
pub(crate) fn text(scenes: &[Scene]) -> String {
    let mut out = String::new();
    let mut line = |scene: &str, subject: &str, what: &str, value: &str, limit: &str, verdict: &str| {
        let row = format!("{scene:5} {subject:22} {what:58} {value:>8} {limit:>9}  {verdict}");
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{}", row.trim_end());
    };
    line("scene", "subject", "figure", "value", "limit", "");
    for scene in scenes {
        for finding in &scene.findings {
            let (limit, verdict) = finding.verdict();
            let (value, scene) = (number(finding.value), scene.number.to_string());
            line(&scene, &finding.subject, &finding.what, &value, &limit, &verdict);
        }
    }
    out
}

/// The findings for programs. What `before` says of scenes that were not played stays.
pub(crate) fn json(scenes: &[Scene], machine: &Machine, seconds: f64, before: Option<Value>) -> Value {
    let played = |entry: &Value| {
        let number = entry.get("scene").and_then(Value::as_u64);
        scenes.iter().any(|scene| Some(u64::from(scene.number)) == number)
    };
    let kept = |list: &str| {
        let entries = before.as_ref().and_then(|before| before.get(list)?.as_array());
        let entries = entries.into_iter().flatten();
        entries.filter(|entry| entry.get("scene").is_some() && !played(entry)).cloned().collect::<Vec<_>>()
    };
    let together = |list: &str, fresh: Vec<Value>| {
        let mut entries = kept(list);
        entries.extend(fresh);
        entries.sort_by_key(|entry| entry.get("scene").and_then(Value::as_u64));
        entries
    };
    let rows = scenes.iter().flat_map(|scene| {
        scene.findings.iter().map(|finding| {
            let limit = finding.limit.as_ref();
            json!({
                "scene": scene.number,
                "date": machine.date,
                "subject": finding.subject,
                "figure": finding.what,
                "value": finite(finding.value),
                "limit": limit.map(|target| target.limit),
                "bound": limit.map(Target::bound),
                "met": limit.map(|target| target.met),
            })
        })
    });
    let targets = scenes.iter().flat_map(|scene| {
        let limited = scene.findings.iter().filter_map(|finding| finding.limit.as_ref());
        limited.map(|target| {
            let name = format!("scene {}, {}", scene.number, target.name);
            json!({
                "scene": scene.number,
                "name": name,
                "value": finite(target.value),
                "limit": target.limit,
                "met": target.met,
            })
        })
    });
    let figures = scenes.iter().map(|scene| json!({ "scene": scene.number, "figure": scene.figure }));
    json!({
        "bench": "traffic",
        "machine": machine,
        "seconds": seconds,
        "rows": together("rows", rows.collect()),
        "targets": together("targets", targets.collect()),
        "figures": together("figures", figures.collect()),
    })
}

/// As text in which people find their way: everything on lines of its own, but each figure, of hundreds of points, on
/// one.
pub(crate) fn lines(mut found: Value) -> serde_json::Result<String> {
    let figures = found.as_object_mut().and_then(|found| found.remove("figures")).unwrap_or_default();
    let mut text = serde_json::to_string_pretty(&found)?;
    let entries = figures.as_array().into_iter().flatten().map(serde_json::to_string);
    let entries = entries.collect::<serde_json::Result<Vec<_>>>()?;
    text.truncate(text.trim_end_matches(['}', '\n']).len());
    let _ = write!(text, ",\n  \"figures\": [\n    {}\n  ]\n}}\n", entries.join(",\n    "));
    Ok(text)
}

/// The figures of scenes that were kept, each with its file.
pub(crate) fn figures(kept: &Value) -> serde_json::Result<Vec<(u8, String, Figure)>> {
    let entries = kept.get("figures").and_then(Value::as_array).into_iter().flatten();
    entries
        .map(|entry| {
            let number: u8 = serde_json::from_value(entry["scene"].clone())?;
            Ok((number, file(number), serde_json::from_value(entry["figure"].clone())?))
        })
        .collect()
}

fn file(number: u8) -> String {
    format!("traffic-{number}.svg")
}

/// JSON has no word for what never happened.
fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::traffic) fn scene() -> Scene {
        let findings = vec![
            Finding::at_most("p2c", "failed reads, %", 0.2, 0.1),
            Finding::beside("random", "failed reads, %", 3.0),
            Finding::at_least("p2c", "goodput ÷ capacity", 0.95, 0.9),
            Finding::at_most("p2c", "back after, s", f64::INFINITY, 10.0),
        ];
        let figure = Figure { title: String::new(), note: String::new(), panels: Vec::new() };
        Scene { number: 2, title: "one fails", setup: "Three.".into(), findings, figure }
    }

    #[test]
    fn a_limit_stands_beside_its_figure() {
        let text = text(&[scene()]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[1].contains("0.2") && lines[1].contains("≤ 0.1") && lines[1].contains("MISSED by 0.100")
        );
        assert!(lines[2].ends_with('3'), "{}", lines[2]);
        assert!(lines[3].contains("≥ 0.9") && lines[3].ends_with("met"), "{}", lines[3]);
        assert!(lines[4].contains("MISSED"), "what never happened is missed: {}", lines[4]);
    }

    #[test]
    fn programs_read_the_agreed_form() {
        let json = json(&[scene()], &crate::machine::facts(), 8.0, None);
        let expected = json!({
            "scene": 2, "name": "scene 2, p2c: failed reads, %", "value": 0.2, "limit": 0.1, "met": false,
        });
        assert_eq!(json["targets"][0], expected);
        assert_eq!(json["rows"].as_array().map(Vec::len), Some(4));
        assert_eq!(json["rows"][1]["met"], Value::Null);
        assert_eq!(json["targets"][2]["value"], Value::Null);
    }

    #[test]
    fn what_was_not_played_stays_as_it_was() {
        let machine = crate::machine::facts();
        let other = Scene { number: 1, ..scene() };
        let before = json(&[other, scene()], &machine, 8.0, None);
        let mut again = scene();
        again.findings.truncate(1);
        let json = json(&[again], &machine, 8.0, Some(before));
        let scenes = |list: &str| -> Vec<Option<u64>> {
            json[list].as_array().into_iter().flatten().map(|entry| entry["scene"].as_u64()).collect()
        };
        assert_eq!(scenes("rows"), [Some(1), Some(1), Some(1), Some(1), Some(2)]);
        assert_eq!(scenes("targets"), [Some(1), Some(1), Some(1), Some(2)]);
        let text = lines(json.clone()).expect("as text");
        assert_eq!(serde_json::from_str::<Value>(&text).expect("the same"), json);
        assert!(text.lines().filter(|line| line.contains("panels")).count() == 2);
        let figures = figures(&json).expect("as they were kept");
        let files: Vec<_> = figures.iter().map(|(number, file, _)| (*number, file.as_str())).collect();
        assert_eq!(files, [(1, "traffic-1.svg"), (2, "traffic-2.svg")]);
    }
}
