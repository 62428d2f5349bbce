//! The manifest from outside: what a good one means, and what is said about bad ones.

#![allow(clippy::unwrap_used)]

use formic_spec::{
    ByteSize, Condition, Dependents, Fault, FaultKind, Faults, HumanDuration, MAX_BYTES, Manifest, Network,
    Port, Probe, RestartPolicy, Scrapers, Share, Source,
};
use proptest::prelude::*;
use serde_json::json;

fn good(source: &str) -> Manifest {
    Manifest::parse(source, "formic.toml").unwrap_or_else(|faults| panic!("{faults}"))
}

fn bad(source: &str) -> Faults {
    match Manifest::parse(source, "formic.toml") {
        Ok(manifest) => panic!("accepted: {manifest:?}"),
        Err(faults) => faults,
    }
}

/// The faults of a service whose section holds these lines; line 1 of them is line 4 of the file.
fn service(lines: &str) -> Vec<Fault> {
    bad(&format!("[app]\nname = 'a'\n[service.s]\n{lines}\n[service.other]\ncargo = 'other'\n")).faults
}

const SHOP: &str = r#"
format = 1

[app]
name = "shop"

[gateway]
listen = "127.0.0.1:9090"
expose = ["user", "order"]
max_body = "1MiB"
cors = { origins = ["https://shop.example", "http://localhost:3000"] }

[service.user]
cargo = "user"

[service.order]
cargo = "shop-order"
args = ["--verbose"]
replicas = 2
depends_on = { user = "healthy", reports = "started" }
env = { DATABASE = "order.db", FORMIC_LOG = "debug" }
cwd = "order"
secrets = { db = "db-password", token = { secret = "api.token", env = "TOKEN" } }
resources = { memory = "256MiB", cpu = 0.5, pids = 64 }
user = "shop"
group = "1000"
no_new_privileges = false
ulimits = { nofile = 4096, nproc = 200, core = "1MiB" }
stop = { grace = "1m30s", signal = "QUIT" }

[service.order.health]
ready = "http"
path = "/ready"
interval = "2s"
timeout = "500ms"
deadline = "10s"

[service.order.update]
strategy = "rolling"
surge = "50%"
unavailable = 1
min_ready = "5s"
progress_deadline = "2m"
keep_old = "0s"

[service.order.restart]
policy = "on_failure"
intensity = 3
within = "1m"
dependents = "rest"
delay = "100ms"
max_delay = "5s"
no_restart_exit_codes = [2, 78]
success_exit_codes = [0, 143]

[service.order.config]
currency = "EUR"
zones = [{ name = "a", price = 1.5 }, { name = "b", price = 2 }]
since = 2026-01-02
on = true
limits.deep.er = 0x10

[service.reports]
command = ["python3", "reports.py"]
port = 7070
"#;

#[test]
fn a_whole_manifest() {
    let shop = good(SHOP);
    let gateway = shop.gateway.as_ref().unwrap();
    assert_eq!(gateway.listen.to_string(), "127.0.0.1:9090");
    assert_eq!(gateway.cors.origins.len(), 2);
    assert_eq!(gateway.max_body, ByteSize::from_bytes(1 << 20));
    assert!(shop.is_exposed("user") && !shop.is_exposed("reports"));
    let names: Vec<&str> = shop.services.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["user", "order", "reports"], "the order of the file");
    assert_eq!(shop.order(), [vec!["user", "reports"], vec!["order"]]);

    let order = shop.service("order").unwrap();
    assert_eq!(order.source, Source::Cargo("shop-order".into()));
    assert_eq!((order.replicas, order.cwd.as_deref()), (2, Some("order")));
    assert_eq!((order.health.ready, order.health.path.as_str()), (Probe::Http, "/ready"));
    assert_eq!(order.health.timeout, HumanDuration::from_millis(500));
    assert_eq!(order.stop.grace, HumanDuration::from_secs(90));
    assert_eq!(order.stop.signal.to_string(), "SIGQUIT");
    assert_eq!((order.secrets["db"].secret.as_str(), &order.secrets["db"].env), ("db-password", &None));
    assert_eq!(order.secrets["token"].env.as_deref(), Some("TOKEN"));
    assert_eq!(order.restart.policy, RestartPolicy::OnFailure);
    assert_eq!(order.restart.success_exit_codes, [0, 143]);
    assert_eq!((order.restart.intensity, order.restart.within), (3, HumanDuration::from_secs(60)));
    assert_eq!(order.restart.dependents, Dependents::Rest);
    assert_eq!(order.depends_on, ["user", "reports"]);
    assert_eq!(
        order.conditions,
        [("reports".to_owned(), Condition::Started)].into(),
        "healthy is the usual one"
    );
    let update = &order.update;
    assert_eq!(
        (update.strategy, update.surge, update.unavailable),
        (formic_spec::Strategy::Rolling, Share::Percent(50), Share::Count(1))
    );
    assert_eq!(
        (update.min_ready, update.keep_old),
        (HumanDuration::from_secs(5), HumanDuration::from_secs(0))
    );
    assert_eq!(update.progress_deadline, HumanDuration::from_secs(120));
    assert_eq!(order.resources.memory.unwrap().bytes(), 256 << 20);
    assert_eq!((order.resources.cpu, order.resources.pids), (Some(0.5), Some(64)));
    let privileges = &order.privileges;
    assert_eq!((privileges.user.as_deref(), privileges.group.as_deref()), (Some("shop"), Some("1000")));
    assert!(!privileges.no_new_privileges && shop.service("user").unwrap().privileges.is_default());
    assert_eq!((privileges.ulimits.nofile, privileges.ulimits.nproc), (Some(4096), Some(200)));
    assert_eq!(privileges.ulimits.core.unwrap().bytes(), 1 << 20);
    assert_eq!(
        serde_json::to_string(&order.config).unwrap(),
        json!({
            "currency": "EUR",
            "zones": [{"name": "a", "price": 1.5}, {"name": "b", "price": 2}],
            "since": "2026-01-02",
            "on": true,
            "limits": {"deep": {"er": 16}},
        })
        .to_string(),
        "in the order of the file"
    );
    let reports = shop.service("reports").unwrap();
    assert_eq!((reports.port, reports.health.ready), (Some(Port::Fixed(7070)), Probe::Tcp));
}

#[test]
fn jobs_and_cron_jobs() {
    let manifest = good(
        "[app]\nname = 'a'\n[service.migrate]\ncommand = ['m']\njob = { retries = 1, deadline = '10m' }\n\
         [service.report]\ncommand = ['r']\ncron = { schedule = '0 3 * * *', zone = 'Europe/Berlin' }\n\
         [service.shop]\ncargo = 's'\ndepends_on = { migrate = 'completed' }\n",
    );
    let migrate = manifest.service("migrate").unwrap();
    assert_eq!((migrate.restart.policy, migrate.restart.retries), (RestartPolicy::OnFailure, Some(1)));
    assert_eq!((migrate.health.ready, migrate.cron.is_none()), (Probe::None, true));
    let report = manifest.service("report").unwrap();
    assert_eq!(report.job.as_ref().unwrap().retries, 3);
    let cron = report.cron.as_ref().unwrap();
    assert_eq!(cron.schedule.to_string(), "0 3 * * * Europe/Berlin");
    assert_eq!((cron.history, cron.catch_up), (10, HumanDuration::from_secs(60)));
    assert_eq!(manifest.service("shop").unwrap().restart.retries, None);
}

#[test]
fn the_defaults() {
    let manifest = good("[app]\nname = 'a'\n[gateway]\n[service.s]\ncargo = 's'\n");
    let gateway = manifest.gateway.as_ref().unwrap();
    assert_eq!(gateway.listen.to_string(), "127.0.0.1:8080");
    assert!(gateway.expose.is_empty());
    assert_eq!((gateway.trusted_proxies.as_slice(), gateway.metrics), (&[][..], Scrapers::Local));
    assert_eq!(gateway.transport, "");
    let said = good(
        "[app]\nname = 'a'\n[gateway]\ntrusted_proxies = ['::1', '10.0.0.0/8']\nmetrics = 'none'\ntransport = 'http'\n[service.s]\ncargo = 's'\n",
    );
    let gateway = said.gateway.unwrap();
    let trusted = ["::1", "10.0.0.0/8"].map(|text| text.parse::<Network>().unwrap());
    assert_eq!((gateway.trusted_proxies.as_slice(), gateway.metrics), (&trusted[..], Scrapers::None));
    assert_eq!(gateway.transport, "http");
    let s = &manifest.services[0];
    assert_eq!((s.replicas, s.port, s.health.ready), (1, None, Probe::Grpc));
    assert_eq!(
        (s.health.deadline, s.stop.grace),
        (HumanDuration::from_secs(60), HumanDuration::from_secs(30))
    );
    assert_eq!(
        (s.restart.policy, s.restart.no_restart_exit_codes.as_slice()),
        (RestartPolicy::Always, &[78][..])
    );
    assert_eq!(good("[app]\nname = 'a'").gateway, None);
}

#[test]
fn five_faults_are_shown_at_once() {
    let source = "\
[app]
name = \"shop\"

[gateway]
listen = \"8080\"

[service.user]
cargo = \"user\"
replica = 2

[service.order]
cargo = \"order\"
depends_on = [\"user\", \"prodct\"]
health = { interval = \"1 sec\" }

[service.product]
cargo = \"product\"
replicas = \"two\"
";
    assert_eq!(
        bad(source).to_string(),
        "\
formic.toml:5:10: error: `8080` is not an address with a port
  |
5 | listen = \"8080\"
  |          ^^^^^^
  = help: write it like \"127.0.0.1:8080\" or \"[::1]:8080\"

formic.toml:9:1: error: unknown key `replica` in [service.user]
  |
9 | replica = 2
  | ^^^^^^^
  = help: did you mean `replicas`?

formic.toml:13:23: error: there is no service `prodct` that `order` depends on
   |
13 | depends_on = [\"user\", \"prodct\"]
   |                       ^^^^^^^^
   = help: did you mean `product`?

formic.toml:14:23: error: `1 sec` in `interval` has the unknown unit `sec`
   |
14 | health = { interval = \"1 sec\" }
   |                       ^^^^^^^
   = help: write a duration such as \"1s\"

formic.toml:18:12: error: `replicas` in [service.product] must be an integer, not a string
   |
18 | replicas = \"two\"
   |            ^^^^^

formic.toml: 5 errors"
    );
}

#[test]
fn faults_are_data() {
    let faults = bad("[app]\nname = 'a'\n[service.s]\ncargo = 's'\nreplica = 2\n");
    assert_eq!(
        serde_json::to_value(&faults).unwrap(),
        json!({
            "file": "formic.toml",
            "faults": [{
                "line": 5, "column": 1, "width": 7, "kind": "unknown-key", "path": "service.s.replica",
                "message": "unknown key `replica` in [service.s]", "help": "did you mean `replicas`?",
                "source": "replica = 2",
            }],
            "omitted": 0,
        })
    );
}

#[test]
fn each_fault_of_a_service() {
    use FaultKind::{
        Conflict, DuplicateListen, InvalidName, InvalidValue, Missing, Syntax, UnknownKey, UnknownService,
        Unsupported, WrongType,
    };
    // Lines, then line, column, kind and a part of the message or the help.
    let table: &[(&str, usize, usize, FaultKind, &str)] = &[
        ("", 3, 10, Missing, "add `cargo = \"s\"`"),
        ("cargo = 's'\ncommand = ['s']", 5, 1, Conflict, "both `cargo` and `command`"),
        ("image = 'r/s@sha256:0'", 4, 9, Unsupported, "docker or the kubernetes driver"),
        ("cargo = './s'", 4, 9, InvalidValue, "Cargo package"),
        ("cargo = 1", 4, 9, WrongType, "write it in quotes: \"1\""),
        ("command = 'python3 app.py'", 4, 11, WrongType, "[\"python3\", \"app.py\"]"),
        ("command = []", 4, 11, InvalidValue, "names no program"),
        ("command = ['']", 4, 11, InvalidValue, "names no program"),
        ("command = [\"a\\u0000\"]", 4, 12, InvalidValue, "zero byte"),
        ("cargo = 's'\nargs = [1]", 5, 9, WrongType, "array of strings"),
        ("cargo = 's'\nreplicas = -1", 5, 12, InvalidValue, "from 0 to 10000"),
        ("cargo = 's'\nreplicas = 99999999999999999999", 5, 12, InvalidValue, "from 0 to 10000"),
        ("cargo = 's'\nreplicas = 1.5", 5, 12, WrongType, "an integer, not a float"),
        ("cargo = 's'\nreplicas = '2'", 5, 12, WrongType, "without quotes: 2"),
        ("cargo = 's'\nport = 0", 5, 8, InvalidValue, "from 1 to 65535"),
        ("cargo = 's'\nport = 9000\nreplicas = 2", 5, 8, Conflict, "cannot share port 9000"),
        ("cargo = 's'\ndepends_on = ['othr']", 5, 15, UnknownService, "did you mean `other`?"),
        ("cargo = 's'\ndepends_on = ['x y']", 5, 15, UnknownService, "no service `x y`"),
        ("cargo = 's'\ndepends_on = ['other', 'other']", 5, 24, InvalidValue, "twice"),
        ("cargo = 's'\ndepends_on = 'other'", 5, 14, WrongType, "write it as an array: [\"other\"]"),
        ("cargo = 's'\nenv = { A = 1 }", 5, 13, WrongType, "write it in quotes: \"1\""),
        ("cargo = 's'\nenv = { 'A=' = 'x' }", 5, 9, InvalidName, "name of a variable"),
        ("cargo = 's'\nenv = { FORMIC_APP = 'x' }", 5, 9, InvalidName, "set by the engine"),
        ("cargo = 's'\nport = 1\nenv = { PORT = '1' }", 6, 9, Conflict, "`PORT` is set from `port`"),
        ("cargo = 's'\nconfig = { a = [nan] }", 5, 17, InvalidValue, "numbers are finite"),
        ("cargo = 's'\nconfig = 3", 5, 10, WrongType, "must be a table"),
        ("cargo = 's'\nhealth = { ready = 'grcp' }", 5, 20, InvalidValue, "did you mean \"grpc\"?"),
        ("cargo = 's'\nhealth = { ready = 'ssh' }", 5, 20, InvalidValue, "one of \"grpc\", \"http\""),
        ("cargo = 's'\nhealth = { path = '/x' }", 5, 19, Conflict, "HTTP probe only"),
        ("cargo = 's'\nhealth = { ready = 'http', path = 'x' }", 5, 35, InvalidValue, "path of a URL"),
        ("cargo = 's'\nhealth = { interval = '0s' }", 5, 23, InvalidValue, "cannot be zero"),
        ("cargo = 's'\nhealth = { timeout = 1 }", 5, 22, WrongType, "a duration such as \"1s\""),
        ("cargo = 's'\nhealth = { intervall = '1s' }", 5, 12, UnknownKey, "did you mean `interval`?"),
        ("cargo = 's'\nresources = { memory = '256' }", 5, 24, InvalidValue, "has no unit"),
        ("cargo = 's'\nresources = { cpu = 0 }", 5, 21, InvalidValue, "more than 0"),
        ("cargo = 's'\nresources = { cpu = inf }", 5, 21, InvalidValue, "cores"),
        ("cargo = 's'\nresources = { cpu = '1' }", 5, 21, WrongType, "must be a number"),
        ("cargo = 's'\nresources = { pids = 0 }", 5, 22, InvalidValue, "from 1"),
        ("cargo = 's'\nuser = 33", 5, 8, WrongType, "write it in quotes: \"33\""),
        ("cargo = 's'\nuser = 'a b'", 5, 8, InvalidValue, "the name of a user"),
        ("cargo = 's'\ngroup = 'www'", 5, 9, Conflict, "add `user = "),
        ("cargo = 's'\nno_new_privileges = 'false'", 5, 21, WrongType, "without quotes: false"),
        ("cargo = 's'\nulimits = { nofile = 1 }", 5, 22, InvalidValue, "from 16"),
        ("cargo = 's'\nulimits = { nofiles = 64 }", 5, 13, UnknownKey, "did you mean `nofile`?"),
        ("cargo = 's'\nulimits = { core = 5 }", 5, 20, WrongType, "\"64MiB\""),
        ("cargo = 's'\nproxy = '127.0.0.1:5432'", 5, 1, Missing, "`port = \"auto\"`"),
        ("cargo = 's'\nport = 1\nproxy = 'localhost:1'", 6, 9, InvalidValue, "not an address with a port"),
        ("cargo = 's'\nport = 1\nproxy = '127.0.0.1:0'", 6, 9, InvalidValue, "a port of its own"),
        ("cargo = 's'\nport = 1\nproxy = '127.0.0.1:1'", 6, 9, DuplicateListen, "already that of `s`"),
        ("cargo = 's'\nport = 1\nproxy = 5432", 6, 9, WrongType, "an address or a table"),
        ("cargo = 's'\nport = 1\nproxy = { connect_timeout = '1s' }", 6, 9, Missing, "where it listens"),
        ("cargo = 's'\nport = 1\njob = {}\nproxy = '127.0.0.1:5432'", 7, 1, Conflict, "runs to an end"),
        ("cargo = 's'\nstop = { grace = '30' }", 5, 18, InvalidValue, "\"30s\""),
        ("cargo = 's'\nstop = { signal = 'KILL' }", 5, 19, InvalidValue, "one of \"TERM\""),
        ("cargo = 's'\nrestart = { policy = 'on-failure' }", 5, 22, InvalidValue, "\"on_failure\""),
        ("cargo = 's'\nrestart = { delay = '2m' }", 5, 21, InvalidValue, "longer than `max_delay`"),
        ("cargo = 's'\nrestart = { success_exit_codes = [256] }", 5, 35, InvalidValue, "from 0 to 255"),
        ("cargo = 's'\nrestart = { intensity = 0 }", 5, 25, InvalidValue, "from 1 to 100"),
        ("cargo = 's'\nrestart = { within = '0s' }", 5, 22, InvalidValue, "cannot be zero"),
        ("cargo = 's'\nrestart = { dependents = 'all' }", 5, 26, InvalidValue, "\"none\", \"rest\""),
        ("cargo = 's'\ndepends_on = { othr = 'healthy' }", 5, 16, UnknownService, "did you mean `other`?"),
        ("cargo = 's'\ndepends_on = { other = 'ready' }", 5, 24, InvalidValue, "\"healthy\""),
        ("cargo = 's'\ndepends_on = { other = 1 }", 5, 24, WrongType, "type integer"),
        ("cargo = 's'\ndepends_on = { other = 'completed' }", 5, 16, Conflict, "policy = \"on_failure\""),
        ("cargo = 's'\nupdate = { strategy = 'canary' }", 5, 23, InvalidValue, "\"rolling\", \"blue_green\""),
        (
            "cargo = 's'\nupdate = { surge = '25' , unavailable = '101%' }",
            5,
            41,
            InvalidValue,
            "a part such as",
        ),
        ("cargo = 's'\nupdate = { surge = -1 }", 5, 20, InvalidValue, "cannot be `-1`"),
        ("cargo = 's'\nupdate = { surge = true }", 5, 20, WrongType, "a number or a part"),
        ("cargo = 's'\nupdate = { surge = 0 }", 5, 20, InvalidValue, "nothing could ever be replaced"),
        ("cargo = 's'\nupdate = { min_ready = '5m' }", 5, 24, InvalidValue, "not longer than `min_ready`"),
        (
            "cargo = 's'\nupdate = { strategy = 'blue_green', surge = 2 }",
            5,
            37,
            Conflict,
            "rolling update only",
        ),
        ("cargo = 's'\nupdate = { keep = '1m' }", 5, 12, UnknownKey, "did you mean `keep_old`?"),
        ("cargo = 's'\nsecrets = { a = 1 }", 5, 17, WrongType, "{ secret = \"a\""),
        ("cargo = 's'\nsecrets = { a = 'x y' }", 5, 17, InvalidName, "`x y` cannot be the name of a secret"),
        ("cargo = 's'\nsecrets = { '../a' = 'a' }", 5, 13, InvalidName, "secret's file"),
        ("cargo = 's'\nsecrets = { a = { env = 'FORMIC_APP' } }", 5, 25, InvalidName, "set by the engine"),
        ("cargo = 's'\nenv = { A = '' }\nsecrets = { a = { env = 'A' } }", 6, 25, Conflict, "in `env` too"),
        (
            "cargo = 's'\nsecrets = { a = { env = 'A' }, b = { env = 'A' } }",
            5,
            44,
            Conflict,
            "that of `a` already",
        ),
        ("cargo = 's'\nsecrets = { a = { name = 'b' } }", 5, 19, UnknownKey, "secret, env"),
        ("cargo = 's'\njob = { retries = -1 }", 5, 19, InvalidValue, "from 0 to 100"),
        ("cargo = 's'\njob = { deadline = '0s' }", 5, 20, InvalidValue, "cannot be zero"),
        ("cargo = 's'\njob = {}\nrestart = { policy = 'always' }", 6, 22, Conflict, "has no end"),
        ("cargo = 's'\ncron = {}", 5, 8, Missing, "`schedule = \"0 3 * * *\"`"),
        ("cargo = 's'\ncron = { schedule = '0 3 * *' }", 5, 21, InvalidValue, "is no schedule"),
        ("cargo = 's'\ncron = { schedule = '0 3 31 2 *' }", 5, 21, InvalidValue, "never be due"),
        (
            "cargo = 's'\ncron = { schedule = '@daily', zone = 'Mars' }",
            5,
            38,
            InvalidValue,
            "no time zone `Mars`",
        ),
        (
            "cargo = 's'\ncron = { schedule = '@daily', concurrency = 'no' }",
            5,
            45,
            InvalidValue,
            "\"forbid\"",
        ),
        ("cargo = 's'\ncron = { schedule = '@daily', history = 0 }", 5, 41, InvalidValue, "from 1 to 100"),
        ("cargo = 's'\nreplicas = 2\ncron = { schedule = '@daily' }", 5, 12, Conflict, "no `replicas`"),
        ("cargo = 's'\ncwd = ''", 5, 7, InvalidValue, "`cwd` is empty"),
        ("cargo = 's'\ncargo = 't'", 5, 1, Syntax, "`cargo` is given twice"),
        ("cargo = 's'\nreplicas = ", 5, 12, Syntax, "not TOML"),
        ("cargo = 's'\nxyzzy = 1", 5, 1, UnknownKey, "the keys here are cargo, command, image, args"),
        ("cargo = 's'\nenvironment = {}", 5, 1, UnknownKey, "did you mean `env`?"),
    ];
    for (lines, line, column, kind, part) in table {
        let faults = service(lines);
        let [fault] = faults.as_slice() else { panic!("{lines}: {faults:#?}") };
        assert_eq!((fault.line, fault.column, fault.kind), (*line, *column, *kind), "{lines}: {fault:#?}");
        let text = format!("{}\n{}", fault.message, fault.help.clone().unwrap_or_default());
        assert!(text.contains(part), "{lines}: {text}");
    }
}

#[test]
fn each_fault_of_the_whole() {
    use FaultKind::{
        Cycle, DuplicateListen, Format, InvalidName, InvalidValue, Missing, Syntax, TooLarge, UnknownKey,
        UnknownService, WrongType,
    };
    let table: &[(&str, usize, usize, FaultKind, &str)] = &[
        ("", 1, 1, Missing, "no [app]"),
        ("[app]", 1, 1, Missing, "no `name`"),
        ("[app]\nname = 'My Shop'", 2, 8, InvalidName, "perhaps `my-shop`"),
        ("[app]\nname = 'a'\nversion = 1", 3, 1, UnknownKey, "keys here are name"),
        ("app = 3", 1, 7, WrongType, "must be a table"),
        ("format = 2\nanything = [", 1, 10, Format, "this binary reads format 1"),
        ("format = '1'\n[app]\nname = 'a'", 1, 10, WrongType, "an integer"),
        ("[app]\nname = 'a'\n[services.s]\ncargo = 's'", 3, 2, UnknownKey, "did you mean `service`?"),
        ("[app]\nname = 'a'\n[service.Big]\ncargo = 's'", 3, 10, InvalidName, "perhaps `big`"),
        ("[app]\nname = 'a'\n[service.gateway]\ncargo = 's'", 3, 10, InvalidName, "[gateway]"),
        ("[app]\nname = 'a'\n[service]\ns = 3", 4, 5, WrongType, "must be a table"),
        ("[app]\nname = 'a'\n[[service.s]]\ncargo = 's'", 3, 1, WrongType, "must be a table"),
        ("[app]\nname = 'a'\n[gateway]\nexpose = ['s']", 4, 11, UnknownService, "exposed in [gateway]"),
        ("[app]\nname = 'a'\n[gateway]\ncors = { origins = ['x.org'] }", 4, 21, InvalidValue, "origin"),
        ("[app]\nname = 'a'\n[gateway]\nmax_body = 3", 4, 12, WrongType, "\"4MiB\""),
        ("[app]\nname = 'a'\n[gateway]\ntrusted_proxies = ['proxy']", 4, 20, InvalidValue, "10.0.0.0/8"),
        ("[app]\nname = 'a'\n[gateway]\ntransport = 'htp'", 4, 13, InvalidValue, "did you mean \"http\"?"),
        ("[app]\nname = 'a'\n[gateway]\nmetrics = 'lokal'", 4, 11, InvalidValue, "did you mean \"local\"?"),
        (
            "[app]\nname = 'a'\n[gateway]\n[service.s]\ncommand = ['s']\nport = 8080",
            6,
            8,
            DuplicateListen,
            "already that of the gateway",
        ),
        (
            "[app]\nname = 'a'\n[service.s]\ncommand = ['s']\nport = 80\n[service.t]\ncommand = ['t']\nport = 80",
            8,
            8,
            DuplicateListen,
            "already that of `s`",
        ),
        (
            "[app]\nname = 'a'\n[service.a]\ncargo = 'a'\ndepends_on = ['b']\n[service.b]\ncargo = 'b'\ndepends_on = ['a']",
            5,
            15,
            Cycle,
            "a -> b -> a",
        ),
        ("[app]\nname = 'a'\n[service.a]\ncargo = 'a'\ndepends_on = ['a']", 5, 15, Cycle, "a -> a"),
        ("[app\nname = 'a'", 1, 5, Syntax, "not TOML"),
        ("[app]\nname = 'a'\n[app]", 3, 2, Syntax, "`app` is given twice"),
        ("[app]\nname = 'a'\nx = \"unfinished", 3, 16, Syntax, "not TOML"),
    ];
    for (source, line, column, kind, part) in table {
        let faults = bad(source).faults;
        let [fault] = faults.as_slice() else { panic!("{source}: {faults:#?}") };
        assert_eq!((fault.line, fault.column, fault.kind), (*line, *column, *kind), "{source}: {fault:#?}");
        let text = format!("{}\n{}", fault.message, fault.help.clone().unwrap_or_default());
        assert!(text.contains(part), "{source}: {text}");
    }
    let large = format!("#{}", " ".repeat(MAX_BYTES));
    assert_eq!(bad(&large).faults[0].kind, TooLarge);
    let many: String = (0..1001).map(|n| format!("[service.s{n}]\ncargo = 's'\n")).collect();
    let faults = bad(&format!("[app]\nname = 'a'\n{many}")).faults;
    assert_eq!((faults.len(), faults[0].kind, faults[0].line), (1, TooLarge, 2003));
}

#[test]
fn a_service_with_a_fault_is_still_a_service() {
    let faults = bad(
        "[app]\nname = 'a'\n[service]\nt = 1\n[service.s]\ncargo = 's'\ndepends_on = ['t', 'u']\n[service.u]\n",
    );
    let kinds: Vec<_> = faults.faults.iter().map(|fault| (fault.line, fault.kind)).collect();
    assert_eq!(kinds, [(4, FaultKind::WrongType), (8, FaultKind::Missing)]);
}

#[test]
fn syntax_and_meaning_are_reported_together() {
    let faults = bad("[app]\nname = 'a'\n[service.s]\ncargo = \nreplica = 2\ndepends_on = ['later']\n");
    let kinds: Vec<_> = faults.faults.iter().map(|fault| (fault.line, fault.kind)).collect();
    assert_eq!(kinds, [(4, FaultKind::Syntax), (5, FaultKind::UnknownKey)], "{faults}");
}

#[test]
fn names_in_the_file_cannot_drive_the_terminal() {
    let faults = bad(
        "[app]\nname = \"\\u001b[2J\"\n[service.\"\\u001b]0;x\\u0007\"]\ncargo = 's'\ncommand = ['s']\nport = 'a'\n",
    );
    assert!(faults.faults.len() >= 3);
    assert!(!faults.to_string().contains(|c: char| c.is_control() && c != '\n'));
    for fault in &faults.faults {
        let texts = [&fault.path, &fault.message, &fault.source, fault.help.as_ref().unwrap_or(&fault.path)];
        assert!(texts.iter().all(|text| !text.contains(char::is_control)), "{fault:?}");
    }
}

#[test]
fn a_hostile_file_is_answered_in_time_and_briefly() {
    let keys: String = (0..80_000).map(|n| format!("k{n}=1\n")).collect();
    let depends: String = (0..90_000).map(|n| format!("'s{n}',")).collect();
    let deep = format!("a = {}", "[".repeat(500_000));
    let dotted = format!("{}a = 1", "a.".repeat(500_000));
    let long = format!("[app]\nname = '{}'", "n".repeat(1_000_000));
    let errors = "=\n".repeat(500_000);
    let one_line = "= ".repeat(500_000);
    for source in [
        keys,
        format!("[app]\nname = 'a'\n[service.s]\ncargo = 's'\ndepends_on = [{depends}]"),
        deep,
        dotted,
        long,
        errors,
        one_line,
    ] {
        let begun = std::time::Instant::now();
        let faults = bad(&source);
        let text = faults.to_string();
        assert!(faults.faults.len() <= 100 && text.len() < 100_000, "{} characters", text.len());
        // A bound against squares of the size, with room for a slow machine and no optimisation.
        assert!(begun.elapsed() < std::time::Duration::from_secs(20), "took {:?}", begun.elapsed());
    }
}

/// Lines that are nearly a manifest, so that the properties reach past the reader of TOML.
fn nearly() -> impl Strategy<Value = String> {
    let header = prop::sample::select(vec![
        "[app]",
        "[gateway]",
        "[service.a]",
        "[service.b]",
        "[service.a.health]",
        "[service.a.env]",
        "[service]",
        "[[service.a]]",
        "[service.a.config]",
        "[gateway.cors]",
        "[",
        "[service.\"\u{1b}é\"]",
    ])
    .prop_map(str::to_owned);
    let key = prop::sample::select(vec![
        "format",
        "name",
        "listen",
        "expose",
        "cors.origins",
        "max_body",
        "cargo",
        "command",
        "image",
        "args",
        "replicas",
        "depends_on",
        "env.A",
        "config.x",
        "port",
        "health.ready",
        "health.interval",
        "resources.cpu",
        "resources.memory",
        "stop.grace",
        "restart.policy",
        "restart.delay",
        "restart.intensity",
        "update.surge",
        "cron.schedule",
        "job.retries",
        "update.min_ready",
        "depends_on.b",
        "cwd",
        "proxy",
        "proxy.listen",
        "user",
        "group",
        "ulimits.nofile",
        "oops",
        "é",
    ]);
    let value = prop::sample::select(vec![
        "1",
        "0",
        "-7",
        "1.5",
        "nan",
        "true",
        "'a'",
        "'b'",
        "''",
        "\"\\u0000\"",
        "['a']",
        "['b', 'a', 'b']",
        "[]",
        "{}",
        "{ ready = 'http' }",
        "'1s'",
        "'256MiB'",
        "'127.0.0.1:80'",
        "1979-05-27",
        "[",
        "'",
        "80",
        "0xffffffffffffffffffffff",
        "[[1], {}]",
    ]);
    let entry = (key, value).prop_map(|(key, value)| format!("{key} = {value}"));
    let noise = "\\PC{0,12}";
    prop::collection::vec(prop_oneof![3 => header, 8 => entry, 1 => noise], 0..24)
        .prop_map(|lines| lines.join("\n"))
}

fn check(source: &str) -> Result<(), TestCaseError> {
    match Manifest::parse(source, "formic.toml") {
        Ok(manifest) => {
            let waves = manifest.order();
            prop_assert_eq!(waves.iter().map(Vec::len).sum::<usize>(), manifest.services.len());
            for service in &manifest.services {
                prop_assert!(manifest.revision(&service.name, "digest").is_some());
            }
        }
        Err(faults) => {
            prop_assert!(!faults.faults.is_empty());
            for fault in &faults.faults {
                prop_assert!(fault.line >= 1 && fault.column >= 1 && fault.width >= 1);
                prop_assert!(fault.line <= source.split('\n').count());
                prop_assert!(!fault.message.is_empty());
            }
            prop_assert!(faults.to_string().contains("formic.toml:"));
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(source in "(?s).{0,200}") {
        check(&source)?;
    }

    #[test]
    fn no_near_manifest_makes_it_panic(source in nearly()) {
        check(&source)?;
    }

    #[test]
    fn a_damaged_manifest_makes_no_panic(at in 0usize..SHOP.len(), with in any::<char>(), cut in 0usize..30) {
        let mut source: Vec<char> = SHOP.chars().collect();
        let at = at.min(source.len() - 1);
        let end = (at + cut).min(source.len());
        source.splice(at..end, [with]);
        check(&source.into_iter().collect::<String>())?;
    }

    #[test]
    fn dependencies_start_first(edges in prop::collection::vec((0usize..8, 0usize..8), 0..20)) {
        // Towards lower numbers only, so there is no circle.
        let mut source = "[app]\nname = 'a'\n".to_owned();
        for node in 0..8 {
            let mut targets: Vec<usize> =
                edges.iter().filter(|(a, b)| (*a).max(*b) == node && a != b).map(|(a, b)| *a.min(b)).collect();
            targets.sort_unstable();
            targets.dedup();
            let targets: Vec<String> = targets.iter().map(|target| format!("'s{target}'")).collect();
            source += &format!("[service.s{node}]\ncargo = 'x'\ndepends_on = [{}]\n", targets.join(", "));
        }
        let manifest = good(&source);
        let mut started: Vec<&str> = Vec::new();
        for wave in manifest.order() {
            for name in &wave {
                let service = manifest.service(name).unwrap();
                prop_assert!(service.depends_on.iter().all(|d| started.contains(&d.as_str())));
            }
            started.extend(wave);
        }
        prop_assert_eq!(started.len(), 8);
    }
}
