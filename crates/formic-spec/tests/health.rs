//! `port` and `health`: every way to be asked, and what is said about those that do not fit together.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use formic_spec::{FaultKind, Health, Manifest, Port, Probe, Service};

fn parse(lines: &str) -> Result<Service, (FaultKind, String)> {
    let text = format!("[app]\nname = 'a'\n[service.s]\ncommand = ['s']\n{lines}\n");
    match Manifest::parse(&text, "formic.toml") {
        Ok(manifest) => Ok(manifest.service("s").unwrap().clone()),
        Err(faults) => Err((faults.faults[0].kind, faults.to_string())),
    }
}

fn health(lines: &str) -> Health {
    parse(lines).unwrap_or_else(|(_, faults)| panic!("{faults}")).health
}

#[test]
fn a_port_is_a_number_or_any() {
    assert_eq!(parse("port = 8001").unwrap().port, Some(Port::Fixed(8001)));
    let any = parse("port = 'auto'\nreplicas = 3").unwrap();
    assert_eq!((any.port, any.replicas, any.health.ready), (Some(Port::Auto), 3, Probe::Tcp));
    let refused = |lines: &str| parse(lines).unwrap_err();
    let (kind, text) = refused("port = 'any'");
    assert!(kind == FaultKind::InvalidValue && text.contains("one of \"auto\""), "{text}");
    let (kind, text) = refused("port = 'atuo'");
    assert!(kind == FaultKind::InvalidValue && text.contains("did you mean \"auto\"?"), "{text}");
    let (kind, text) = refused("port = '8001'");
    assert!(kind == FaultKind::WrongType && text.contains("without quotes: 8001"), "{text}");
    let (kind, text) = refused("port = 8001\nreplicas = 2");
    assert!(kind == FaultKind::Conflict && text.contains("`port = \"auto\"`"), "{text}");
    assert_eq!(refused("port = 'auto'\nenv = { PORT = '1' }").0, FaultKind::Conflict);
    assert_eq!(refused("port = 'auto'\nlisten = '127.0.0.1:1'").0, FaultKind::Conflict);
}

#[test]
fn each_probe_is_read() {
    let exec = health("health = { ready = 'exec', command = ['./check.sh', '--quick'] }");
    assert_eq!((exec.ready, exec.command), (Probe::Exec, vec!["./check.sh".into(), "--quick".into()]));
    let log = health("health = { ready = 'log', line = 'listening on' }");
    assert_eq!((log.ready, log.line.as_str()), (Probe::Log, "listening on"));
    assert_eq!(health("port = 'auto'\nhealth = { ready = 'grpc' }").ready, Probe::Grpc);
    // What does not say so is stored as it was before there were these.
    let text = serde_json::to_string(&health("")).unwrap();
    assert!(!text.contains("command") && !text.contains("\"line\""), "{text}");
    assert_eq!(serde_json::from_str::<Health>(&text).unwrap(), health(""));
}

#[test]
fn what_a_probe_needs_and_what_belongs_to_another() {
    let table = [
        ("ready = 'exec'", FaultKind::Missing, "add `command`"),
        ("ready = 'exec', command = []", FaultKind::InvalidValue, "names no program"),
        ("ready = 'exec', command = 'true'", FaultKind::WrongType, "array of strings"),
        ("ready = 'tcp', command = ['true']", FaultKind::Conflict, "add `ready = \"exec\"`"),
        ("ready = 'log'", FaultKind::Missing, "add `line`"),
        ("ready = 'log', line = ''", FaultKind::InvalidValue, "a part of one line"),
        ("ready = 'log', line = \"a\\nb\"", FaultKind::InvalidValue, "a part of one line"),
        ("line = 'x'", FaultKind::Conflict, "the probe \"log\" only"),
        ("ready = 'log', path = '/x', line = 'x'", FaultKind::Conflict, "an HTTP probe only"),
        ("ready = 'exce'", FaultKind::InvalidValue, "did you mean \"exec\"?"),
    ];
    for (inner, kind, part) in table {
        let (found, text) = parse(&format!("health = {{ {inner} }}")).unwrap_err();
        assert!(found == kind && text.contains(part), "{inner}: {found:?} {text}");
    }
}

#[test]
fn sockets_are_addresses_with_names() {
    let two = parse("sockets = { http = '0.0.0.0:8443', admin = '[::1]:9000' }").unwrap().sockets;
    let two: Vec<_> = two.iter().map(|(name, address)| (name.as_str(), address.to_string())).collect();
    // By name, which is the order of the descriptors.
    assert_eq!(two, [("admin", "[::1]:9000".into()), ("http", "0.0.0.0:8443".into())]);
    for (lines, kind, part) in [
        ("sockets = { http = 'localhost:80' }", FaultKind::InvalidValue, "is not an address with a port"),
        ("sockets = { http = '127.0.0.1:0' }", FaultKind::InvalidValue, "needs a port of its own"),
        ("sockets = { http = 80 }", FaultKind::InvalidValue, "write it like"),
        ("sockets = { 'a:b' = '127.0.0.1:80' }", FaultKind::InvalidName, "without a colon"),
        (
            "sockets = { a = '127.0.0.1:80', b = '127.0.0.1:80' }",
            FaultKind::DuplicateListen,
            "already that of",
        ),
        ("port = 80\nsockets = { a = '127.0.0.1:80' }", FaultKind::DuplicateListen, "already that of"),
        ("sockets = '127.0.0.1:80'", FaultKind::WrongType, "sockets"),
    ] {
        let (found, text) = parse(lines).unwrap_err();
        assert!(found == kind && text.contains(part), "{lines}: {text}");
    }
    // Another socket is another process, and another revision.
    let revision = |lines: &str| {
        let text = format!("[app]\nname = 'a'\n[service.s]\ncommand = ['s']\n{lines}\n");
        Manifest::parse(&text, "formic.toml").unwrap().revision("s", "1")
    };
    assert_ne!(revision("sockets = { a = '127.0.0.1:80' }"), revision("sockets = { a = '127.0.0.1:81' }"));
}
