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
        "`subset` in [service.order.traffic]: expected a whole number from 0 to 4294967295, got \"many\"",
        "expected a duration such as 250ms, 5s or 1m30s",
        "`zone.spill` in [service.order.traffic]: expected 1 to 1000, got 0.5",
        "cannot be `broken`",
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
    const KNOWN: &str = "did you mean \"round_robin\"? It is one of \"p2c\", \"round_robin\", \"weighted_round_robin\", \
                         \"least_request\", \"random\", \"hash\"";
    let unknown = faults(&with("policy = \"round-robin\""));
    assert_eq!(unknown.faults[0].message, "`policy` in [service.b.traffic] cannot be `round-robin`");
    assert_eq!((unknown.faults.len(), unknown.faults[0].line, unknown.faults[0].column), (1, 6, 10));
    assert_eq!(unknown.faults[0].help.as_deref(), Some(KNOWN));
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
    assert!(codes.contains("`codes` in [service.b.traffic.retry] cannot be `broken`"), "{codes}");
    assert!(codes.contains("one of \"canceled\"") && codes.contains("\"unauthenticated\""), "{codes}");
    // No type of Rust, no word of serde's, and no number of three hundred digits.
    for (traffic, message, help) in [
        (
            "[service.b.traffic.rules]\nname = \"x\"",
            "`rules` in [service.b.traffic]: expected a list, got a table",
            Some("write [[service.b.traffic.rules]], with two brackets, once for each of them"),
        ),
        (
            "[[service.b.traffic.rules]]\nname = \"x\"\n[service.b.traffic.rules.split]\nweight = 5",
            "`split` in [service.b.traffic.rules.0]: expected a list, got a table",
            Some("write [[service.b.traffic.rules.split]], with two brackets, once for each of them"),
        ),
        (
            "[[service.b.traffic.rules]]\nname = \"x\"\nsplit = [{ weight = -5 }]",
            "`weight` in [service.b.traffic.rules.0.split.0]: expected a whole number from 0 to 4294967295, got -5",
            None,
        ),
        (
            "subset = nan",
            "`subset` in [service.b.traffic]: expected a whole number from 0 to 4294967295, got nan",
            None,
        ),
        ("policy = 3", "`policy` in [service.b.traffic]: expected text", None),
        (
            "zone = { spill = 1e300 }",
            "`zone.spill` in [service.b.traffic]: expected 1 to 1000, got 1e300",
            None,
        ),
    ] {
        let faults = faults(&with(traffic));
        let found = faults.faults.iter().find(|fault| fault.message == message);
        assert_eq!(found.map(|fault| fault.help.as_deref()), Some(help), "{faults}");
    }
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

/// Two callers, of which one has a word of its own, and the gateway.
const CALLERS: &str = r#"
[app]
name = "shop"
[gateway]
expose = ["order"]
labels = { zone = "a" }
[gateway.client.order.traffic]
subset = 2
[service.order]
cargo = "order"
[service.order.traffic]
policy = "hash"
hash = { key = "x-user" }
[client.order.traffic]
slow_start = "1m"
[service.web]
cargo = "web"
[service.web.client]
transport = "http"
[service.web.client.order.traffic]
hash = { key = "x-cart" }
subset = 4
[service.mail]
cargo = "mail"
"#;

#[test]
fn a_single_caller_has_the_last_word_and_nobody_else_hears_it() {
    let manifest = Manifest::parse(CALLERS, "formic.toml").unwrap_or_else(|faults| panic!("{faults}"));
    let told = |caller: &str| {
        let order = &manifest.traffic_of(caller)["order"];
        (order["hash"]["key"].clone(), order["subset"].clone(), order["slow_start"].clone())
    };
    assert_eq!(told("mail"), ("x-user".into(), serde_json::Value::Null, "1m".into()));
    assert_eq!(told("gateway"), ("x-user".into(), 2.into(), "1m".into()));
    assert_eq!(told("web"), ("x-cart".into(), 4.into(), "1m".into()));
    assert_eq!(manifest.gateway.as_ref().unwrap().labels["zone"], "a");
    // Under the engine, and alone.
    let web = manifest.service("web").unwrap().settings.clone();
    assert_eq!(web["FORMIC_CLIENT_TRANSPORT"], "http");
    let name = ServiceName::new("web").unwrap();
    let none = std::iter::empty;
    let alone = read_service(&name, |_| {}, Some(CALLERS), std::iter::empty(), none()).unwrap();
    let under = read_service(&name, |_| {}, None, web.into_iter(), none()).unwrap();
    assert_eq!(clients(&alone), clients(&under));
    let [(_, traffic)] = &clients(&alone)[..] else { panic!("one is called") };
    assert_eq!((traffic.subset, traffic.slow_start.as_secs()), (Some(4), 60));
    // It makes no new revision, of the caller neither.
    let without = CALLERS.replace("subset = 4\n", "");
    let without = Manifest::parse(&without, "").unwrap();
    assert_eq!(manifest.revision("web", "digest"), without.revision("web", "digest"));
}

#[test]
fn faults_of_single_callers_are_told_once_and_at_their_places() {
    let text = CALLERS
        .replace("slow_start = \"1m\"", "zone = { spill = 0.5 }")
        .replace("subset = 4", "subset = 0")
        .replace("subset = 2", "polcy = 1");
    let faults = faults(&text);
    let shown = faults.to_string();
    for part in [
        "unknown key `polcy` in [gateway.client.order.traffic]",
        "`zone.spill` in [client.order.traffic]: expected 1 to 1000",
        "`subset` in [service.web.client.order.traffic]: expected at least 1",
    ] {
        assert_eq!(shown.matches(part).count(), 1, "{part}\n{shown}");
    }
    assert_eq!(faults.faults.len(), 3, "{faults}");
    let odd = CALLERS.replace("transport = \"http\"", "trnsport = \"http\"");
    assert!(self::faults(&odd).to_string().contains("did you mean `transport`?"));
    let odd = CALLERS.replace("[service.web.client.order.traffic]", "[service.web.client.order.trafic]");
    let odd = self::faults(&odd).to_string();
    assert!(odd.contains("unknown key `trafic` in [service.web.client.order]"), "{odd}");
}

#[test]
fn what_nobody_follows_is_noted() {
    let notes = |more: &str| {
        let text = format!(
            "[app]\nname = 'a'\n[gateway]\nexpose = ['b']\n[service.b]\ncargo = 'b'\n[service.web]\ncommand = ['w']\nport = 'auto'\n{more}"
        );
        Manifest::parse(&text, "").unwrap_or_else(|faults| panic!("{faults}")).notes()
    };
    assert_eq!(notes("[service.b.traffic]\nsubset = 2\n[route.'/']\nservice = 'web'\n"), [""; 0]);
    let routed = notes("[route.'/w']\nservice = 'web'\n[service.web.traffic]\npolicy = 'random'\n");
    assert!(routed.len() == 1 && routed[0].contains("what the route /w passes on"), "{routed:?}");
    let proxied = notes("proxy = { listen = '127.0.0.1:7000' }\ntraffic = { subset = 2 }\n");
    assert!(proxied.len() == 1 && proxied[0].contains("its proxy 127.0.0.1:7000"), "{proxied:?}");
    let unknown = notes("[service.b.client.wbe.traffic]\nsubset = 2\n");
    assert!(unknown.len() == 1 && unknown[0].ends_with("did you mean `web`?"), "{unknown:?}");
    let placeless = notes("[service.b.traffic]\nzone = {}\n");
    assert!(placeless.len() == 1 && placeless[0].contains("has no zone"), "{placeless:?}");
}
