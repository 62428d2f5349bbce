//! The policy as text, and its faults.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

fn faults(text: &str) -> Vec<String> {
    toml::from_str::<Traffic>(text).unwrap().validate().iter().map(ToString::to_string).collect()
}

#[test]
fn an_empty_policy_is_the_default_and_has_no_fault() {
    let empty: Traffic = toml::from_str("").unwrap();
    assert_eq!(empty, Traffic::default());
    assert_eq!(empty.validate(), []);
}

#[test]
fn a_whole_policy_reads_and_prints_the_same() {
    let text = r#"
        policy = "hash"
        hash = { key = "x-user" }
        slow_start = "30s"
        subset = 20
        zone = { spill = 2 }
        hedge = {}
        [[rules]]
        name = "beta"
        when = { x-user = "beta" }
        to = { version = "2" }
        strict = true
        [[rules]]
        name = "canary"
        split = [{ weight = 5, to = { version = "2" } }, { weight = 95, except = { version = "2" } }]
        [ejection]
        failures = 7
        outliers = { hosts = 10 }
        [retry]
        codes = ["unavailable", "internal"]
        [budget]
        ratio = 0.1
    "#;
    let traffic: Traffic = toml::from_str(text).unwrap();
    assert_eq!(traffic.validate(), []);
    assert_eq!(traffic.hash.as_ref().unwrap().bound, 1.25);
    assert_eq!(traffic.hedge, Some(Hedge::default()));
    assert_eq!(traffic.ejection.outliers.calls, 100, "what is not said keeps its default");
    let json = serde_json::to_string(&traffic).unwrap();
    assert_eq!(serde_json::from_str::<Traffic>(&json).unwrap(), traffic);
}

#[test]
fn every_fault_is_reported_at_once() {
    let faults = faults(
        r#"
        policy = "hash"
        subset = 0
        zone = { spill = 0.5 }
        hedge = { quantile = 1.5 }
        [[rules]]
        name = "nothing"
        split = [{ weight = 0 }, { weight = 0, to = { version = "2" } }]
        [[rules]]
        name = "nothing"
        when = { X-User = "a" }
        [ejection]
        max_share = 2.0
        min_wait = "10s"
        [budget]
        window = "90s"
        "#,
    );
    assert_eq!(
        faults,
        [
            "hash: is missing: the policy `hash` needs hash = { key = \"a-header\" }",
            "subset: expected at least 1, got 0",
            "zone.spill: expected 1 to 1000, got 0.5",
            "rules.0.split: the weights sum to nothing: expected at least one above 0",
            "rules.1.name: there is a rule \"nothing\" before it",
            "rules.1.when: expected the name of a header in lower case, got \"X-User\"",
            "rules.1: changes nothing: expected one of `to`, `except` and `split`",
            "ejection.max_share: expected 0 to 1, got 2",
            "ejection.min_wait: is 10s, which is longer than `ejection.max_wait`, 8s",
            "hedge.quantile: expected 0.5 to 0.999, got 1.5",
            "budget.window: expected whole seconds, 1s to 60s, got 90s",
        ]
    );
}

/// Sections are laid over each other, and one may choose another policy than the one that `hash` was said for.
#[test]
fn what_another_policy_would_use_is_no_fault() {
    let text = "policy = \"random\"\nhash = { key = \"x-user\" }";
    assert_eq!(toml::from_str::<Traffic>(text).unwrap().validate(), []);
}

#[test]
fn a_pattern_has_its_star_at_its_end() {
    for (value, faults) in [("beta*", 0), ("*", 0), ("beta", 0), ("*beta", 1), ("b*e", 1), ("b**", 1)] {
        let text =
            format!("[[rules]]\nname = \"a\"\nto = {{ zone = \"b\" }}\nwhen = {{ x-user = {value:?} }}");
        let found = toml::from_str::<Traffic>(&text).unwrap().validate();
        assert_eq!(found.len(), faults, "{value}: {found:?}");
    }
}

#[test]
fn unknown_keys_and_policies_are_named() {
    let unknown = toml::from_str::<Traffic>("polcy = \"p2c\"").unwrap_err().to_string();
    assert!(unknown.contains("polcy") && unknown.contains("`policy`"), "{unknown}");
    let policy = toml::from_str::<Traffic>("policy = \"fastest\"").unwrap_err().to_string();
    assert!(policy.contains("fastest") && policy.contains("least_request"), "{policy}");
    for algorithm in Algorithm::ALL {
        let text = format!("policy = {:?}", algorithm.as_str());
        assert_eq!(toml::from_str::<Traffic>(&text).unwrap().policy, algorithm);
    }
}

#[test]
fn not_a_number_is_no_share() {
    let mut traffic = Traffic::default();
    traffic.budget.ratio = f64::NAN;
    traffic.ejection.panic = f64::INFINITY;
    assert_eq!(traffic.validate().len(), 2);
}
