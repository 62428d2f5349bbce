//! The order of the layers, provenance, and faults that say who is to blame.

use serde::Deserialize;

use super::*;

fn read(manifest: &str, env: &[(&str, &str)], args: &[&str]) -> Result<ServiceSettings, Error> {
    let name = ServiceName::new("order").expect("valid");
    let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    let args = args.iter().map(|arg| (*arg).to_owned());
    read_service(&name, |settings| settings.log = "warn".into(), Some(manifest), env, args)
}

const MANIFEST: &str = "[service.order]\ncargo = \"order\"\nlog = \"debug\"\n[service.order.config]\nlimit = 3\nname = \"toml\"\n";

#[test]
fn each_layer_lies_over_the_one_before() {
    assert_eq!(read("", &[], &[]).expect("valid").log, "warn");
    assert_eq!(read(MANIFEST, &[], &[]).expect("valid").log, "debug");
    assert_eq!(read(MANIFEST, &[("FORMIC_LOG", "info")], &[]).expect("valid").log, "info");
    assert_eq!(read(MANIFEST, &[("FORMIC_LOG", "info")], &["--log", "error"]).expect("valid").log, "error");
    assert_eq!(read(MANIFEST, &[], &["--log=trace"]).expect("valid").log, "trace");
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Config {
    limit: u32,
    name: String,
}

#[test]
fn the_authors_own_settings_merge_by_key() {
    let settings = read(MANIFEST, &[("FORMIC_CONFIG__NAME", "env")], &["--set", "limit=7"]).expect("valid");
    assert_eq!(settings.config::<Config>(), Ok(Config { limit: 7, name: "env".into() }));
    assert_eq!(settings.layers().source("config.limit"), Source::Flag("--set limit".into()));
    assert_eq!(settings.layers().source("config.name"), Source::Environment("FORMIC_CONFIG__NAME".into()));
    assert_eq!(settings.layers().source("listen"), Source::Default);
    assert_eq!(settings.layers().source("log").to_string(), "formic.toml:3");
}

#[test]
fn faults_say_who_set_the_value() {
    let error = read("", &[("FORMIC_TIMEOUT", "soon")], &[]).expect_err("no duration").to_string();
    assert!(
        error.contains("timeout") && error.contains("FORMIC_TIMEOUT") && error.contains("soon"),
        "{error}"
    );
    let error = read("", &[], &["--listn", "x"]).expect_err("no flag").to_string();
    assert!(error.contains("--listn"), "{error}");
    let settings = read(MANIFEST, &[("FORMIC_CONFIG__LIMTI", "1")], &[]).expect("valid");
    let error = settings.config::<Config>().expect_err("unknown key").to_string();
    assert!(error.contains("limti") && error.contains("FORMIC_CONFIG__LIMTI"), "{error}");
}

#[test]
fn explain_hides_secrets() {
    let settings = read("", &[("FORMIC_CONFIG__API_TOKEN", "abc")], &["--explain"]).expect("valid");
    let text = settings.explanation().expect("asked for");
    assert!(text.contains("config.api_token") && text.contains("***") && !text.contains("abc"), "{text}");
    assert!(text.contains("environment FORMIC_CONFIG__API_TOKEN"), "{text}");
}

/// Every kind of value that an author may ask for.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Rich {
    zip: String,
    code: Option<String>,
    count: Option<u16>,
    ratio: f64,
    on: bool,
    mode: Mode,
    nested: Nested,
    list: Vec<u8>,
    wrapped: Wrapped,
    map: BTreeMap<String, i32>,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Mode {
    Fast,
    Slow { millis: u32 },
    Odd(u8),
}

#[derive(Debug, Deserialize, PartialEq, Default)]
#[serde(default)]
struct Nested {
    deep: i64,
    secret_word: Option<u8>,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Wrapped(u8);

const RICH: &str = r#"
format = 1
[service.order]
[service.order.config]
zip = "04103"
ratio = 2
on = true
mode = { slow = { millis = 5 } }
nested = { deep = -3 }
list = [1, 2]
wrapped = 7
map = { a = 1, "b.c" = 2 }
"#;

fn rich(manifest: &str, env: &[(&str, &str)], args: &[&str]) -> Result<Rich, Error> {
    read(manifest, env, args)?.config::<Rich>()
}

#[test]
fn every_kind_of_value_is_read_from_every_layer() {
    let expected = Rich {
        zip: "04103".into(),
        code: None,
        count: None,
        ratio: 2.0,
        on: true,
        mode: Mode::Slow { millis: 5 },
        nested: Nested { deep: -3, secret_word: None },
        list: vec![1, 2],
        wrapped: Wrapped(7),
        map: BTreeMap::from([("a".into(), 1), ("b.c".into(), 2)]),
    };
    assert_eq!(rich(RICH, &[], &[]), Ok(expected));

    // Text that looks like a number is text to a text, and a number to a number.
    let env = [
        ("FORMIC_CONFIG__ZIP", "1234"),
        ("FORMIC_CONFIG__CODE", "007"),
        ("FORMIC_CONFIG__COUNT", "8"),
        ("FORMIC_CONFIG__ON", "false"),
        ("FORMIC_CONFIG__MODE", "fast"),
        ("FORMIC_CONFIG__NESTED__DEEP", "9"),
    ];
    let args = ["--set", "list=[3]", "--set", "map.a=5", "--set=wrapped=8", "--set", "ratio=0.5"];
    let read = rich(RICH, &env, &args).expect("valid");
    assert_eq!((read.zip.as_str(), read.code.as_deref(), read.count), ("1234", Some("007"), Some(8)));
    assert_eq!((read.on, read.mode, read.nested.deep), (false, Mode::Fast, 9));
    assert_eq!((read.list, read.wrapped, read.ratio), (vec![3], Wrapped(8), 0.5));
    assert_eq!(read.map.get("a"), Some(&5));
    let read = rich(RICH, &[("FORMIC_CONFIG__ZIP", "\"quoted\""), ("FORMIC_CONFIG__COUNT", "null")], &[]);
    let read = read.expect("valid");
    assert_eq!((read.zip.as_str(), read.count), ("quoted", None));
    // Tables are merged by key, so the layer above replaces a variant that is a word.
    let fast = RICH.replace("{ slow = { millis = 5 } }", "\"fast\"");
    let read = rich(&fast, &[("FORMIC_CONFIG", r#"{"mode":{"odd":3}}"#)], &[]).expect("valid");
    assert_eq!(read.mode, Mode::Odd(3));
}

#[test]
fn faults_name_the_line_and_the_innermost_key() {
    let fault = |manifest: &str| rich(manifest, &[], &[]).expect_err("wrong").to_string();
    let text = fault(&RICH.replace("deep = -3", "deep = \"low\""));
    assert!(text.contains("`config.nested.deep`") && text.contains("formic.toml:9"), "{text}");
    assert!(text.contains("\"low\"") && text.contains("a whole number"), "{text}");
    let text = fault(&RICH.replace("list = [1, 2]", "list = [1, 999]"));
    assert!(text.contains("`config.list.1`") && text.contains("formic.toml:10"), "{text}");
    let text = fault(&RICH.replace("slow =", "fats ="));
    assert!(text.contains("config.mode") && text.contains("`fast`, `slow`, `odd`"), "{text}");
    let text = fault(&RICH.replace("wrapped = 7", ""));
    assert!(
        text.contains("`config.wrapped` is missing") && text.contains("FORMIC_CONFIG__WRAPPED"),
        "{text}"
    );
    let text = fault(&RICH.replace("wrapped = 7", "wrapped = 7\nwrappd = 8"));
    assert!(text.contains("`config.wrappd`") && text.contains("formic.toml:12"), "{text}");
    // What a text says is not a type to the engine's JSON.
    let text = rich(RICH, &[("FORMIC_CONFIG", r#"{"wrapped":"7"}"#)], &[]).expect_err("text").to_string();
    assert!(text.contains("config.wrapped") && text.contains("environment FORMIC_CONFIG"), "{text}");
}

#[test]
fn faults_keep_secrets() {
    #[derive(Debug, Deserialize)]
    struct Secrets {
        #[serde(default)]
        api_token: u32,
        #[serde(default)]
        password: Option<Mode>,
        #[serde(default)]
        #[expect(dead_code, reason = "only read")]
        credentials: Option<Nested>,
    }
    let fault = |key: &str, value: &str| {
        let manifest = format!("[service.order.config]\n{key} = {value}\n");
        let read = read(&manifest, &[], &[]).expect("read").config::<Secrets>();
        let text = read.map(|s| (s.api_token, s.password.is_some())).expect_err("wrong").to_string();
        assert!(!text.contains("hunter2") && !text.contains("20044"), "{text}");
        assert!(text.contains("formic.toml:2"), "{text}");
        text
    };
    assert!(fault("api_token", "\"hunter2\"").contains("a whole number"));
    assert!(fault("password", "\"hunter2\"").contains("`fast`"));
    fault("credentials", "{ deep = \"hunter2\" }");
    fault("credentials", "{ secret_word = 20044 }");
    let error = read("", &[("FORMIC_CONFIG", "\"hunter2\"")], &[]).expect_err("no object").to_string();
    assert!(!error.contains("hunter2") && error.contains("FORMIC_CONFIG"), "{error}");
}

#[test]
fn every_fault_is_reported() {
    let manifest = r#"
[service.order]
cargo = "order"
lables = { zone = "a" }
log_format = "xml"
listen = 8080
drain = { grce = "5s", propagation = "soon" }
"#;
    let env = [("FORMIC_TIMEOUT", "5"), ("FORMIC_REGISTRY", "consul"), ("FORMIC_DAEMON", "nowhere")];
    let text = read(manifest, &env, &["--lisen", "x", "--set", "nothing"]).expect_err("wrong").to_string();
    let expected = [
        ("service.order.lables", "did you mean `labels`"),
        ("log_format", "formic.toml:5"),
        ("`listen`", "formic.toml:6"),
        ("drain.grce", "did you mean `grace`"),
        ("drain.propagation", "formic.toml:7"),
        ("timeout", "FORMIC_TIMEOUT"),
        ("registry", "local, mdns, memory, static"),
        ("daemon", "FORMIC_DAEMON"),
        ("--lisen", "did you mean --listen?"),
        ("--set nothing", "needs a value"),
    ];
    for (key, hint) in expected {
        let line = text.lines().find(|line| line.contains(key) && line.contains(hint));
        assert!(line.is_some(), "{key} {hint} in\n{text}");
    }
    assert!(text.contains("11 settings are wrong"), "{text}");
}

#[test]
fn the_keys_of_a_service_are_read_alike_from_file_and_environment() {
    let manifest = r#"
[service.order]
listen = "127.0.0.1:4000"
log = "debug"
log_format = "json"
timeout = "1m30s"
drain = { grace = "7s", propagation = "250ms" }
labels = { zone = "a", weight = 3 }
"#;
    let env = [
        ("FORMIC_LISTEN", "127.0.0.1:4000"),
        ("FORMIC_LOG", "debug"),
        ("FORMIC_LOG_FORMAT", "json"),
        ("FORMIC_TIMEOUT", "90s"),
        ("FORMIC_DRAIN_GRACE", "7000ms"),
        ("FORMIC_DRAIN_PROPAGATION", "250ms"),
        ("FORMIC_LABELS", r#"{"zone":"a","weight":"3"}"#),
    ];
    for settings in [read(manifest, &[], &[]), read("", &env, &[])] {
        let settings = settings.expect("valid");
        assert_eq!(settings.listen, "127.0.0.1:4000");
        assert_eq!((settings.log.as_str(), settings.log_format.as_str()), ("debug", "json"));
        assert_eq!(settings.timeout, Duration::from_secs(90));
        assert_eq!(settings.drain.grace, Duration::from_secs(7));
        assert_eq!(settings.drain.propagation, Duration::from_millis(250));
        assert_eq!(
            settings.labels,
            BTreeMap::from([("zone".into(), "a".into()), ("weight".into(), "3".into())])
        );
    }
}

#[test]
fn the_static_registry_knows_what_the_settings_say() {
    let manifest = r#"
[service.order]
registry = "static"
[service.order.addresses]
product = ["127.0.0.1:7001", "127.0.0.1:7002"]
user = "unix:/run/user.sock"
"#;
    let known = |settings: &ServiceSettings| {
        let join = |list: &[Endpoint]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let pairs = settings.addresses.iter().map(|(name, list)| format!("{name}: {}", join(list)));
        (settings.registry.clone(), pairs.collect::<Vec<_>>())
    };
    let chosen = Some("static".to_owned());
    let both = ["product: 127.0.0.1:7001 127.0.0.1:7002".to_owned(), "user: unix:/run/user.sock".to_owned()];
    let settings = read(manifest, &[], &["--explain"]).expect("valid");
    assert_eq!(known(&settings), (chosen.clone(), both.to_vec()));
    let text = settings.explanation().expect("asked for");
    let row = text.lines().find(|line| line.starts_with("addresses.product")).expect("a row");
    assert!(row.contains("127.0.0.1:7002") && row.ends_with("formic.toml:5"), "{text}");

    // By environment, as a table and as one text; the text lies over the table.
    let table = r#"{"product":["127.0.0.1:7001","127.0.0.1:7002"],"user":"unix:/run/user.sock"}"#;
    let env = [("FORMIC_REGISTRY", "static"), ("FORMIC_ADDRESSES", table)];
    assert_eq!(known(&read("", &env, &[]).expect("valid")), (chosen.clone(), both.to_vec()));
    let args = ["--registry", "static:product=127.0.0.1:9,order=127.0.0.1:8", "--explain"];
    let settings = read(manifest, &[], &args).expect("valid");
    let expected = ["order: 127.0.0.1:8", "product: 127.0.0.1:9", "user: unix:/run/user.sock"];
    assert_eq!(known(&settings), (chosen, expected.map(Into::into).to_vec()));
    let text = settings.explanation().expect("asked for");
    let row = text.lines().find(|line| line.starts_with("registry")).expect("a row");
    assert!(row.contains("static:product=127.0.0.1:9") && row.ends_with("flag --registry"), "{text}");

    // Code may say it as well, and another registry does not look at them.
    let code = |settings: &mut ServiceSettings| {
        settings.registry = Some("static".into());
        settings
            .addresses
            .insert(ServiceName::new("product").expect("valid"), vec!["127.0.0.1:1".parse().expect("valid")]);
    };
    let name = ServiceName::new("order").expect("valid");
    let settings = read_service(&name, code, None, std::iter::empty(), std::iter::empty()).expect("valid");
    assert_eq!(known(&settings).1, ["product: 127.0.0.1:1"]);
    let settings = read(manifest, &[], &["--registry", "memory"]).expect("valid");
    assert_eq!(settings.registry.as_deref(), Some("memory"));
}

#[test]
fn addresses_that_are_none_are_said() {
    let manifest = r#"
[service.order]
registry = "static"
addresses = { Product = ["127.0.0.1:7001"], user = [7], shipping = "somewhere", payment = [] }
"#;
    let text = read(manifest, &[], &[]).expect_err("wrong").to_string();
    for (key, reason) in [
        ("addresses.Product", "is not a name"),
        ("addresses.user", "got 7"),
        ("addresses.shipping", "somewhere"),
        ("addresses.payment", "got none"),
    ] {
        let line = text.lines().find(|line| line.contains(key) && line.contains(reason));
        assert!(line.is_some_and(|line| line.contains("formic.toml:4")), "{key} {reason} in\n{text}");
    }
    let text = read("", &[], &["--registry", "static:127.0.0.1:7001"]).expect_err("nameless").to_string();
    assert!(text.contains("names no service") && text.contains("--registry"), "{text}");
    for nothing in ["static", "addresses"] {
        let args: &[&str] =
            if nothing == "static" { &["--registry", "static"] } else { &["--registry", "static:"] };
        let text = read("", &[], args).expect_err("nothing").to_string();
        assert!(text.contains("static:order=127.0.0.1:7001"), "{text}");
    }
}

#[test]
fn a_manifest_that_cannot_be_used_is_said() {
    let error = read("[service", &[], &[]).expect_err("no TOML").to_string();
    assert!(error.contains("formic.toml cannot be used"), "{error}");
    let error = read("format = 2\n[service.order]\nlog = 7\n", &[], &[]).expect_err("another format");
    assert!(error.to_string().contains("format 2") && !error.to_string().contains("log"), "{error}");
    // Others' sections and the engine's keys are none of our business.
    read("[app]\nname = 7\n[service.other]\nlog = 7\n", &[], &[]).expect("valid");

    // A folder in its place is there and cannot be read; nothing there is no fault.
    let folder = std::env::temp_dir();
    assert!(matches!(read_manifest(&folder), Err(Error::File { .. })));
    assert_eq!(read_manifest(&folder.join("formic-no-such-file.toml")), Ok(None));
}

#[test]
fn only_what_code_changed_is_codes() {
    let name = ServiceName::new("order").expect("valid");
    let code = |settings: &mut ServiceSettings| settings.drain.grace = Duration::from_secs(1);
    let settings = read_service(&name, code, None, std::iter::empty(), std::iter::empty()).expect("valid");
    assert_eq!(settings.layers().source("drain.grace"), Source::Code);
    assert_eq!(settings.layers().source("drain.propagation"), Source::Default);
    let asked = ["--help".to_owned(), "--nonsense".to_owned()].into_iter();
    let helped = read_service(&name, |_| {}, Some("[broken"), std::iter::empty(), asked).expect("help");
    assert!(helped.explanation().expect("help").contains("FORMIC_LISTEN"));
}

#[test]
fn durations() {
    for (text, millis) in
        [("250ms", 250), ("5s", 5000), ("1.5s", 1500), ("1m30s", 90_000), ("0s", 0), ("1h", 3_600_000)]
    {
        assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
    }
    for text in ["", "5", "s", "-1s", "5 s x", "25h", "1e3s", "5d", "NaNs", "..s"] {
        assert_eq!(duration(text), None, "{text}");
    }
}

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
struct Calls {
    policy: String,
    subset: u32,
    rules: Vec<Part>,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Part {
    weight: u32,
}

fn calls(settings: &ServiceSettings) -> Result<BTreeMap<ServiceName, Calls>, Error> {
    settings.clients(|calls: &Calls| {
        let odd = calls.policy == "odd";
        odd.then(|| ("policy".into(), "must not be odd".into())).into_iter().collect()
    })
}

#[test]
fn how_services_are_called_comes_from_the_file_and_the_environment() {
    const FILE: &str =
        "[service.user.traffic]\npolicy = \"p2c\"\nsubset = 3\n[client.user.traffic]\nsubset = 4\n";
    let alone = read(FILE, &[], &[]).expect("valid");
    let user = ServiceName::new("user").expect("valid");
    let expected = Calls { policy: "p2c".into(), subset: 4, rules: Vec::new() };
    assert_eq!(calls(&alone), Ok(BTreeMap::from([(user.clone(), expected)])));
    assert_eq!(alone.layers().source("client.user.traffic.subset").to_string(), "formic.toml:5");
    let told = r#"{"user":{"traffic":{"subset":5,"rules":[{"weight":1}]}}}"#;
    let told = calls(&read(FILE, &[("FORMIC_CLIENT", told)], &[]).expect("valid")).expect("valid");
    assert_eq!((told[&user].subset, told[&user].rules.len(), told[&user].policy.as_str()), (5, 1, "p2c"));
}

#[test]
fn every_fault_of_how_services_are_called_says_who_set_it() {
    const FILE: &str = "[client.user.traffic]\npolcy = 1\nsubset = \"x\"\nrules = [{}, { weight = \"y\" }]\n\
                        [client.mail.traffic]\npolicy = \"odd\"\n";
    let error = calls(&read(FILE, &[], &[]).expect("read")).expect_err("wrong");
    let Error::Many(faults) = &error else { panic!("{error}") };
    assert_eq!(faults.len(), 5, "{error}");
    for text in [
        "`client.user.traffic.polcy` is wrong: there is no such setting",
        "`client.user.traffic.subset` is wrong: expected a whole number from 0 to 4294967295, got \"x\"; it is set by formic.toml:3",
        "`client.user.traffic.rules.0.weight` is wrong: `weight` is missing; it is set by formic.toml:4",
        "expected a whole number from 0 to 4294967295, got \"y\"",
        "`client.mail.traffic.policy` is wrong: must not be odd; it is set by formic.toml:6",
    ] {
        assert!(error.to_string().contains(text), "{text}\n{error}");
    }
    let unknown = read("[client.user]\ntrafic = 1\n", &[], &[]).expect_err("no such key").to_string();
    assert!(unknown.contains("client.user.trafic") && unknown.contains("`traffic`"), "{unknown}");
    let told = read("", &[("FORMIC_CLIENT", r#"{"No Name":{"traffic":{}}}"#)], &[]).expect("read");
    assert!(calls(&told).expect_err("no name").to_string().contains("No Name"));
}
