//! Programs that know nothing of Formic: the port that they were given, and what is run to ask them.

use super::*;
use crate::engine::Probing;

/// A program, with these fields of its start.
fn program(name: &str, replicas: u32, fields: Value) -> Service {
    let mut program = service(name, replicas, &[]);
    for (field, value) in fields.as_object().unwrap() {
        program.start[field] = value.clone();
    }
    program
}

fn probing(effects: Vec<Effect>) -> Box<Probing> {
    let probing = |effect| if let Effect::Probe(probing) = effect { Some(probing) } else { None };
    effects.into_iter().find_map(probing).unwrap()
}

#[test]
fn a_port_that_was_chosen_is_probed_and_kept() {
    let mut world = World::new(vec![program("reports", 2, serde_json::json!({ "port": "auto" }))]);
    for (slot, port) in [("reports/0", 20_001), ("reports/1", 20_002)] {
        let id = world.id(slot);
        let started = Event::Started { id: id.clone(), pid: 1, port: Some(port) };
        let turn = world.core.handle([started], world.now());
        assert_eq!(probing(turn.effects).port, Some(port));
        assert_eq!(world.core.roster.cell(&id).unwrap().port, Some(port));
    }
    // One that is fixed is known without being told.
    let mut world = World::new(vec![program("reports", 1, serde_json::json!({ "port": 80 }))]);
    let started = Event::Started { id: world.id("reports/0"), pid: 1, port: None };
    let turn = world.core.handle([started], world.now());
    assert_eq!(probing(turn.effects).port, Some(80));
}

#[test]
fn a_probe_that_is_a_command_runs_where_the_instance_does() {
    let health = serde_json::json!({
        "ready": "exec", "path": "", "command": ["./check", "-q"],
        "interval": "1s", "timeout": "1s", "deadline": "60s",
    });
    let fields = serde_json::json!({ "port": "auto", "health": health, "env": { "A": "b" }, "cwd": "/srv" });
    let mut world = World::new(vec![program("reports", 1, fields)]);
    let started = Event::Started { id: world.id("reports/0"), pid: 1, port: Some(20_001) };
    let turn = world.core.handle([started], world.now());
    let command = probing(turn.effects).command.unwrap();
    assert_eq!((command.program, command.args), ("/srv/./check".into(), vec!["-q".into()]));
    assert_eq!(command.cwd, PathBuf::from("/srv"));
    assert_eq!((&command.env["PORT"], &command.env["A"]), (&"20001".into(), &"b".into()));
    assert_eq!(command.env["FORMIC_DATA_DIR"], "/state/data/reports");
}

#[test]
fn public_addresses_are_kept_for_as_long_as_somebody_is_wanted_there() {
    let at = |port: u16| {
        let listen = serde_json::json!([{ "name": "public", "address": format!("127.0.0.1:{port}") }]);
        program("web", 1, serde_json::json!({ "listen": listen }))
    };
    let mut world = World::new(vec![at(80)]);
    world.up("web/0");
    // A new revision beside the old: both addresses, until the old one is not wanted any more.
    let mut next = at(81);
    next.revision = Revision::of(&"next".into());
    let (lines, applied) = world.apply(vec![next], None);
    applied.unwrap();
    assert_eq!(lines, ["spawn web/1", "listen on 127.0.0.1:80 and 127.0.0.1:81"]);
    assert_eq!(world.started("web/1"), ["probe web/1"]);
    let lines = world.probed("web/1", true);
    assert!(lines.contains(&"listen on 127.0.0.1:81".into()), "{lines:?}");
    world.gone("web/0", false);
    // Nobody is to wait in a queue that nobody will come to.
    let wanted = |core: &Core| core.listening.clone().unwrap();
    assert_eq!(wanted(&world.core).len(), 1);
    world.shut_down(false);
    assert!(wanted(&world.core).is_empty());
}
