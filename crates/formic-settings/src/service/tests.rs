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
    assert_eq!(settings.layers().source("log").to_string(), "formic.toml [service.order]");
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
