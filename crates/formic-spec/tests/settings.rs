//! One manifest for `cargo run` and for the engine: what a service reads of the file by itself is what it
//! is told by environment.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use formic_core::ServiceName;
use formic_settings::{Error, ServiceSettings, read_service};
use formic_spec::Manifest;

/// Every key of a service.
const ALL: &str = r#"
[app]
name = "shop"

[service.user]
cargo = "user"

[service.order]
cargo = "order"
args = ["--verbose"]
replicas = 1
depends_on = ["user"]
cwd = "order"
listen = "127.0.0.1:4000"
advertise = "10.0.0.1:4000"
registry = "mdns"
addresses = { user = ["127.0.0.1:4001"], product = "unix:/run/p.sock" }
log = "info,order=debug"
log_format = "json"
timeout = "1m30s"
drain = { grace = "7s", propagation = "0s", streams = "3s" }
labels = { zone = "a", weight = 3 }
limits = { queue = 7, exempt = ["/a.B/*"], rate = { user = { by = "peer", per_second = 2.5 } } }
transport = "http"
client = { transport = "multiplexed", capture = "wire" }
env = { HOME = "/tmp" }
config = { limit = 3 }
health = { interval = "2s" }
resources = { pids = 100 }
stop = { grace = "10s" }
restart = { policy = "never" }
update = {}
traffic = { policy = "random" }
secrets = { db = "db-password" }
sockets = { admin = "127.0.0.1:9000" }
user = "shop"
group = "1000"
ulimits = { nofile = 4096 }
no_new_privileges = false
"#;

fn read(
    manifest: Option<&str>,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<ServiceSettings, Error> {
    let name = ServiceName::new("order").unwrap();
    read_service(&name, |_| {}, manifest, env.into_iter(), std::iter::empty())
}

#[test]
fn a_service_reads_the_same_by_itself_and_under_an_engine() {
    let manifest = Manifest::parse(ALL, "formic.toml").unwrap();
    let service = manifest.service("order").unwrap();
    let alone = read(Some(ALL), []).unwrap();
    let config = serde_json::to_string(&service.config).unwrap();
    let told = service.settings.clone().into_iter().chain([("FORMIC_CONFIG".into(), config)]);
    let told = read(None, told).unwrap();
    assert_eq!(alone.listen, told.listen);
    assert_eq!(alone.advertise, told.advertise);
    assert_eq!((&alone.log, &alone.log_format), (&told.log, &told.log_format));
    assert_eq!((alone.timeout, alone.drain), (told.timeout, told.drain));
    assert_eq!((&*alone.transport, &alone.client), ("http", &told.client));
    assert_eq!((&*told.transport, told.client.capture.as_deref()), ("http", Some("wire")));
    assert_eq!(alone.labels, told.labels);
    assert_eq!(alone.limits, told.limits);
    assert_eq!((told.limits.queue, told.limits.rate["user"].burst), (7, 3));
    assert_eq!(alone.layers().tree().get("config"), told.layers().tree().get("config"));
    assert_eq!(told.listen, "127.0.0.1:4000");
    assert_eq!(told.labels["weight"], "3");
    assert_eq!((told.drain.grace.as_secs(), told.drain.streams.as_secs()), (7, 3));
    // The daemon's registry is the one where callers look.
    assert_eq!((alone.registry.as_deref(), told.registry), (Some("mdns"), None));
}

#[test]
fn what_only_an_engine_heeds_is_passed_over_by_a_service() {
    let head = "[app]\nname = \"shop\"\n[service.order]\ncommand = [\"order\"]\n";
    for keys in
        ["job = {}", "cron = { schedule = \"@daily\" }", "port = \"auto\"\nproxy = \"127.0.0.1:5432\""]
    {
        let text = format!("{head}{keys}\n");
        Manifest::parse(&text, "formic.toml").unwrap();
        read(Some(&text), []).unwrap();
    }
}

#[test]
fn what_is_wrong_is_said_by_both() {
    let wrong = [
        ("log_format = \"json\"", "log_format = \"xml\"", "log_format"),
        ("listen = \"127.0.0.1:4000\"", "listen = \"nowhere\"", "listen"),
        ("timeout = \"1m30s\"", "timeout = \"soon\"", "timeout"),
        ("registry = \"mdns\"", "registry = \"consul\"", "registry"),
        ("registry = \"mdns\"", "registry = \"static:127.0.0.1:1\"", "names no service"),
        ("\"127.0.0.1:4001\"", "\"nowhere\"", "nowhere"),
        ("product = \"unix:/run/p.sock\"", "product = \"7\"", "\"7\" is no endpoint"),
        ("propagation = \"0s\"", "propagatoin = \"0s\"", "propagatoin"),
        ("queue = 7", "qeue = 7", "qeue"),
        ("log = \"info,order=debug\"", "log = 7", "log"),
        ("cwd = \"order\"", "cwdd = \"order\"", "cwdd"),
    ];
    for (right, wrong, key) in wrong {
        let text = ALL.replace(right, wrong);
        assert_ne!(text, ALL, "{right}");
        let faults = Manifest::parse(&text, "formic.toml").unwrap_err().to_string();
        assert!(faults.contains(key), "{wrong}: {faults}");
        let error = read(Some(&text), []).unwrap_err().to_string();
        assert!(error.contains(key), "{wrong}: {error}");
    }
}

#[test]
fn one_address_is_for_one_instance() {
    let text = ALL.replace("replicas = 1", "replicas = 2");
    let faults = Manifest::parse(&text, "formic.toml").unwrap_err().to_string();
    assert!(faults.contains("2 instances cannot share the address"), "{faults}");
    Manifest::parse(&text.replace("127.0.0.1:4000\"\nadv", "127.0.0.1:0\"\nadv"), "formic.toml").unwrap();
    let text = ALL.replace("cwd = \"order\"", "port = 4000");
    let faults = Manifest::parse(&text, "formic.toml").unwrap_err().to_string();
    assert!(faults.contains("take one of them out"), "{faults}");
}
