//! `[service.<name>.traffic]` and `[client.<name>.traffic]`: every fault at its place, and what callers are told.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use formic_balance::{Algorithm, Traffic};
use formic_core::ServiceName;
use formic_settings::{ServiceSettings, read_service};
use formic_spec::{FaultKind, Faults, Manifest};

const GOOD: &str = r#"
[app]
name = "shop"

[service.user]
cargo = "user"

[service.order]
cargo = "order"

[service.order.traffic]
policy = "least_request"
slow_start = "30s"
hedge = {}

[service.order.traffic.retry]
codes = ["unavailable", "aborted"]

[[service.order.traffic.rules]]
name = "canary"
split = [{ weight = 5, to = { version = "2" } }, { weight = 95, except = { version = "2" } }]

[client.order.traffic]
slow_start = "1m"

[client.mail.traffic]
zone = {}
"#;

fn settings(manifest: Option<&str>, env: Vec<(String, String)>) -> ServiceSettings {
    let name = ServiceName::new("user").unwrap();
    read_service(&name, |_| {}, manifest, env.into_iter(), std::iter::empty()).unwrap()
}

fn clients(settings: &ServiceSettings) -> Vec<(String, Traffic)> {
    let check = |traffic: &Traffic| {
        traffic.validate().into_iter().map(|fault| (fault.key, fault.text)).collect::<Vec<_>>()
    };
    let clients = settings.clients(check).unwrap();
    clients.into_iter().map(|(name, traffic)| (name.to_string(), traffic)).collect()
}

#[test]
fn every_caller_is_told_and_reads_the_same_by_itself() {
    let manifest = Manifest::parse(GOOD, "formic.toml").unwrap_or_else(|faults| panic!("{faults}"));
    let told = manifest.service("user").unwrap().settings.clone();
    assert_eq!(told, manifest.service("order").unwrap().settings);
    let (told, alone) = (settings(None, told.into_iter().collect()), settings(Some(GOOD), Vec::new()));
    assert_eq!(clients(&told), clients(&alone));
    let [(mail, _), (order, traffic)] = &clients(&told)[..] else { panic!("two are called") };
    assert_eq!((mail.as_str(), order.as_str()), ("mail", "order"));
    assert_eq!((traffic.policy, traffic.slow_start.as_secs()), (Algorithm::LeastRequest, 60));
    assert_eq!((traffic.rules.len(), traffic.retry.codes.len(), traffic.retry.repeats), (1, 2, 1));
    // Without any, nothing is told.
    let none = Manifest::parse("[app]\nname = \"a\"\n[service.b]\ncargo = \"b\"\n", "formic.toml").unwrap();
    assert!(none.service("b").unwrap().settings.is_empty() && none.traffic.is_empty());
}

fn faults(text: &str) -> Faults {
    Manifest::parse(text, "formic.toml").unwrap_err()
}

#[test]
fn five_faults_are_reported_at_once_each_at_its_place() {
    let text = r#"[app]
name = "shop"
[service.order]
cargo = "order"
[service.order.traffic]
polcy = "p2c"
subset = "many"
slow_start = "soon"
zone = { spill = 0.5 }
[service.order.traffic.retry]
codes = ["unavailable", "broken", "internal"]
repeats = 9
[[service.order.traffic.rules]]
name = "canary"
split = [{ weight = 0 }, { wieght = 3 }]
[service.order.traffic.budget]
window = "90s"
"#;
    let faults = faults(text);
    let seen: Vec<_> = faults.faults.iter().map(|fault| (fault.line, fault.column, fault.kind)).collect();
    assert_eq!(
        seen,
        [
            (6, 1, FaultKind::UnknownKey),
            (7, 10, FaultKind::WrongType),
            (8, 14, FaultKind::InvalidValue),
            (9, 18, FaultKind::InvalidValue),
            (11, 25, FaultKind::InvalidValue),
            (12, 11, FaultKind::InvalidValue),
            (15, 28, FaultKind::UnknownKey),
            (17, 10, FaultKind::InvalidValue),
        ],
        "{faults}"
    );
    let shown = faults.to_string();
    for text in [
        "unknown key `polcy` in [service.order.traffic]",
        "help: did you mean `policy`?",
        "`subset` in [service.order.traffic]: invalid type: string \"many\", expected u32",
        "expected a duration such as 250ms, 5s or 1m30s",
        "`zone.spill` in [service.order.traffic]: expected 1 to 1000, got 0.5",
        "unknown variant `broken`",
        "help: did you mean `weight`?",
        "`budget.window` in [service.order.traffic]: expected whole seconds",
    ] {
        assert!(shown.contains(text), "{text}\n{shown}");
    }
}

#[test]
fn a_policy_that_is_unknown_and_one_that_lacks_something() {
    let with = |traffic: &str| {
        format!("[app]\nname = \"a\"\n[service.b]\ncargo = \"b\"\n[service.b.traffic]\n{traffic}\n")
    };
    let unknown = faults(&with("policy = \"round-robin\""));
    assert_eq!((unknown.faults.len(), unknown.faults[0].line, unknown.faults[0].column), (1, 6, 10));
    assert_eq!(unknown.faults[0].help.as_deref(), Some("did you mean \"round_robin\"?"));
    let lacking = faults(&with("policy = \"hash\""));
    assert!(lacking.to_string().contains("`hash` in [service.b.traffic]: is missing"), "{lacking}");
    let nothing = faults(&with("[[service.b.traffic.rules]]\nname = \"x\"\nsplit = [{ weight = 0 }]"));
    assert!(nothing.to_string().contains("the weights sum to nothing"), "{nothing}");
    assert_eq!(nothing.faults[0].line, 8);
    // What is wrong in a part is not missed in the whole.
    let part = faults(&with("policy = \"hash\"\nhash = { key = 3 }"));
    assert_eq!((part.faults.len(), part.faults[0].kind), (1, FaultKind::WrongType), "{part}");
    let table = faults(&with("").replace("[service.b.traffic]", "traffic = 3"));
    assert!(table.to_string().contains("must be a table"), "{table}");
    let client = faults(&with("[client.b]\ntrafic = {}\n[client.\"B C\".traffic]"));
    let shown = client.to_string();
    assert!(shown.contains("did you mean `traffic`?") && shown.contains("the name of a service"), "{shown}");
}

/// What one section says is good or bad only beside what the others say of the same service.
#[test]
fn sections_are_judged_together() {
    let with = |own: &str, client: &str| {
        format!(
            "[app]\nname = \"a\"\n[service.b]\ncargo = \"b\"\n[service.b.traffic]\n{own}\n[client.b.traffic]\n{client}\n"
        )
    };
    let merged =
        |own: &str, client: &str| Manifest::parse(&with(own, client), "").unwrap().traffic["b"].clone();
    // The one above needs what the one below says.
    let hashed =
        merged("policy = \"hash\"\nhash = { key = \"x-user\", bound = 2.0 }", "hash = { key = \"x-cart\" }");
    assert_eq!(hashed["hash"], serde_json::json!({ "key": "x-cart", "bound": 2.0 }));
    // The one above has no use for it, and nobody is told of it.
    let other = merged("policy = \"hash\"\nhash = { key = \"x-user\" }", "policy = \"random\"");
    assert_eq!(other, serde_json::json!({ "policy": "random" }));
    let waits = faults(&with("ejection = { min_wait = \"2s\" }", "ejection = { max_wait = \"1s\" }"));
    assert!(waits.to_string().contains("is 2s, which is longer than `ejection.max_wait`, 1s"), "{waits}");
    assert_eq!((waits.faults.len(), waits.faults[0].line), (1, 6));
    let lacking = faults(&with("subset = 3", "policy = \"hash\""));
    assert!(lacking.to_string().contains("`hash` in [client.b.traffic]: is missing"), "{lacking}");
    // Beside the other faults, not instead of them.
    let useless = faults(&with("hash = { key = \"x-user\" }", "subset = 0"));
    let shown = useless.to_string();
    assert!(
        shown.contains("which is not chosen") && shown.contains("expected at least 1, got 0"),
        "{useless}"
    );
    assert_eq!((useless.faults.len(), useless.faults[0].line, useless.faults[1].line), (2, 6, 8));
}

#[test]
fn lists_and_tables_are_named_as_people_do() {
    let with = |traffic: &str| {
        format!("[app]\nname = \"a\"\n[service.b]\ncargo = \"b\"\n[service.b.traffic]\n{traffic}\n")
    };
    let zone = faults(&with("zone = \"a\"")).to_string();
    assert!(zone.contains("expected a table such as { spill = 1.5 }"), "{zone}");
    let codes = faults(&with("retry = { codes = [\"unavailable\", \"broken\"] }")).to_string();
    assert!(codes.contains("`codes` in [service.b.traffic.retry]: unknown variant `broken`"), "{codes}");
}

#[test]
fn what_the_engine_tells_cannot_be_said_otherwise() {
    let text = "[app]\nname = \"a\"\n[service.b]\ncargo = \"b\"\nenv = { FORMIC_CLIENT = \"{}\" }\n";
    assert!(faults(text).to_string().contains("`FORMIC_CLIENT` is set by the engine"));
}

#[test]
fn a_policy_makes_no_new_revision() {
    let with = |policy: &str| {
        let text = format!(
            "[app]\nname = 'a'\n[service.b]\ncargo = 'b'\n[service.b.traffic]\npolicy = '{policy}'\n"
        );
        Manifest::parse(&text, "formic.toml").unwrap()
    };
    let (one, other) = (with("random"), with("p2c"));
    let told = |manifest: &Manifest| manifest.service("b").unwrap().settings["FORMIC_CLIENT"].clone();
    assert_ne!(told(&one), told(&other), "a new instance begins with what is in force");
    assert_eq!(one.revision("b", "digest"), other.revision("b", "digest"));
    assert_eq!(one.process("b", "digest"), other.process("b", "digest"));
}
